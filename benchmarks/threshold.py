"""F1-optimal thresholds: ours beside a loop of scikit-learn's curve over the labels."""

from functools import partial

import numpy as np
from sklearn.metrics import precision_recall_curve

from benchmarks.harness import Work
from src.decisions.thresholds import tune_thresholds

SHARES = np.geomspace(0.003, 0.35, 20)  # of photos with a label, from rare to common
Scored = tuple[np.ndarray, np.ndarray]


def scored(photos: int) -> Scored:
    """Return scores float32 `[photos, 20]` of a fair model, and targets."""
    rng = np.random.default_rng(0)
    targets = rng.random((photos, len(SHARES))) < SHARES
    logits = rng.normal(0, 1.2, targets.shape) + np.where(targets, 1, -2)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), targets


def curves(given: Scored) -> np.ndarray:
    """Return thresholds by scikit-learn: of the best F1 the nearest to 0.5, then the higher one."""
    best = []
    for scores, targets in zip(given[0].T, given[1].T, strict=True):
        precision, recall, thresholds = precision_recall_curve(targets, scores)
        positives = targets.sum()
        right = np.rint(recall[:-1] * positives)  # counts again, so that ties are exact
        predicted = np.where(right > 0, np.rint(right / np.maximum(precision[:-1], 1e-12)), 1)
        f1 = 2 * right / (predicted + positives)
        winners = thresholds[f1 == f1.max()].astype(np.float64)
        apart = np.abs(winners - 0.5)
        best.append(winners[apart == apart.min()].max())
    return np.float32(best)


def ours(given: Scored) -> np.ndarray:
    """Return thresholds as Corbel tunes them."""
    return tune_thresholds(*given)


def identical(results: dict[str, np.ndarray]) -> bool:
    """Whether all thresholds are the same numbers."""
    return np.array_equal(results["naive"], results["ours"])


WORKS = [
    Work(
        f"thresholds of {photos:,} photos x 20 labels, beside precision_recall_curve",
        partial(scored, photos), {"naive": curves, "ours": ours}, identical,
    )
    for photos in (100_000, 1_000_000)
]  # fmt: skip
