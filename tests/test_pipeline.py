"""The pipeline: its steps, what it leaves out, what it goes on with."""

import json
import shutil

import lightning as L
import pandas as pd
import pytest

from src.analysis.evaluation.mistakes import compared, write_errors
from src.runs import read_run
from tests.made import FAST, run_script

SHORT = (*FAST, "trainer.max_epochs=2", "logger=null")


class Interrupt(L.Callback):
    """Ends a fit after its first epoch, as Ctrl-C would."""

    on = False

    def on_train_epoch_start(self, trainer, pl_module):
        if Interrupt.on and trainer.current_epoch == 1:
            raise KeyboardInterrupt


def steps(text):
    """Return the steps that a call did, and those that it left out."""
    lines = [line.split() for line in text.splitlines()]
    named = {
        line[0]: line[1] for line in lines if line and line[0] in ("explore", "train", "errors", "predict")
    }
    return [name for name, word in named.items() if word != "unchanged,"], [*named]


def test_steps_are_done_once_for_the_same_inputs(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    data = shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "new").mkdir()
    for number, file in enumerate(sorted(data.rglob("*.jpg"))[:3]):
        shutil.copy(file, tmp_path / "new" / f"{number}.jpg")
    (tmp_path / "new" / "broken.jpg").write_bytes(b"no photo")
    given = ("data.root=photos", *SHORT, "images=new", "output=p")
    every = ["explore", "train", "errors", "predict"]
    assert run_script(monkeypatch, "pipeline", *given) == 1  # a photo is unreadable
    assert steps(capsys.readouterr().out) == (every, every)
    folder = tmp_path / "p"
    assert len(pd.read_csv(folder / "predict" / "predictions.csv")) == 4
    page = (folder / "pipeline.html").read_text()
    for file in ("explore/explore.html", "train/report.html", "errors/misclassified_samples.csv",
                 "predict/predictions.csv", "train/split_certificate.json"):  # fmt: skip
        assert f'href="{file}"' in page and (folder / file).is_file()
    assert run_script(monkeypatch, "pipeline", *given) == 0
    assert steps(capsys.readouterr().out) == ([], every)
    assert run_script(monkeypatch, "pipeline", *given, "model.lr=0.02") == 1
    assert steps(capsys.readouterr().out)[0] == every[1:] and (folder / "train_2" / "report.html").is_file()
    next(data.rglob("*.jpg")).unlink()
    assert run_script(monkeypatch, "pipeline", *given, "model.lr=0.02") == 1
    assert steps(capsys.readouterr().out)[0] == every


def _status(store, folder):
    """Return the status of the MLflow run of a folder."""
    return store.get_run(json.loads((folder / "mlflow.json").read_text())["run_id"]).info.status


def test_files_that_the_configuration_names_are_inputs(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    given = (f"data.root={photos}", *SHORT, "output=p")
    assert run_script(monkeypatch, "pipeline", *given) == 0
    first = shutil.copytree(tmp_path / "p" / "train", tmp_path / "first")
    given = (*given, "data.split_file=split.csv", f"model.init_from={first}")
    tables = {name: pd.read_csv(first / f"{name}_metadata.csv") for name in ("train", "val", "test")}
    for val, test in (("val", "test"), ("test", "val")):
        rows = [
            tables["train"].assign(split="train"),
            tables[val].assign(split="val"),
            tables[test].assign(split="test"),
        ]
        pd.concat(rows)[["ID", "split"]].to_csv("split.csv", index=False)
        capsys.readouterr()
        assert run_script(monkeypatch, "pipeline", *given) == 0
        assert {"train", "errors"} <= {*steps(capsys.readouterr().out)[0]}
    shutil.copy(tmp_path / "p" / "train_3" / "checkpoints" / "best.ckpt", first / "checkpoints")
    assert run_script(monkeypatch, "pipeline", *given) == 0
    assert steps(capsys.readouterr().out)[0] == ["train", "errors"]


def _check_runs(store, folder):
    """Each step is a finished run below that of the pipeline, with the step's files."""
    ids = {
        name: json.loads((folder / name / "mlflow.json").read_text())["run_id"]
        for name in ("", "explore", "train", "errors")
    }
    runs = {name: store.get_run(run_id) for name, run_id in ids.items()}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {run.data.tags.get("mlflow.parentRunId") for name, run in runs.items() if name} == {ids[""]}
    logged = {name: {file.path for file in store.list_artifacts(run_id)} for name, run_id in ids.items()}
    assert "pipeline.html" in logged[""] and "dataset_exploration.zip" in logged["explore"]
    assert "report.html" in logged["train"] and "misclassified_samples.csv" in logged["errors"]


def test_an_interrupted_training_goes_on_and_errors_are_listed(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    stop = "+callbacks.interrupt._target_=tests.test_pipeline.Interrupt"
    monkeypatch.setattr(Interrupt, "on", True)
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    store_at = f"logger.mlflow.tracking_uri='sqlite:///{tmp_path}/store.db'"
    given = (f"data.root={photos}", *SHORT[:-1], "logger=mlflow", store_at, stop, "output=p")
    assert run_script(monkeypatch, "pipeline", *given) == 130
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path}/store.db")
    assert {_status(store, tmp_path / "p" / name) for name in ("", "train")} == {"FAILED"}
    assert _status(store, tmp_path / "p" / "explore") == "FINISHED"
    monkeypatch.setattr(Interrupt, "on", False)
    capsys.readouterr()
    assert run_script(monkeypatch, "pipeline", *given) == 0
    said = capsys.readouterr()
    assert steps(said.out) == (["train", "errors"], ["explore", "train", "errors"])
    assert "epoch 2/2" in said.err and "epoch 1/2" not in said.err
    run = read_run(tmp_path / "p" / "train")
    errors = pd.read_csv(tmp_path / "p" / "errors" / "misclassified_samples.csv", keep_default_na=False)
    assert list(errors) == ["file", "true_label", "predicted_label", "confidence", "kind"]
    merged = run.predictions.merge(run.splits["test"], on="path", suffixes=("", "_true"))
    for kind in run.classes:
        wrong = merged[merged[kind] != merged[f"{kind}_true"]]
        listed = errors[errors["kind"] == kind]
        assert sorted(listed["file"]) == sorted(wrong["path"])
        assert sorted(listed["true_label"]) == sorted(wrong[f"{kind}_true"])
    sure = pd.read_csv(tmp_path / "p" / "errors" / "high_confidence_errors.csv")
    assert len(sure) == (pd.to_numeric(errors["confidence"]) > 0.8).sum()
    write_errors(compared(run)[0], tmp_path)
    names = ("misclassified_samples", "high_confidence_errors", "low_confidence_errors")
    assert [pd.read_csv(tmp_path / f"{name}.csv").shape[1] for name in names] == [5, 5, 5]
    _check_runs(store, tmp_path / "p")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("images=nowhere",), "images=nowhere: no such file or folder"),
        (("resume=p",), "takes neither -m nor resume="),
        (("model.lrr=3",), "unknown key 'model.lrr'"),
        (("trainer.max_epochs=0",), "needs at least one epoch"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_computed(
    arguments, said, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "pipeline", "data.root=nowhere", *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and said in error, error
    assert not (tmp_path / "outputs" / "cache").exists()
