"""The service under faults: kills, hostile pictures, a full queue, another model, damaged databases."""

import asyncio
import io
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing

import httpx
import numpy as np
import pytest
import torch
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import create_engine, event

from src.errors import InputError
from src.files import file_lock
from src.serving import image_routes
from src.serving.app import create_app
from src.serving.engine import Busy, Engine, load_served
from src.serving.photos import Checked, without_metadata
from src.serving.store import MIGRATIONS, Store
from tests.made import REPOSITORY, run_script
from tests.test_service import ALONE, sent, settings_of, settled

pytestmark = pytest.mark.usefixtures("profile")  # with SQLite, and with PostgreSQL and Redis


class Server:
    """`scripts/serve.py` as a process, which can be killed and started again."""

    def __init__(self, folder, model, home=REPOSITORY):
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.script = home / "scripts" / "serve.py"
        self.environment = {"CORBEL_FOLDER": str(folder), "CORBEL_LEASE": "1"}
        self.database = os.environ.get("CORBEL_DATABASE_URL", f"sqlite:///{folder}/corbel.db")
        self.arguments = [f"ckpt={model}", f"port={self.port}", f"hydra.run.dir={folder.parent}/log"]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)
        self.start()

    def start(self):
        script = [sys.executable, self.script, *self.arguments]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(script, **streams, env=os.environ | self.environment)
        for _ in range(300):
            try:
                return self.client.get("/ready").raise_for_status()
            except httpx.HTTPError:
                assert self.process.poll() is None, self.process.stderr.read().decode()
                time.sleep(0.1)
        raise AssertionError("the service did not start")

    def end(self, signum):
        self.process.send_signal(signum)
        code = self.process.wait(30)
        self.process.stderr.close()
        return code


@pytest.fixture
def database(tmp_path, profile):
    """The address of an empty database."""
    return os.environ.get("CORBEL_DATABASE_URL", f"sqlite:///{tmp_path / 'x.db'}")


@pytest.fixture
def server(tmp_path, run):
    found = Server(tmp_path / "serve", load_served(run, "onnx").path)
    yield found
    if found.process.poll() is None:
        found.end(signal.SIGKILL)
    found.client.close()


def kept_predictions(url):
    """Return the number of predictions in a database, and of the jobs that they are of."""
    engine = create_engine(url)
    with engine.connect() as connection:
        counts = connection.exec_driver_sql("select count(*), count(distinct job_id) from prediction").one()
    engine.dispose()
    return tuple(counts)


def test_a_killed_service_loses_and_doubles_nothing(server, photos, tmp_path, profile, thorough):
    paths, tasks = sorted(photos.rglob("*.jpg"))[:8], []
    images = [server.client.post("/api/upload", files=sent(path)).json()["id"] for path in paths]
    for turn in range(3 if thorough else 2):
        for image in images * 3:
            tasks.append(server.client.post(f"/api/predict?id={image}").json()["data"]["task_id"])
        time.sleep(0.02 * turn)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        server.start()
    assert all(settled(server.client, task)["task_status"] == "SUCCESS" for task in tasks)
    assert kept_predictions(server.database) == (len(tasks), len(tasks))
    if profile == "alone":
        with closing(sqlite3.connect(tmp_path / "serve" / "corbel.db")) as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)


@ALONE
def test_a_service_that_is_told_to_end_answers_what_it_took(server, photos, thorough):
    path, rounds = sorted(photos.rglob("*.jpg"))[0], 10 if thorough else 1
    counts, ended = Counter(), threading.Event()

    def ask():
        while not ended.is_set():
            try:
                answer = httpx.post(f"{server.client.base_url}/predict", files=sent(path), timeout=20)
                counts[answer.status_code] += 1
            except httpx.TransportError:  # nobody listens any more
                ended.wait(0.02)

    answered = 0
    for turn in range(rounds):
        ended.clear()
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        before = counts[200]
        while counts[200] < before + 8:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        answered += server.process.stderr.read().count(b'"path": "/predict", "status": 200')
        assert server.process.wait(30) in (0, -signal.SIGTERM, 143)
        ended.set()
        for thread in threads:
            thread.join()
        if turn + 1 < rounds:
            server.start()
    print(f"{rounds} SIGTERM under load: {answered} predictions made, {counts[200]} came back")
    assert set(counts) <= {200, 503} and counts[200] == answered > 0


def pictures():
    """Yield a name, the bytes of a file, and the status that it gets."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8).astype(np.uint8))

    def saved(image, form, **options):
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    jpeg, png = saved(photo, "JPEG"), saved(photo, "PNG")
    yield "bomb.png", saved(Image.new("1", (9000, 9000)), "PNG"), 413
    yield "half.jpg", jpeg[: len(jpeg) // 2], 422
    yield "half.png", png[: len(png) // 2], 422
    yield "animated.gif", saved(photo, "GIF", save_all=True, append_images=[photo]), 415
    yield "page.html", b"<html>" + bytes(100), 415
    yield "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415
    yield "cmyk.jpg", saved(photo.convert("CMYK"), "JPEG"), 200
    yield "gray16.png", saved(Image.fromarray(np.full((30, 30), 40000, np.uint16)), "PNG"), 200
    yield "alpha.png", saved(photo.convert("RGBA"), "PNG"), 200
    yield "one.png", saved(Image.new("RGB", (1, 1)), "PNG"), 200
    yield "animated.webp", saved(photo, "WEBP", save_all=True, append_images=[photo]), 200
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for form in ("JPEG", "PNG", "WEBP"):
            yield f"{orientation}.{form}", saved(photo, form, exif=exif), 200


@ALONE
def test_hostile_pictures_get_the_status_they_deserve(tmp_path, run, thorough):
    chance, counts = random.Random(0), Counter()
    with TestClient(create_app(settings_of(tmp_path, run))) as client:
        accepted = []
        for name, content, status in pictures():
            for call in ("/predict", "/api/upload"):
                answer = client.post(call, files={"file": (name, content)})
                assert answer.status_code in ((200, 201) if status == 200 else (status,)), (name, answer.text)
            if status == 200:
                accepted.append(content)
                image = answer.json()
                width, height = image["width"], image["height"]
                assert width == height or (width < height) == (name[0] in "5678")
        for _ in range(5000 if thorough else 200):
            content = bytearray(chance.choice(accepted))
            for _ in range(chance.randint(1, 8)):
                content[chance.randrange(len(content))] = chance.randrange(256)
            answer = client.post("/api/upload", files={"file": ("mutant", bytes(content))})
            counts[answer.status_code] += 1
            assert answer.status_code in (200, 201, 413, 415, 422), answer.text
    print(f"{sum(counts.values())} mutants: {dict(counts)}")


@ALONE
def test_metadata_of_progressive_photos_and_second_pictures_are_cut():
    photo = Image.effect_noise((300, 200), 80).convert("RGB")
    for options in ({"progressive": True}, {"progressive": False, "restart_marker_blocks": 5}):
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=90, comment=b"Secret", **options)
        whole = file.getvalue()
        cut = without_metadata(whole + b"\xff\xd8second picture")
        assert b"Secret" not in cut and b"second" not in cut
        both = [np.asarray(Image.open(io.BytesIO(content))) for content in (whole, cut)]
        assert np.array_equal(*both)


@ALONE
def test_a_full_queue_is_said_and_the_engine_drains(tmp_path, run):
    engine = Engine(load_served(run, "auto"), threads=1, queue=2, timeout=5)

    async def crowd():
        calls = [engine.run(lambda: time.sleep(0.2)) for _ in range(5)]
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(crowd())
    assert [type(answer) for answer in found] == [type(None)] * 2 + [Busy] * 3 and found[-1].seconds >= 1
    assert engine.waiting == 0
    engine.close()
    with pytest.raises(Busy):
        engine.refuse_if_full()


@ALONE
def test_a_batch_takes_every_thread_and_no_more_and_is_not_refused_half_way(tmp_path, run, photos):
    settings, at_work, most = settings_of(tmp_path, run, threads=2, queue=2), [], []
    paths = sorted(photos.rglob("*.jpg"))[:8]
    with TestClient(create_app(settings)) as client:
        predictor = client.app.state.service.engine.model.predictor
        predict = predictor.predict

        def slowly(content):
            at_work.append(1)
            most.append(len(at_work))
            time.sleep(0.1 if len(most) % 2 else 0.02)
            at_work.pop()
            return predict(content)

        predictor.predict = slowly
        files = [("files", (path.name, path.read_bytes())) for path in paths]
        answers = []
        batch = threading.Thread(target=lambda: answers.append(client.post("/predict_batch", files=files)))
        batch.start()
        time.sleep(0.2)
        other = client.post("/predict", files=sent(paths[0]))
        batch.join()
    assert other.status_code == 503 and int(other.headers["Retry-After"]) >= 1
    results = answers[0].json()["results"]
    assert [item["filename"] for item in results] == [path.name for path in paths]
    assert all(item["prediction"] for item in results) and max(most) == 2


def test_a_photo_that_is_sent_while_it_is_deleted_keeps_its_file(tmp_path, run, photos, monkeypatch):
    path, answers, remove = sorted(photos.rglob("*.jpg"))[0], [], image_routes.remove_photo
    with TestClient(create_app(settings_of(tmp_path, run))) as client:
        first = client.post("/api/upload", files=sent(path)).json()["id"]
        again = threading.Thread(target=lambda: answers.append(client.post("/api/upload", files=sent(path))))

        def slowly(*given):
            again.start()
            time.sleep(0.5)
            remove(*given)

        monkeypatch.setattr(image_routes, "remove_photo", slowly)
        assert client.delete(f"/api/images/{first}").status_code == 200
        again.join()
        assert answers[0].status_code == 201
        assert client.get(f"/api/images/{answers[0].json()['id']}/file").status_code == 200


def stored(store, name):
    """Keep the row of a photo; return its id."""
    return store.add_image(Checked(name * 64, b"x", "JPEG", 1, 1, b""), name, None)[0]


def test_an_export_neither_repeats_nor_loses_a_photo_while_others_come_and_go(database):
    store = Store(database)
    ids = [stored(store, name) for name in "abcdef"]
    found = []
    for row in store.all_images(None, page=2):
        found.append(row.id)
        if row.id == ids[1]:
            store.delete_image(ids[0], lambda *_: None)
            ids.append(stored(store, "g"))
    assert found == ids
    store.engine.dispose()


def test_a_job_whose_workers_end_is_given_up_after_three_attempts(database):
    store = Store(database)
    job_id = store.add_job(stored(store, "a"))
    claimed = [store.claim("worker", lease=-1) for _ in range(4)]
    assert [job and job.attempts for job in claimed] == [1, 2, 3, None]
    assert store.job(job_id).status == "DEAD"
    assert not store.finish(claimed[2], "worker", error="too late")
    store.engine.dispose()


def test_another_model_takes_over_without_dropping_a_request(tmp_path, run, photos, thorough):
    runs = tmp_path / "outputs"
    for name in ("one", "two"):
        shutil.copytree(run, runs / "dual_head" / name)
    checkpoint = runs / "dual_head" / "two" / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["epoch"] += 1  # another file
    torch.save(content, checkpoint)
    path, stop, answers = sorted(photos.rglob("*.jpg"))[0], threading.Event(), []
    with TestClient(create_app(settings_of(tmp_path, runs / "dual_head" / "one", runs=runs))) as client:

        def ask():
            while not stop.is_set():
                answers.append(client.post("/predict", files=sent(path)))

        thread = threading.Thread(target=ask)
        thread.start()
        for name in ("two", "one") * (5 if thorough else 2):
            active = client.post("/api/models/activate", json={"run": f"dual_head/{name}"})
            assert active.status_code == 200, active.text
        stop.set()
        thread.join()
        print(f"{len(answers)} requests while the model was switched again and again: all answered")
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["model_id"] for answer in answers}) == 2


@ALONE
def test_folders_of_any_name(tmp_path, run):
    home, folder = tmp_path / "50% a clone", tmp_path / "a?b%20c#d"
    for part in ("src", "scripts", "conf"):
        shutil.copytree(REPOSITORY / part, home / part)
    server = Server(folder, load_served(run, "onnx").path, home)
    assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM, 143)
    server.client.close()
    assert (folder / "corbel.db").is_file()


@ALONE
@pytest.mark.parametrize("pragma", ["query_only=ON", "max_page_count=1"])  # a disk for reading, a full one
def test_a_disk_that_takes_nothing_is_told_and_leaves_no_file(tmp_path, run, photos, pragma):
    first, *others = sorted(photos.rglob("*.jpg"))
    settings = settings_of(tmp_path, run, workers=0)
    with TestClient(create_app(settings)) as client:
        image = client.post("/api/upload", files=sent(first)).json()["id"]
        labels = {"component": ["Grout Hole"], "defect": ["Leaks"]}
        decided = {"decision": "correct", "labels": labels, "comment": "x" * 2000}
        event.listen(
            client.app.state.service.store.engine, "begin", lambda db: db.exec_driver_sql(f"PRAGMA {pragma}")
        )
        for _ in range(400):  # until the room in the database's last pages is used
            job = client.post(f"/api/predict?id={image}")
            review = client.patch(f"/api/images/{image}", json=decided)
            if job.status_code == review.status_code == 507:
                break
        long = f"/api/upload?filename={'x' * 999}"
        uploads = [client.post(long, files=sent(path)).status_code for path in others]
        assert {job.status_code, review.status_code, uploads[-1]} == {507}
        assert "disk" in review.json()["detail"]
        assert len(list(settings.folder.rglob("*.jpg"))) == 2 * (1 + uploads.count(201))  # with thumbnails
        assert client.get("/ready").status_code == 200
        shutil.rmtree(settings.folder)
        gone = client.get("/ready")
        assert gone.status_code == 507 and "No such file" in gone.json()["detail"]


@ALONE
def test_databases_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"cannot be used .*No module named"):
        Store("mysql+aiomysql://somewhere/x")
    (tmp_path / "broken.db").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match=r"database_url=.*broken.db: cannot be used"):
        Store(f"sqlite:///{tmp_path / 'broken.db'}")
    with pytest.raises(InputError, match="cannot be used"):
        Store(f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.db'}")


def test_migrations_go_up_and_down_and_give_the_tables_of_the_code(database):
    store, config = Store(database), Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def migrate(work, *revision):
        with store.engine.begin() as connection:
            config.attributes["connection"] = connection
            work(config, *revision)

    migrate(command.check)  # as `alembic check`
    job_id = store.add_job(stored(store, "a"))
    migrate(command.downgrade, "0001")
    migrate(command.upgrade, "head")
    assert store.job(job_id).status == "PENDING" and store.claim("worker", 60).id == job_id
    migrate(command.downgrade, "base")
    migrate(command.upgrade, "head")
    migrate(command.check)
    assert store.job(job_id) is None
    store.engine.dispose()


@ALONE
def test_a_port_in_use_is_one_line_with_a_free_one(tmp_path, run, monkeypatch, capsys):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        given = [f"ckpt={run}", f"port={port}", f"folder={tmp_path}/x", f"hydra.run.dir={tmp_path}/log"]
        assert run_script(monkeypatch, "serve", *given) == 2
    said = capsys.readouterr().err
    assert f"port={port}: address already in use; port={port + 1}" in said
    with file_lock(tmp_path / "x" / ".lock"):
        assert run_script(monkeypatch, "serve", *given) == 2
    assert "another process serves it" in capsys.readouterr().err
    monkeypatch.setitem(os.environ, "CORBEL_QUEUE", "none")
    assert run_script(monkeypatch, "serve", *given) == 2
    assert "CORBEL_QUEUE" in capsys.readouterr().err
