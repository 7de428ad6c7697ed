"""Loggers, several at once; MLflow's runs on a real server, and what happens where there is none."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pandas as pd
import pytest
from lightning.pytorch.loggers import mlflow as of_lightning

from tests.made import FAST, only_run, run_script, trained

SHORT = (*FAST, "trainer.max_epochs=2")
mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a real MLflow server on loopback."""
    pytest.importorskip("flask", reason="MLflow's server needs Flask")
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    places = ("--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts")
    command = [sys.executable, "-m", "mlflow", "server", *places, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--workers", "1"], cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1).close()
            break
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
    yield address
    process.terminate()
    process.wait(30)


def client(address):
    return mlflow.MlflowClient(address)


def note(folder):
    return json.loads((folder / "mlflow.json").read_text())["run_id"]


def test_several_loggers_at_once_and_none(photos, monkeypatch, tmp_path):
    run = trained(tmp_path, f"data.root={photos}", *SHORT, "logger=[tensorboard,csv]")
    assert list(run.glob("events.out.tfevents*"))
    rows = pd.read_csv(run / "csv" / "version_0" / "metrics.csv")
    assert rows["val/loss"].count() == 2
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", f"resume={run}", "trainer.max_epochs=3") == 0
    assert len(pd.read_csv(run / "history.csv")) == 3
    bare = tmp_path / "bare"
    bare.mkdir()
    run = trained(bare, f"data.root={photos}", *SHORT, "logger=null")
    assert not list(run.glob("events.out.tfevents*")) and (run / "report.html").is_file()


def test_a_run_is_in_mlflow_with_everything_it_made(photos, server, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.chdir(tmp_path)
    given = ("logger=[tensorboard,mlflow]", "logger.mlflow.experiment_name=one")
    run = trained(tmp_path, f"data.root={photos}", *SHORT, *given)
    store, run_id = client(server), note(run)
    found = store.get_run(run_id)
    assert found.info.status == "FINISHED" and found.data.params["model.lr"] == "0.01"
    assert found.data.params["preprocess.image_size"] == "16"
    metrics = json.loads((run / "metrics.json").read_text())
    assert found.data.metrics["best/test/f1_macro"] == pytest.approx(metrics["test"]["f1_macro"])
    assert found.data.metrics["best/val/defect/per_class/Corrosion-Heavy/f1"] >= 0
    assert len(store.get_metric_history(run_id, "val/loss")) == 2
    names = {file.path for file in store.list_artifacts(run_id)}
    assert {"report.html", "metrics.json", "split_certificate.json", "predictions.csv", "history.csv",
            "train_metadata.csv", "test_metadata.csv", "checkpoints", "hydra"} <= names  # fmt: skip
    assert [file.path for file in store.list_artifacts(run_id, "checkpoints")] == ["checkpoints/best.ckpt"]
    assert run_script(monkeypatch, "train", f"resume={run}", "trainer.max_epochs=3") == 0
    assert note(run) == run_id and len(store.get_metric_history(run_id, "val/loss")) == 3


def test_a_sweep_is_the_parent_of_its_jobs(photos, server, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.chdir(tmp_path)
    given = ("logger=mlflow", "logger.mlflow.experiment_name=sweep", "logger.mlflow.checkpoint=false")
    sweep = ("-m", f"data.root={photos}", *SHORT, *given, "hydra.sweep.dir=s", "model.lr=0.01,1e30",
             "+trainer.limit_train_batches=2")  # fmt: skip
    assert run_script(monkeypatch, "train", *sweep) == 1
    store, parent = client(server), note(tmp_path / "s")
    experiment = store.get_experiment_by_name("sweep").experiment_id
    nested = store.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    assert {run.info.status for run in nested} == {"FINISHED", "FAILED"}
    board = pd.read_csv(tmp_path / "s" / "leaderboard.csv")
    above = store.get_run(parent)
    assert above.info.status == "FINISHED"
    assert above.data.metrics["best_score"] == pytest.approx(board["score"].max(), abs=1e-6)
    assert "leaderboard.csv" in {file.path for file in store.list_artifacts(parent)}


def test_the_local_store_needs_no_server(photos, monkeypatch, tmp_path):
    run = trained(tmp_path, f"data.root={photos}", *SHORT, "logger=mlflow")
    found = client(f"sqlite:///{tmp_path}/outputs/mlflow.db").get_run(note(run))
    assert found.info.status == "FINISHED" and not (tmp_path / "mlruns").exists()
    assert (tmp_path / "outputs" / "mlflow" / found.info.run_id / "artifacts" / "report.html").is_file()


@pytest.mark.parametrize("sweep", [(), ("-m", "model.lr=0.1,0.2")])
def test_a_server_that_is_not_there_is_said_before_photos_are_read(sweep, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    address = f"logger.mlflow.tracking_uri=http://127.0.0.1:{free_port()}"
    given = ("data.root=nowhere", "logger=[tensorboard,mlflow]", address)
    assert run_script(monkeypatch, "train", *sweep, *given) == 2
    said = capsys.readouterr().err
    assert (
        said.count("error: ") == 1 and "MLflow does not answer there" in said and "logger=tensorboard" in said
    )


def test_a_missing_package_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(of_lightning, "_MLFLOW_AVAILABLE", False)
    assert run_script(monkeypatch, "train", "data.root=nowhere", "logger=mlflow") == 2
    assert 'pip install -e ".[mlflow]"' in capsys.readouterr().err


def test_a_server_that_goes_away_costs_entries_and_no_training(photos, server, monkeypatch, tmp_path, capsys):
    real, calls = mlflow.MlflowClient.log_batch, []

    def refusing(self, *args, **kwargs):
        calls.append(args)
        if len(calls) > 3:
            raise ConnectionError("gone")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refusing)
    given = ("logger=mlflow", f"logger.mlflow.tracking_uri={server}", "logger.mlflow.experiment_name=gone")
    run = trained(tmp_path, f"data.root={photos}", *SHORT, *given)
    said = capsys.readouterr().err
    assert (run / "report.html").is_file() and len(pd.read_csv(run / "history.csv")) == 2
    assert said.count("does not answer; entries wait until it does (gone)") == 1 and "did not get" in said
    assert client(server).get_run(note(run)).info.status == "RUNNING"
    assert only_run(tmp_path) == run
