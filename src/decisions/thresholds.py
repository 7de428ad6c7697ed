"""Search of the decision thresholds of `multilabel` for the best F1."""

import numpy as np

from src.errors import InputError, did_you_mean
from src.labels import DEFAULT

METHODS = ("pr_curve", "grid")
GRID = np.linspace(0, 1, 41, dtype=np.float32)[1:]  # without 0, which says yes to everything
ROOM = 1e-4  # of a score


def tune_thresholds(
    scores: np.ndarray,
    targets: np.ndarray,
    method: str = "pr_curve",
    min_positives: int = 1,
    clamp_above: float | None = None,
    clamp_to: float = DEFAULT,
) -> np.ndarray:
    """Return the threshold of each label that maximises its F1, for the rule `score >= threshold`.

    Of thresholds with equal F1 the one nearest to 0.5 is taken, which moves least from the default without a
    reason, and of two equally near the higher one, which raises fewer false alarms. A label without
    positives, or with positives only, says nothing about where to cut: it gets 0.5. With a few positives it
    says little, and where the ranking is poor the best F1 may be that of saying yes to everything (Lipton et
    al., 2014, Optimal thresholding of classifiers to maximize F1).

    Args:
        scores: Probabilities of shape `[photos, labels]`; compared as float32, whatever their type.
        targets: 0 or 1 (or booleans) of the same shape.
        method: `pr_curve` looks at every score that occurs and is exact: the result is one of the scores, bit
            for bit, so that `>=` accepts the photo that set it. `grid` looks at 0.025, 0.05, ..., 1.
        min_positives: A label with fewer positive photos gets 0.5, too.
        clamp_above: Tuned thresholds above this become `clamp_to`; None keeps them all. A rule that teams use
            against thresholds set by very few positives.
        clamp_to: see `clamp_above`.

    Returns:
        float32 of shape `[labels]`; 0.5 throughout where there are no photos.

    Raises:
        InputError: for an unknown method.
        ValueError: for shapes that do not fit, or NaN among the scores.
    """
    if method not in METHODS:
        raise InputError(f"unknown threshold method '{method}': {did_you_mean(str(method), METHODS)}")
    scores, positive = np.asarray(scores, np.float32), np.asarray(targets).astype(bool)
    if scores.ndim != 2 or scores.shape != positive.shape or np.isnan(scores).any():
        raise ValueError(f"scores {scores.shape}, targets {positive.shape}: not [photos, labels] without NaN")
    thresholds = np.full(scores.shape[1], DEFAULT, np.float32)
    for label, (own_scores, own_positive) in enumerate(zip(scores.T, positive.T, strict=True)):
        if max(1, min_positives) <= np.count_nonzero(own_positive) < len(own_positive):
            best = _best_f1(own_scores, own_positive, method)
            high = clamp_above is not None and best > np.float32(clamp_above)
            thresholds[label] = clamp_to if high else best
    return thresholds


def _best_f1(scores: np.ndarray, positive: np.ndarray, method: str) -> np.float32:
    """Return the best threshold of one label with positives and negatives; both arrays `[photos]`.

    Precision and recall follow from one sort, as in scikit-learn's `precision_recall_curve`.
    """
    order = np.argsort(scores)
    ordered, hits = scores[order], np.concatenate(([0], np.cumsum(positive[order])))
    thresholds = GRID if method == "grid" else np.unique(ordered)
    first = np.searchsorted(ordered, thresholds)
    predicted, right = len(ordered) - first, hits[-1] - hits[first]
    # equal fractions of such integers give equal floats, so ties are exact
    f1 = 2 * right / (predicted + hits[-1])
    best = thresholds[f1 == f1.max()].astype(np.float64)
    nearest = np.abs(best - DEFAULT)
    return np.float32(best[nearest == nearest.min()].max())


def with_room(thresholds: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return thresholds below the scores that set them: by `ROOM`, or half the way to the next.

    Every decision on `scores` stays. A threshold that is a photo's score would refuse that photo wherever
    another batch size, backend or machine gives the score other last digits.

    Args:
        thresholds: from `tune_thresholds`, shape `[labels]`.
        scores: the scores that they were tuned on, shape `[photos, labels]`.
    """
    scores, lowered = np.asarray(scores, np.float32), np.array(thresholds, np.float32)
    for label, threshold in enumerate(lowered):
        own = scores[:, label]
        if threshold != DEFAULT and (own == threshold).any():
            below = own[own < threshold].max(initial=0)
            lower = np.float32(threshold - min(ROOM, (threshold - below) / 2))
            lowered[label] = lower if lower > below else threshold
    return lowered
