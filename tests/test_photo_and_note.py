"""Photos with notes: the fusion of two runs, the audit's conflicts, and texts over HTTP."""

import csv
import re
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from src.errors import InputError
from src.inference.predictor import Predictor
from src.serving.app import create_app
from src.serving.settings import Settings
from tests.made import COMPONENTS, DEFECTS, FAST, make_folders, run_script

SAID = {"Leaks": "water dripping", "Corrosion-Heavy": "rusted through", "Intact": "nothing to report"}


def rows(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photos, notes of most of them, and a run of photos, of texts and of both."""
    home = tmp_path_factory.mktemp("both")
    make_folders(home / "photos")
    with open(home / "notes.csv", "w", encoding="utf-8") as file:
        file.write("ID,note,component,defect,asset\n")
        for path in sorted((home / "photos").rglob("*.jpg")):
            component, defect = path.parent.name.split("_")
            said = SAID["Corrosion-Heavy" if path.stem == "A000_1" else defect]
            if not path.stem.endswith("_7"):  # the last photo of each folder has none
                file.write(f"{path.stem},{component} {said},{component},{defect},{path.stem[:4]}\n")
        file.write("no photo,water dripping,Grout Hole,Leaks,\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(home)
        words = ("data.root=photos", "data.group='^(A\\d+)_'", "trainer.max_epochs=4")
        assert run_script(monkeypatch, "train", *FAST, *words, "hydra.run.dir=outputs/dual_head/photo") == 0
        words = ("data.csv=notes.csv", "task=dual_head", "data.split_file=outputs/dual_head/photo")
        given = ("model=text_tfidf", *words, "hydra.run.dir=outputs/text/note")
        assert run_script(monkeypatch, "train", *given) == 0
        given = ("model.photo=outputs/dual_head/photo", "model.note=outputs/text/note")
        both = ("model=photo_and_note", *given, "hydra.run.dir=outputs/photo_and_note/both")
        assert run_script(monkeypatch, "train", *both) == 0
    return home


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def test_the_run_predicts_photos_with_and_without_a_note(here, monkeypatch, tmp_path):
    output = tmp_path / "p.csv"
    given = ("images=photos", "texts=notes.csv", f"output={output}", "num_workers=1")
    assert run_script(monkeypatch, "predict", *given) == 0  # the newest run of both
    found = {row["path"] or row["ID"]: row for row in rows(output)}
    assert len(found) == len(COMPONENTS) * len(DEFECTS) * 8 + 1
    own = rows(here / "outputs/photo_and_note/both/predictions.csv")
    assert own and all(found[row["path"]]["prediction"] == row["prediction"] for row in own)
    assert found["no photo"]["status"] == "ok" and found["no photo"]["defect"] == "Leaks"
    assert {row["text"] == "" for path, row in found.items() if path.endswith("_7.jpg")} == {True}


def test_photos_or_notes_alone_are_counted(here, monkeypatch, capsys, tmp_path):
    for given, told in {
        "images=photos": "0 with photo and note, 72 with the photo alone, 0 with the note alone",
        "images=photos texts=notes.csv": "63 with photo and note, 9 with the photo alone, 1 with the note",
        "texts=notes.csv": "0 with photo and note, 0 with the photo alone, 64 with the note alone",
    }.items():
        words = ("ckpt=outputs/photo_and_note/both", f"output={tmp_path / 'p.csv'}", *given.split())
        assert run_script(monkeypatch, "predict", *words) == 0
        assert told in capsys.readouterr().err
    assert {row["path"] for row in rows(tmp_path / "p.csv")} == {""}


def test_a_photo_or_a_note_alone_counts_as_it_does_in_its_own_model(here):
    both = Predictor.load("outputs/photo_and_note/both", num_workers=0)
    parts = both.backend.model.photo, both.backend.model.note
    photo = next((here / "photos").rglob("*.jpg"))
    note = Predictor.load("outputs/text/note").predict("Grout Hole water dripping")
    assert both.predict({"note": "Grout Hole water dripping"}).text.rpartition("_")[0] == note["label"]
    alone = Predictor.load("outputs/dual_head/photo", num_workers=0).predict(photo)
    assert both.predict({"photo": photo}).labels == alone.labels
    assert both.predict({"photo": photo, "note": None}).labels == alone.labels
    assert not any(part.training for part in parts)


def test_the_audit_lists_notes_that_disagree(here, monkeypatch, tmp_path):
    given = ("data.root=photos", "data.group='^(A\\d+)_'", "notes=notes.csv", f"output={tmp_path}")
    assert run_script(monkeypatch, "audit", *FAST, "ckpt=outputs/dual_head/photo", *given) == 0
    listed = [row for row in rows(tmp_path / "audit.csv") if row["list"] == "note_disagrees"]
    assert "A000_1" in [Path(row["path"]).stem for row in listed]
    assert "rusted through" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_the_newest_run_of_texts_is_evaluated_on_texts(here, monkeypatch, capsys, tmp_path):
    given = ("data=text", "data.csv=notes.csv", f"output={tmp_path}")
    assert run_script(monkeypatch, "evaluate", *given) == 2
    assert "the newest finished training run, outputs/text/note" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "evaluate", *given) == 2
    assert "no finished training run below outputs/text/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ("model.photo=outputs/text/note", "model.note=outputs/text/note"),
            "a model of texts, not of photos",
        ),
        (("task=multilabel",), "its task is dual_head: add task=dual_head"),
        (("data.notes=photos.csv",), "no such file"),
        (("data=text", "data.csv=notes.csv"), "leave out data="),
    ],
)
def test_runs_that_do_not_fit(here, monkeypatch, capsys, given, words):
    runs = ("model.photo=outputs/dual_head/photo", "model.note=outputs/text/note")
    assert run_script(monkeypatch, "train", "model=photo_and_note", *runs, *given) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_notes_are_joined_by_their_ids_alone(here, monkeypatch, capsys, tmp_path):
    (tmp_path / "rows.csv").write_text("note\nGrout Hole rusted through\n", encoding="utf-8")
    given = ("images=photos", f"texts={tmp_path / 'rows.csv'}", f"output={tmp_path / 'p.csv'}")
    assert run_script(monkeypatch, "predict", *given) == 2
    assert "no column 'ID'" in capsys.readouterr().err
    (tmp_path / "rows.csv").write_text("ID,note\nelsewhere,rusted through\n", encoding="utf-8")
    assert run_script(monkeypatch, "predict", *given) == 2
    assert "none of its 1 IDs" in capsys.readouterr().err
    photo = next((here / "photos").rglob("*.jpg")).as_posix()
    (tmp_path / "images.csv").write_text(f"ID,path\nA,{photo}\nB,{photo}\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text("ID,note\nA,water dripping\nB,rusted through\n", encoding="utf-8")
    given = (f"images={tmp_path / 'images.csv'}", *given[1:])
    assert run_script(monkeypatch, "predict", *given, f"root={here}") == 0
    assert [row["text"] for row in rows(tmp_path / "p.csv")] == ["water dripping", "rusted through"]


def test_runs_that_were_split_apart_are_refused(here, monkeypatch, capsys, tmp_path):
    other = ("model=text_tfidf", "task=dual_head", "data.csv=notes.csv", "seed=3")
    assert run_script(monkeypatch, "train", *other, "hydra.run.dir=other/text/run") == 0
    runs = ("model=photo_and_note", "model.photo=outputs/dual_head/photo", "model.note=other/text/run")
    assert run_script(monkeypatch, "train", *runs) == 2
    said = capsys.readouterr().err
    assert "was trained on the notes" in said and "train it with data.split_file=" in said
    shutil.copytree("outputs/text/note", tmp_path / "tuned")  # its validation has notes of test photos
    (tmp_path / "tuned/test_metadata.csv").replace(tmp_path / "tuned/val_metadata.csv")
    assert run_script(monkeypatch, "train", *runs[:2], f"model.note={tmp_path / 'tuned'}") == 2
    assert "was tuned on the notes" in capsys.readouterr().err


def test_notes_that_read_like_training_texts_of_other_ids_are_counted(here, monkeypatch, capsys, tmp_path):
    table = Path("notes.csv").read_text(encoding="utf-8")
    (tmp_path / "own.csv").write_text(re.sub(r"(?m)^A", "B", table), encoding="utf-8")
    other = ("model=text_tfidf", "task=dual_head", f"data.csv={tmp_path / 'own.csv'}")
    assert run_script(monkeypatch, "train", *other, f"hydra.run.dir={tmp_path / 'run'}") == 0
    runs = ("model=photo_and_note", "model.photo=outputs/dual_head/photo", f"model.note={tmp_path / 'run'}")
    folder = f"hydra.run.dir={tmp_path / 'both'}"
    assert run_script(monkeypatch, "train", *runs, "data.notes=notes.csv", folder) == 0
    assert "held-out notes read like training texts of model.note" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("ckpt", ["outputs/text/note", "outputs/photo_and_note/both"])
def test_a_service_takes_a_model_of_photos(here, tmp_path, ckpt, backend):
    with pytest.raises(InputError, match="POST /predict_text"):
        create_app(Settings(folder=tmp_path, ckpt=ckpt, runs=here / "outputs", backend=backend))


def test_texts_over_http(here, tmp_path):
    settings = Settings(
        folder=tmp_path, ckpt="outputs/dual_head/photo", runs=here / "outputs", backend="torch"
    )
    with TestClient(create_app(settings)) as client:
        told = client.post("/predict_text", json={"text": "Grout Hole water dripping"}).json()
        assert (told["label"], told["run_id"], told["model"]) == ("Grout Hole_Leaks", "note", "text_tfidf")
        assert set(told["probs"]) == {*COMPONENTS, *DEFECTS} and 0 < told["score"] <= 1
        named = {"text": "x", "run_id": "note", "model": "text_tfidf"}
        assert client.post("/predict_text", json=named).status_code == 200
        for wrong, names in (("run_id", "note"), ("model", "text_tfidf")):
            refused = client.post("/predict_text", json=named | {wrong: "../other"})
            assert refused.status_code == 404 and refused.json()["detail"].endswith(f"there are {names}")
        for wrong in ({"text": " \x01 "}, {"text": 3}, {"text": None}, {}, [], named | {"run_id": 5}):
            refused = client.post("/predict_text", json=wrong)
            assert refused.status_code == 422
            assert refused.headers["content-type"] == "application/problem+json"
