"""The service under load, beside the naive way and LitServe, and under kills."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from benchmarks.harness import CORES, REPOSITORY, markdown
from benchmarks.photos import drawn
from benchmarks.predict import checkpoint, exported

LOADS = {"640 x 480, 32 clients": ((640, 480), 32), "4000 x 3000, 4 clients": ((4000, 3000), 4)}
SECONDS, WARM, PAUSE = 12.0, 2.0, 0.05
SIDES = ("naive", "litserve", "ours")
AIM = {"naive": (1.7, 2.5), "litserve": (0.95, 0.95)}  # requests per second of ours over theirs, by load
OVERLOAD, JOBS, KILLS = 30.0, 500, 20


@contextmanager
def serving(side: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start a server on a free port; give its address and process."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [f"benchmarks.serve_{side}", str(port)]
    command = [sys.executable, "-m", *arguments]
    if side == "ours":
        given = [f"ckpt={exported()}", f"port={port}", f"folder={folder}", f"hydra.run.dir={folder}/log"]
        command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), *given]
    environment = os.environ | {
        "CORBEL_BENCH_CHECKPOINT": str(checkpoint()),
        "CORBEL_BENCH_ONNX": str(exported()),
    }
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                httpx.get(f"{address}/health", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None:
                    raise SystemExit(f"error: {side} ended with exit code {process.returncode}") from None
                time.sleep(0.2)
        yield address, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def closed_loop(address: str, contents: Sequence[bytes], clients: int) -> dict:
    """Let a number of clients ask, each again when it is answered; return latencies and rates."""
    latencies, health, statuses, stop = [], [], Counter(), time.monotonic() + WARM + SECONDS
    begun = time.monotonic() + WARM

    async def client(number: int, session: httpx.AsyncClient) -> None:
        while (now := time.monotonic()) < stop:
            content = contents[number % len(contents)]
            answer = await session.post("/predict", files={"file": ("photo.jpg", content)})
            if now >= begun:
                latencies.append(time.monotonic() - now)
                statuses[answer.status_code] += 1

    async def probe(session: httpx.AsyncClient) -> None:
        while (now := time.monotonic()) < stop:
            await session.get("/health")
            if time.monotonic() >= begun:
                health.append(time.monotonic() - now)
            await asyncio.sleep(PAUSE)

    limits = httpx.Limits(max_connections=clients + 1)
    async with (
        httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as session,
        httpx.AsyncClient(base_url=address, timeout=120) as prober,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(probe(prober))
        for number in range(clients):
            group.create_task(client(number, session))
    return {"latencies": latencies, "health": health, "statuses": dict(statuses)}


def decisions(address: str, contents: Sequence[bytes]) -> list[str]:
    """Return the labels that a server decides on, without the confidence."""
    answers = [httpx.post(f"{address}/predict", files={"file": content}, timeout=120) for content in contents]
    return [answer.raise_for_status().json()["prediction"].rpartition("_")[0] for answer in answers]


def under_load(rounds: int) -> bool:
    """Print rates and latencies of each side, rounds interleaved; return whether the aims are met."""
    right = True
    for number, (name, ((width, height), clients)) in enumerate(LOADS.items()):
        contents = [path.read_bytes() for path in drawn(width, height, 8)]
        found: dict[str, list[dict]] = {side: [] for side in SIDES}
        said: dict[str, list[str]] = {}
        for _ in range(rounds):
            for side in SIDES:
                with (
                    tempfile.TemporaryDirectory() as folder,
                    serving(side, Path(folder)) as (address, _process),
                ):
                    said[side] = decisions(address, contents)
                    found[side].append(asyncio.run(closed_loop(address, contents, clients)))
        rows = [row_of(side, results) for side, results in found.items()]
        rates = {row["side"]: row["requests / s"] for row in rows}
        for row in rows:
            row["ours / this"] = f"{rates['ours'] / row['requests / s']:.2f}x"
        equal = said["ours"] == said["litserve"] and all(set(r["statuses"]) == {200} for r in found["ours"])
        print(f"\n**{name}: decisions {'equal' if equal else 'NOT EQUAL'}**\n\n{markdown(rows, 1)}")
        right &= equal and all(rates["ours"] >= aims[number] * rates[side] for side, aims in AIM.items())
    return right


def row_of(side: str, results: Sequence[dict]) -> dict:
    """Return a side's medians over its rounds."""
    rates = [len(result["latencies"]) / SECONDS for result in results]
    ms = 1000 * np.concatenate([result["latencies"] for result in results])
    health = 1000 * np.concatenate([result["health"] for result in results])
    places = {f"p{p} ms": float(np.percentile(ms, p)) for p in (50, 95, 99)}
    return {
        "side": side,
        "requests / s": median(rates),
        **places,
        "/health p99 ms": float(np.percentile(health, 99)),
    }


async def open_loop(address: str, content: bytes, rate: float) -> Counter:
    """Send requests at a rate, whatever is answered; return the number of each status."""
    statuses: Counter = Counter()

    async def one(session: httpx.AsyncClient) -> None:
        try:
            answer = await session.post("/predict", files={"file": content})
            known = answer.status_code == 200 or "retry-after" in answer.headers
            statuses[answer.status_code if known else f"{answer.status_code} without Retry-After"] += 1
        except httpx.HTTPError as error:
            statuses[type(error).__name__] += 1

    async with (
        httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=None)) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(round(rate * OVERLOAD)):
            group.create_task(one(session))
            await asyncio.sleep(1 / rate)
    return statuses


def overloaded() -> bool:
    """Print what an open loop of three times the capacity gets, and the memory before and after."""
    content = drawn(640, 480, 8)[0].read_bytes()
    with tempfile.TemporaryDirectory() as folder, serving("ours", Path(folder)) as (address, process):
        capacity = len(asyncio.run(closed_loop(address, [content], 8))["latencies"]) / SECONDS
        before = resident(process.pid)
        statuses = asyncio.run(open_loop(address, content, 3 * capacity))
        after = resident(process.pid)
    print(f"\n**open loop: {3 * capacity:.0f} requests / s for {OVERLOAD:g} s, capacity {capacity:.0f}**\n")
    print(f"answers {dict(statuses)}, memory {before} MB before, {after} MB after")
    return set(statuses) <= {200, 503, 429} and after < before + 100


def resident(pid: int) -> int:
    """Return the memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


def killed() -> bool:
    """Print what is left of queued jobs when the process is killed again and again."""
    content = drawn(640, 480, 8)[0].read_bytes()
    tasks: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for kill in range(KILLS + 1):
            with serving("ours", Path(folder)) as (address, process):
                if not tasks:
                    image = httpx.post(f"{address}/api/upload", files={"file": content}).json()["id"]
                for _ in range(JOBS // KILLS if kill < KILLS else 0):
                    taken = httpx.post(f"{address}/api/predict", params={"id": image})
                    tasks.append(taken.raise_for_status().json()["data"]["task_id"])
                if kill < KILLS:
                    threading.Event().wait(0.3 * (kill % 3))
                    process.kill()
                    process.wait()
                    continue
                until = time.monotonic() + 120
                states = Counter()
                while time.monotonic() < until and states["SUCCESS"] < len(tasks):
                    states = Counter(
                        httpx.get(f"{address}/api/tasks/{t}").json()["task_status"] for t in tasks
                    )
        with closing(sqlite3.connect(Path(folder) / "corbel.db")) as database:
            kept, jobs = database.execute(
                "select count(*), count(distinct job_id) from prediction"
            ).fetchone()
    print(
        f"\n**{len(tasks)} jobs, {KILLS} kills**\n\n{json.dumps(states)}; predictions {kept}, of {jobs} jobs"
    )
    return kept == jobs == len(tasks) == states["SUCCESS"]


def main(rounds: int | None = None) -> bool:
    """Run all parts; return whether every figure is as it has to be."""
    print(f"{CORES} cores, load {os.getloadavg()[0]:.2f} before")
    return all([under_load(rounds or 3), overloaded(), killed()])
