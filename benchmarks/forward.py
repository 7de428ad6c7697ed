"""One forward pass of a batch on two threads: ONNX Runtime, float32 and int8, beside eager torch."""

import json
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import onnxruntime
import torch

from benchmarks.harness import Work
from benchmarks.photos import drawn
from benchmarks.predict import eager
from benchmarks.trained import LITE0, RESNET18, checkpoint, exported, run_of
from src.inference.parity import Parity, check_int8_parity, compared, scores_of, validation_photos
from src.inference.torch_backend import TorchBackend
from src.models import PhotoClassifier, load_model
from src.models.backbones import backbone_defaults
from src.preprocess import Preprocess

BATCH, BATCHES, THREADS = 8, 20, 2
NAMES = {RESNET18: "ResNet18", LITE0: "EfficientNet-Lite0"}
TOLERANCE = 1e-4  # of a score


@dataclass(frozen=True)
class Given:
    """A batch of resized photos uint8 `[8, H, W, 3]`, the model in torch, and its exported file."""

    pixels: np.ndarray
    model: PhotoClassifier
    session: onnxruntime.InferenceSession


def given(backbone: str, name: str) -> Given:
    """Return a batch and both models, loaded."""
    torch.set_num_threads(THREADS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    file = str(exported(name, backbone))
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    model = load_model(checkpoint(backbone))
    preprocess = Preprocess.from_dict(model.hparams["preprocess"])
    pixels = np.stack([preprocess(path) for path in drawn(1600, 1200, BATCH)])
    for warm in (in_torch, in_onnx):
        warm(Given(pixels, model, session), 2)
    return Given(pixels, model, session)


def in_torch(given: Given, times: int = BATCHES) -> np.ndarray:
    """Compute the scores of the batch with eager torch in NCHW, again and again."""
    forward = eager(given.model)
    image = torch.from_numpy(given.pixels).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        for _ in range(times):
            found = forward((image.float() / 255 - given.model.mean) / given.model.std)
    return found.numpy()


def in_onnx(given: Given, times: int = BATCHES) -> np.ndarray:
    """Compute the same with ONNX Runtime."""
    for _ in range(times):
        found = given.session.run(None, {given.session.get_inputs()[0].name: given.pixels})[0]
    return found


def as_scores(given: Given, scores: np.ndarray) -> dict:
    """Return the scores, and the parity that the export found and keeps in the file."""
    parity = json.loads(given.session.get_modelmeta().custom_metadata_map["parity"])
    return {"parity": parity, "scores": scores.tolist()}


def close(naive: dict, other: dict) -> bool:
    """Whether the scores agree to 1e-4."""
    return float(np.abs(np.array(naive["scores"]) - np.array(other["scores"])).max()) <= TOLERANCE


def on_validation(given: Given, _: np.ndarray) -> dict:
    """Return how the exported model compares with its checkpoint on the validation photos."""
    backbone = given.model.hparams["backbone"]
    backend = TorchBackend(load_model(checkpoint(backbone)), "cpu")
    checked = validation_photos(run_of(backbone), None, backend.model)
    reference = scores_of(backend.scores, checked.pixels, backend)
    found = scores_of(lambda pixels: in_onnx(replace(given, pixels=pixels), 1), checked.pixels, backend)
    return {"parity": asdict(compared(backend.model, reference, found, checked))}


def as_good(_: dict, other: dict) -> bool:
    """Whether decisions and F1 pass the gate of exports."""
    return check_int8_parity(Parity(**other["parity"])) is None


def work(backbone: str, name: str, goal: float | None) -> Work:
    """Return the work of one exported file."""
    int8 = name == "model_int8.onnx"
    words = "99 % of decisions, F1 within half a point" if int8 else f"scores to {TOLERANCE:g}"
    size = backbone_defaults(backbone)["image_size"]
    return Work(
        f"{BATCHES} forward passes of {NAMES[backbone]}, batch {BATCH}, {size} px, {name} beside eager torch",
        words, partial(given, backbone, name), in_torch, in_onnx,
        on_validation if int8 else as_scores, as_good if int8 else close,
        threads=(THREADS,), packages=("torch", "onnxruntime"), goal_wall=goal,
    )  # fmt: skip


WORKS = [
    work(RESNET18, "model.onnx", 1.7),
    work(RESNET18, "model_int8.onnx", 3),
    work(LITE0, "model.onnx", None),
    work(LITE0, "model_int8.onnx", None),
]


def remarks(rows: list[dict]) -> list[str]:
    """Return photos per second of each file and of eager torch beside it, and the file's parity."""
    said = []
    for row in rows:
        torch_rate, rate = (BATCH * BATCHES / row[side]["wall_s"]["median"] for side in ("naive", "ours"))
        parity = Parity(**row["ours"]["result"]["parity"])
        said.append(
            f"{row['work']}: {rate:.1f} photos/s (eager torch {torch_rate:.1f}); on {parity.source} "
            f"scores within {parity.max_difference:.1e}, {parity.agreement:.2%} of decisions, "
            f"macro-F1 {parity.f1:.4f} ({parity.reference_f1:.4f})"
            + ("" if row["equal"] else "; the export refuses such a file")
        )
    return said
