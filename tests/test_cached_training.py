"""Training on what is kept of the photos, beside training on the photos."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.inference import features
from src.models.checkpoint import read_checkpoint
from src.training import evaluate
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


def refuse_decoding(monkeypatch):
    """Let nothing compute a feature from here on."""
    monkeypatch.setattr(features, "_rows", None)


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_features_train_the_same_heads(train, monkeypatch, task):
    plain = train("plain", "data.augment=null", "data.cache=null", task=task)
    kept = train("kept", "data.augment=null", task=task)  # a frozen backbone's features are cached unasked
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


@pytest.mark.parametrize("cache", ["null", "images"])
def test_test_photos_that_change_meanwhile_are_named(train, photos, monkeypatch, tmp_path, capsys, cache):
    real = evaluate.write_predictions
    monkeypatch.setitem(photos, "dual_head", make_folders(tmp_path / "photos"))

    def replaced(run, datamodule, device):
        first, second, *_ = sorted(record.path for record in datamodule.splits["test"])
        (datamodule.root / first).unlink()
        shutil.copy(datamodule.root / datamodule.splits["train"][0].path, datamodule.root / second)
        changed.extend((first, second))
        real(run, datamodule, device)

    changed = []
    monkeypatch.setattr(evaluate, "write_predictions", replaced)
    run = train("kept", f"data.cache={cache}", "trainer.max_epochs=1")
    words = f"2 test photos have been replaced or removed since this run began.*{', '.join(changed)}"
    assert re.search(words, "".join(capsys.readouterr())) and (run / "predictions.csv").is_file()


@pytest.mark.parametrize("cache", ["null", "images"])
def test_photos_that_are_replaced_while_it_trains_are_named(
    train, photos, monkeypatch, tmp_path, capsys, cache
):
    """What is cached, or only written again, is what it was."""
    monkeypatch.setitem(photos, "dual_head", make_folders(tmp_path / "photos"))
    changed, write = [], evaluate.write_predictions

    def replaced(run, datamodule, device):
        first, second, third = (datamodule.root / datamodule.splits["train"][i].path for i in range(3))
        (val,) = datamodule.splits["val"][:1]
        shutil.copy(first, second)
        os.replace(shutil.copy(first, tmp_path / "copy.jpg"), datamodule.root / val.path)
        third.write_bytes(third.read_bytes())
        changed.extend((datamodule.splits["train"][1].path, val.path))
        write(run, datamodule, device)

    monkeypatch.setattr(evaluate, "write_predictions", replaced)
    run = train("kept", f"data.cache={cache}", "trainer.max_epochs=1")
    said = "".join(capsys.readouterr())
    words = f"2 photos of train and val have been replaced since this run began.*{', '.join(changed)}"
    assert bool(re.search(words, said)) == (cache == "null") and (run / "metrics.json").is_file()


def test_images_train_the_same_bits(train):
    plain = train("plain", VIEWS, "model.freeze_backbone=false")
    kept = train("kept", VIEWS, "model.freeze_backbone=false", "data.cache=images")
    same_training(plain, kept, tolerance=0)
    assert (plain / "predictions.csv").read_bytes() == (kept / "predictions.csv").read_bytes()


def test_features_are_computed_once_and_shared_by_seeds_rates_and_folds(train, monkeypatch):
    first = train("first", "data.augment=null", "data.cache=features")
    refuse_decoding(monkeypatch)
    kept = (
        "data.augment=null",
        "data.cache=features",
        f"model.weights={first / 'checkpoints' / 'best.ckpt'}",
    )
    train("rate", *kept, "model.lr=0.003", "seed=7")
    train("fold", *kept, "data.folds=3", "data.fold=1")


def test_no_more_views_are_computed_than_epochs_show(train, monkeypatch, capsys):
    seen, real = [], features._seen

    def count(pixels, record, view):
        seen.append(view[2] if isinstance(view, tuple) else view)
        return real(pixels, record, view)

    monkeypatch.setattr(features, "_seen", count)
    options = (VIEWS, "data.cache=features", "data.views=50")
    train("short", *options, "trainer.max_epochs=2")
    assert set(seen) == {None, features.MIRRORED} and len(seen) == 72 + seen.count(features.MIRRORED)
    assert f"Feature cache: 72 photos to see {len(seen)} times in all, 0.1 MB in" in capsys.readouterr().err
    seen.clear()
    train("longer", *options, "trainer.max_epochs=3")
    assert set(seen) == {2}


def test_a_photo_is_decoded_once_for_four_views(train, monkeypatch):
    read, real = [], features.read_unchanged

    def count(root, record, preprocess):
        read.append(record.path)
        return real(root, record, preprocess)

    monkeypatch.setattr(features, "read_unchanged", count)
    options = (VIEWS, "data.cache=features", "data.views=5")
    run = train("four", *options)
    trained = set(pd.read_csv(run / "train_metadata.csv")["path"])
    assert len(read) == len(set(read)) == 72
    read.clear()
    train("fifth", *options, "trainer.max_epochs=5")
    assert sorted(read) == sorted(trained)
    read.clear()
    train("others", *options, "trainer.max_epochs=5", "preprocess.image_size=18")
    assert {path: read.count(path) for path in read if path in trained} == dict.fromkeys(trained, 2)
    assert len(set(read)) == 72 and len(read) == 72 + len(trained)


def test_other_weights_another_size_a_replaced_photo_are_computed_anew(train, photos, tmp_path, monkeypatch):
    root = shutil.copytree(photos["dual_head"], tmp_path / "copy")
    kept = ("data.augment=null", "data.cache=features", f"data.root={root}")
    seen, real = [], features.read_unchanged

    def count(root, record, preprocess):
        seen.append(1)
        return real(root, record, preprocess)

    monkeypatch.setattr(features, "read_unchanged", count)
    first = train("first", *kept)
    assert sum(seen) == 72
    seen.clear()
    train("size", *kept, "preprocess.image_size=18")
    assert sum(seen) == 72
    seen.clear()
    train("weights", *kept, f"model.weights={first / 'checkpoints' / 'best.ckpt'}")
    assert not seen  # the backbone was frozen: these are the same weights
    state = read_checkpoint(first / "checkpoints" / "best.ckpt")["state_dict"]
    other = {
        name: tensor * 1.01 if name.endswith("conv.weight") else tensor for name, tensor in state.items()
    }
    torch.save({"state_dict": other}, tmp_path / "other.pth")
    train("others", *kept, f"model.weights={tmp_path / 'other.pth'}")
    assert sum(seen) == 72
    seen.clear()
    path = min(root.rglob("*.jpg"))
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-2] + b"\0\xff\xd9")  # another content, the same picture
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    train("replaced", *kept)
    assert sum(seen) == 1


@pytest.mark.parametrize("key", ["model.weights", "model.init_from"])
def test_a_resumed_run_on_features_ends_with_the_same_bits(train, tmp_path, monkeypatch, key):
    # weights that the seed does not give again
    pretrained = train("pretrained", "seed=7", "trainer.max_epochs=1") / "checkpoints" / "best.ckpt"
    options = (VIEWS, "data.views=3", "data.cache=features", "model.schedule=cosine", f"{key}={pretrained}")
    whole = train("whole", *options)
    part = train("part", *options)
    # the state after two epochs, as a kill would have left it
    from src.callbacks.checkpointing import BestCheckpoint

    real = BestCheckpoint.on_train_epoch_end

    def die(self, trainer, pl_module):
        real(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    shutil.rmtree(tmp_path / "part")
    monkeypatch.setattr(BestCheckpoint, "on_train_epoch_end", die)
    (tmp_path / "part").mkdir()
    train("part", *options, code=130)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "part")
    (last,) = (tmp_path / "part").glob("outputs/*/*/checkpoints/last.ckpt")
    part = last.parent.parent
    assert run_script(monkeypatch, "train", f"resume={part}") == 0
    same_training(whole, part, tolerance=0)
    assert (whole / "predictions.csv").read_bytes() == (part / "predictions.csv").read_bytes()


def test_the_best_epoch_is_on_the_disk_once_and_a_learning_backbone_has_no_cached_features(train, capsys):
    run = train("once", "data.augment=null", "data.cache=features", "trainer.max_epochs=1")
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert best.stat().st_ino == last.stat().st_ino
    train("refused", "data.cache=features", "model.freeze_backbone=false", code=2)
    assert "needs model.freeze_backbone=true" in capsys.readouterr().err
    train("endless", "data.cache=features", "trainer.max_epochs=null", code=2)
    assert "max_epochs=null: needs a number of epochs" in capsys.readouterr().err
