"""The service on PostgreSQL, Redis and Celery: kills, a database that is away, one worker and two, a soak."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.harness import CORES, REPOSITORY, markdown
from benchmarks.photos import drawn
from benchmarks.predict import exported
from benchmarks.serve import resident
from benchmarks.servers import Postgres, Redis, free_port, started

JOBS, KILLS, LEASE, LATE = 2000, 50, 5.0, 10.0  # a job of a killed worker is done a lease and LATE later
AWAY, UPLOADING = 10.0, 40.0  # seconds: the database is stopped, photos are sent
BATCH, ROUNDS = 300, 3
SOAK, SAMPLE = 300.0, 15.0


@dataclass
class Cluster:
    """One web process and some workers on a database and a broker of our own."""

    postgres: Postgres
    redis: Redis
    url: str
    folder: Path
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, script: str, *given: str) -> subprocess.Popen:
        """Start a script with the settings of this cluster."""
        environment = {"DATABASE_URL": self.url, "BROKER_URL": self.redis.url, "LEASE": str(LEASE)}
        environment |= {"FOLDER": str(self.folder / "photos"), "CKPT": str(exported())}
        environment = {f"CORBEL_{name}": value for name, value in environment.items()}
        command = [sys.executable, f"scripts/{script}.py", *given, f"hydra.run.dir={self.folder}/{script}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | environment, **quiet)
        self.processes.append(process)
        return process

    def web(self) -> tuple[subprocess.Popen, httpx.Client]:
        """Start a web process, and wait until it is ready."""
        process = self.start("serve", "serve=cluster", f"port={self.port}")
        client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self.until(lambda: client.get("/ready").status_code == 200)
        return process, client

    def worker(self) -> subprocess.Popen:
        """Start a worker, and do not wait for it."""
        return self.start("worker")

    def ask(self, statement: str) -> list[tuple]:
        """Return the rows of a statement; none while the database is away."""
        return self.postgres.run(statement, self.url.rpartition("/")[2])

    def until(self, holds: Any, seconds: float = 120.0, pause: float = 0.1) -> bool:
        """Wait until something holds; errors of connections count as no."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if holds():
                    return True
            except Exception:
                pass
            time.sleep(pause)
        return False


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Give a cluster without processes; end those that were started."""
    with (
        tempfile.TemporaryDirectory() as folder,
        started(Postgres) as postgres,
        started(Redis) as redis,
        postgres.database() as url,
    ):
        found = Cluster(postgres, redis, url, Path(folder))
        try:
            yield found
        finally:
            for process in found.processes:
                process.kill()
                process.wait()


def queue(client: httpx.Client, image: int, count: int) -> list[str]:
    """Queue predictions of a photo; return the ids of the jobs."""
    answers = [client.post("/api/predict", params={"id": image}) for _ in range(count)]
    return [answer.raise_for_status().json()["data"]["task_id"] for answer in answers]


def left(found: Cluster) -> int:
    """Return the number of jobs that have no end yet."""
    return found.ask("select count(*) from job where status in ('PENDING', 'STARTED')")[0][0]


def killed() -> bool:
    """Print what is left of jobs whose workers are killed, with a broker and a database that restart."""
    content, at_work = drawn(640, 480, 8)[0].read_bytes(), {}
    with cluster() as found:
        _, client = found.web()
        image = client.post("/api/upload", files={"file": content}).json()["id"]
        queue(client, image, JOBS)
        workers = [found.worker() for _ in range(3)]
        for kill in range(KILLS):
            done = JOBS * (kill + 1) // (KILLS + 10)  # the kills are spread over the jobs
            found.until(lambda done=done: left(found) <= JOBS - done)
            victim = workers.pop(0)
            of = f"worker like '%-{victim.pid}-%'"
            victim.send_signal(signal.SIGSTOP)  # else its job may end between the look and the kill
            for (job,) in found.ask(f"select id from job where status = 'STARTED' and {of}"):
                at_work[job] = found.ask("select extract(epoch from now())::float8")[0][0]
            victim.kill()
            workers.append(found.worker())
            if kill in (KILLS // 3, 2 * KILLS // 3):
                found.redis.client.flushall()
            if kill in (KILLS // 4, KILLS // 2):
                found.postgres.end(signal.SIGINT)
                found.postgres.start()
        finished = found.until(lambda: left(found) == 0, 180)
        states = dict(found.ask("select status, count(*) from job group by status"))
        kept, of = found.ask("select count(*), count(distinct job_id) from prediction")[0]
        ends = dict(found.ask("select id, finished_at from job where finished_at is not null"))
        attempts = dict(found.ask("select attempts, count(*) from job group by attempts order by attempts"))
    waits = [ends[job] - since for job, since in at_work.items() if job in ends]
    print(f"\n**{JOBS} jobs, {KILLS} kills of workers, Redis emptied twice, PostgreSQL restarted twice**\n")
    print(f"{states}; predictions {kept}, of {of} jobs; attempts {attempts}")
    print(
        f"{len(at_work)} jobs were at work in a worker that was killed: done after {max(waits):.1f} s at most"
    )
    return finished and kept == of == JOBS and states == {"SUCCESS": JOBS} and max(waits) <= LEASE + LATE


def uploaded() -> bool:
    """Print what is left of photos sent while the database stops, and while the web process is killed."""
    content, kept, statuses, stop = drawn(640, 480, 8)[0].read_bytes(), {}, Counter(), threading.Event()
    with cluster() as found:
        process, client = found.web()

        def send(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                file = content + f"{name}-{number}".encode()  # after the end of the picture: another digest
                try:
                    answer = httpx.post(f"{client.base_url}/api/upload", files={"file": file}, timeout=60)
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1
                    stop.wait(0.1)
                    continue
                statuses[answer.status_code] += 1
                if answer.status_code == 201:
                    kept[answer.json()["id"]] = answer.json()["sha256"]
                stop.wait(0.05)

        senders = [threading.Thread(target=send, args=(name,)) for name in "abcd"]
        for sender in senders:
            sender.start()
        time.sleep(UPLOADING / 4)
        found.postgres.end(signal.SIGINT)
        time.sleep(AWAY)
        found.postgres.start()
        began, before = time.monotonic(), len(kept)
        found.until(lambda: len(kept) > before)
        recovered = time.monotonic() - began
        time.sleep(UPLOADING / 4)
        process.kill()
        process.wait()
        found.web()
        time.sleep(UPLOADING / 4)
        stop.set()
        for sender in senders:
            sender.join()
        rows = dict(found.ask("select id, sha256 from image"))
        lost = [i for i, sha256 in kept.items() if rows.get(i) != sha256]
        lost += [i for i in kept if client.get(f"/api/images/{i}/file").status_code != 200]
    print(f"\n**{len(kept)} photos acknowledged, database stopped for {AWAY:g} s, web process killed**\n")
    print(
        f"answers {dict(statuses)}; lost {len(lost)}; {recovered:.1f} s from the database to the next photo"
    )
    return not lost and len(kept) > before > 0


def cpu(processes: list[subprocess.Popen]) -> float:
    """Return the seconds of processors that processes have used."""
    fields = [Path(f"/proc/{p.pid}/stat").read_text().rpartition(")")[2].split() for p in processes]
    return sum(int(of[11]) + int(of[12]) for of in fields) / os.sysconf("SC_CLK_TCK")


def signalled(processes: list[subprocess.Popen], signum: int) -> None:
    """Send a signal to processes."""
    for process in processes:
        process.send_signal(signum)


def scaled(rounds: int) -> bool:
    """Print jobs per second and CPU per job of one worker and of two, rounds interleaved."""
    content = drawn(640, 480, 8)[0].read_bytes()
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, results in found.items():
            with cluster() as here:
                _, client = here.web()
                image = client.post("/api/upload", files={"file": content}).json()["id"]
                workers = [here.worker() for _ in range(count)]
                queue(client, image, 10 * count)
                here.until(lambda here=here: left(here) == 0)  # all are warm
                time.sleep(2)
                before, jobs = cpu(workers), BATCH * count
                signalled(workers, signal.SIGSTOP)  # queueing takes a core, too: it is not measured
                queue(client, image, jobs)
                signalled(workers, signal.SIGCONT)
                at = time.time()
                here.until(lambda here=here: left(here) == 0, pause=1.0)  # each look is a new connection
                seconds = here.ask(f"select (max(finished_at) - {at})::float8 from job")[0][0]
                results.append((jobs / seconds, 1000 * (cpu(workers) - before) / jobs))
    rows = [
        {"workers": count, "jobs / s": median(r for r, _ in of), "CPU ms / job": median(c for _, c in of)}
        for count, of in found.items()
    ]
    gain = rows[1]["jobs / s"] / rows[0]["jobs / s"]
    dearer = rows[1]["CPU ms / job"] / rows[0]["CPU ms / job"]
    print(f"\n**one worker and two on {CORES} cores, with web, PostgreSQL and Redis on the same**\n")
    print(f"{markdown(rows, 1)}\n\n{gain:.2f}x the jobs per second, {dearer:.2f}x the CPU per job")
    return gain >= 1.8 or dearer <= 1.05


def soaked() -> bool:
    """Print memory, connections and files over some minutes of photos, predictions and reads."""
    content, samples, asked = drawn(640, 480, 8)[0].read_bytes(), [], 0
    with cluster() as found:
        web, client = found.web()
        worker = found.worker()
        end, at = time.monotonic() + SOAK, time.monotonic() + SAMPLE
        while time.monotonic() < end:
            asked += 1
            image = client.post("/api/upload", files={"file": content + str(asked).encode()}).json()["id"]
            (job,) = queue(client, image, 1)
            found.until(lambda job=job: client.get(f"/api/tasks/{job}").json()["task_status"] == "SUCCESS")
            for place in ("", "/file", "/view"):
                client.get(f"/api/images/{image}{place}").raise_for_status()
            if time.monotonic() >= at:
                at += SAMPLE
                open_now = found.ask(
                    "select count(*) from pg_stat_activity where datname = current_database()"
                )
                files = [path for path in found.folder.rglob("*.tmp")]
                memory = (resident(web.pid), resident(worker.pid))
                samples.append((*memory, open_now[0][0] - 1, len(files)))
    third = max(1, len(samples) // 3)
    rows = [
        {"minutes": name, "web MB": w, "worker MB": k, "connections": c, "temporary files": f}
        for name, of in (("first third", samples[:third]), ("last third", samples[-third:]))
        for w, k, c, f in [[sum(column) / len(of) for column in zip(*of, strict=True)]]
    ]
    print(f"\n**soak of {SOAK / 60:g} minutes: {asked} photos sent, predicted, read**\n\n{markdown(rows, 1)}")
    grown = {name: rows[1][name] - rows[0][name] for name in rows[0] if name != "minutes"}
    return grown["connections"] <= 1 and grown["temporary files"] == 0 and grown["web MB"] < 10


def main(rounds: int | None = None) -> bool:
    """Run all parts; return whether every figure is as it has to be."""
    print(f"{CORES} cores, load {os.getloadavg()[0]:.2f} before")
    return all([killed(), uploaded(), scaled(rounds or ROUNDS), soaked()])
