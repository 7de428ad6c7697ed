"""Each wrong input is one clear line and exit code 2."""

import os
import pickle
import shutil
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.inference.predictor import Predictor
from src.models.classifiers import PhotoClassifier
from tests.made import FAST, run_script


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Run a script that must refuse its input: returns the one line."""
    monkeypatch.chdir(tmp_path)

    def check(script, *arguments, code=2):
        assert run_script(monkeypatch, script, *arguments) == code
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in said.err, said.err
        return lines[0]

    return check


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=mltilabel"], "no 'mltilabel' in model: did you mean 'multilabel'"),
        (["modle=multilabel"], "did you mean 'model'"),
        (["trainer.max_epoch=3"], "trainer.max_epoch': did you mean 'max_epochs'"),
        (["data.image_size=96"], "unknown key 'data.image_size': did you mean 'preprocess.image_size'"),
        (["seed=abc"], "seed"),
        (["trainer.max_epochs=many"], "trainer.max_epochs=many: needs a number of epochs, or auto"),
        (["data.batch_size=1.5"], "data.batch_size: 1.5 is not of type int"),
        (["+trainer.max_epoch=3"], "did you mean 'max_epochs'"),
        (["model.backbone=resnet81"], "did you mean 'resnet18'"),
        (["sweep=lr"], "needs -m"),
        (["data.group=^(A\\d+)_"], "needs quotes, \"data.group='^(A\\d+)_'\""),
        (["photos"], "'photos' is no override: give KEY=VALUE"),
        (["data.splits=[0.7,0.15"], "a list is written data.splits='[1, 2]'"),
        (["trainer.limit_train_batches=3"], "with a plus, +trainer.limit_train_batches="),
        (["+trainer.max_steps=3"], "use trainer.max_epochs"),
        (["trainer=null"], "'~logger' leaves one out"),
        (["model=3"], "a group needs the name of a choice"),
        (["+foo=3"], "unknown key 'foo'"),
        (["+trainer.overfit_batches=1"], "use +trainer.limit_train_batches"),
        (["callbacks.checkpoint.mode=up"], "BestCheckpoint: `mode` can be min, max"),
        (["trainer.accumulate_grad_batches=0"], "accumulate_grad_batches"),
        (["resume='unbalanced"], "not a run folder"),
        (["model.init_from=~/Brücke (2)"], "Brücke (2): no such file or run folder"),
        (["--model.lr=1"], "without dashes"),
        (["model.lr=1e-3,1e-4"], "several values need -m"),
        (["data.csv=x.csv"], "a table needs model=multilabel or data=table"),
        (["model.task=multiclass"], "choose model=dual_head"),
        (["data.rename={a: b}"], "data.rename: needs a list, data.rename=['OLD=NEW']"),
        (["data.separator='unbalanced"], "needs quotes, data.separator=unbalanced"),
        (["model=multilabel"], "or read folders that are named after labels with data=folders"),
        (["model.head_weights={defct: 2}"], "did you mean 'defect'"),
        (["callbacks.checkpoint.monitor=val/los"], "did you mean 'val/loss'"),
        (["callbacks.checkpoint=null"], "BestCheckpoint"),
        (["model.backbone=resnet18", "preprocess.image_size=[1,4000]", "model.lr=inf"], "model.lr=inf"),
        (["model.backbone=squeezenet1_1", "preprocess.image_size=1"], "does not fit squeezenet1_1"),
        (["model.backbone=timm/vit_tiny_patch16_224", "preprocess.image_size=96"], "image_size"),
        (["task=multilabel"], "choose with model="),
        (["model.head_weights={defect: -2}"], "needs a number from 0 on"),
        (["seed=-1"], "needs a number from 0 to 4294967295"),
        (["trainer.accelerator=gppu"], "gppu"),
        (["trainer.max_epochs=0"], "needs at least one epoch"),
        (["data.separator='${nope}'"], "nope"),
    ],
)
def test_typos_and_wrong_values(refused, photos, arguments, words):
    assert words in refused("train", f"data.root={photos}", *FAST, *arguments)


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("sed: 5\n", "did you mean 'seed'"),
        ("trainer: {max_epochs: abc}\n", "max_epochs=abc: needs a number"),
        ("callbacks: {checkpoint: {monitr: x}}\n", "did you mean 'monitor'"),
    ],
)
def test_typos_inside_an_experiment_file(refused, photos, tmp_path, experiment, words):
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "typo.yaml").write_text(f"# @package _global_\n{experiment}")
    where = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    assert words in refused("train", "experiment=typo", f"data.root={photos}", *FAST, where)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."),
                                   RuntimeError("can't allocate memory: 26 GB")])  # fmt: skip
def test_too_little_memory(refused, photos, monkeypatch, error):
    monkeypatch.setattr(PhotoClassifier, "_step", Mock(side_effect=error))
    assert "out of memory: take a smaller batch_size" in refused("train", f"data.root={photos}", *FAST)


def test_formats_of_an_export(refused):
    for given, words in (
        ("formats=onnx", "formats: needs a list, formats=[a,b]"),
        ("formats=null", "formats: needs a value, not null"),
        ("formats=[onxx,int9]", "formats: onxx, int9: did you mean 'onnx'"),
    ):
        assert words in refused("export", "ckpt=run", given)


def test_name_of_a_photo_that_is_no_utf8(refused, photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    next(root.rglob("*.jpg")).rename(os.fsdecode(os.fsencode(root / "Grout Hole_Leaks") + b"/Br\xfccke.jpg"))
    assert "Br\\udcfccke.jpg' is not UTF-8: rename it" in refused("train", f"data.root={root}", *FAST)


def test_label_only_in_the_test_folder(refused, photos, tmp_path):
    for split in ("train", "val", "test"):
        shutil.copytree(photos, tmp_path / "tree" / split)
    (tmp_path / "tree" / "test" / "Grout Hole_Leaks").rename(tmp_path / "tree" / "test" / "Grout Hole_Drummy")
    line = refused("train", "data.root=tree", *FAST)
    assert "'Drummy' (defect)" in line and "test/Grout Hole_Drummy" in line


def test_unreadable_photos_are_all_listed_before_training(refused, photos, tmp_path, monkeypatch, capsys):
    root = shutil.copytree(photos, tmp_path / "photos")
    folder = root / "Grout Hole_Leaks"
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").touch()
    whole = next(folder.glob("A*.jpg")).read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    huge, size = bytearray(whole), whole.index(b"\xff\xc0") + 5
    huge[size : size + 4] = b"\x9c\x40" * 2  # a header that names 40,000 x 40,000 pixels
    (folder / "huge.jpg").write_bytes(huge)
    line = refused("train", f"data.root={root}", *FAST)
    reasons = ("text.jpg (not an image", "empty.jpg (empty file)", "half.jpg (truncated)", "huge.jpg (")
    for words in ("4 of 40 photos", *reasons, "data.skip_unreadable=true"):
        assert words in line
    assert not list(tmp_path.glob("outputs/*/*/checkpoints"))
    skip = (f"data.root={root}", *FAST, "trainer.max_epochs=1", "data.skip_unreadable=true")
    assert run_script(monkeypatch, "train", *skip) == 0
    assert "Left out 4 unreadable photos: Grout Hole_Leaks/empty.jpg (empty file)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (None, (), "no such file"),
        ("ID,component,defect\n00000,Bracket,Leeks\n", ("data.components=[Bracket]", "data.defects=[Leaks]"),
         "did you mean 'Leaks'"),
    ],
)  # fmt: skip
def test_tables(refused, table, tmp_path, content, arguments, words):
    if content is not None:
        (tmp_path / "labels.csv").write_text(content)
    where = ("data.csv=labels.csv", f"data.images={table / 'images'}")
    assert words in refused("train", "model=multilabel", *where, *FAST, *arguments)


class Bomb:
    def __reduce__(self):
        return print, ("code ran",)


def test_checkpoints(refused, run, photos, tmp_path, capsys):
    assert "no such file or run folder" in refused("predict", "ckpt=nowhere", f"images={photos}")
    assert "no finished training run below outputs" in refused("predict", f"images={photos}")
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "noise.ckpt").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = (run / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": torch.zeros(99)}, tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "legacy.ckpt").read_bytes()
    for cut in (30, len(whole) - 8):
        (tmp_path / f"cut{cut}.ckpt").write_bytes(whole[:cut])
    for path in sorted(tmp_path.glob("*.ckpt")):
        line = refused("predict", f"ckpt={path.name}", f"images={photos}")
        assert line.startswith(f"error: {path.name}: not a checkpoint of Corbel")
    line = refused("train", f"data.root={photos}", *FAST, "model.weights=half.ckpt")
    assert line == "error: model.weights=half.ckpt: not a state dict, or a damaged one"
    with open(tmp_path / "bomb.ckpt", "wb") as file:
        pickle.dump(Bomb(), file)
    torch.save({"task": "dual_head", "hyper_parameters": {}, "state_dict": Bomb()}, tmp_path / "code.ckpt")
    for name in ("bomb", "code"):
        assert "could run code" in refused("predict", f"ckpt={name}.ckpt", f"images={photos}")
        assert "code ran" not in capsys.readouterr().out
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    assert "not a checkpoint of Corbel" in refused("predict", "ckpt=other.ckpt", f"images={photos}")
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for change, words in (({"task": "segmentation"}, "task 'segmentation'"), ({"schema": 99}, "newer Corbel"),
                          ({"task": "multilabel"}, "does not fit")):  # fmt: skip
        torch.save({**content, **change}, tmp_path / "changed.ckpt")
        assert words in refused("predict", "ckpt=changed.ckpt", f"images={photos}")


def test_a_checkpoint_with_a_flipped_bit(refused, run, photos, tmp_path):
    whole = (run / "checkpoints" / "best.ckpt").read_bytes()
    directory = whole.rindex(b"PK\1\2")
    # a label's name, a weight, the name in a header and how the last part is packed, says the directory
    for place in (whole.index(b"Grout Hole"), len(whole) // 2, 30, directory + 10):
        changed = whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :]
        (tmp_path / "flipped.ckpt").write_bytes(changed)
        line = refused("predict", "ckpt=flipped.ckpt", f"images={photos}")
        assert line.startswith(("error: flipped.ckpt: damaged (", "error: flipped.ckpt: not a checkpoint"))


def test_paths_that_nobody_can_have(refused, run, photos):
    train = ("train", f"data.root={photos}", *FAST)
    for name, *arguments in (
        ("train", *FAST, "data.root={}"),
        (*train, "data.split_file={}"),
        (*train, "data.cache=images", "data.cache_dir={}"),
        (*train, "model.weights={}"),
        ("train", *FAST, "data=table", f"data.images={photos}", "data.csv={}"),
        ("train", "resume={}"),
        ("predict", f"images={photos}", "ckpt={}"),
        ("predict", f"ckpt={run}", "images={}"),
        ("predict", f"ckpt={run}", f"images={photos}", "output={}.csv"),
        ("export", f"ckpt={run}", "output={}"),
        ("audit", f"data.root={photos}", "output={}"),
        ("explore", f"data.root={photos}", "output={}"),
    ):
        line = refused(name, *(argument.format("x" * 300) for argument in arguments))
        assert "x" * 300 in line, arguments
    for name, *arguments in (
        ("train", *FAST, "data.root={}"),
        ("predict", f"ckpt={run}", "images={}"),
        ("export", f"ckpt={run}", "output={}"),
    ):
        line = refused(name, *(argument.format("~nobody-here/x") for argument in arguments))
        assert "~nobody-here/x" in line and "no user 'nobody-here' is known here" in line, arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "images= is not set"),
        (("images=nowhere",), "no such file or folder"),
        (("images=notes.md",), "neither a photo"),
        (("images=list.csv", "root=nowhere"), "no such folder"),
        (("images={photos}", "threshold=0.3"), "threshold= is for multilabel"),
        (("images={photos}", "outptu=x.csv"), "did you mean 'output'"),
        (
            ("images={photos}", "output=notes.md/p.csv", "num_workers=0"),
            "notes.md/p.csv.job cannot be written (there is a file where a folder is needed)",
        ),
    ],
)
def test_predict_arguments(refused, run, photos, tmp_path, arguments, words):
    for name in ("notes.md", "list.csv"):
        (tmp_path / name).write_text("path\na.jpg\n")
    assert words in refused("predict", f"ckpt={run}", *(text.format(photos=photos) for text in arguments))


def test_a_runs_folder_is_no_place_for_another_call(refused, run, photos, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "a run")

    def content():
        files = [*copy.rglob("*"), *(tmp_path / "one").rglob("*")]
        return {p: p.read_bytes() for p in files if p.is_file() and p.suffix != ".log"}

    predict = ("predict", f"ckpt={run}", f"images={photos / 'Grout Hole_Leaks'}", "num_workers=0")
    assert run_script(monkeypatch, *predict, "hydra.run.dir=one") == 0
    before = content()
    for call in (("train", f"data.root={photos}", *FAST), predict):
        assert "already" in refused(*call, f"hydra.run.dir='{copy}'")
    assert "is there already" in refused(*predict, "hydra.run.dir=one")
    assert before == content()


def test_a_start_that_was_refused_leaves_the_folder_free(refused, photos, monkeypatch, tmp_path):
    arguments = (f"data.root={photos}", *FAST, "trainer.max_epochs=1", "hydra.run.dir=one")
    assert "tpuu" in refused("train", *arguments, "trainer.accelerator=tpuu")
    (tmp_path / "one" / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in ("classes.json", "train_metadata.csv"):  # of other photos
        (tmp_path / "one" / name).write_text("{}")
    assert run_script(monkeypatch, "train", *arguments) == 0
    assert (tmp_path / "one" / "train_metadata.csv").read_text().startswith("ID,path,")


def test_the_training_table_can_be_predicted(run, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = f"images={table / 'image_data.csv'}"
    assert run_script(monkeypatch, "predict", f"ckpt={run}", images, "output=p.csv", "num_workers=0") == 0
    rows = pd.read_csv(tmp_path / "p.csv", dtype=str)
    assert len(rows) == 36 and (rows["path"] == rows["ID"] + ".jpg").all() and (rows["status"] == "ok").all()


def test_output_folder_not_writable(refused, photos, tmp_path):
    (tmp_path / "outputs").write_text("a file stands where the folder should be")
    assert "outputs" in refused("train", f"data.root={photos}", *FAST)


def test_unreadable_photos_become_rows_and_exit_code_1(run, photos, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "Photos é 2"
    shutil.copytree(photos / "Grout Hole_Leaks", folder)
    (folder / "bad.JPG").write_text("no picture")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder / "gray.png")
    monkeypatch.chdir(tmp_path)
    given = (f"ckpt={run}", f"images='{folder}'", "output=p.csv", "probabilities=true", "batch_size=2")
    assert run_script(monkeypatch, "predict", *given) == 1 and "1 unreadable" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)
    assert rows["path"].is_monotonic_increasing and len(rows) == 6
    bad = rows[rows["ID"] == "bad"].iloc[0]
    assert bad["status"] == "error" and bad["error"] and bad["component"] == "" and bad["p:Leaks"] == ""
    fine = rows[rows["status"] == "ok"]
    sums = fine[[c for c in rows if c.startswith("p:")]].astype(float).sum(axis=1)
    assert np.allclose(sums, 2, atol=1e-4)
    assert fine["prediction"].str.match(r".+_.+_\d\.\d\d$").all()


def test_the_python_api_agrees_with_the_csv(run, photos):
    predictor = Predictor.load(run)
    for row in pd.read_csv(run / "predictions.csv").head(3).itertuples():
        for source in (photos / row.path, (photos / row.path).read_bytes(), Image.open(photos / row.path)):
            found = predictor.predict(source)
            assert found.labels == {"component": [row.component], "defect": [row.defect]}
            assert found.text.rpartition("_")[0] == f"{row.component}_{row.defect}"
            assert found.confidence == pytest.approx(row.average_confidence, abs=0.02)
            assert sum(found.probabilities["defect"].values()) == pytest.approx(1, abs=1e-5)
