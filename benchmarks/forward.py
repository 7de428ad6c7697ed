"""One forward pass of a batch on two threads: ONNX Runtime, float32 and int8, beside eager torch."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.harness import Work
from benchmarks.photos import drawn
from benchmarks.predict import eager
from benchmarks.trained import RUN, can_export, checkpoint, exported
from src.models import PhotoClassifier, load_model
from src.preprocess import Preprocess

BATCH, BATCHES, THREADS = 8, 20, 2
AGREEMENT, F1_LOSS, TOLERANCE = 0.99, 0.005, 1e-4


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


def on_validation(given: Given, scores: np.ndarray) -> dict:
    """Return decisions of the validation photos, by the model that gave these scores, and their macro-F1."""
    from sklearn.metrics import f1_score

    from src.decisions.thresholds import apply_thresholds
    from src.inference import find_images

    way = in_torch if np.array_equal(scores, in_torch(given, 1)) else in_onnx
    preprocess = Preprocess.from_dict(given.model.hparams["preprocess"])
    photos = find_images(str(RUN / "val_metadata.csv"))
    found = []
    for start in range(0, len(photos), BATCH):
        pixels = np.stack([preprocess(photo.file) for photo in photos[start : start + BATCH]])
        found.append(way(Given(pixels, given.model, given.session), 1))
    decided = apply_thresholds(np.concatenate(found), given.model.thresholds.numpy())
    targets = targets_of(RUN / "val_metadata.csv", given.model)
    f1 = f1_score(targets, decided, average="macro", zero_division=0.0)
    return {"f1": float(f1), "_decided": decided.tolist()}


def targets_of(table: Path, model: PhotoClassifier) -> np.ndarray:
    """Return multi-hot targets of a split's table, in the order of `find_images`."""
    import pandas as pd

    frame = pd.read_csv(table, dtype=str, keep_default_na=False).sort_values("path")
    rows = frame[list(model.labels.kinds)].itertuples(index=False)
    encoded = [
        model.labels.encode(
            {
                kind: tuple(filter(None, cell.split(";")))
                for kind, cell in zip(model.labels.kinds, row, strict=True)
            }
        )
        for row in rows
    ]
    return np.stack(encoded)


def as_good(naive: dict, other: dict) -> bool:
    """Whether 99 % of the decisions agree, and macro-F1 is no more than half a point lower."""
    agreement = (np.array(naive["_decided"]) == np.array(other["_decided"])).mean()
    return bool(agreement >= AGREEMENT and other["f1"] >= naive["f1"] - F1_LOSS)


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
] if can_export() else []  # fmt: skip
