"""Exported models decide like their checkpoint, say what they are, and are refused where they do not."""

import builtins
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import torch

from src.errors import InputError
from src.inference import export as exporting
from src.inference import parity
from src.inference.batches import find_images
from src.inference.onnx_backend import OnnxBackend
from src.inference.parity import compare_scores
from src.inference.predictor import Predictor, load_backend
from src.models.checkpoint import load_model
from tests.made import FAST, REPOSITORY, make_folders, make_table, run_script, same_predictions, trained
from tests.test_backends import check_division, check_predictor

HEAVY = ["lightning", "matplotlib", "pandas", "scipy", "sklearn", "torch", "torchvision"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("multilabel")
    data = f"data.root={make_table(home / 'my photos', each=6)}"
    return trained(home, "model=multilabel", data, "data.group=asset", *FAST, "trainer.max_epochs=6")


@pytest.fixture(scope="module")
def photos(run):
    return run.parents[2] / "my photos" / "images"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The folder of an export in every format."""
    home = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(home)
        assert run_script(monkeypatch, "export", f"ckpt={run}", "output=model") == 0
    return home / "model"


def changed(exported, folder, **metadata):
    """A copy of model.onnx with other metadata."""
    path = Path(shutil.copy(exported / "model.onnx", folder / "changed.onnx"))
    exporting.write_metadata(path, OnnxBackend(path).metadata | metadata)
    return path


def test_every_format_is_written_and_agrees(exported, run):
    assert {path.name for path in exported.iterdir()} == {"model.onnx", "model_int8.onnx"}
    model = load_model(run / "checkpoints" / "best.ckpt")
    for name, precision in (("model.onnx", "fp32"), ("model_int8.onnx", "int8")):
        found = OnnxBackend(exported / name).metadata
        assert found["precision"] == precision and len(found["calibration"]) == len(found["limits"]) == 5
        assert found["labels"] == model.labels.as_dict() and found["task"] == "multilabel"
        np.testing.assert_array_equal(np.float32(found["thresholds"]), model.thresholds.numpy())
        assert found["provenance"] == model.provenance
        assert found["parity"]["source"].endswith(" photos of the val split")
        assert found["parity"]["agreement"] >= 0.99 and found["parity"]["f1"] > 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert found["parity"]["reference_f1"] == pytest.approx(metrics["val"]["f1_macro"])
    (entry,) = onnx.load(exported / "model.onnx").graph.input
    sides = entry.type.tensor_type.shape.dim
    assert entry.name == "pixels" and entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert sides[0].dim_param and [side.dim_value for side in sides[1:]] == [16, 16, 3]
    kinds = {node.op_type for node in onnx.load(exported / "model_int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx"])
def test_onnx_scores_are_the_same_bits_in_the_same_batches(exported, make_tree, tmp_path, monkeypatch, name):
    root = make_tree(tmp_path / "photos", *(f"{i:02d}.png" for i in range(11)))
    (root / "03.png").write_bytes(b"no photo")
    check_division(OnnxBackend(exported / name), find_images(str(root)), monkeypatch)
    check_predictor(OnnxBackend(exported / name), find_images(str(root)), monkeypatch)


def test_predictions_are_the_checkpoint_s(exported, run, photos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, ckpt in (("a", run), ("b", exported)):
        arguments = (f"images='{photos}'", f"ckpt='{ckpt}'", f"output={name}.csv", "probabilities=true")
        assert run_script(monkeypatch, "predict", *arguments) == 0
    same_predictions(tmp_path / "a.csv", tmp_path / "b.csv")


def test_a_prediction_with_an_exported_model_imports_no_torch(exported, photos, tmp_path):
    check = (
        "import atexit, runpy, sys\n"
        f"heavy = {HEAVY!r}\n"
        "atexit.register(lambda: print('HEAVY', [n for n in heavy if n in sys.modules], file=sys.stderr))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    photo = sorted(photos.iterdir())[0]
    script = str(REPOSITORY / "scripts" / "predict.py")
    command = [sys.executable, "-c", check, script, f"ckpt={exported / 'model.onnx'}", f"images='{photo}'"]
    done = subprocess.run(
        [*command, "output=p.csv"], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0 and done.stderr.strip().endswith("HEAVY []"), done.stderr
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 2


def test_a_format_that_decides_otherwise_is_not_kept(run, exported, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported, "again")
    arguments = ("export", f"ckpt={run}", "output=again", "formats=[int8,onnx]")
    monkeypatch.setattr(parity, "MIN_AGREEMENT", 1.01)
    assert run_script(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert "error: int8 does not decide like the checkpoint and was not kept (agreement " in said.err
    assert "model.onnx" in said.out and "Traceback" not in said.err
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["model.onnx"]
    monkeypatch.setattr(exporting, "TOLERANCE", -1)
    assert run_script(monkeypatch, *arguments) == 2
    assert "onnx: scores differ from the checkpoint's by up to" in capsys.readouterr().err
    assert list((tmp_path / "again").iterdir()) == []


def test_a_checkpoint_without_its_run_is_compared_on_made_up_pixels(run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(run / "checkpoints" / "best.ckpt", "alone.ckpt")
    assert run_script(monkeypatch, "export", "ckpt=alone.ckpt", "output=.", "formats=[onnx,int8]") == 2
    said = capsys.readouterr()
    assert (
        "Checked on 64 made-up images" in said.out
        and "give the folder of a run with some, ckpt=RUN" in said.err
    )
    assert (tmp_path / "model.onnx").is_file() and not (tmp_path / "model_int8.onnx").exists()


def test_heads_are_exported_too(tmp_path, monkeypatch):
    data = f"data.root={make_folders(tmp_path / 'photos', each=4)}"
    run = trained(tmp_path, data, *FAST, "trainer.max_epochs=1")
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "export", f"ckpt={run}", "output=out", "formats=[onnx]") == 0
    backend = OnnxBackend(tmp_path / "out" / "model.onnx")
    assert backend.thresholds is None and backend.metadata["parity"]["max_difference"] < 1e-5
    scores = backend.scores(np.zeros((2, 16, 16, 3), np.uint8))
    np.testing.assert_allclose(scores.sum(1), 2, atol=1e-5)


def test_photos_that_are_gone_are_one_line(run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    (tmp_path / "run" / ".hydra" / "data_root.txt").write_text("nowhere\n")
    assert run_script(monkeypatch, "export", "ckpt=run", "output=out") == 2
    assert "name their folder with root=" in capsys.readouterr().err
    assert run_script(monkeypatch, "export", "ckpt=run", "output=out", f"root={tmp_path}") == 2
    assert "no such file; the run's photos are needed" in capsys.readouterr().err


def test_metadata_of_a_newer_version_are_refused(exported, tmp_path):
    with pytest.raises(InputError, match=r"exported by a newer Corbel \(schema 99"):
        OnnxBackend(changed(exported, tmp_path, schema=99))


@pytest.mark.parametrize("sizes", ["known", "of an older file"])
def test_an_exported_file_knows_what_it_was_trained_on(exported, run, photos, tmp_path, caplog, sizes):
    model = exported / "model.onnx"
    if sizes != "known":
        provenance = {**OnnxBackend(model).metadata["provenance"]}
        del provenance["train_sizes"]
        model = changed(exported, tmp_path, provenance=provenance)
    predictor, found = Predictor.load(model), find_images(str(photos))
    with caplog.at_level("WARNING"):
        list(predictor.rows(found))
    with open(run / "train_metadata.csv", newline="") as file:
        count = len(list(csv.DictReader(file)))
    assert f"{count} of {len(found)} photos were in this model's training split" in caplog.text


def test_damaged_and_foreign_files_are_refused(exported, tmp_path):
    whole, path = (exported / "model.onnx").read_bytes(), tmp_path / "damaged.onnx"
    foreign = onnx.load_from_string(whole)
    onnx.checker.check_model(foreign)
    del foreign.metadata_props[:]
    for content in (whole[:2000], whole[:-2000], b"", foreign.SerializeToString()):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            load_backend(str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "torch"}, "backend=torch: .* is an ONNX file"),
        ({"device": "mps"}, "device=mps: .*choices: "),
        ({"device": "cuda"}, "device=cuda: this ONNX Runtime has"),
        ({"precision": "bf16"}, "precision= and compile= are for checkpoints"),
    ],
)
def test_options_that_an_exported_model_does_not_take(exported, monkeypatch, options, words):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match=words):
        load_backend(str(exported), **options)


def test_without_onnx_runtime_the_line_names_the_extra(exported, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name in ("onnxruntime", "onnx"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r'pip install -e "\.\[onnx\]"'):
        OnnxBackend(exported / "model.onnx")
    with pytest.raises(InputError, match=r'pip install -e "\.\[onnx\]"'):
        exporting.check_formats(["int8"])


@pytest.mark.parametrize(
    ("error", "words", "stays"),
    [
        (InputError("photos are gone"), "photos are gone", False),
        (
            OSError(28, "No space left on device"),
            r"model.onnx could not .* an earlier file, .* is still",
            True,
        ),
    ],
)
def test_an_earlier_file_stays_only_where_the_disk_refuses(tmp_path, monkeypatch, error, words, stays):
    exporter = object.__new__(exporting.Exporter)
    exporter.folder, file = tmp_path, tmp_path / "model.onnx"
    file.write_bytes(b"")
    monkeypatch.setattr(exporter, "_onnx", Mock(side_effect=error), raising=False)
    with pytest.raises(InputError, match=words):
        exporter.write("onnx")
    assert [*tmp_path.iterdir()] == ([file] if stays else [])


def test_formats_of_another_checkpoint_do_not_stay(exported, tmp_path):
    checkpoint = tmp_path / "other.ckpt"
    checkpoint.write_bytes(b"another checkpoint")
    folder = shutil.copytree(exported, tmp_path / "model")
    with pytest.raises(InputError, match=r"model_int8.onnx.* in it would stay, of another checkpoint"):
        exporting.check_folder(folder, ["onnx"], checkpoint)
    exporting.check_folder(folder, list(exporting.FILES), checkpoint)
    assert OnnxBackend(folder / "model.onnx").metadata["checkpoint"]["sha256"]


def test_decisions_at_a_threshold_are_excused_but_not_where_all_scores_crowd():
    model = SimpleNamespace(task="multilabel", thresholds=torch.tensor([1e-9, 0.5]))
    checked = SimpleNamespace(targets=None, source="made-up photos")
    reference = np.float32([[2e-9, 0.5], [2e-9, 0.9]])
    scores = np.float32([[0, 0.49999], [0, 0.9]])
    assert compare_scores(model, reference, scores, checked).agreement == 0.5
