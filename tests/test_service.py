"""The service over HTTP: shapes of the answers, the same predictions as predict.py, and what it refuses."""

import csv
import hashlib
import io
import json
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from src.errors import InputError
from src.labels import LabelSpace
from src.serving.app import create_app
from src.serving.settings import Settings, read_settings
from tests.made import REPOSITORY, make_folders, run_script

BROKEN = b"\xff\xd8\xff" + bytes(60)


def settings_of(tmp_path, run, **given):
    values = {"folder": tmp_path / "serve", "ckpt": str(run), "runs": run.parent.parent} | given
    return Settings(**values)


@pytest.fixture
def client(tmp_path, run):
    with TestClient(create_app(settings_of(tmp_path, run))) as found:
        yield found


@pytest.fixture
def photo(photos):
    return sorted(photos.rglob("*.jpg"))[0]


def sent(path):
    return {"file": (path.name, path.read_bytes(), "image/jpeg")}


def settled(client, task_id):
    """Wait for a job; return its state."""
    for _ in range(200):
        state = client.get(f"/api/tasks/{task_id}").json()
        if state["task_status"] not in ("PENDING", "STARTED"):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def test_calls_at_once_have_the_originals_shapes(client, photo, run):
    answer = client.post("/predict", files=sent(photo)).json()
    component, defect, confidence = answer["prediction"].rsplit("_", 2)
    assert 0 < float(confidence) <= 1 and len(answer["sha256"]) == 64
    detail = client.post("/predict?detail=true", files=sent(photo)).json()
    assert detail["raw"]["labels"] == {"component": [component], "defect": [defect]}
    scores = detail["raw"]["probabilities"]
    assert all(abs(sum(of.values()) - 1) < 1e-5 for of in scores.values())
    assert {"request_id", "confidence_scores", "response_time_sec", "timestamp"} <= detail.keys()
    other = client.post("/predict_defect_image", files=sent(photo)).json()
    assert (
        other["prediction"] == answer["prediction"] and other["probabilities"] == detail["confidence_scores"]
    )
    assert client.get("/health").json() == {"status": "UP", "model_version": answer["model_id"]}
    assert client.get("/ready").status_code == 200 and "/predict" in client.get("/").json()["calls"]
    heat = client.post("/explain", files=sent(photo), data={"label": defect})
    assert heat.status_code in (200, 409)
    assert client.get("/api/stats/").json()["history"][0]["epoch"] == 1
    (model,) = client.get("/api/models").json()["data"]
    assert model["active"] and model["run"].endswith(run.name)
    assert (
        'corbel_requests_total{method="POST",route="/predict",status="200"} 2.0'
        in client.get("/metrics").text
    )


def test_a_batch_has_a_result_or_an_error_for_each_file(client, photos):
    paths = sorted(photos.rglob("*.jpg"))[:3]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(paths[1], "in a zip.jpg")
        archive.writestr("notes.txt", "no photo")
    files = [("files", (paths[0].name, paths[0].read_bytes())), ("files", ("some.zip", packed.getvalue()))]
    results = client.post("/predict_batch", files=files).json()["results"]
    assert [item["filename"] for item in results] == [paths[0].name, "in a zip.jpg", "notes.txt"]
    assert results[0]["prediction"] and results[1]["labels"] and "not an image" in results[2]["error"]
    broken = client.post("/predict_batch", files=[("files", ("x.zip", packed.getvalue()[:-30]))])
    assert broken.status_code == 422 and broken.json()["code"] == "broken_archive"


def test_a_fault_in_an_archive_is_one_files(tmp_path, run, photo):
    content, packed = photo.read_bytes(), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("good.jpg", "damaged.jpg"):
            archive.writestr(name, content)
        archive.writestr("bomb.jpg", bytes(10 * len(content)))
    damaged = bytearray(packed.getvalue())
    second = damaged.index(b"damaged.jpg")
    damaged[second + 40 : second + 60] = bytes(20)
    with TestClient(
        create_app(settings_of(tmp_path, run, max_bytes=2 * len(content), max_files=20))
    ) as client:
        answer = client.post("/predict_batch", files=[("files", ("x.zip", bytes(damaged)))])
        good, broken, bomb = answer.json()["results"]
        assert good["prediction"] and "unpacked" in broken["error"] and "at most" in bomb["error"]
        many = [("files", ("x.zip", packed.getvalue()))] * 8
        assert client.post("/predict_batch", files=many).json()["code"] == "too_many_files"


def test_a_photo_from_upload_to_export(client, photo, tmp_path, monkeypatch):
    first = client.post("/api/upload?ground_truth=Crack", files=sent(photo))
    image = first.json()
    assert first.status_code == 201 and image["predictions"] is None and image["ground_truth"] == "Crack"
    again = client.post("/api/upload", files=sent(photo))
    assert again.status_code == 200 and again.json()["id"] == image["id"]
    assert client.get(f"/api/images/{image['id']}/view").status_code == 204
    taken = client.post(f"/api/predict?id={image['id']}").json()
    assert taken["message"] == "Task received" and taken["data"]["status"] == "PENDING"
    state = settled(client, taken["data"]["task_id"])
    assert state["task_status"] == "SUCCESS" and state["task_result"]["sha256"] == image["sha256"]
    assert (
        state["task_result"]["prediction"] == client.post("/predict", files=sent(photo)).json()["prediction"]
    )
    found = client.get(f"/api/images/{image['id']}").json()["data"]
    scores = list(found["predictions"].values())
    assert scores == sorted(scores, reverse=True) and found["model_id"] == state["task_result"]["model_id"]
    view = client.get(f"/api/images/{image['id']}/view")
    assert Image.open(io.BytesIO(view.content)).width == 640
    stored = client.get(f"/api/images/{image['id']}/file").content
    assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(c))) for c in (stored, photo.read_bytes())))
    labels = {
        kind: [names[-1]]
        for kind, names in client.app.state.service.engine.model.predictor.labels.kinds.items()
    }
    decided = {"decision": "correct", "labels": labels, "comment": "seen on site", "reviewer": "A. Person"}
    review = client.patch(f"/api/images/{image['id']}", json=decided).json()["data"]["review"]
    assert review["labels"] == labels and review["decision"] == "corrected"
    name = next(iter(labels.values()))[0]
    assert client.get("/api/images", params={"label": name, "reviewed": True}).json()["total"] == 1
    assert client.get("/api/images", params={"reviewed": False}).json()["total"] == 0
    (row,) = csv.DictReader(io.StringIO(client.get("/api/export.csv").text))
    assert [row[kind] for kind in labels] == [names[0] for names in labels.values()]
    assert row["ID"] == image["sha256"] and row["reviewer"] == "A. Person"
    (tmp_path / "export.csv").write_text(client.get("/api/export.csv").text)
    look = [
        "data=table",
        f"data.csv={tmp_path / 'export.csv'}",
        f"data.images={tmp_path / 'serve' / 'photos'}",
    ]
    assert (
        run_script(monkeypatch, "explore", *look, f"output={tmp_path / 'look'}", "data.cache_dir=null") == 0
    )
    assert client.delete(f"/api/images/{image['id']}").json() == {"id": image["id"]}
    assert client.get(f"/api/images/{image['id']}").status_code == 404
    assert not list((tmp_path / "serve" / "photos").rglob("*.jpg"))


def test_a_confirmation_is_of_the_labels_that_were_shown(client, photo):
    image = client.post("/api/upload", files=sent(photo)).json()["id"]
    settled(client, client.post(f"/api/predict?id={image}").json()["data"]["task_id"])
    labels = client.get(f"/api/images/{image}").json()["data"]["labels"]
    shown = {"decision": "confirm", "labels": labels | {"defect": ["Another one"]}}
    refused = client.patch(f"/api/images/{image}", json=shown)
    assert (refused.status_code, refused.json()["code"]) == (409, "prediction_changed")
    kept = client.patch(f"/api/images/{image}", json=shown | {"labels": labels})
    assert kept.json()["data"]["review"]["labels"] == labels


def test_an_export_has_the_kinds_of_older_reviews(client, photo):
    predictor = client.app.state.service.engine.model.predictor
    image = client.post("/api/upload?filename==1%2B1", files=sent(photo)).json()["id"]
    labels = {kind: [names[0]] for kind, names in predictor.labels.kinds.items()}
    client.patch(f"/api/images/{image}", json={"decision": "correct", "labels": labels})
    predictor.labels = LabelSpace({"weather": ["rain"]})
    (row,) = csv.DictReader(io.StringIO(client.get("/api/export.csv").text))
    assert {kind: [row[kind]] for kind in labels} == labels and row["weather"] == ""
    assert row["original_name"] == "'=1+1"


def test_deep_gray_is_stored_as_the_model_sees_it(client):
    model = client.app.state.service.engine.model
    file = io.BytesIO()
    gray = np.random.default_rng(0).integers(0, 4096, (90, 120), np.uint16)
    Image.fromarray(gray).save(file, "PNG")
    model.predictor.preprocess = replace(model.predictor.preprocess, sample_bits=12)
    given = {"file": ("deep.png", file.getvalue())}
    at_once = client.post("/predict?detail=true", files=given).json()
    image = client.post("/api/upload", files=given).json()["id"]
    later = settled(client, client.post(f"/api/predict?id={image}").json()["data"]["task_id"])
    assert later["task_result"]["probabilities"] == at_once["raw"]["probabilities"]


def test_the_digest_of_a_preprocessing_is_of_the_options_that_are_set(client, photo):
    preprocess = client.app.state.service.engine.model.predictor.preprocess
    assert preprocess.sample_bits is None
    known = {name: getattr(preprocess, name) for name in ("image_size", "resize", "mean", "std")}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    assert client.post("/predict", files=sent(photo)).json()["preprocessing"] == digest


@pytest.mark.parametrize(("backend", "apart"), [("torch", 1e-6), ("onnx", 1e-4)])
def test_the_same_predictions_as_predict_py(photos, run, tmp_path, monkeypatch, thorough, backend, apart):
    if thorough:
        photos = make_folders(tmp_path / "many", each=23)
    output, furthest = tmp_path / "predictions.csv", 0.0
    given = [f"ckpt={run}", f"images={photos}", f"output={output}", "probabilities=true"]
    assert run_script(monkeypatch, "predict", *given) == 0
    with open(output, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:: 1 if thorough else 4]
    with TestClient(create_app(settings_of(tmp_path, run, backend=backend))) as client:
        for row in rows:
            at_once = client.post("/predict?detail=true", files=sent(photos / row["path"])).json()
            image = client.post("/api/upload", files=sent(photos / row["path"])).json()
            task = client.post(f"/api/predict?id={image['id']}").json()["data"]["task_id"]
            later = settled(client, task)["task_result"]
            assert later["probabilities"] == at_once["raw"]["probabilities"]
            assert at_once["raw"]["labels"] == {"component": [row["component"]], "defect": [row["defect"]]}
            for name, score in at_once["confidence_scores"].items():
                furthest = max(furthest, abs(score - float(row[f"p:{name}"])))
    print(f"{len(rows)} photos, {backend}: furthest from predict.py {furthest:.1e}")
    assert furthest <= apart


def test_metadata_is_not_stored(client, make_photo, tmp_path):
    path = make_photo(tmp_path / "gps.jpg", size=(40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    Image.open(path).save(path, exif=exif, comment=b"SecretComment")
    assert b"SecretCamera" in path.read_bytes()
    image = client.post("/api/upload", files=sent(path)).json()
    stored = client.get(f"/api/images/{image['id']}/file").content
    assert b"Secret" not in stored and (image["width"], image["height"]) == (20, 40)
    assert dict(Image.open(io.BytesIO(stored)).getexif()) == {0x0112: 6}


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "code"),
    [
        ("POST", "/predict", {}, 422, "invalid"),
        ("POST", "/predict", {"files": {"file": ("a.jpg", b"")}}, 422, "unreadable_photo"),
        ("POST", "/predict", {"files": {"file": ("a.jpg", b"hello")}}, 415, "unreadable_photo"),
        (
            "POST",
            "/predict",
            {"files": {"file": ("a.jpg", b"\xff\xd8\xff" + bytes(60))}},
            422,
            "unreadable_photo",
        ),
        ("POST", "/predict", {"files": {"file": ("a.jpg", bytes(200_000))}}, 413, "too_large"),
        ("GET", "/api/images/7", {}, 404, "not_found"),
        ("GET", "/api/images/x", {}, 422, "invalid"),
        ("POST", "/api/predict?id=7", {}, 404, "not_found"),
        ("GET", "/api/tasks/" + "0" * 32, {}, 404, "not_found"),
        ("GET", "/api/images?limit=100000", {}, 422, "invalid"),
        ("PATCH", "/api/images/7", {"json": {"decision": "confirm"}}, 404, "not_found"),
        ("POST", "/api/models/activate", {"json": {"run": "../../etc"}}, 404, "not_found"),
        ("GET", "/nothing", {}, 404, "not_found"),
        ("PUT", "/predict", {}, 405, "method_not_allowed"),
    ],
)
def test_refusals_are_problem_json(tmp_path, run, method, path, given, status, code):
    with TestClient(create_app(settings_of(tmp_path, run, max_bytes=100_000))) as client:
        answer = client.request(method, path, **given)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == answer.headers["x-request-id"] and "Traceback" not in answer.text


def test_corrections_are_held_to_the_model(client, photo):
    image = client.post("/api/upload", files=sent(photo)).json()["id"]
    for decided, status in (
        ({"decision": "confirm"}, 409),
        ({"decision": "correct"}, 422),
        ({"decision": "correct", "labels": {"defect": ["Nonsense"]}}, 422),
        ({"decision": "correct", "labels": {"weather": ["Rain"]}}, 422),
        ({"decision": "maybe"}, 422),
    ):
        assert client.patch(f"/api/images/{image}", json=decided).status_code == status
    half_a_pair = b'{"decision": "correct", "labels": {"\\ud800": ["x"]}}'
    json_type = {"Content-Type": "application/json"}
    assert client.patch(f"/api/images/{image}", content=half_a_pair, headers=json_type).status_code == 422
    assert client.get("/api/images", params={"reviewed": True}).json()["total"] == 0


def test_keys_rates_and_idempotency(tmp_path, run, photo):
    keys = [hashlib.sha256(b"open sesame").hexdigest()]
    with TestClient(create_app(settings_of(tmp_path, run, api_keys=keys, rate=5))) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/api/images").status_code == 401
        assert client.get("/api/images", headers={"X-API-Key": "wrong"}).status_code == 401
        for key, page in (("ключ", "/login"), ("open sesame", "/")):
            answer = client.post("/login", data={"key": key}, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"]) == (303, page)
        client.cookies.clear()
        client.headers["X-API-Key"] = "open sesame"
        image = client.post("/api/upload", files=sent(photo)).json()["id"]
        keyed = {"Idempotency-Key": "once"}
        tasks = {
            client.post(f"/api/predict?id={image}", headers=keyed).json()["data"]["task_id"] for _ in range(2)
        }
        assert len(tasks) == 1
        statuses = [client.get("/api/images") for _ in range(6)]
        assert statuses[-1].status_code == 429 and int(statuses[-1].headers["Retry-After"]) > 0


def test_long_idempotency_keys_are_told_apart(client, photo):
    image = client.post("/api/upload", files=sent(photo)).json()["id"]
    keys = ["k" * 199 + end for end in "ab"]
    tasks = [client.post(f"/api/predict?id={image}", headers={"Idempotency-Key": key}).json() for key in keys]
    assert tasks[0]["data"]["task_id"] != tasks[1]["data"]["task_id"]


def test_keys_from_the_environment(monkeypatch):
    digest = hashlib.sha256(b"open sesame").hexdigest()
    monkeypatch.setenv("CORBEL_API_KEYS", json.dumps([digest]))
    assert read_settings({}).api_keys == [digest]
    for wrong in ('["open sesame"]', "open sesame"):
        monkeypatch.setenv("CORBEL_API_KEYS", wrong)
        with pytest.raises(InputError, match="api_keys"):
            read_settings({})


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Host": "rebound.example.com"}, 403),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", {"Host": "127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"}, 405),
        ("POST", {"Host": "[::1]:8000", "Sec-Fetch-Site": "same-origin"}, 422),
        ("POST", {"Host": "localhost:8000"}, 422),
        ("POST", {"Host": "[broken"}, 422),
    ],
)
def test_pages_of_other_sites_are_refused(client, method, headers, status):
    assert client.request(method, "/api/upload", headers=headers).status_code == status


def test_serving_an_exported_model_needs_no_torch(tmp_path, run, photo):
    create_app(settings_of(tmp_path, run))  # exports it
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'lightning', 'timm'): sys.modules[name] = None\n"
        "from fastapi.testclient import TestClient\n"
        "from src.serving.app import create_app\n"
        "from src.serving.settings import Settings\n"
        "settings = Settings(folder=sys.argv[1], ckpt=sys.argv[2])\n"
        "with TestClient(create_app(settings)) as client:\n"
        "    print(client.post('/predict', files={'file': open(sys.argv[3], 'rb')}).text)\n"
    )
    model = run / "checkpoints" / "onnx" / "model.onnx"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "alone", model, photo],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prediction"]
