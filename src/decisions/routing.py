"""Decide, or ask a person: split-conformal limits with a promised rate of misses, and the work they cost.

Of n photos with a label that the model has not learned from, the k-th lowest score, `k = floor(miss (n + 1))`
is a limit: a new photo with the label lies below it with a probability of at most `miss`, if it comes from
where they came from (Vovk et al., 2005, Algorithmic learning in a random world). With fewer than
`needed(miss)` such photos there is no limit and no promise. Scores of folds come from several models, and
those of validation have chosen the epoch: the promise is then weaker, so measure it on the test split.
"""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from src.decisions.calibration import checked
from src.errors import InputError
from src.labels import MISSES, NO_PROMISE, LabelSpace, apply_thresholds


def needed(miss: float) -> int:
    """Return the photos with a label that a promise takes: 19 for 0.05, 9 for 0.1."""
    if not isinstance(miss, int | float) or not MISSES[0] <= miss < 1:
        raise InputError(f"miss={miss}: needs a rate from {MISSES[0]} to below 1, such as 0.05")
    return ceil(1 / miss - 1e-9) - 1


def limits(
    scores: np.ndarray, truth: np.ndarray, labels: LabelSpace, heads: bool, by_class: bool = False
) -> np.ndarray:
    """Return the limits of each label at each of `MISSES`, float32 `[labels, rates]`.

    Heads have LAC prediction sets, of the labels at or above their limits: the true one is missing with a
    probability of at most `miss`, over all photos, or with `by_class` over those of each label that has
    enough of them (Sadinle et al., 2019, Least ambiguous set-valued classifiers with bounded error levels).

    Args:
        scores: Probabilities of shape `[photos, labels]`.
        truth: Booleans of the same shape; of heads at most one label of a kind.
        labels: The label space.
        heads: Whether the scores are of softmax heads.
        by_class: See above.

    Raises:
        ValueError: for shapes that do not fit, or NaN.
    """
    scores, truth = checked(scores, truth)
    single = [slice(i, i + 1) for i in range(len(labels))]
    found = np.empty((len(labels), len(MISSES)), np.float32)
    for part in labels.slices.values() if heads else single:
        found[part] = _limits_of(scores[:, part][truth[:, part]])
    for part in single if heads and by_class else ():
        own = _limits_of(scores[:, part][truth[:, part]])
        found[part] = np.where(own < NO_PROMISE, own, found[part])
    return found


def _limits_of(scores: np.ndarray) -> np.ndarray:
    """Return the limit at each of `MISSES` from the scores of photos with a label."""
    ordered = np.append(NO_PROMISE, np.sort(scores))
    return ordered[[floor(miss * len(ordered) + 1e-9) for miss in MISSES]]


def kept_rate(miss: float) -> float:
    """Return the highest of `MISSES` that is not above a rate: the one that its limits are of."""
    needed(miss)
    return max(rate for rate in MISSES if rate <= miss + 1e-9)


def limits_at(table: np.ndarray, miss: float) -> np.ndarray:
    """Return the limits `[labels]` for a rate, see `kept_rate`."""
    return table[:, MISSES.index(kept_rate(miss))]


def asked(
    scores: np.ndarray, low: np.ndarray, labels: LabelSpace, thresholds: np.ndarray | None
) -> np.ndarray:
    """Return which labels of each photo a person should look at, booleans of the shape of `scores`.

    Of sigmoids: those from their limit on that do not reach their threshold. Of a head: the labels of its
    set, unless that is the best label alone; of an empty set the best label is taken, which misses no more
    than the promise allows. Labels without a promise are never asked for.
    """
    scores, low = np.asarray(scores, np.float32), np.asarray(low, np.float32)
    inside = scores >= low
    if thresholds is not None:
        return inside & (scores < np.asarray(thresholds, np.float32))
    found = np.zeros(scores.shape, bool)
    for part in labels.slices.values():
        if (low[part] >= NO_PROMISE).any():
            continue
        own, best = inside[..., part], _best(scores[..., part])
        lone = own.sum(-1, keepdims=True) == 1
        found[..., part] = own & ~(lone & (own & best).any(-1, keepdims=True))
    return found


def workload(
    table: np.ndarray,
    scores: np.ndarray,
    truth: np.ndarray,
    labels: LabelSpace,
    thresholds: np.ndarray | None,
) -> list[dict[str, float | str | bool]]:
    """Return the workload curve: for each of `MISSES` what a person sees, and what is missed all the same.

    Args:
        table: From `limits`.
        scores: Of other photos, `[photos, labels]`.
        truth: Their labels, bool `[photos, labels]`.
        labels: The label space.
        thresholds: `[labels]`; None for heads.

    Returns:
        Rows of `miss`, `label` (`all`: of any label), `reviewed`, the share of photos sent to a person,
        `missed`, the share of the photos with the label that no person sees and that are decided without it,
        and `promise`. NaN where a share is of nothing.
    """
    rows, parts = [], list(labels.slices.values())
    decided = (
        apply_thresholds(scores, thresholds)
        if thresholds is not None
        else np.concatenate([_best(scores[:, part]) for part in parts], 1)
    )
    for column, miss in enumerate(MISSES):
        low = table[:, column]
        sent = asked(scores, low, labels, thresholds)
        seen = sent if thresholds is not None else _whole_heads(sent, parts)
        lost, promise = truth & ~decided & ~seen, low < NO_PROMISE
        names = {"all": slice(None)} | {name: [i] for i, name in enumerate(labels.names)}
        for name, part in names.items():
            shares = _share(sent[:, part].any(1), len(sent)), _share(lost[:, part], truth[:, part].sum())
            shares = dict(zip(("reviewed", "missed"), shares, strict=True))
            rows.append({"miss": miss, "label": name, **shares, "promise": bool(promise[part].all())})
    return rows


def _best(scores: np.ndarray) -> np.ndarray:
    """Return the best label of one head, bool of the shape of `scores`."""
    return scores == scores.max(-1, keepdims=True)


def _whole_heads(sent: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
    """Return for each label whether a person looks at its head."""
    width = [part.stop - part.start for part in parts]
    return np.repeat(np.stack([sent[:, part].any(1) for part in parts], 1), width, 1)


def _share(part: np.ndarray, whole: int) -> float:
    return float(part.sum() / whole) if whole else float("nan")


def reason(sent: np.ndarray, scores: np.ndarray, labels: LabelSpace) -> str:
    """Return the labels of a photo that a person should look at, as `Label:0.1234;...`."""
    return ";".join(f"{labels.names[i]}:{scores[i]:.4f}" for i in np.flatnonzero(sent))
