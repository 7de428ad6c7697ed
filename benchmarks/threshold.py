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


def as_bits(_: Scored, thresholds: np.ndarray) -> dict:
    """Return the thresholds, to the bit."""
    return {"thresholds": [float(threshold).hex() for threshold in thresholds]}


def same(naive: dict, other: dict) -> bool:
    """Whether all thresholds are identical."""
    return naive == other


WORKS = [
    Work(
        f"thresholds of {photos:.0e} photos x 20 labels, beside precision_recall_curve".replace("+0", ""),
        "identical", partial(scored, photos), curves, ours, as_bits, same,
        goal_cpu=8 if photos == 1_000_000 else None, packages=("numpy", "scikit-learn"),
    )
    for photos in (100_000, 1_000_000)
]  # fmt: skip
