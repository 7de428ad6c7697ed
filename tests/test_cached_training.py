"""Training on what is kept of the photos, beside training on the photos."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.callbacks.checkpointing import BestCheckpoint
from src.inference import features
from src.models.checkpoint import read_checkpoint
from tests.made import FAST, make_folders, make_table, only_run, run_script, same_predictions

FROZEN = (*FAST, "model.freeze_backbone=true", "trainer.max_epochs=4", "callbacks.early_stopping=null")
VIEWS = "data.augment={horizontal_flip: 0.5, rotation: 20.0}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return {
        "dual_head": make_folders(tmp_path_factory.mktemp("folders")),
        "multilabel": make_table(tmp_path_factory.mktemp("table")),
    }


@pytest.fixture
def train(photos, monkeypatch, tmp_path):
    """Train in a folder of its own with a shared cache; return the run."""

    def call(name, *options, task="dual_head", code=0):
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        monkeypatch.chdir(home)
        kept = f"data.cache_dir={tmp_path / 'cache'}"
        given = (f"model={task}", f"data.root={photos[task]}", *FROZEN, kept, *options)
        assert run_script(monkeypatch, "train", *given) == code
        return None if code else only_run(home)

    return call


def same_training(one, other, tolerance=1e-5):
    """Hold two runs to the same losses, accuracies and weights."""
    for column in ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_f1"):
        values = [pd.read_csv(run / "history.csv")[column].to_numpy() for run in (one, other)]
        np.testing.assert_allclose(*values, atol=tolerance)
    for name in ("best", "last"):
        states = [read_checkpoint(run / "checkpoints" / f"{name}.ckpt")["state_dict"] for run in (one, other)]
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            torch.testing.assert_close(states[0][key], states[1][key], atol=tolerance, rtol=0)


@pytest.fixture
def read(monkeypatch):
    """The paths of the photos that are decoded for their features."""
    paths, real = [], features.read_unchanged

    def count(root, record, preprocess):
        paths.append(record.path)
        return real(root, record, preprocess)

    monkeypatch.setattr(features, "read_unchanged", count)
    return paths


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_features_train_the_same_heads(train, monkeypatch, task):
    given = ("data.augment=null", "thresholds.source=val")
    plain = train("plain", *given, "data.cache=null", task=task)
    kept = train("kept", *given, task=task)  # a frozen backbone's features are cached unasked
    same_training(plain, kept)
    assert len(pd.read_csv(kept / "history.csv")) == 4
    tables = [pd.read_csv(run / "predictions.csv", dtype=str) for run in (plain, kept)]
    assert list(tables[0]["path"]) == list(tables[1]["path"])
    images = kept / "test_metadata.csv"
    again = ("predict", f"ckpt={kept}", f"images={images}", "output=again.csv", "device=cpu")
    assert run_script(monkeypatch, *again) == 0
    same_predictions(Path("again.csv"), kept / "predictions.csv")
    first, second = (json.loads((run / "metrics.json").read_text())["test"] for run in (plain, kept))
    assert first["exact_match"] == second["exact_match"] and abs(first["loss"] - second["loss"]) < 1e-5


def test_images_train_the_same_bits(train):
    plain = train("plain", VIEWS, "model.freeze_backbone=false")
    kept = train("kept", VIEWS, "model.freeze_backbone=false", "data.cache=images")
    same_training(plain, kept, tolerance=0)
    assert (plain / "predictions.csv").read_bytes() == (kept / "predictions.csv").read_bytes()


def test_no_more_views_are_computed_than_epochs_show(train, read, monkeypatch, capsys):
    seen, real = [], features._seen

    def count(pixels, record, view, tiles):
        seen.append(view[2] if isinstance(view, tuple) else view)
        return real(pixels, record, view, tiles)

    monkeypatch.setattr(features, "_seen", count)
    options = (VIEWS, "data.cache=features", "data.views=50")
    train("short", *options, "trainer.max_epochs=2")
    assert set(seen) == {None, features.MIRRORED} and len(seen) == 72 + seen.count(features.MIRRORED)
    assert f"Feature cache: 72 photos to see {len(seen)} times in all, 0.1 MB in" in capsys.readouterr().err
    assert len(read) == len(set(read)) == 72  # one decode for both views
    seen.clear()
    train("longer", *options, "trainer.max_epochs=3")
    assert set(seen) == {2}


def test_only_other_weights_another_size_or_a_replaced_photo_are_computed_anew(train, photos, tmp_path, read):
    root = shutil.copytree(photos["dual_head"], tmp_path / "copy")
    kept = ("data.augment=null", "data.cache=features", f"data.root={root}", "trainer.max_epochs=1")

    def computed(name, *options):
        read.clear()
        run = train(name, *kept, *options)
        return len(read), run

    count, first = computed("first")
    best = first / "checkpoints" / "best.ckpt"
    assert count == 72 and computed("size", "preprocess.image_size=18")[0] == 72
    # the backbone was frozen: these are the same weights
    assert computed("weights", f"model.weights={best}", "model.lr=0.003", "seed=7")[0] == 0
    assert computed("fold", f"model.weights={best}", "data.folds=3", "data.fold=1")[0] == 0
    state = read_checkpoint(best)["state_dict"]
    other = {
        name: tensor * 1.01 if name.endswith("conv.weight") else tensor for name, tensor in state.items()
    }
    torch.save({"state_dict": other}, tmp_path / "other.pth")
    assert computed("others", f"model.weights={tmp_path / 'other.pth'}")[0] == 72
    path = min(root.rglob("*.jpg"))
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-2] + b"\0\xff\xd9")  # another content, the same picture
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert computed("replaced")[0] == 1


@pytest.mark.parametrize("key", ["model.weights", "model.init_from"])
def test_a_resumed_run_on_features_ends_with_the_same_bits(train, tmp_path, monkeypatch, key):
    # weights that the seed does not give again
    pretrained = train("pretrained", "seed=7", "trainer.max_epochs=1") / "checkpoints" / "best.ckpt"
    options = (VIEWS, "data.views=3", "data.cache=features", "model.schedule=cosine", f"{key}={pretrained}")
    whole = train("whole", *options)
    real = BestCheckpoint.on_train_epoch_end

    def die(self, trainer, pl_module):
        real(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(BestCheckpoint, "on_train_epoch_end", die)
    train("part", *options, code=130)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "part")
    (last,) = (tmp_path / "part").glob("outputs/*/*/checkpoints/last.ckpt")
    part = last.parent.parent
    assert run_script(monkeypatch, "train", f"resume={part}") == 0
    same_training(whole, part, tolerance=0)
    assert (whole / "predictions.csv").read_bytes() == (part / "predictions.csv").read_bytes()


def test_a_learning_backbone_has_no_cached_features(train, capsys):
    train("refused", "data.cache=features", "model.freeze_backbone=false", code=2)
    assert "needs model.freeze_backbone=true" in capsys.readouterr().err
    train("endless", "data.cache=features", "trainer.max_epochs=null", code=2)
    assert "max_epochs=null: needs at least one epoch" in capsys.readouterr().err
