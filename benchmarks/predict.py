"""From photos to a CSV of predictions: ours beside a plain script, and beside what no way can avoid."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain
from benchmarks.harness import BENCH, BOTH, Work, threads
from benchmarks.photos import drawn
from benchmarks.trained import checkpoint, exported
from src.inference import Photo, Predictor
from src.inference.output import write_rows
from src.models import PhotoClassifier, load_model
from src.parallel import bounded_map
from src.preprocess import Preprocess

COUNTS = {(3000, 2000): 64, (4000, 3000): 48}
BATCH = 16
TOLERANCE, NEAR = 1e-4, 0.02  # of a score: between backends; to its threshold


@dataclass(frozen=True)
class Given:
    """Photos, the trained classifier, and Corbel's way to run it on as many threads as the side may use."""

    photos: list[Path]
    model: PhotoClassifier
    predictor: Predictor


def given(width: int, height: int, count: int) -> Given:
    """Return photos of that size, and the model loaded."""
    model = load_model(checkpoint())
    workers = threads() if threads() > 1 else 0
    return Given(
        drawn(width, height, count), model, Predictor.load(exported(), batch_size=BATCH, num_workers=workers)
    )


def eager(model: PhotoClassifier) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the scores of normalised images as a plain script computes them, in NCHW."""
    backbone = model.backbone.to(memory_format=torch.contiguous_format)
    heads = [model.get_submodule(f"head_{kind}") for kind in model.labels.kinds]

    def forward(image: torch.Tensor) -> torch.Tensor:
        features = backbone(image)
        return torch.cat([head(features) for head in heads], 1).sigmoid()

    return forward


def script(given: Given, read: plain.Read = plain.decoded_in_full) -> np.ndarray:
    """Predict as a plain script does; return the scores."""
    labels, thresholds = list(given.model.labels.names), given.model.thresholds.numpy()
    output = BENCH / "predict_naive.csv"
    return plain.predict(eager(given.model), labels, thresholds, given.photos, output, read)


def ours(given: Given) -> Path:
    """Predict with Corbel; return the CSV."""
    output = BENCH / "predict_ours.csv"
    photos = [Photo(path.stem, path.name, path) for path in given.photos]
    rows = given.predictor.rows(photos, probabilities=True)
    write_rows(output, given.predictor.columns(probabilities=True), rows)
    return output


def limit(given: Given) -> list[np.ndarray]:
    """Decode each photo once and run the model on it once, on all cores; write nothing."""
    preprocess, backend = given.predictor.preprocess, given.predictor.backend

    def work(batch: list[Path]) -> np.ndarray:
        with backend.one_thread():
            return backend.scores(np.stack([preprocess(path) for path in batch]))

    batches = [given.photos[start : start + BATCH] for start in range(0, len(given.photos), BATCH)]
    with backend.threads_kept():
        return list(bounded_map(work, batches, threads()))


def described(given: Given, result: np.ndarray | Path | list) -> dict:
    """Return the scores; of ours also those of torch from the same pixels, and the thresholds."""
    if isinstance(result, list):
        return {}
    if isinstance(result, np.ndarray):
        return {"photos": len(result), "_scores": result.tolist()}
    with open(result, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = given.model.labels.names
    scores = np.array([[float(row[f"p:{name}"]) for name in names] for row in rows])
    chosen = [[";".join(row[f"{kind}s"] for kind in given.model.labels.kinds).split(";")] for row in rows]
    decided = [[name in row for name in names] for (row,) in chosen]
    torch_scores = script(given, read=Preprocess.from_dict(given.model.hparams["preprocess"]))
    return {
        "photos": len(rows),
        "to_torch": float(np.abs(scores - torch_scores).max()),
        "_scores": scores.tolist(),
        "_decided": decided,
        "_thresholds": given.model.thresholds.tolist(),
    }


def agree(naive: dict, other: dict) -> bool:
    """Whether scores are torch's, and decisions those of a full decode but for scores near the threshold."""
    full, decided = np.array(naive["_scores"]), np.array(other["_decided"])
    thresholds = np.array(other["_thresholds"])
    if full.shape != decided.shape:
        return False
    clear = np.abs(full - thresholds) > NEAR
    same = (full >= thresholds) == decided
    return bool(same[clear].all()) and other["to_torch"] <= TOLERANCE


WORKS = [
    Work(
        f"{count} photos {width} x {height} to a CSV of predictions",
        f"decisions of a full decode but within {NEAR} of a threshold, scores of torch to {TOLERANCE:g}",
        partial(given, width, height, count), script, ours, described, agree, threads=BOTH, limit=limit,
        packages=("torch", "onnxruntime", "pillow", "numpy"), goal_wall=goal, most_limit=1.2,
    )
    for ((width, height), count), goal in zip(COUNTS.items(), (2.5, 3.2), strict=True)
]  # fmt: skip


def remarks(rows: list[dict]) -> list[str]:
    """Return photos per second on all cores."""
    return [
        f"{row['work']}: "
        + ", ".join(
            f"{side} {row[side]['result'].get('photos', count) / row[side]['wall_s']['median']:.1f} photos/s"
            for side in ("naive", "ours", "limit")
        )
        for row, count in zip(rows, COUNTS.values(), strict=True)
    ]
