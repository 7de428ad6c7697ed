"""From photos to a CSV of predictions: an exported model against a plain script on its checkpoint."""

import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain
from benchmarks.harness import BENCH, BOTH, REPOSITORY, Work, close, threads
from benchmarks.photos import drawn
from src.files import file_digest
from src.inference.batches import Photo
from src.inference.predictor import Predictor
from src.models.checkpoint import load_model
from src.models.classifiers import PhotoClassifier

BATCH = 16
same_scores = partial(close, tolerance=1e-4)  # as those of torch from the same pixels
RUN = BENCH / "trained"
# all layers from random weights: ImageNet weights of a ResNet18 would be a download
TRAINING = ("scripts/train.py", "model=multilabel", "callbacks.figures=null", "experiment=demo_scratch",
            "preprocess.image_size=224", "trainer.max_epochs=6", f"hydra.run.dir={RUN}")  # fmt: skip


@dataclass(frozen=True)
class Given:
    """Photos, a classifier for the plain script, and Corbel's way to run it."""

    photos: list[Path]
    model: PhotoClassifier
    predictor: Predictor
    device: str = "cpu"


def checkpoint() -> Path:
    """Return the checkpoint of a ResNet18; the first call trains it on the demo set, some six minutes."""
    if not (RUN / "metrics.json").is_file():
        _python(*TRAINING)
    return RUN / "checkpoints" / "best.ckpt"


def exported() -> Path:
    """Return the exported file of that checkpoint."""
    file = BENCH / "exported" / "model.onnx"
    digest = file_digest(checkpoint())  # an earlier file may be of another training
    if not (file.is_file() and digest.encode() in file.read_bytes()):
        _python("scripts/export.py", f"ckpt={RUN}", "formats=[onnx]", f"output={file.parent}")
    return file


def _python(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: {done.stderr.strip()}")


def given(width: int, height: int, count: int) -> Given:
    """Return photos of that size, and the model loaded."""
    workers = threads() if threads() > 1 else 0
    predictor = Predictor.load(exported(), batch_size=BATCH, num_workers=workers)
    return Given(drawn(width, height, count), load_model(checkpoint()), predictor)


def eager(model: PhotoClassifier) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the scores of normalised images as a plain script computes them, in NCHW."""
    backbone = model.backbone.to(memory_format=torch.contiguous_format)
    heads = {kind: model.get_submodule(f"head_{kind}") for kind in model.labels.kinds}

    def forward(image: torch.Tensor) -> torch.Tensor:
        features = backbone(image)
        return model.probabilities({kind: head(features) for kind, head in heads.items()})

    return forward


def naive(given: Given, read: plain.Read = plain.decoded_in_full) -> np.ndarray:
    """Predict as a plain script does, on a GPU with worker processes; return the scores."""
    thresholds = given.model.thresholds.cpu().numpy().copy()
    forward, device = eager(given.model.to(given.device)), given.device
    files, workers = (given.photos, BENCH / "naive.csv"), 0 if device == "cpu" else threads()
    return plain.predict(lambda image: forward(image.to(device)).cpu(), thresholds, *files, read, workers)


def ours(given: Given) -> list[dict[str, str]]:
    """Predict with Corbel into a CSV; return its rows."""
    photos = [Photo(path.stem, path.name, path.parent) for path in given.photos]
    rows = [row for part in given.predictor.rows(photos, probabilities=True) for row in part]
    with open(BENCH / "ours.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, given.predictor.columns(probabilities=True))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def described(given: Given, result: np.ndarray | list[dict[str, str]] | dict) -> dict:
    """Return scores `[photos, labels]`; a dictionary as it is."""
    if isinstance(result, list):
        result = np.array([[float(row[f"p:{name}"]) for name in given.model.labels.names] for row in result])
    return result if isinstance(result, dict) else {"_scores": result}


WORKS = [
    Work(
        f"{count} photos {width} x {height} to a CSV of predictions", partial(given, width, height, count),
        {"reference": partial(naive, read=plain.our_decoder), "naive": naive, "ours": ours},
        same_scores, described, threads=BOTH,
    )
    for (width, height), count in {(3000, 2000): 64, (4000, 3000): 48}.items()
]  # fmt: skip
