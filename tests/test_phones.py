"""Files for phones: Core ML's is checked as far as it can be here, TFLite's decides like its checkpoint."""

import json
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from src.errors import InputError
from src.inference import export as exporting
from src.inference import phones, tflite_backend
from src.inference.parity import scores_of
from src.inference.predictor import Predictor, load_backend
from src.inference.tflite_backend import TfliteBackend, parted, write_tflite_metadata
from src.inference.torch_backend import TorchBackend
from src.models.checkpoint import load_model
from tests.made import run_script

REAL = phones.CONVERTER
KEYS = {
    "schema",
    "task",
    "labels",
    "preprocess",
    "thresholds",
    "calibration",
    "limits",
    "provenance",
    "checkpoint",
}


@pytest.fixture
def coreml():
    return pytest.importorskip("coremltools", reason="the extra coreml is not installed")


@pytest.fixture(scope="module")
def litert():
    """The package's schema of TFLite files, as its classes."""
    pytest.importorskip("ai_edge_litert", reason="the extra tflite is not installed")
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@pytest.fixture(scope="module")
def backend(run):
    return TorchBackend(load_model(run / "checkpoints" / "best.ckpt"), "cpu")


def graph(schema, labels: int) -> bytes:
    """A TFLite file of a photo's mean colour, one linear layer and a sigmoid."""
    import flatbuffers

    rng, buffers = np.random.default_rng(0), [schema.BufferT()]
    types = schema.TensorType

    def tensor(name, shape, kind, values=None):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, 0
        if values is not None:
            buffers.append(schema.BufferT())
            buffers[-1].data, made.buffer = np.frombuffer(values.tobytes(), np.uint8), len(buffers) - 1
        return made

    weights = rng.normal(0, 0.02, (labels, 3)).astype(np.float32)
    part = schema.SubGraphT()
    part.tensors = [
        tensor("pixels", [1, 16, 16, 3], types.UINT8),
        tensor("cast", [1, 16, 16, 3], types.FLOAT32),
        tensor("axes", [2], types.INT32, np.int32([1, 2])),
        tensor("mean", [1, 3], types.FLOAT32),
        tensor("weights", [labels, 3], types.FLOAT32, weights),
        tensor("logits", [1, labels], types.FLOAT32),
        tensor("probabilities", [1, labels], types.FLOAT32),
    ]
    steps = (("CAST", [0], 1), ("MEAN", [1, 2], 3), ("FULLY_CONNECTED", [3, 4, -1], 5), ("LOGISTIC", [5], 6))
    options = {"MEAN": "Reducer", "FULLY_CONNECTED": "FullyConnected"}
    model = schema.ModelT()
    part.operators, model.operatorCodes = [], []
    for place, (name, inputs, output) in enumerate(steps):
        code, step = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        step.opcodeIndex, step.inputs, step.outputs = place, inputs, [output]
        if name in options:
            step.builtinOptionsType = getattr(schema.BuiltinOptions, f"{options[name]}Options")
            step.builtinOptions = getattr(schema, f"{options[name]}OptionsT")()
        model.operatorCodes.append(code)
        part.operators.append(step)
    part.inputs, part.outputs = [0], [6]
    model.version, model.subgraphs, model.buffers = 3, [part], buffers
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture
def file(litert, backend, run, tmp_path):
    """A TFLite file with the metadata of the run."""
    path = tmp_path / "model.tflite"
    path.write_bytes(graph(litert, len(backend.labels)))
    write_tflite_metadata(path, exporting.metadata_of(backend, run / "checkpoints" / "best.ckpt"))
    return path


@pytest.fixture
def converter(litert, backend, monkeypatch, tmp_path):
    """A converter that gives the same graph for every model; it fails where that is gone."""
    made = tmp_path / "graph.tflite"
    made.write_bytes(graph(litert, len(backend.labels)))
    script = tmp_path / "converter.py"
    script.write_text(
        # as pip writes it: the path of the interpreter may have a space
        f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\nimport pathlib, shutil, sys\n"
        "source, folder = map(pathlib.Path, (sys.argv[sys.argv.index(o) + 1] for o in ('-i', '-o')))\n"
        "folder.mkdir()\n"
        f"shutil.copy({str(made)!r}, folder / (source.stem + '_float32.tflite'))\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(phones, "CONVERTER", script)
    monkeypatch.setattr(exporting, "CONVERTER", script)
    return made


def export(monkeypatch, run, *arguments: str) -> int:
    return run_script(monkeypatch, "export", f"ckpt={run}", "output=out", *arguments)


def test_a_core_ml_package_is_what_the_documents_promise(coreml, run, backend, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "coreml_scores", lambda *_: None)
    assert export(monkeypatch, run, "formats=[coreml]") == 0
    said = capsys.readouterr()
    assert "MB  not compared here: Core ML runs on a Mac only  out/model.mlpackage" in said.out
    assert "Checked on" not in said.out and "predict.py" not in said.out and said.err == ""
    assert [path.name for path in Path("out").iterdir()] == ["model.mlpackage"]
    spec = coreml.utils.load_spec("out/model.mlpackage")
    (taken,), (given,) = spec.description.input, spec.description.output
    assert (taken.name, taken.type.imageType.height, taken.type.imageType.width) == ("pixels", 16, 16)
    assert (given.name, list(given.type.multiArrayType.shape)) == ("probabilities", [1, len(backend.labels)])
    assert spec.specificationVersion == 7 and spec.mlProgram.functions["main"].opset == "CoreML6"
    found = {k: json.loads(v) for k, v in spec.description.metadata.userDefined.items() if "." not in k}
    wanted = json.loads(json.dumps(exporting.metadata_of(backend, run / "checkpoints" / "best.ckpt")))
    assert found.keys() >= KEYS and {key: found[key] for key in wanted} == wanted
    assert found["parity"]["photos"] == 0 and found["parity"]["max_difference"] is None


def test_on_a_mac_a_core_ml_package_is_compared(coreml, run, backend, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "coreml_scores", lambda _, pixels: scores_of(backend, pixels) + 1e-6)
    assert export(monkeypatch, run, "formats=[coreml]") == 0
    assert "agreement 1.0000  macro-F1" in capsys.readouterr().out
    assert export(monkeypatch, run, "formats=[coreml]") == 0  # in the place of the earlier one
    monkeypatch.setattr(exporting, "coreml_scores", lambda _, pixels: scores_of(backend, pixels) + 0.1)
    assert export(monkeypatch, run, "formats=[coreml]") == 2
    assert "coreml: scores differ from the checkpoint's by up to 0.1 " in capsys.readouterr().err
    assert list(Path("out").iterdir()) == []


def test_core_ml_takes_the_pixels_as_images(coreml, monkeypatch):
    class Model:
        def __init__(self, path, compute_units):
            assert compute_units == coreml.ComputeUnit.CPU_ONLY

        def predict(self, inputs):
            return {"probabilities": np.asarray(inputs["pixels"])[:1, 0] / 255}

    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    monkeypatch.setattr(coreml.models, "MLModel", Model)
    monkeypatch.setattr(phones.sys, "platform", "darwin")
    np.testing.assert_allclose(phones.coreml_scores(Path("m"), pixels), pixels[:, 0, 0] / 255, atol=1e-6)
    monkeypatch.setattr(phones.sys, "platform", "linux")
    assert phones.coreml_scores(Path("m"), pixels) is None


def test_a_model_that_core_ml_cannot_have_is_one_line(coreml):
    class Odd(nn.Module):
        def forward(self, image):
            return torch.special.i0e(image).mean((2, 3))

    with pytest.raises(InputError, match=r"^coreml: coremltools cannot convert this model \([^\n]+\)$"):
        phones.coreml_package(Odd(), (8, 8))


def test_without_the_converter_the_line_names_the_target(litert, run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "CONVERTER", tmp_path / "nowhere")
    assert export(monkeypatch, run, "formats=[onnx,tflite]") == 2
    assert "error: formats: tflite needs a converter in an environment of its own: make tflite-env" in (
        capsys.readouterr().err
    )
    assert not Path("out").exists()


def test_a_tflite_file_that_scores_otherwise_is_not_kept(converter, run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert export(monkeypatch, run, "formats=[tflite]") == 2
    assert "tflite: scores differ from the checkpoint's by up to" in capsys.readouterr().err
    assert list(Path("out").iterdir()) == []
    converter.unlink()
    assert export(monkeypatch, run, "formats=[tflite]") == 2
    assert "tflite: onnx2tf cannot convert this model (FileNotFoundError: " in capsys.readouterr().err


def test_a_tflite_file_carries_what_a_prediction_needs(converter, run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "TOLERANCE", 2)
    assert export(monkeypatch, run, "formats=[tflite]") == 0
    assert "predict.py ckpt=out/model.tflite" in capsys.readouterr().out
    with zipfile.ZipFile("out/model.tflite") as archive:
        found = json.loads(archive.read("corbel.json"))
    assert found.keys() >= KEYS and found["parity"]["photos"] > 0 and found["precision"] == "fp32"
    assert Path("out/model.tflite").read_bytes().startswith(converter.read_bytes())
    assert len(Predictor.load("out").predict(Image.new("RGB", (8, 8))).labels) == 2


def test_every_thread_has_an_interpreter_and_the_same_scores(file):
    backend = TfliteBackend(file)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    alone = backend.scores(pixels)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(backend.scores, [pixels] * 8):
            np.testing.assert_array_equal(found, alone)
    np.testing.assert_array_equal(backend.scores(pixels, 5), alone[:5])
    assert backend.scores(pixels, 0).shape == (0, len(backend.labels)) and len(np.unique(alone)) > 12
    assert backend.maps(pixels)[1] is None


def test_damaged_or_foreign_tflite_files_are_refused(file):
    whole = file.read_bytes()
    model, metadata = parted(whole)
    write_tflite_metadata(file, metadata)
    assert file.read_bytes() == whole  # written again, it is the same
    text = whole.index(b'"task"')
    for damaged in (
        *(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in (*range(0, len(model), 97), text)),
        model,
        whole[:900],
        b"",
    ):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="not exported by Corbel, damaged, or changed"):
            load_backend(file)
    file.write_bytes(model)
    write_tflite_metadata(file, metadata | {"schema": 99})
    with pytest.raises(InputError, match=r"exported by a newer Corbel \(schema 99"):
        load_backend(file)


@pytest.mark.parametrize("options", [{"backend": "onnx"}, {"device": "cuda"}, {"precision": "16"}])
def test_options_that_a_tflite_file_does_not_take(file, options):
    with pytest.raises(InputError, match=r"model.tflite: a TFLite file runs on the CPU, as it was exported"):
        load_backend(file, **options)


def test_without_litert_the_line_names_the_extra(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(InputError, match=r'a TFLite file needs LiteRT: .*pip install -e "\.\[tflite\]"'):
        TfliteBackend(file)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(InputError, match=r'tflite needs more packages: .*pip install -e "\.\[tflite\]"'):
        exporting.check_formats(["tflite"])


def test_files_for_phones_of_another_checkpoint_do_not_stay(coreml, run, file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "coreml_scores", lambda *_: None)
    assert export(monkeypatch, run, "formats=[coreml]") == 0
    shutil.copy(file, "out")
    exporting.check_folder(Path("out"), ["onnx"], run / "checkpoints" / "best.ckpt")
    Path("other.ckpt").write_bytes(b"another checkpoint")
    with pytest.raises(InputError, match=r"model.mlpackage, model.tflite in it would stay"):
        exporting.check_folder(Path("out"), ["onnx"], Path("other.ckpt"))


@pytest.mark.skipif(not REAL.is_file(), reason="no converter here: make tflite-env")
def test_a_converted_model_scores_like_its_checkpoint(litert, run, backend, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert export(monkeypatch, run, "formats=[tflite]") == 0
    assert "agreement 1.0000" in capsys.readouterr().out
    converted = TfliteBackend(tmp_path / "out" / "model.tflite")
    assert converted.metadata["parity"]["max_difference"] < 1e-4
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(converted.scores(pixels), backend.scores(pixels), atol=1e-5)
    assert tflite_backend.ENTRY in zipfile.ZipFile(tmp_path / "out" / "model.tflite").namelist()
