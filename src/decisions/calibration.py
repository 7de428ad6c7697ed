"""Calibration: scores -> probabilities, by three numbers per label that a buffer `[labels, 3]` holds.

The calibrated logit of a score s is `a log s - b log(1 - s) + c` with a, b >= 0, so that no two scores change
their order. `a = b = 1, c = 0` changes nothing, `a = b` is Platt's method, any other a and b beta calibration
(Kull et al., 2017, Beta calibration). A head's softmax of `a log s + c` is temperature scaling, `a = 1 / T`
(Guo et al., 2017, On calibration of modern neural networks). A `pos_weight` w in the loss adds log w to a
logit: `c = -log w` undoes it. Isotonic regression, whose steps do not fit into three numbers, is left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from src.errors import InputError, did_you_mean
from src.labels import LabelSpace

METHODS = ("none", "platt", "beta")
LEAST = 5  # positives, and negatives, or photos of a head, below which nothing is fitted
TINY = 1e-7  # the distance from 0 and 1 at which scores are cut
# precision of the prior around the start: of the common slope, half the difference a - b, and c
RIDGE = np.array([4.0, 16.0, 0.25])


@dataclass(frozen=True)
class Calibration:
    """Parameters `[labels, 3]` for `apply`, and for each label (or head) why it was not fitted, or ''."""

    parameters: np.ndarray
    unfitted: tuple[str, ...]


def apply(scores: np.ndarray, parameters: np.ndarray, heads: Iterable[slice] = ()) -> np.ndarray:
    """Return calibrated scores, float32 of the shape of `scores`.

    Args:
        scores: Probabilities of shape `[..., labels]`.
        parameters: a, b and c of each label, shape `[labels, 3]`.
        heads: The labels of each softmax (`LabelSpace.slices.values()`); none for sigmoids.
    """
    scores, parameters = np.asarray(scores, np.float64), np.asarray(parameters, np.float64)
    cut = np.clip(scores, TINY, 1 - TINY)
    logits = parameters[:, 0] * np.log(cut) - parameters[:, 1] * np.log1p(-cut) + parameters[:, 2]
    if not (heads := list(heads)):
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    calibrated = np.empty_like(logits)
    for head in heads:
        raised = np.exp(logits[..., head] - logits[..., head].max(-1, keepdims=True))
        calibrated[..., head] = raised / raised.sum(-1, keepdims=True)
    return calibrated.astype(np.float32)


def fit(
    scores: np.ndarray, targets: np.ndarray, method: str = "beta", pos_weight: np.ndarray | None = None
) -> Calibration:
    """Fit the sigmoid scores of each label.

    Parameters are drawn to those that undo `pos_weight`, which decide where data are few. A label with fewer
    than `LEAST` positives or negatives, or whose scores do not rank, keeps them.

    Args:
        scores: Probabilities of shape `[photos, labels]`, of photos that the model was not trained on.
        targets: 0 or 1 of the same shape.
        method: `none` only undoes `pos_weight`.
        pos_weight: The weights of the loss, shape `[labels]`; None: all 1.

    Raises:
        InputError: for an unknown method.
        ValueError: for shapes that do not fit, or NaN.
    """
    if method not in METHODS:
        raise InputError(f"unknown calibration method '{method}': {did_you_mean(str(method), METHODS)}")
    scores, positive = checked(scores, targets)
    parameters = np.tile([1.0, 1.0, 0.0], (scores.shape[1], 1))
    if pos_weight is not None:
        parameters[:, 2] -= np.log(np.asarray(pos_weight, np.float64))
    unfitted = []
    for label, (own_scores, own_positive) in enumerate(zip(scores.T, positive.T, strict=True)):
        found, why = None, "method none"
        if method != "none":
            found, why = _fit_label(own_scores, own_positive, method, parameters[label, 2])
        parameters[label] = parameters[label] if found is None else found
        unfitted.append(why)
    return Calibration(parameters, tuple(unfitted))


def _fit_label(scores: np.ndarray, positive: np.ndarray, method: str, offset: float):
    """Return a, b, c of one label and '', or None and the reason."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if min(positives, negatives) < LEAST:
        return None, f"{positives} positives and {negatives} negatives"
    up, down = _logarithms(scores)
    one = np.ones_like(up)
    start, a, b = np.array([1.0, 0.0, offset]), 1, 1
    if method == "beta":
        m, d, c = fit_logistic(np.stack([up + down, up - down, one], 1), positive, start, RIDGE)
        if abs(d) <= m:
            return np.array([m + d, m - d, c]), ""
        a, b = (1, 0) if d > 0 else (0, 1)  # the nearer end of a, b >= 0
    slope, c = fit_logistic(np.stack([a * up + b * down, one], 1), positive, start[::2], RIDGE[::2])
    return (np.array([a * slope, b * slope, c]), "") if slope > 0 else (None, "scores that do not rank")


def fit_heads(scores: np.ndarray, classes: np.ndarray, labels: LabelSpace) -> Calibration:
    """Fit the temperature of each head by Newton's method on the log loss, which is convex in `1 / T`.

    Args:
        scores: Softmax probabilities of shape `[photos, labels]`.
        classes: Class index of each kind, `[photos, kinds]`; negative where a photo has none.
        labels: The label space, a head for each kind.

    Returns:
        Parameters with `b = 0`, for `apply(..., heads=labels.slices.values())`; a reason for each head.
    """
    scores, classes = np.asarray(scores, np.float64), np.asarray(classes)
    parameters, unfitted = np.zeros((len(labels), 3)), []
    for head, own in zip(labels.slices.values(), classes.T, strict=True):
        known = own >= 0
        unfitted.append("" if known.sum() >= LEAST else f"{known.sum()} labelled")
        logs = np.log(np.clip(scores[known, head], TINY, 1))
        parameters[head, 0] = 1 if unfitted[-1] else _inverse_temperature(logs, own[known])
    return Calibration(parameters, tuple(unfitted))


def _inverse_temperature(logs: np.ndarray, classes: np.ndarray) -> float:
    """Return the factor of log scores `[photos, classes]` that minimises the log loss, drawn to 1."""
    factor, true = 1.0, logs[np.arange(len(logs)), classes]
    for _ in range(50):
        raised = np.exp(factor * (logs - logs.max(1, keepdims=True)))
        shares = raised / raised.sum(1, keepdims=True)
        mean = (shares * logs).sum(1)
        slope = (mean - true).sum() + RIDGE[0] * (factor - 1)
        bend = (shares * (logs - mean[:, None]) ** 2).sum() + RIDGE[0]
        step = np.clip(slope / bend, -1.0, factor / 2)  # the factor stays above 0
        factor -= step
        if abs(step) < 1e-10:
            break
    return float(factor)


def fit_logistic(
    features: np.ndarray,
    targets: np.ndarray,
    start: np.ndarray,
    ridge: np.ndarray,
    weights: np.ndarray | float = 1,
) -> np.ndarray:
    """Return coefficients `[K]` of a logistic regression, drawn to `start` (IRLS with halved steps).

    Args:
        features: Shape `[rows, K]`; a column of ones gives an intercept.
        targets: Shape `[rows]`, from 0 to 1.
        start: Mean of the Gaussian prior, shape `[K]`.
        ridge: Its precision, shape `[K]`, above 0.
        weights: Of the rows.
    """

    def loss(theta: np.ndarray) -> float:
        logits = features @ theta
        each = np.logaddexp(0, logits) - targets * logits
        return (weights * each).sum() + (ridge * (theta - start) ** 2).sum() / 2

    theta, current = np.array(start, np.float64), None
    for _ in range(50):
        shares = 1 / (1 + np.exp(-np.clip(features @ theta, -500, 500)))
        slope = features.T @ (weights * (shares - targets)) + ridge * (theta - start)
        bend = (features * (weights * shares * (1 - shares))[:, None]).T @ features + np.diag(ridge)
        step, current = np.linalg.solve(bend, slope), loss(theta) if current is None else current
        while (after := loss(theta - step)) > current + 1e-9 * abs(current):
            step = step / 2
        theta, current = theta - step, after
        if np.abs(step).max() < 1e-8:
            break
    return theta


def reliability(
    scores: np.ndarray, targets: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return photos, mean score and share of positives of bins that hold equally many photos.

    Equal scores share a bin, so there may be fewer bins, and larger ones.

    Args:
        scores: Probabilities of shape `[photos]`: of a label, or the highest of a head.
        targets: 0 or 1 of the same shape: whether the label is there, or the head is right.
        bins: Number of bins.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    place = np.searchsorted(np.sort(scores), scores) * bins // max(len(scores), 1)
    photos, sums, hits = (
        np.bincount(place, values, bins) for values in (np.ones_like(scores), scores, targets)
    )
    filled = photos > 0
    return photos[filled], sums[filled] / photos[filled], hits[filled] / photos[filled]


def calibration_error(scores: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error over `reliability`'s bins; NaN without photos."""
    photos, score, share = reliability(scores, targets, bins)
    return float((photos * np.abs(score - share)).sum() / photos.sum()) if len(photos) else float("nan")


def brier(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the mean squared distance of scores `[photos, ...]` from 0 or 1, averaged over photos."""
    return ((np.asarray(scores, np.float64) - targets) ** 2).mean(0)


def checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 scores and boolean targets; ValueError if not `[photos, labels]` without NaN."""
    scores, positive = np.asarray(scores, np.float32), np.asarray(targets).astype(bool)
    if scores.ndim != 2 or scores.shape != positive.shape or np.isnan(scores).any():
        raise ValueError(f"scores {scores.shape}, targets {positive.shape}: not [photos, labels] without NaN")
    return scores, positive


def _logarithms(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log s and -log(1 - s)."""
    cut = np.clip(np.asarray(scores, np.float64), TINY, 1 - TINY)
    return np.log(cut), -np.log1p(-cut)
