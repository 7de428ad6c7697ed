"""The service on several machines: workers behind a broker, kills, storage, shared rates, bad input."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from src.errors import InputError
from src.serving import storage
from src.serving.app import create_app
from src.serving.engine import load_served
from src.serving.photos import Checked
from src.serving.store import Store
from tests.made import REPOSITORY, run_script
from tests.test_service import sent, settings_of, settled
from tests.test_service_faults import kept_predictions, stored
from tests.test_service_schema import served

pytestmark = [
    pytest.mark.usefixtures("profile"),
    pytest.mark.parametrize("profile", ["cluster"], indirect=True),
]


servers_of = pytest.importorskip("benchmarks.servers", reason="the extra cluster is not installed")


@pytest.fixture
def database(profile):
    """The address of an empty database."""
    return os.environ["CORBEL_DATABASE_URL"]


@pytest.fixture
def web(tmp_path, run, monkeypatch):
    """A web process without workers; its settings reach workers through the environment."""
    given = {"FOLDER": tmp_path / "serve", "CKPT": load_served(run, "onnx").path, "LEASE": 1}
    for name, value in given.items():
        monkeypatch.setenv(f"CORBEL_{name}", str(value))
    with TestClient(create_app(settings_of(tmp_path, run, workers=0))) as client:
        yield client


@contextmanager
def working(tmp_path, *command):
    """Start a worker as a process of its own; kill it in the end, if it is still there."""
    command = command or ("scripts/worker.py", f"hydra.run.dir={tmp_path}/log")
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    worker = subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, **streams)
    try:
        for line in worker.stderr:
            if "working with" in line:
                break
        else:
            raise AssertionError(f"the worker did not start: {worker.wait()}")
        threading.Thread(target=worker.stderr.read, daemon=True).start()  # its log is not to fill the pipe
        yield worker
    finally:
        worker.kill()
        worker.wait()


def queued(client, image, count, **given):
    """Queue predictions of a photo; return their ids."""
    answers = [client.post("/api/predict", params={"id": image, **given}) for _ in range(count)]
    return [answer.raise_for_status().json()["data"]["task_id"] for answer in answers]


def test_kills_a_flushed_broker_and_a_restarted_database_lose_and_double_nothing(
    web, servers, database, photos, tmp_path
):
    image = web.post("/api/upload", files=sent(sorted(photos.rglob("*.jpg"))[0])).json()["id"]
    tasks = queued(web, image, 40)
    with working(tmp_path), working(tmp_path):
        for turn in range(3):
            with working(tmp_path) as third:
                tasks += queued(web, image, 20)
                third.kill()
                if turn == 0:
                    servers.redis.client.flushall()
                elif turn == 1:
                    servers.postgres.end(signal.SIGINT)
                    servers.postgres.start()
        begun, states = time.monotonic(), set()
        while states != {"SUCCESS"} and time.monotonic() < begun + 60:
            time.sleep(0.2)
            states = {web.get(f"/api/tasks/{task}").json()["task_status"] for task in tasks}
    assert states == {"SUCCESS"}
    assert kept_predictions(database.replace(":", "+psycopg:", 1)) == (len(tasks), len(tasks))


def test_a_worker_of_celerys_own_command_ends_with_the_job_at_work(web, database, photos, tmp_path):
    path = sorted(photos.rglob("*.jpg"))[0]
    image = web.post("/api/upload", files=sent(path)).json()["id"]
    command = ("-m", "celery", "-A", "src.serving.celery_app", "worker", "--loglevel=INFO")
    with working(tmp_path, *command) as worker:
        done = settled(web, *queued(web, image, 1))
        assert (
            done["task_result"]["prediction"] == web.post("/predict", files=sent(path)).json()["prediction"]
        )
        tasks = queued(web, image, 10)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    states = [web.get(f"/api/tasks/{task}").json()["task_status"] for task in tasks]
    assert set(states) <= {"SUCCESS", "PENDING"}


def test_photos_that_somebody_waits_for_come_before_batches(web, photos, tmp_path, database):
    image = web.post("/api/upload", files=sent(sorted(photos.rglob("*.jpg"))[0])).json()["id"]
    many, single = queued(web, image, 20, batch=True), queued(web, image, 3)
    assert "corbel_jobs_waiting 23.0" in web.get("/metrics").text
    with working(tmp_path):
        assert all(settled(web, task)["task_status"] == "SUCCESS" for task in many + single)
    engine = sa.create_engine(database.replace(":", "+psycopg:", 1))
    with engine.connect() as connection:
        order = connection.exec_driver_sql("select id from job order by finished_at").scalars().all()
    engine.dispose()
    assert set(order[:3]) == set(single)


def test_jobs_wait_for_a_broker_that_is_away(web, servers, photos, tmp_path):
    image = web.post("/api/upload", files=sent(sorted(photos.rglob("*.jpg"))[0])).json()["id"]
    servers.redis.end(signal.SIGKILL)
    try:
        (task,) = queued(web, image, 1)
    finally:
        servers.redis.start()
    with working(tmp_path):
        assert settled(web, task)["task_status"] == "SUCCESS"


def test_uploads_wait_for_a_database_that_is_away_and_lose_no_photo(tmp_path, run, servers, photos):
    kept, statuses = {}, []
    with (
        served(create_app(settings_of(tmp_path, run, workers=0))) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        for number, path in enumerate(sorted(photos.rglob("*.jpg"))[:12]):
            if number == 4:
                servers.postgres.end(signal.SIGINT)
            if number == 8:
                servers.postgres.start()
            answer = client.post("/api/upload", files=sent(path))
            statuses.append(answer.status_code)
            if answer.status_code == 201:
                kept[answer.json()["id"]] = answer.json()["sha256"]
            else:
                assert int(answer.headers["Retry-After"]) > 0 and answer.json()["code"] == "no_database"
        assert statuses == [201] * 4 + [503] * 4 + [201] * 4
        for image, sha256 in kept.items():
            assert client.get(f"/api/images/{image}").json()["data"]["sha256"] == sha256
            assert client.get(f"/api/images/{image}/file").status_code == 200


def test_processes_that_start_at_once_migrate_once_and_keep_one_row_of_a_photo_or_key(database):
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: Store(database), range(6)))
        photo = Checked("a" * 64, b"x", "JPEG", 1, 1, b"")
        rows = list(pool.map(lambda store: store.add_image(photo, "a.jpg", None), found))
        assert len({image for image, _ in rows}) == 1 and sum(is_new for _, is_new in rows) == 1
        jobs = set(pool.map(lambda store: store.add_job(rows[0][0], key="once"), found))
        assert len(jobs) == 1
        claims = list(pool.map(lambda store: store.claim("worker", 60), found))
        assert sum(claim is not None for claim in claims) == 1
    for store in found:
        store.engine.dispose()


def test_leases_are_of_the_databases_time_and_are_kept_and_fenced(database, monkeypatch):
    store = Store(database)
    job_id = store.add_job(stored(store, "a"))
    first = store.claim("first", lease=60)
    monkeypatch.setattr(time, "time", lambda: 9e9)  # a host whose clock is centuries ahead
    assert store.claim("second", lease=60) is None
    store.keep([(job_id, "first")], lease=0.2)
    time.sleep(0.3)  # in silence
    assert [row.id for row in store.lost(age=60, room=0)] == [job_id] and store.lost(60, 0) == []
    second = store.claim("second", lease=60, job_id=job_id)
    assert second.attempts == 2 and store.claim("third", 60, job_id) is None
    assert not store.finish(first, "first", error="late") and store.finish(second, "second", error="broken")
    store.engine.dispose()


def test_web_processes_share_the_rates_and_go_on_without_redis(tmp_path, run, servers):
    apps = [create_app(settings_of(tmp_path, run, rate=6, workers=0)) for _ in range(2)]
    with TestClient(apps[0]) as one, TestClient(apps[1]) as other:
        statuses = [client.get("/api/images").status_code for client in (one, other) * 4]
        assert statuses == [200] * 6 + [429] * 2
        servers.redis.end(signal.SIGKILL)
        try:
            assert one.get("/api/images").status_code == 200
        finally:
            servers.redis.start()


@pytest.fixture(scope="module")
def s3(servers):
    """A server that answers as S3 does."""
    for name in ("s3fs", "moto"):
        pytest.importorskip(name, reason="the extra dev is not installed in full")
    with servers_of.started(servers_of.S3) as found:
        yield found


def test_photos_in_storage_with_the_interface_of_s3(tmp_path, run, photos, s3, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    httpx.put(f"{s3.environment['AWS_ENDPOINT_URL']}/photos")
    path = sorted(photos.rglob("*.jpg"))[0]
    with TestClient(create_app(settings_of(tmp_path, run, folder="s3://photos/here"))) as client:
        image = client.post("/api/upload", files=sent(path)).json()
        assert client.post("/api/upload", files=sent(path)).status_code == 200
        assert settled(client, *queued(client, image["id"], 1))["task_status"] == "SUCCESS"
        for place in ("file", "file?thumbnail=true", "view"):
            assert client.get(f"/api/images/{image['id']}/{place}").status_code == 200
        assert client.get("/ready").status_code == 200
        s3.end()
        (job,) = queued(client, image["id"], 1)
        away = client.get(f"/api/images/{image['id']}/file")
        assert (away.status_code, away.json()["code"]) == (503, "no_storage")
        assert client.get("/ready").status_code == 503
        time.sleep(3)  # longer than three attempts take
        assert client.get(f"/api/tasks/{job}").json()["task_status"] in ("PENDING", "STARTED")
        s3.start()  # empty
        assert settled(client, job)["error"] == "no such file"
        assert client.get(f"/api/images/{image['id']}/file").status_code == 410
        assert client.delete(f"/api/images/{image['id']}").status_code == 200
    with pytest.raises(InputError, match="folder=s3://nowhere/x: cannot be written"):
        create_app(settings_of(tmp_path, run, folder="s3://nowhere/x"))
    monkeypatch.delenv("CORBEL_DATABASE_URL")
    with pytest.raises(InputError, match="needs a database_url"):
        create_app(settings_of(tmp_path, run, folder="s3://photos/x", broker_url=None))


def test_storage_that_does_not_answer_is_not_waited_for(monkeypatch, s3):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(storage, "ANSWER", 0.5)
        begun = time.monotonic()
        with pytest.raises(InputError, match="cannot be written"):
            storage.open_folder("s3://photos/silent")
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize("script", ["worker", "serve"])
def test_bad_addresses_are_one_line(script, monkeypatch, tmp_path, run, servers, database, capsys):
    url = servers.postgres.url
    away = "postgresql://corbel:secret@127.0.0.1:9/x"
    for variable, value, told in (
        ("DATABASE", "nonsense", "needs an address"),
        ("DATABASE", "corbel:secret@127.0.0.1/x", "needs an address"),
        ("DATABASE", "postgresql://corbel:of@secret@127.0.0.1/x", "percent-encoded"),
        ("DATABASE", away, "Connection refused"),
        ("DATABASE", url(password="secret"), "password authentication failed"),
        ("DATABASE", url("nowhere"), "does not exist"),
        ("BROKER", "redis://127.0.0.1:9/0", "broker_url: Redis cannot be used (Error 111"),
        ("BROKER", f"redis://:secret@127.0.0.1:{servers.redis.port}/0", "broker_url: Redis cannot be used"),
        ("BROKER", "amqp://127.0.0.1", "broker_url: Redis cannot be used"),
        ("BROKER", "redis://:secret/@127.0.0.1/0", "percent-encoded"),
    ):
        with monkeypatch.context() as here:
            here.setenv(f"CORBEL_{variable}_URL", value)
            given = [f"ckpt={run}", "patience=1", f"folder={tmp_path}/x", f"hydra.run.dir={tmp_path}/log"]
            given += ["serve=cluster", f"port={servers_of.free_port()}"] if script == "serve" else []
            assert run_script(here, script, *given) == 2, (variable, value)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1 and told in said[0] and "secret" not in said[0], said


def test_a_worker_with_another_folder_than_the_web_process_does_not_begin(
    monkeypatch, tmp_path, run, database, capsys
):
    for folder, told in (
        ("elsewhere", "no web process of Corbel keeps photos here"),
        ('"s3://x"', "s3://bucket"),
    ):
        monkeypatch.setenv("CORBEL_FOLDER", folder)
        assert (
            run_script(monkeypatch, "worker", f"ckpt={run}", "patience=1", f"hydra.run.dir={tmp_path}") == 2
        )
        assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_database_of_another_encoding_is_refused(servers):
    servers.postgres.run("create database old encoding 'SQL_ASCII' locale 'C' template template0")
    with pytest.raises(InputError, match="its encoding is SQL_ASCII"):
        Store(servers.postgres.url("old"))
    servers.postgres.run("drop database old with (force)")


def test_tables_of_a_later_version_are_left_alone(database):
    Store(database).engine.dispose()
    engine = sa.create_engine(database.replace(":", "+psycopg:", 1))
    with engine.begin() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = '9999'")
    engine.dispose()
    with pytest.raises(InputError, match="its tables are of a later version of Corbel"):
        Store(database)
