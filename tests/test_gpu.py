"""What a GPU computes is what a CPU computes; left out where torch sees none."""

import csv
import json

import numpy as np
import pytest
import torch

from src.inference.predictor import Predictor
from src.inference.torch_backend import TorchBackend
from src.models.base import set_full_precision
from src.models.checkpoint import REGISTRY, load_model
from tests.made import FAST, make_folders, make_table, only_run, run_script

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")
ON_GPU = (*FAST, "trainer.accelerator=gpu", "trainer.max_epochs=3")
LABELS = {"component": ["Bolt", "Plate"], "defect": ["Crack", "Leaks", "Rust"]}
PIXELS = {"image_size": 64, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture(autouse=True)
def full_precision():
    """Compute without TF32, as the scripts do; a run before this one may have left it on."""
    set_full_precision()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return REGISTRY["multilabel"](
        task="multilabel", labels=LABELS, preprocess=PIXELS, backbone="resnet18"
    ).eval()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("gpu") / "photos")


def difference(one, other):
    return np.abs(one - other).max() / np.abs(other).max()


def test_full_precision_is_that_of_a_cpu(resnet, pixels):
    gpu, cpu = Predictor(TorchBackend(resnet)).backend, TorchBackend(resnet, "cpu")
    assert gpu.device.type == "cuda" and gpu.on_gpu
    assert difference(gpu.features(pixels), cpu.features(pixels)) < 1e-5
    assert difference(gpu.scores(pixels), cpu.scores(pixels)) < 1e-5
    assert next(resnet.parameters()).device.type == "cpu"


@pytest.mark.parametrize(("precision", "most"), [("bf16", 2e-2), ("16", 2e-3)])
def test_half_precision_is_near(resnet, pixels, precision, most):
    exact = TorchBackend(resnet, "cpu").scores(pixels)
    assert 1e-6 < difference(TorchBackend(resnet, "cuda", precision).scores(pixels), exact) < most


def test_compiled_scores_are_those_of_eager(resnet, pixels):
    assert difference(
        TorchBackend(resnet, "cuda", compile=True).scores(pixels), TorchBackend(resnet, "cpu").scores(pixels)
    ) < 1e-5  # fmt: skip


def labels_of(rows, *names):
    return {row["ID"]: {*";".join(row[name] for name in names).split(";")} - {""} for row in rows}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_a_run_says_what_its_predictions_say(tmp_path, monkeypatch, task, precision):
    """Thresholds and figures come from full precision, whatever the training computed in."""
    monkeypatch.chdir(tmp_path)
    source = ["data.root=photos"]
    if task == "multilabel":
        make_table(tmp_path)
        source = ["data.csv=image_data.csv", "data.images=images"]
    else:
        make_folders(tmp_path / "photos")
    more = (*ON_GPU, f"trainer.precision={precision}", "data.num_workers=null")
    assert run_script(monkeypatch, "train", f"model={task}", *source, *more) == 0
    run = only_run(tmp_path)
    again = ("predict", f"ckpt={run}", f"images={run / 'test_metadata.csv'}")
    assert run_script(monkeypatch, *again, "output=again.csv") == 0
    assert (tmp_path / "again.csv").read_bytes() == (run / "predictions.csv").read_bytes()
    assert run_script(monkeypatch, *again, "output=cpu.csv", "device=cpu", "probabilities=true") == 0
    metrics = json.loads((run / "metrics.json").read_text())
    with open(tmp_path / "cpu.csv", newline="") as file, open(run / "predictions.csv", newline="") as theirs:
        cpu, own = list(csv.DictReader(file)), list(csv.DictReader(theirs))
    with open(run / "test_metadata.csv", newline="") as file:
        truth = labels_of(csv.DictReader(file), "component", "defect")
    names = ("components", "defects") if task == "multilabel" else ("component", "defect")
    found = labels_of(own, *names)
    assert labels_of(cpu, *names) == found
    right = sum(found[i] == truth[i] for i in truth)
    assert metrics["test"]["exact_match"] == pytest.approx(right / len(truth))


def test_features_are_those_of_a_cpu_and_train_heads(tmp_path, monkeypatch, folders):
    monkeypatch.chdir(tmp_path)
    arguments = (
        "train",
        f"data.root='{folders}'",
        *ON_GPU,
        "model.freeze_backbone=true",
        "data.augment=null",
    )
    curves = []
    for name, cache in (("decoded", "null"), ("kept", "features"), ("again", "features")):
        folder = (f"hydra.run.dir={name}", "data.cache_dir=cache", f"data.cache={cache}")
        assert run_script(monkeypatch, *arguments, *folder) == 0
        with open(tmp_path / name / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        curves.append([[float(row[key]) for key in ("train_loss", "val_loss", "val_f1")] for row in rows])
    assert np.allclose(curves[0], curves[1], atol=1e-4) and curves[1] == curves[2]


def test_a_killed_run_goes_on_and_its_checkpoint_loads_on_a_cpu(tmp_path, monkeypatch, folders):
    monkeypatch.chdir(tmp_path)
    arguments = ("train", f"data.root='{folders}'", *ON_GPU)
    assert run_script(monkeypatch, *arguments, "hydra.run.dir=whole") == 0
    assert run_script(monkeypatch, *arguments, "hydra.run.dir=parts", "trainer.max_epochs=1") == 0
    assert run_script(monkeypatch, "train", "resume=parts", "trainer.max_epochs=3") == 0
    whole, parts = (load_model(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    assert {p.device.type for p in parts.parameters()} == {"cpu"}
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-4), name
    exported = run_script(monkeypatch, "export", "ckpt=whole", "formats=[onnx]", "output=out")
    assert exported == 0 and (tmp_path / "out" / "model.onnx").is_file()


def test_ddp_on_one_gpu_is_the_plain_run(tmp_path, monkeypatch, folders):
    monkeypatch.chdir(tmp_path)
    arguments = ("train", f"data.root='{folders}'", *ON_GPU)
    assert run_script(monkeypatch, *arguments, "hydra.run.dir=plain") == 0
    assert run_script(monkeypatch, *arguments, "hydra.run.dir=ddp", "trainer=ddp", "trainer.devices=1") == 0
    curves = []
    for name in ("plain", "ddp"):
        with open(tmp_path / name / "history.csv", newline="") as file:
            curves.append([float(row["val_loss"]) for row in csv.DictReader(file)])
    assert np.allclose(*curves, rtol=1e-3)
