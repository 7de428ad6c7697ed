"""One forward pass of a batch on two threads: ONNX Runtime, float32 and int8, beside eager torch."""

from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import onnxruntime
import torch

from benchmarks.harness import Work
from benchmarks.photos import drawn
from benchmarks.predict import eager
from benchmarks.trained import RUN, checkpoint, exported
from src.inference.parity import Parity, check_int8_parity, compared, scores_of, validation_photos
from src.inference.torch_backend import TorchBackend
from src.models import PhotoClassifier, load_model
from src.preprocess import Preprocess

BATCH, BATCHES, THREADS = 8, 20, 2
TOLERANCE = 1e-4  # of a score


@dataclass(frozen=True)
class Given:
    """A batch of resized photos uint8 `[8, 224, 224, 3]`, the model in torch, and its exported file."""

    pixels: np.ndarray
    model: PhotoClassifier
    session: onnxruntime.InferenceSession


def given(name: str) -> Given:
    """Return a batch and both models, loaded."""
    torch.set_num_threads(THREADS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(exported(name)), options, providers=["CPUExecutionProvider"])
    model = load_model(checkpoint())
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


def as_scores(_: Given, scores: np.ndarray) -> dict:
    """Return the scores."""
    return {"scores": scores.tolist()}


def close(naive: dict, other: dict) -> bool:
    """Whether the scores agree to 1e-4."""
    return float(np.abs(np.array(naive["scores"]) - np.array(other["scores"])).max()) <= TOLERANCE


def on_validation(given: Given, _: np.ndarray) -> dict:
    """Return how the exported model compares with its checkpoint on the validation photos."""
    backend = TorchBackend(load_model(checkpoint()), "cpu")
    checked = validation_photos(RUN, None, backend.model)
    reference = scores_of(backend.scores, checked.pixels, backend)
    found = scores_of(lambda pixels: in_onnx(replace(given, pixels=pixels), 1), checked.pixels, backend)
    return asdict(compared(backend.model, reference, found, checked))


def as_good(_: dict, other: dict) -> bool:
    """Whether decisions and F1 pass the gate of exports."""
    return check_int8_parity(Parity(**other)) is None


def work(name: str, goal: float, words: str, describe, equal) -> Work:
    """Return the work of one exported file."""
    return Work(
        f"{BATCHES} forward passes of ResNet18, batch {BATCH}, 224 px, {name} beside eager torch",
        words, partial(given, name), in_torch, in_onnx, describe, equal, threads=(THREADS,),
        packages=("torch", "onnxruntime"), goal_wall=goal,
    )  # fmt: skip


WORKS = [
    work("model.onnx", 1.7, f"scores to {TOLERANCE:g}", as_scores, close),
    work("model_int8.onnx", 3, "99 % of decisions, F1 within half a point", on_validation, as_good),
]  # fmt: skip
