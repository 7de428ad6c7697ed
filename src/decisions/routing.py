"""Decide, or ask a person: split-conformal limits with a promised rate of misses, and the work they cost.

Of n calibration photos with a label the k-th lowest score, `k = floor(miss (n + 1))`, is a limit: a new photo
with the label lies below it with a probability of at most `miss`, if it comes from where they came from and
they neither trained the model nor tuned it (Vovk et al., 2005, Algorithmic learning in a random world).
Scores pooled over folds come from several models, and the promise is then weaker: measure it on the test
split. With fewer than `needed(miss)` such photos there is no limit and no promise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from src.decisions.calibration import checked
from src.errors import InputError

ABSENT, REVIEW, PRESENT = range(3)
STATES = ("absent", "review", "present")
MISSES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)  # of a workload curve


@dataclass(frozen=True)
class Limits:
    """The score of each label below which it counts as absent, and whether the rate of misses is promised."""

    low: np.ndarray  # float32 [labels]
    promise: np.ndarray  # booleans [labels]
    photos: np.ndarray  # calibration photos with each label, [labels]
    needed: int  # of them, for a promise


def needed(miss: float) -> int:
    """Return the calibration photos with a label that a promise takes: 19 for 0.05, 9 for 0.1."""
    if not 0 < miss < 1:
        raise InputError(f"miss={miss}: needs a rate between 0 and 1, such as 0.05")
    return ceil(1 / miss - 1e-9) - 1


def limits(scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray, miss: float = 0.05) -> Limits:
    """Return the limits of sigmoid scores, never above the thresholds.

    Args:
        scores: Calibration scores of shape `[photos, labels]`.
        targets: 0 or 1 of the same shape.
        thresholds: Shape `[labels]`; also the limit of a label without a promise.
        miss: The highest rate of photos with a label that count as without it.

    Raises:
        InputError: for a `miss` that is not between 0 and 1.
        ValueError: for shapes that do not fit, or NaN.
    """
    least, (scores, positive) = needed(miss), checked(scores, targets)
    low = np.array(thresholds, np.float32)
    if low.shape != scores.shape[1:]:
        raise ValueError(f"thresholds {low.shape} for scores {scores.shape}")
    photos = positive.sum(0)
    for label in np.flatnonzero(photos >= least):
        low[label] = min(low[label], _limit(scores[positive[:, label], label], miss))
    return Limits(low, photos >= least, photos, least)


def _limit(scores: np.ndarray, miss: float) -> np.float32:
    """Return the k-th lowest score, with enough scores for k to be 1 or more."""
    rank = floor(miss * (len(scores) + 1) + 1e-9)
    return np.partition(scores, rank - 1)[rank - 1]


def route(scores: np.ndarray, thresholds: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return `PRESENT` at or above the threshold, `ABSENT` below the limit, else `REVIEW`, as int8."""
    scores = np.asarray(scores, np.float32)
    thresholds, low = np.asarray(thresholds, np.float32), np.asarray(low, np.float32)
    if not scores.shape[-1:] == thresholds.shape == low.shape:
        raise ValueError(f"scores {scores.shape}, thresholds {thresholds.shape}, limits {low.shape}")
    return np.where(scores >= thresholds, PRESENT, np.where(scores < low, ABSENT, REVIEW)).astype(np.int8)


def head_limits(
    scores: np.ndarray, classes: np.ndarray, miss: float = 0.05, by_class: bool = False
) -> Limits:
    """Return the limits of one head: LAC prediction sets hold each class at or above its limit.

    The true class is missing with a probability of at most `miss`, over all photos, or with `by_class` over
    those of each class (Sadinle et al., 2019, Least ambiguous set-valued classifiers with bounded error
    levels). A class without enough photos has the limit of all photos and no promise; without enough of
    these, too, each set holds all classes.

    Args:
        scores: Calibration probabilities of shape `[photos, classes]`.
        classes: Class index of each photo, `[photos]`; photos with a negative one are left out.
        miss: The highest rate of photos whose true class is not in the set.
        by_class: Whether the rate holds for each class.

    Raises:
        InputError: for a `miss` that is not between 0 and 1.
        ValueError: for shapes that do not fit, or NaN.
    """
    least, scores, classes = needed(miss), np.asarray(scores, np.float32), np.asarray(classes)
    if scores.ndim != 2 or classes.shape != scores.shape[:1] or np.isnan(scores).any():
        raise ValueError(f"scores {scores.shape}, classes {classes.shape}: not [photos, classes] without NaN")
    known = np.flatnonzero(classes >= 0)
    own, size = scores[known, classes[known]], scores.shape[1]
    photos = np.bincount(classes[known], minlength=size) if by_class else np.full(size, len(known))
    low = np.full(size, _limit(own, miss) if len(known) >= least else 0, np.float32)
    for index in np.flatnonzero(photos >= least) if by_class else ():
        low[index] = _limit(own[classes[known] == index], miss)
    return Limits(low, photos >= least, photos, least)


def head_sets(scores: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return the prediction sets of one head, booleans of the shape of `scores`, `[..., classes]`.

    A set of several classes, and an empty one (a photo like none of the calibration photos), is for a person.
    """
    return np.asarray(scores, np.float32) >= np.asarray(low, np.float32)


def workload(
    calibration: tuple[np.ndarray, np.ndarray],
    measured: tuple[np.ndarray, np.ndarray],
    thresholds: np.ndarray,
    misses: Sequence[float] = MISSES,
) -> list[dict[str, float | np.ndarray]]:
    """Return the workload curve: for each promised rate what a person sees, and what is missed all the same.

    Args:
        calibration: Scores and targets, both `[photos, labels]`, that set the limits.
        measured: Scores and targets of other photos, which the shares are taken over.
        thresholds: Shape `[labels]`.
        misses: Promised rates of missed photos with a label.

    Returns:
        For each rate: `miss`; `reviewed`, the share of photos with any label for review; `missed`, the share
        of the labels present that count as absent; `label_reviewed` and `label_missed`, the same of each
        label; and `promise`, the last three of shape `[labels]`. NaN where a share is of nothing.
    """
    scores, positive = checked(*measured)
    points = []
    for miss in misses:
        found = limits(*calibration, thresholds, miss)
        states = route(scores, thresholds, found.low)
        points.append(_point(miss, found, states == REVIEW, (states == ABSENT) & positive, positive))
    return points


def head_workload(
    calibration: tuple[np.ndarray, np.ndarray],
    measured: tuple[np.ndarray, np.ndarray],
    misses: Sequence[float] = MISSES,
    by_class: bool = False,
) -> list[dict[str, float | np.ndarray]]:
    """Return the curve of one head, from scores `[photos, classes]` and class indices `[photos]`.

    A photo is reviewed if its set does not hold exactly one class, and missed if it holds one that is wrong.
    """
    scores, classes = np.asarray(measured[0], np.float32), np.asarray(measured[1])
    scores, true = scores[classes >= 0], np.arange(scores.shape[1]) == classes[classes >= 0, None]
    points = []
    for miss in misses:
        found = head_limits(*calibration, miss, by_class)
        sets = head_sets(scores, found.low)
        asked = sets.sum(1, keepdims=True) != 1
        points.append(_point(miss, found, asked & true, ~asked & ~sets & true, true))
    return points


def _point(
    miss: float, found: Limits, asked: np.ndarray, lost: np.ndarray, true: np.ndarray
) -> dict[str, float | np.ndarray]:
    """Return a point of a workload curve from tables `[photos, labels]`."""
    photos, present = np.float64(len(true)), true.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "miss": miss,
            "reviewed": asked.any(1).sum() / photos,
            "missed": lost.sum() / np.float64(present.sum()),
            "label_reviewed": asked.sum(0) / photos,
            "label_missed": lost.sum(0) / present,
            "promise": found.promise,
        }
