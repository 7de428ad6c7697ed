"""Whole runs through the command line, on made data."""

import csv
import errno
import itertools
import json
import math
import os
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter

from src.callbacks.checkpointing import AtomicCheckpointIO, epochs_done
from src.errors import InputError
from src.inference import batches
from src.models.base import SCHEMA
from src.models.checkpoint import load_model
from src.models.classifiers import PhotoClassifier
from src.overrides import override
from src.training import setup
from tests.made import FAST, make_folders, make_table, photo, run_script, trained

GROUP = r"data.group='^(A\d+)_'"
FILES = {f"{split}_metadata.csv" for split in ("train", "val", "test")}
FILES |= {"classes.json", "split_certificate.json", "metrics.json", "predictions.csv", "history.csv"}
FILES |= {"report.html", "model_card.md", "train.log"}
FILES |= {f"{name}.png" for name in ("confusion_matrix", "loss_curve", "class_distribution")}
HISTORY = ["epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "train_f1", "val_f1", "lr"]
TWELVE = ("trainer.max_epochs=12", "callbacks.early_stopping.patience=12")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished dual-head run and a finished multi-label run: `{task: (folder, data)}`."""
    runs = {}
    sources = (("dual_head", make_folders, GROUP), ("multilabel", make_table, "data.group=asset"))
    for task, make, group in sources:
        home = tmp_path_factory.mktemp(task)
        data = make(home / "my photos")
        given = f"model={task}", f"data.root='{data}'", *FAST, *TWELVE, group
        runs[task] = trained(home, *given, figures=True), data
    return runs


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_run_folder_holds_what_the_contract_says(finished, task):
    run, _ = finished[task]
    names = {path.name for path in run.iterdir()}
    assert names >= FILES | ({"thresholds.json"} if task == "multilabel" else set())
    assert {"best.ckpt", "last.ckpt"} == {path.name for path in (run / "checkpoints").iterdir()}
    assert (run / ".hydra" / "config.yaml").is_file() and list(run.glob("events.out.tfevents.*"))
    history = pd.read_csv(run / "history.csv")
    assert list(history.columns) == [*HISTORY, "seconds"]
    assert history["epoch"].tolist() == list(range(1, 13)) and history.notna().all(None)
    parts = [pd.read_csv(run / f"{split}_metadata.csv") for split in ("train", "val", "test")]
    assert all(list(part.columns) == ["ID", "path", "group", "component", "defect"] for part in parts)
    assert sum(len(part) for part in parts) == 72


def test_dual_head_learns_and_its_metrics_follow_from_its_predictions(finished):
    run, _ = finished["dual_head"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["component"]["accuracy"] >= 0.9
    truth = pd.read_csv(run / "test_metadata.csv").set_index("ID")
    said = pd.read_csv(run / "predictions.csv").set_index("ID").loc[truth.index]
    right = pd.DataFrame({kind: truth[kind] == said[kind] for kind in ("component", "defect")})
    for kind in right:
        assert metrics["test"][kind]["accuracy"] == pytest.approx(right[kind].mean())
    assert metrics["test"]["exact_match"] == pytest.approx(right.all(axis=1).mean())
    means = [metrics["test"][kind]["f1_macro"] for kind in ("component", "defect")]
    assert metrics["test"]["f1_macro"] == pytest.approx(np.mean(means))
    facts = metrics["run"]
    assert facts["epochs"] == 12 and facts["best_score"] == metrics["val"]["f1_macro"]
    history = pd.read_csv(run / "history.csv")
    assert facts["best_epoch"] == history["epoch"][history["val_loss"].idxmin()]
    assert metrics["val"]["loss"] == pytest.approx(history["val_loss"].min(), abs=1e-5)
    assert facts["num_params"] == sum(p.numel() for p in load(run).parameters())
    size = (run / "checkpoints" / "best.ckpt").stat().st_size
    assert facts["checkpoint_mb"] == round(size / 1e6, 2) and 0 < facts["ms_per_photo"] < 1000
    assert {"reliability.png", "workload.png"} <= {path.name for path in (run / "evaluation").iterdir()}


def test_multilabel_thresholds_are_the_best_checkpoints_own(finished):
    run, _ = finished["multilabel"]
    metrics = json.loads((run / "metrics.json").read_text())
    thresholds = json.loads((run / "thresholds.json").read_text())
    classes = json.loads((run / "classes.json").read_text())
    components, defects = ["Channel Bracket", "Grout Hole", "Radial Joint"], ["Corrosion-Heavy", "Leaks"]
    assert classes == {"component": components, "defect": defects}
    model = load(run)
    assert list(thresholds) == [*classes["component"], *classes["defect"]]
    assert np.allclose(list(thresholds.values()), model.thresholds.numpy(), atol=1e-6)
    rows = metrics["test"]["per_class"].items()
    assert {name: row["threshold"] for name, row in rows} == pytest.approx(thresholds, abs=1e-6)
    assert metrics["test"]["map"] >= 0.9
    table = pd.read_csv(run / "thresholds.csv")
    assert dict(zip(table["label"], table["threshold"], strict=True)) == pytest.approx(thresholds, abs=1e-6)
    assert set(table["source"]) == {"val"} and set(table["state"]) <= {"ok", "wide", "no_evidence"}


def load(run):
    return load_model(run / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_predicting_the_test_split_gives_the_runs_own_bytes(finished, task, monkeypatch, tmp_path):
    run, _ = finished[task]
    monkeypatch.chdir(tmp_path)
    given = (f"ckpt={run}", f"images='{run / 'test_metadata.csv'}'", "output=p.csv", "num_workers=0")
    assert run_script(monkeypatch, "predict", *given) == 0
    assert (tmp_path / "p.csv").read_bytes() == (run / "predictions.csv").read_bytes()


def test_predicting_photos_that_were_trained_on_says_so(finished, monkeypatch, tmp_path, capsys):
    """Only photos as large as one of the training split get a digest; older checkpoints have no sizes."""
    run, data = finished["dual_head"]
    monkeypatch.chdir(tmp_path)
    read, real = [], batches.content_digest
    monkeypatch.setattr(batches, "content_digest", lambda content: read.append(len(content)) or real(content))
    paths = pd.read_csv(run / "train_metadata.csv")["path"]
    sizes = {(data / path).stat().st_size for path in paths}
    old = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert old["provenance"].pop("train_sizes") == sorted(sizes)
    torch.save(old, tmp_path / "old.ckpt")
    here = [path.stat().st_size for path in data.rglob("*.jpg")]
    for ckpt, digested in ((run, [size for size in here if size in sizes]), ("old.ckpt", here)):
        read.clear()
        given = (f"ckpt={ckpt}", f"images='{data}'", "num_workers=0", f"output={len(digested)}.csv")
        assert run_script(monkeypatch, "predict", *given) == 0
        assert f"{len(paths)} of 72 photos were in this model's training split" in capsys.readouterr().err
        assert sorted(read) == sorted(digested)
    tests = f"images='{run / 'test_metadata.csv'}'"
    assert run_script(monkeypatch, "predict", f"ckpt={run}", tests, "num_workers=0", "output=p.csv") == 0
    assert "training split" not in capsys.readouterr().err


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_the_certificate_is_that_of_the_split(finished, task):
    run, _ = finished[task]
    certificate = json.loads((run / "split_certificate.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert certificate["hash"] == metrics["run"]["split_hash"] == load(run).provenance["split_hash"]
    for split in ("train", "val", "test"):
        assert certificate["photos"][split] == len(pd.read_csv(run / f"{split}_metadata.csv"))
    assert certificate["crossing"]["groups"] == certificate["crossing"]["near_duplicate_pairs"] == 0
    page = (run / "report.html").read_text()
    assert "Certificate of the split" in page and certificate["hash"] in page


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_checkpoints_hold_primitives_and_describe_themselves(finished, task):
    run, _ = finished[task]
    for name in ("best", "last"):
        content = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["task"] == task and content["schema"] == SCHEMA
        given = content["hyper_parameters"]
        assert "weights" not in given and "init_from" not in given and json.loads(json.dumps(given)) == given


def test_the_same_command_twice_gives_the_same_bytes(finished, tmp_path):
    run, data = finished["dual_head"]
    again = trained(tmp_path, "model=dual_head", f"data.root='{data}'", *FAST, *TWELVE, GROUP)
    assert (again / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (run, again)]
    for figure in figures:
        del figure["run"]["durations"], figure["run"]["ms_per_photo"], figure["run"]["git"]
    assert figures[0] == figures[1]


class Killed(Exception):
    """Stands for a kill: nothing of the run's own code handles it."""


@pytest.mark.parametrize(
    ("step", "workers", "writing"), [(3, 0, math.inf), (7, 0, math.inf), (20, 2, math.inf), (20, 0, 0)]
)
def test_a_killed_run_resumes_to_the_same_bits(finished, monkeypatch, tmp_path, step, workers, writing):
    """Before the first epoch ends, between epochs, in an epoch; where `last.ckpt` is never written again."""
    monkeypatch.setattr("src.callbacks.checkpointing.WRITING", writing)
    run, data = finished["dual_head"]
    monkeypatch.chdir(tmp_path)
    begin = PhotoClassifier.on_train_batch_start

    def die(module, batch, batch_idx):
        if module.global_step == step:
            raise Killed
        begin(module, batch, batch_idx)

    workers = f"data.num_workers={workers}"
    arguments = ("model=dual_head", f"data.root='{data}'", *FAST, *TWELVE, GROUP, workers)
    with monkeypatch.context() as deadly, pytest.raises(Killed):
        deadly.setattr(PhotoClassifier, "on_train_batch_start", die)
        run_script(deadly, "train", *arguments)
    (last,) = tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")
    whole = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    done = epochs_done(torch.load(last, weights_only=True))
    if writing:
        assert done == 12 * step // whole
    else:
        assert done == 0 < epochs_done(torch.load(last.with_name("best.ckpt"), weights_only=True))
    broken = last.parent.parent
    moved = tmp_path / "moved, 'so called' run é"
    shutil.move(broken, moved)
    with open(moved / "history.csv", "a", newline="") as file:
        csv.writer(file).writerow([99, *[0] * 8])
    config = (moved / ".hydra" / "config.yaml").read_bytes()

    assert run_script(monkeypatch, "train", override("resume", moved)) == 0

    theirs, ours = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (run, moved))
    assert theirs["global_step"] == ours["global_step"] and theirs["epoch"] == ours["epoch"]
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(tensor, ours["state_dict"][name]), name
    assert (moved / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()
    rows = [pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (run, moved)]
    pd.testing.assert_frame_equal(*rows)
    assert (moved / ".hydra" / "config.yaml").read_bytes() == config


def test_resume_refuses_other_settings_and_changed_photos(finished, monkeypatch, tmp_path, capsys):
    run, data = finished["dual_head"]
    copy = shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", f"resume={copy}", "model.lr=0.1") == 2
    assert "'model.lr' cannot change" in capsys.readouterr().err
    other = shutil.copytree(data, tmp_path / "photos")
    next(other.rglob("*.jpg")).unlink()
    assert run_script(monkeypatch, "train", f"resume={copy}", f"data.root='{other}'") == 2
    said = capsys.readouterr().err
    assert "have changed" in said and f"start a new run with model.init_from={copy}" in said
    config = (copy / ".hydra" / "config.yaml").read_bytes()
    checkpoints = shutil.move(copy / "checkpoints", tmp_path / "kept")
    assert run_script(monkeypatch, "train", f"resume={copy}") == 2
    assert "holds no checkpoints/last.ckpt" in capsys.readouterr().err
    assert (copy / ".hydra" / "config.yaml").read_bytes() == config
    shutil.move(checkpoints, copy / "checkpoints")
    assert run_script(monkeypatch, "train", f"resume={copy / 'checkpoints' / 'last.ckpt'}") == 2
    assert "name the run: resume=run" in capsys.readouterr().err
    assert run_script(monkeypatch, "train", "resume=nowhere") == 2


def test_resume_trains_on_with_more_epochs_and_remembers_it(finished, monkeypatch, tmp_path, capsys):
    """In one process at a time; leftovers of a kill and of two processes are removed."""
    copy = shutil.copytree(finished["dual_head"][0], tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    header, *rows = (copy / "history.csv").read_text().splitlines(keepends=True)
    (copy / "history.csv").write_text("".join([header, *rows[:3], rows[1], *rows[3:], rows[-1]]))
    torn = (copy / f".history.csv.{'0123456789abcdef' * 2}.tmp", copy / "checkpoints" / ".last.ckpt.tmp")
    for path in (*torn, copy / ".mine.tmp"):
        path.write_text("epoch")
    monkeypatch.setattr(setup, "PATIENCE", 0.3)
    with setup.alone_in(copy, resuming=True):
        before = contents(copy)
        assert run_script(monkeypatch, "train", f"resume={copy}", "trainer.max_epochs=14") == 2
    assert "another process is training there" in capsys.readouterr().err and contents(copy) == before
    assert run_script(monkeypatch, "train", f"resume={copy}", "trainer.max_epochs=14") == 0
    assert pd.read_csv(copy / "history.csv")["epoch"].tolist() == list(range(1, 15))
    assert not any(path.exists() for path in torn) and (copy / ".mine.tmp").is_file()
    assert not list(tmp_path.glob("outputs/*/*/.hydra"))
    assert run_script(monkeypatch, "train", f"resume={copy}", "trainer.max_epochs=3") == 2
    assert "14 epochs are trained already" in capsys.readouterr().err
    assert run_script(monkeypatch, "train", f"resume={copy}") == 0


def contents(run):
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "train.log"}


def test_a_longer_cosine_is_followed_from_the_epoch_of_the_run(photos, monkeypatch, tmp_path):
    arguments = (f"data.root={photos}", *FAST, "model.schedule=cosine", "trainer.max_epochs=2")
    run = trained(tmp_path, *arguments)
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", f"resume='{run}'", "trainer.max_epochs=6") == 0
    rates = pd.read_csv(run / "history.csv")["lr"].tolist()
    assert len(rates) == 6 and rates[2] > 0.005 and all(a > b > 0 for a, b in itertools.pairwise(rates[2:]))


def test_resume_finds_a_table_that_has_moved(finished, monkeypatch, tmp_path):
    run, data = finished["multilabel"]
    copy, moved = shutil.copytree(run, tmp_path / "run"), shutil.copytree(data, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    where = (f"data.csv={moved / 'image_data.csv'}", f"data.images={moved / 'images'}")
    assert run_script(monkeypatch, "train", f"resume={copy}", *where, "trainer.max_epochs=13") == 0
    assert len(pd.read_csv(copy / "history.csv")) == 13


def test_last_ckpt_is_the_last_epoch_also_where_none_improved(photos, monkeypatch, tmp_path):
    still = ("model.freeze_backbone=true", "model.lr=1e-30", "callbacks.early_stopping.patience=2")
    run = trained(tmp_path, f"data.root={photos}", *FAST, *still)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        files = [run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
        assert [epochs_done(torch.load(file, weights_only=True)) for file in files] == [1, 3]
        assert run_script(monkeypatch, "train", f"resume='{run}'") == 0  # it had stopped, and stays so


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("room", [100_000, 3_999_000])
def test_a_full_disk_keeps_the_checkpoint_before_and_is_told(tmp_path, room):
    import resource

    saver, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    saver.save_checkpoint({"epoch": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        with pytest.raises(InputError, match=r"written \(File too large\); the previous one stays"):
            saver.save_checkpoint({"weights": torch.zeros(1000, 1000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.load(path, weights_only=True) == {"epoch": 1} and os.listdir(tmp_path) == ["last.ckpt"]


def test_a_run_that_fails_says_how_to_go_on(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    write, full = RecordWriter.write, []

    def refuse(self, content):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, content)

    with monkeypatch.context() as patched:
        patched.setattr(RecordWriter, "write", refuse)
        fill = lambda module, *_: full.extend([1] * module.current_epoch)  # noqa: E731
        patched.setattr(PhotoClassifier, "on_train_batch_start", fill)
        arguments = (f"data.root={photos}", *FAST, "trainer.max_epochs=3")
        assert run_script(patched, "train", *arguments) == 2
    said, run = "".join(capsys.readouterr()), next(tmp_path.glob("outputs/dual_head/*"))
    assert f"Stopped; {run / 'checkpoints' / 'last.ckpt'} is whole. Continue with:" in said
    assert "No space left on device" in said and "Traceback" not in said
    assert run_script(monkeypatch, "train", f"resume='{run}'") == 0
    assert pd.read_csv(run / "history.csv")["epoch"].tolist() == [1, 2, 3]


def test_a_fit_that_diverges_says_so(table, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("model=multilabel", f"data.root={table}", *FAST, "model.lr=1e25")
    assert run_script(monkeypatch, "train", *arguments) == 2 and "lower model.lr" in capsys.readouterr().err


def test_another_runs_split_is_taken_as_it_is_and_kept_by_the_run(finished, monkeypatch, tmp_path):
    run, data = finished["dual_head"]
    split = shutil.copytree(run, tmp_path / "Brücke (2)")
    shutil.rmtree(split / "checkpoints")
    arguments = (f"data.root='{data}'", *FAST, "trainer.max_epochs=1", "seed=9", f"data.split_file={split}")
    again = trained(tmp_path, *arguments)
    for name in ("train", "val", "test"):
        ids = [pd.read_csv(folder / f"{name}_metadata.csv")["ID"].tolist() for folder in (run, again)]
        assert ids[0] == ids[1]
    shutil.rmtree(split)
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", f"resume={again}", "trainer.max_epochs=2") == 0
    assert len(pd.read_csv(again / "history.csv")) == 2


def test_a_sweep_ranks_its_jobs_and_survives_a_failed_one(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    given = ("-m", f"data.root={photos}", *FAST)
    sweep = ("trainer.max_epochs=2", "model.lr=0.01,-1,0.001")
    assert run_script(monkeypatch, "train", *given, *sweep) == 1
    (board,) = tmp_path.glob("outputs/dual_head/*/leaderboard.csv")
    rows = pd.read_csv(board)
    assert rows["status"].tolist() == ["done", "done", "failed"]
    assert rows["score"].dropna().is_monotonic_decreasing
    assert "needs a number above 0" in rows["reason"].iloc[2]
    for row in rows.itertuples():
        if row.status == "done":
            metrics = json.loads((board.parent / str(row.job) / "metrics.json").read_text())
            assert row.score == pytest.approx(metrics["val"]["f1_macro"], abs=1e-6)
    assert "1 job(s) of the sweep failed" in capsys.readouterr().err
    assert run_script(monkeypatch, "summarise", str(board.parent)) == 1
    assert f"the mean lacks runs: {board.parent / '1'} has no metrics.json" in capsys.readouterr().err
    again = ("model.lr=0.1", f"hydra.sweep.dir={board.parent}")
    assert run_script(monkeypatch, "train", *given, *again) == 1 and pd.read_csv(board).equals(rows)
    assert run_script(monkeypatch, "train", f"resume={board.parent / '2'}", "trainer.max_epochs=4") == 0
    metrics = json.loads((board.parent / "2" / "metrics.json").read_text())
    row = pd.read_csv(board).set_index("job").loc[2]
    assert (
        row["score"] == pytest.approx(metrics["val"]["f1_macro"], abs=1e-6) and "lr=0.001" in row["overrides"]
    )


def test_init_from_keeps_rows_by_label_name_and_warns_of_leaks(finished, tmp_path, capsys):
    run, data = finished["multilabel"]
    grown = tmp_path / "grown"
    shutil.copytree(data, grown)
    table = (grown / "image_data.csv").read_text().splitlines()
    more = [line.replace("Leaks", "Leaks;Drummy") if line[:2] in ("00", "10") else line for line in table]
    (grown / "image_data.csv").write_text("\n".join(more) + "\n")
    given = ("model=multilabel", f"data.root={grown}", *FAST, "data.group=asset", "seed=7")
    given += (f"model.init_from='{run}'", "trainer.max_epochs=1", "model.lr=1e-12")
    new, old, said = load(trained(tmp_path, *given)), load(run), capsys.readouterr().err
    assert "heads of 5 labels" in said and "new: Drummy" in said and "LEAK" in said
    for name in ("train_digests", "train_sizes"):
        assert set(old.provenance[name]) < set(new.provenance[name])
    assert old.provenance["backbone_trained"] and new.provenance["backbone_trained"]
    for label in old.labels.names:
        kind = "component" if label in old.labels.kinds["component"] else "defect"
        rows = [m.get_submodule(f"head_{kind}").weight[m.labels.kinds[kind].index(label)] for m in (old, new)]
        assert torch.allclose(*rows, atol=1e-6), label


@pytest.mark.parametrize(
    ("task", "source", "extra"),
    [("multiclass", "table", ("data.columns={label: defect}",)), ("dual_head", "table", ()),
     ("multilabel", "folders", ())],
)  # fmt: skip
def test_every_task_takes_either_source(photos, table, tmp_path, task, source, extra):
    data = {"folders": photos, "table": table}[source]
    given = (f"model={task}", f"data={source}", f"data.root={data}", *FAST, "trainer.max_epochs=1", *extra)
    head = list(pd.read_csv(trained(tmp_path, *given) / "predictions.csv").columns)
    first = {"multiclass": "label", "dual_head": "component", "multilabel": "components"}[task]
    assert head[:2] == ["ID", first] and head[-5:] == ["path", "status", "error", "review", "review_reason"]


def test_cross_validation_is_a_sweep_over_folds(photos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folds = ("data.folds=3", "data.fold=0,1,2")
    arguments = (f"data.root={photos}", *FAST, GROUP, *folds, "trainer.max_epochs=1")
    assert run_script(monkeypatch, "train", "-m", *arguments) == 0
    tested = [pd.read_csv(file)["ID"] for file in sorted(tmp_path.glob("outputs/*/*/*/test_metadata.csv"))]
    assert len(tested) == 3 and pd.concat(tested).is_unique and sum(map(len, tested)) == 36


@pytest.mark.parametrize(
    ("validation", "task", "said"),
    [
        (("Crack", "Leak"), "multiclass", "over 2 of 3 labels"),
        (("Crack", "Leak"), "multilabel", "over 2 of 3 labels"),
        (("Intact",), "multilabel", "f1_macro undefined over 0 of 3 labels"),
    ],
)
def test_labels_without_validation_photos(validation, task, said, monkeypatch, tmp_path, capsys):
    names = {"train": ("Crack", "Leak", "Rust"), "val": validation, "test": ("Crack",)}
    rows = [(split, label) for split, labels in names.items() for label in labels * 4]
    for i, (_, label) in enumerate(rows):
        photo(tmp_path / "p" / "images" / f"{i}.jpg", "", label, i)
    table = "".join(f"{i},{label}\n" for i, (_, label) in enumerate(rows))
    (tmp_path / "p" / "image_data.csv").write_text(f"ID,label\n{table}")
    split = "".join(f"{i},{split}\n" for i, (split, _) in enumerate(rows))
    (tmp_path / "split.csv").write_text(f"ID,split\n{split}")
    monkeypatch.chdir(tmp_path)
    data = ("data=table", "data.root=p", "data.split_file=split.csv")
    given = (f"model={task}", *data, "hydra.run.dir=r", "trainer.max_epochs=1", "thresholds.source=epoch")
    assert run_script(monkeypatch, "train", *given, *FAST) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("val ")]
    assert said in line
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics["run"]["best_score"] == (metrics["val"]["f1_macro"] or 0.0)
    history = pd.read_csv(tmp_path / "r" / "history.csv")
    assert history["val_f1"][0] == pytest.approx(metrics["val"]["f1_macro"] or 0, abs=1e-5)
    assert "test macro F1 over 1 of 3 labels" in (tmp_path / "r" / "report.html").read_text()


def test_labels_of_any_letters_are_drawn_and_logged(monkeypatch, tmp_path, recwarn):
    names = ("a/b", "../c", 'd:"e"', ".f\\g", "裂缝 $x_1$", "=SUM(A1)")
    for i in range(36):
        photo(tmp_path / "p" / "images" / f"{i}.jpg", "", "", i)
    cells = ('"' + names[i % 6].replace('"', '""') + '"' for i in range(36))
    rows = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
    (tmp_path / "p" / "image_data.csv").write_text(f"ID,label\n{rows}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    given = ("model=multiclass", "data=table", "data.root=p", "hydra.run.dir=r", "trainer.max_epochs=1")
    assert run_script(monkeypatch, "train", *given, *FAST[:-1]) == 0
    classes = json.loads((tmp_path / "r" / "classes.json").read_text(encoding="utf-8"))
    assert classes == {"label": sorted(names)}
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "p", "r"}  # none is named as a label
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
