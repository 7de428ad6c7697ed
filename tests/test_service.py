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
from src.labels import NO_PROMISE, LabelSpace
from src.serving.app import create_app
from src.serving.settings import Settings, read_settings
from tests.made import FAST, REPOSITORY, make_folders, only_run, run_script

pytestmark = pytest.mark.usefixtures("profile")  # with SQLite, and with PostgreSQL and Redis
ALONE = pytest.mark.parametrize("profile", ["alone"], indirect=True)  # what no database or broker changes
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


def test_what_a_person_should_look_at(client, photo):
    assert client.post("/predict?detail=true", files=sent(photo)).json()["look_at"] == {}
    predictor = client.app.state.service.engine.model.predictor
    defects = predictor.labels.kinds["defect"]
    predictor.low = np.where(np.isin(predictor.labels.names, defects), 0, NO_PROMISE)
    detail = client.post("/predict?detail=true", files=sent(photo)).json()
    wanted = {name: detail["confidence_scores"][name] for name in defects}
    assert detail["look_at"] == wanted and "look_at" not in client.post("/predict", files=sent(photo)).json()
    files = [("files", sent(photo)["file"]), ("files", ("no.jpg", BROKEN))]
    batch = client.post("/predict_batch", files=files).json()["results"]
    assert [item["look_at"] for item in batch] == [wanted, None]
    image = client.post("/api/upload", files=sent(photo)).json()
    task = client.post(f"/api/predict?id={image['id']}").json()["data"]["task_id"]
    assert settled(client, task)["task_result"]["look_at"] == wanted
    assert client.get(f"/api/images/{image['id']}").json()["data"]["look_at"] == wanted


@ALONE
def test_the_rate_of_misses_is_a_setting(monkeypatch, tmp_path, run):
    assert read_settings({}).miss == 0.05
    assert create_app(settings_of(tmp_path, run, miss=0.1)).state.service.engine.model.predictor.miss == 0.1
    monkeypatch.setenv("CORBEL_MISS", "0")
    with pytest.raises(InputError, match="CORBEL_MISS"):
        read_settings({})


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


@ALONE
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


@ALONE
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


def test_a_model_of_other_kinds_is_told_and_loses_no_decision(tmp_path, run, photo, caplog):
    app = create_app(settings_of(tmp_path, run))
    labels = {
        kind: [names[0]] for kind, names in app.state.service.engine.model.predictor.labels.kinds.items()
    }
    with TestClient(app) as client:
        app.state.service.engine.model.predictor.labels = LabelSpace({"weather": ["rain"]})
        image = client.post("/api/upload", files=sent(photo)).json()["id"]
        decided = {"decision": "correct", "labels": {"weather": ["rain"]}}
        assert client.patch(f"/api/images/{image}", json=decided).status_code == 200
    with TestClient(create_app(settings_of(tmp_path, run))) as client:
        assert "labels that this model does not know: weather 'rain'" in caplog.text
        name = client.get("/api/models").json()["data"][0]["run"]
        refused = client.post("/api/models/activate", json={"run": name})
        assert refused.status_code == 409 and "weather 'rain'" in refused.json()["detail"]
        (row,) = csv.DictReader(io.StringIO(client.get("/api/export.csv").text))
        assert row["weather"] == "rain"
        review = client.patch(f"/api/images/{image}", json=decided | {"labels": labels})
        assert review.json()["data"]["review"]["labels"] == {"weather": ["rain"]} | labels


def test_training_on_decisions_keeps_assets_together_and_negatives(client, photos, tmp_path, monkeypatch):
    client.app.state.service.engine.model.predictor.task = "multilabel"
    asset_of, negatives = {}, set()
    for path in sorted(photos.rglob("*.jpg")):
        component, defect = path.parent.name.split("_")
        image = client.post("/api/upload", files=sent(path)).json()
        labels = {"component": [component], "defect": [] if defect == "Intact" else [defect]}
        decided = {"decision": "correct", "labels": labels}
        assert client.patch(f"/api/images/{image['id']}", json=decided).status_code == 200
        asset_of[image["sha256"]] = path.name.split("_")[0]
        negatives |= {image["sha256"]} if defect == "Intact" else set()
    (tmp_path / "export.csv").write_text(client.get("/api/export.csv?reviewed=true").text)
    given = [f"data.csv={tmp_path / 'export.csv'}", f"data.images={tmp_path / 'serve' / 'photos'}"]
    given += [
        "data=table",
        "model=multilabel",
        r"data.group='original_name:^(A\d+)_'",
        "data.near_duplicates=null",
    ]
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", *given, *FAST, "trainer.max_epochs=1") == 0
    splits, kept = {}, set()
    for file in only_run(tmp_path).glob("*_metadata.csv"):
        for row in csv.DictReader(file.read_text().splitlines()):
            splits.setdefault(asset_of[row["ID"]], set()).add(file.name)
            kept |= {row["ID"]} if not row["defect"] else set()
    assert len(splits) == 18 and all(len(names) == 1 for names in splits.values())
    assert kept == negatives


def test_a_photo_that_is_not_predicted_says_why(client, photo, tmp_path):
    image = client.post("/api/upload", files=sent(photo)).json()
    assert image["status"] is None
    (file,) = (tmp_path / "serve" / "photos").rglob("*.jpg")
    content = file.read_bytes()
    file.unlink()
    settled(client, client.post(f"/api/predict?id={image['id']}").json()["data"]["task_id"])
    assert [row["status"] for row in client.get("/api/images").json()["data"]] == ["FAILURE"]
    gone = client.get(f"/api/images/{image['id']}/file")
    assert (gone.status_code, gone.json()["code"]) == (410, "file_gone")
    file.write_bytes(content)
    settled(client, client.post(f"/api/predict?id={image['id']}").json()["data"]["task_id"])
    assert client.get(f"/api/images/{image['id']}").json()["data"]["status"] == "SUCCESS"


def predicted_as(client, image, labels, probabilities, confidence=0.5):
    """Keep a prediction as a worker does."""
    store = client.app.state.service.store
    store.add_job(image)
    about = {"task": "multilabel", "model_id": "x", "preprocessing": "x", "prediction": "x"}
    made = about | {"labels": labels, "probabilities": probabilities, "confidence": confidence}
    assert store.finish(store.claim("worker", 60), "worker", made)


def test_lists_find_names_and_labels_and_page_by_photo(tmp_path, run, photos):
    with TestClient(create_app(settings_of(tmp_path, run, workers=0))) as client:
        names = ["Ünï.jpg", "b.jpg", "c.jpg", "d.jpg"]
        ids = []
        for name, path in zip(names, sorted(photos.rglob("*.jpg")), strict=False):
            given = {"file": (name, path.read_bytes())}
            ids.append(client.post("/api/upload", files=given).json()["id"])
        for image, confidence in zip(ids, (0.3, 0.9, 0.3), strict=False):
            predicted_as(client, image, {"component": ["Bolt"]}, {"component": {"Bolt": 0.3}}, confidence)

        def found(**given):
            return [row["id"] for row in client.get("/api/images", params=given).json()["data"]]

        assert found(text="üNÏ") == [ids[0]]
        assert found(label="Bolt") == ids[2::-1] and found(label="component") == []
        assert client.get("/api/images", params={"text": "\0"}).status_code == 422
        assert client.post("/api/upload?filename=%00", files=given).status_code == 422
        for order in ("newest", "unsure"):
            whole, paged = found(order=order), []
            while some := found(order=order, limit=1, **({"after": paged[-1]} if paged else {})):
                paged += some
            assert paged == whole and len(paged) == 4


@ALONE
def test_a_view_draws_all_letters_and_the_percent(tmp_path, run, photo):
    with TestClient(create_app(settings_of(tmp_path, run, workers=0))) as client:
        image = client.post("/api/upload", files=sent(photo)).json()["id"]
        titles = []
        for name, confidence in (("Полый", 0.5), ("Ключи", 0.5), ("long " * 40, 0.11), ("long " * 40, 0.98)):
            predicted_as(client, image, {"label": [name]}, {"label": {name: 0.5}}, confidence)
            view = Image.open(io.BytesIO(client.get(f"/api/images/{image}/view").content))
            titles.append(view.convert("L").crop((0, 0, 640, 48)).point(lambda level: 255 * (level > 128)))
        assert titles[0].tobytes() != titles[1].tobytes()  # no boxes
        assert titles[2].tobytes() != titles[3].tobytes()


def test_a_heat_map_without_an_area_says_so_and_every_inference_is_logged(client, photo, caplog):
    caplog.set_level("INFO")
    backend = client.app.state.service.engine.model.predictor.backend
    backend.maps = lambda pixels: (np.ones((1, 6), np.float32), -np.ones((1, 6, 3, 3), np.float32))
    heat = client.post("/explain", files=sent(photo), data={"label": "Leaks"})
    assert heat.headers["X-Heat-Map"] == "none" and heat.headers["content-type"] == "image/png"
    client.post("/predict_batch", files=[("files", sent(photo)["file"])])
    image = client.post("/api/upload", files=sent(photo)).json()["id"]
    settled(client, client.post(f"/api/predict?id={image}").json()["data"]["task_id"])
    client.post("/predict", files=sent(photo))
    time.sleep(0.2)
    records = [json.loads(line.getMessage()) for line in caplog.records if line.getMessage()[0] == "{"]
    model_id = client.get("/health").json()["model_version"]
    batch = [row for record in records for row in record.get("results", [])]
    job = [record for record in records if "job" in record]
    explained, at_once = ([r for r in records if r.get("path") == p] for p in ("/explain", "/predict"))
    assert explained[0]["label"] == "Leaks" and explained[0]["model_id"] == model_id
    for (record,) in (batch, job, at_once):
        assert record["model_id"] == model_id and len(record["probabilities"]) == 2


@ALONE
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


@ALONE
def test_the_digest_of_a_preprocessing_is_of_the_options_that_are_set(client, photo):
    preprocess = client.app.state.service.engine.model.predictor.preprocess
    assert preprocess.sample_bits is None
    known = {name: getattr(preprocess, name) for name in ("image_size", "resize", "mean", "std")}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    assert client.post("/predict", files=sent(photo)).json()["preprocessing"] == digest


@pytest.mark.parametrize(
    ("profile", "backend", "apart"),
    [("alone", "torch", 1e-6), ("cluster", "onnx", 1e-4)],
    indirect=["profile"],
)
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


@ALONE
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


REFUSED = (
    ("POST", "/predict", {}, 422, "invalid"),
    ("POST", "/predict", {"files": {"file": ("a.jpg", b"")}}, 422, "unreadable_photo"),
    ("POST", "/predict", {"files": {"file": ("a.jpg", b"hello")}}, 415, "unreadable_photo"),
    ("POST", "/predict", {"files": {"file": ("a.jpg", BROKEN)}}, 422, "unreadable_photo"),
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
)


def test_refusals_are_problem_json(tmp_path, run):
    with TestClient(create_app(settings_of(tmp_path, run, max_bytes=100_000))) as client:
        for method, path, given, status, code in REFUSED:
            answer = client.request(method, path, **given)
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (status, code), (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["request_id"] == answer.headers["x-request-id"] and "Traceback" not in answer.text


def test_corrections_are_held_to_the_model(client, photo):
    image = client.post("/api/upload", files=sent(photo)).json()["id"]
    for decided, status in (
        ({"decision": "confirm"}, 409),
        ({"decision": "correct"}, 422),
        ({"decision": "correct", "labels": {"defect": ["Nonsense"]}}, 422),
        ({"decision": "correct", "labels": {"weather": ["Rain"]}}, 422),
        ({"decision": "correct", "labels": {}}, 422),
        ({"decision": "correct", "labels": {"defect": ["Leaks"]}}, 422),
        ({"decision": "confirm", "comment": "a\0b"}, 422),
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
        assert client.get("/docs").status_code == 401 and client.get("/static/docs.js").status_code == 200
        wrong = client.post("/login", data={"key": "ключ"})
        assert wrong.status_code == 401 and "This is not a key" in wrong.text
        answer = client.post("/login", data={"key": "open sesame"}, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        client.cookies.clear()
        client.headers["X-API-Key"] = "open sesame"
        image = client.post("/api/upload", files=sent(photo)).json()["id"]
        keyed = {"Idempotency-Key": "once"}
        tasks = {
            client.post(f"/api/predict?id={image}", headers=keyed).json()["data"]["task_id"] for _ in range(2)
        }
        assert len(tasks) == 1
        files = [client.get(f"/api/images/{image}/file?thumbnail=true").status_code for _ in range(9)]
        assert set(files) == {200}  # a page has many
        statuses = [client.get("/api/images") for _ in range(6)]
        assert statuses[-1].status_code == 429 and int(statuses[-1].headers["Retry-After"]) > 0
        guesses = [client.get("/", headers={"X-API-Key": f"{i}", "Accept": "text/html"}) for i in range(6)]
        assert guesses[-1].status_code == 429 and client.get("/health").status_code == 200
        assert client.post("/login", data={"key": "open sesame"}).status_code == 429


def test_long_idempotency_keys_are_told_apart(client, photo):
    image = client.post("/api/upload", files=sent(photo)).json()["id"]
    keys = ["k" * 199 + end for end in "ab"]
    tasks = [client.post(f"/api/predict?id={image}", headers={"Idempotency-Key": key}).json() for key in keys]
    assert tasks[0]["data"]["task_id"] != tasks[1]["data"]["task_id"]


@ALONE
def test_keys_from_the_environment(monkeypatch):
    digest = hashlib.sha256(b"open sesame").hexdigest()
    monkeypatch.setenv("CORBEL_API_KEYS", json.dumps([digest]))
    assert read_settings({}).api_keys == [digest]
    for wrong in ('["open sesame"]', "open sesame"):
        monkeypatch.setenv("CORBEL_API_KEYS", wrong)
        with pytest.raises(InputError, match="api_keys"):
            read_settings({})


@ALONE
def test_pages_of_other_sites_are_refused(client):
    for method, headers, status in (
        ("GET", {"Host": "rebound.example.com"}, 403),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", {"Host": "127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"}, 405),
        ("POST", {"Host": "[::1]:8000", "Sec-Fetch-Site": "same-origin"}, 422),
        ("POST", {"Host": "localhost:8000"}, 422),
        ("POST", {"Host": "[broken"}, 422),
    ):
        assert client.request(method, "/api/upload", headers=headers).status_code == status, headers


@ALONE
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
