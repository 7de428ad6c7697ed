"""Decision thresholds of `multilabel`: exact search for an objective, and the evidence for it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from src.decisions.bootstrap import resampled
from src.decisions.calibration import checked
from src.errors import InputError, did_you_mean
from src.labels import DEFAULT

METHODS = ("pr_curve", "grid")
OBJECTIVES = ("f1", "fbeta", "precision_at_recall", "recall_at_precision", "cost")
GRID = np.linspace(0, 1, 41, dtype=np.float32)[1:]  # without 0, which says yes to everything
ROOM = 1e-4  # of a score
LEAST = 5  # groups with the label, and without it, below which a label has no evidence
TRUST = 20  # groups with the label at which its own photos and the prior count equally
WIDE = 0.3  # of the positives between the ends of the interval


@dataclass(frozen=True)
class Objective:
    """What a threshold is chosen for.

    Args:
        name: `f1`; `fbeta`; `precision_at_recall`, the highest precision where recall is at least `floor`;
            `recall_at_precision`, the reverse (where no threshold reaches the floor, the highest precision);
            `cost`, the lowest cost of all mistakes, which may be that of saying no to everything.
        beta: Of `fbeta`: how many times recall matters more than precision.
        floor: The least recall, or precision, from 0 to 1.
        false_positive: Cost of a false alarm.
        false_negative: Cost of a miss.

    Raises:
        InputError: for an unknown name, and for numbers out of range.
    """

    name: str = "f1"
    beta: float = 1.0
    floor: float = 0.9
    false_positive: float = 1.0
    false_negative: float = 1.0

    def __post_init__(self):
        if self.name not in OBJECTIVES:
            raise InputError(f"unknown objective '{self.name}': {did_you_mean(str(self.name), OBJECTIVES)}")
        for name in ("beta", "floor", "false_positive", "false_negative"):
            value, most = getattr(self, name), 1 if name == "floor" else np.finfo(float).max
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value <= most:
                span = "between 0 and 1" if name == "floor" else "above 0"
                raise InputError(f"objective {self.name}: {name}={value} is not a number {span}")

    @property
    def default(self) -> float:
        """The threshold where nothing is known: 0.5, or that of least cost for a true probability."""
        total = self.false_positive + self.false_negative
        return self.false_positive / total if self.name == "cost" else DEFAULT

    def values(self, right: np.ndarray, predicted: np.ndarray, positives: float) -> tuple:
        """Return what to maximise, and what decides between equals, from the counts at each threshold."""
        if self.name == "cost":
            wrong = self.false_positive * (predicted - right) + self.false_negative * (positives - right)
            return -wrong, np.zeros(1)
        if self.name in ("f1", "fbeta"):
            square = self.beta**2 if self.name == "fbeta" else 1
            return (1 + square) * right / (predicted + square * positives), np.zeros(1)
        precision, recall = right / np.maximum(predicted, 1), right / positives
        if self.name == "precision_at_recall":
            return np.where(recall >= self.floor, precision, recall - 2), recall
        enough = precision >= self.floor
        return np.where(enough, recall, precision - 2), np.where(enough, precision, recall)


def objectives_for(
    names: Sequence[str], default: Objective, own: Mapping[str, Mapping[str, object]]
) -> list[Objective]:
    """Return the objective of each label: the default with its own changes, `{label: {field: value}}`."""
    known = [field.name for field in fields(Objective)]
    own = {str(label): changes for label, changes in own.items()}
    for label, changes in own.items():
        if label not in names:
            raise InputError(f"objective of an unknown label '{label}': {did_you_mean(label, names)}")
        for key in changes:
            if key not in known:
                raise InputError(f"objective of {label}: unknown '{key}': {did_you_mean(key, known)}")
    return [replace(default, **own.get(name, {})) for name in names]


def tune_thresholds(
    scores: np.ndarray,
    targets: np.ndarray,
    method: str = "pr_curve",
    min_positives: int = 1,
    clamp_above: float | None = None,
    clamp_to: float = DEFAULT,
    objective: Objective | Sequence[Objective] = Objective(),
) -> np.ndarray:
    """Return the best threshold of each label for the rule `score >= threshold`.

    Of equally good thresholds the one nearest to `Objective.default` (0.5) is taken: no reason speaks for a
    longer way. Of two equally near it is the higher one, which raises fewer false alarms. A label without
    positives, or with positives only, says nothing about where to cut: it gets the default. With a few
    positives it says little, and where the ranking is poor the best F1 may be that of saying yes to
    everything (Lipton et al., 2014, Optimal thresholding of classifiers to maximize F1).

    Args:
        scores: Probabilities of shape `[photos, labels]`; compared as float32, whatever their type.
        targets: 0 or 1 (or booleans) of the same shape.
        method: `pr_curve` is exact over all scores that occur: the result is one of them, bit for bit, so
            that `>=` accepts the photo that set it. `grid` looks at 0.025, 0.05, ..., 1.
        min_positives: A label with fewer positive photos gets the default, too.
        clamp_above: Tuned thresholds above this become `clamp_to`; None keeps them all. A rule that teams use
            against thresholds set by very few positives.
        clamp_to: see `clamp_above`.
        objective: For all labels, or one for each.

    Returns:
        float32 of shape `[labels]`; the default throughout where there are no photos.

    Raises:
        InputError: for an unknown method.
        ValueError: for shapes that do not fit, or NaN among the scores.
    """
    if method not in METHODS:
        raise InputError(f"unknown threshold method '{method}': {did_you_mean(str(method), METHODS)}")
    scores, positive = checked(scores, targets)
    objectives = _each(objective, scores.shape[1])
    thresholds = np.array([one.default for one in objectives], np.float32)
    for label, (own_scores, own_positive) in enumerate(zip(scores.T, positive.T, strict=True)):
        if max(1, min_positives) <= np.count_nonzero(own_positive) < len(own_positive):
            tried = GRID if method == "grid" else own_scores[own_positive]
            search = _Search(own_scores, tried, objectives[label])
            best = search.candidates[search.best(np.ones(len(scores)), own_positive)]
            high = clamp_above is not None and best > np.float32(clamp_above)
            thresholds[label] = clamp_to if high else best
    return thresholds


class _Search:
    """The search among candidate thresholds of one label, under any weights of its photos.

    The scores of positives are candidates enough: up to the next positive's score a higher threshold loses no
    hit and refuses false alarms.

    Args:
        scores: float32 of shape `[photos]`.
        tried: The candidates, float32; `cost` also has one above all scores.
        objective: What to maximise.
    """

    def __init__(self, scores: np.ndarray, tried: np.ndarray, objective: Objective):
        found = np.unique(tried)
        if objective.name == "cost":
            nothing = np.nextafter(scores.max(), np.float32(2))
            found = np.union1d(found, np.maximum(nothing, np.float32(objective.default)))
        apart = np.abs(found.astype(np.float64) - objective.default)
        self.objective, self.candidates, self.rank = objective, found, np.lexsort((-found, apart)).argsort()
        self.place = np.searchsorted(found, scores, side="right")  # candidates at or below each score
        ordered = np.append(np.float32(0), np.sort(scores))
        # no photo lies between a candidate and the score below it: the middle has room on both sides
        self.middles = (found + ordered[np.searchsorted(ordered, found) - 1]) / 2
        above = found > ordered[-1]  # which says no to everything
        self.middles[above] = found[above]

    def best(self, weights: np.ndarray, hits: np.ndarray, rows: np.ndarray | slice = slice(None)) -> int:
        """Return the index of the best candidate; `hits` are the weights of the label's photos, in `rows`."""
        right, predicted = self._above(self.place[rows], hits), self._above(self.place, weights)
        # equal fractions of integers give equal floats, so ties are exact
        first, second = self.objective.values(right, predicted, hits.sum())
        winners = np.flatnonzero(first == first.max())
        second = np.broadcast_to(second, first.shape)[winners]
        return winners[np.lexsort((self.rank[winners], -second))[0]]

    def _above(self, place: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weight at or above each candidate."""
        return np.bincount(place, weights, len(self.candidates) + 1)[::-1].cumsum()[-2::-1]


@dataclass(frozen=True)
class Evidence:
    """Thresholds and what they rest on: arrays of shape `[labels]`; NaN where there is nothing to say.

    `state` is `ok`; `wide` where recall differs by more than `WIDE` between the ends of the interval; or
    `no_evidence` where fewer than `LEAST` groups have the label, or lack it: the threshold is the prior.
    """

    threshold: np.ndarray  # float32
    low: np.ndarray  # the 90 % interval
    high: np.ndarray
    positives: np.ndarray  # photos
    f1: np.ndarray  # at the threshold, on the photos that set it: slightly too good
    f1_low: np.ndarray
    f1_high: np.ndarray
    state: tuple[str, ...]


def evidence(
    scores: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    objective: Objective | Sequence[Objective] = Objective(),
    resamples: int = 200,
    seed: int = 0,
    now: np.ndarray | None = None,
) -> Evidence:
    """Return thresholds from resampled groups, drawn to a prior where a label is rare.

    The threshold is the median of the best ones of resamples (bootstrap) and, on the logit scale, that of
    `prior_thresholds`, with weights n and `TRUST`. n counts the groups with the label: photos of one bolt are
    one piece of evidence. A floor of recall or precision holds in each search, not for the moved threshold.
    All scores of positives are tried in each, with exact counts; the best one is moved half the way to the
    next lower score. With `now` these are the prior, unless in 95 % of the resamples `prior_thresholds` have
    the higher macro-F1 on the photos that are left out: with few photos the thresholds that a model was
    trained for are hard to beat.

    Args:
        scores: Probabilities of shape `[photos, labels]`, of photos that the model was not trained on.
        targets: 0 or 1 of the same shape.
        groups: Group of each photo, shape `[photos]`, of any type; None: each photo is one.
        objective: For all labels, or one for each.
        resamples: Their number.
        seed: Of the resamples.
        now: Thresholds `[labels]` that the model was trained for; of labels with other objectives ignored.

    Raises:
        ValueError: for shapes that do not fit, or NaN among the scores.
    """
    scores, positive = checked(scores, targets)
    groups = np.arange(len(scores)) if groups is None else np.unique(groups, return_inverse=True)[1]
    objectives, priors = _each(objective, scores.shape[1]), prior_thresholds(scores, objective)
    count = groups.max(initial=-1) + 1
    carriers = np.array([len(np.unique(groups[own])) for own in positive.T], int)
    others = np.array([len(np.unique(groups[~own])) for own in positive.T], int)
    known = np.flatnonzero(np.minimum(carriers, others) >= LEAST)
    best = _best_of_each(
        scores, positive, known, objectives, resampled(groups, count, resamples, seed), resamples
    )
    low, middle, high = _quantiles(best)
    trust = np.where(np.isnan(middle), 0, carriers / (carriers + TRUST))
    if now is not None:
        plain = np.array([one.name == "f1" for one in objectives])
        weights = resampled(groups, count, resamples, seed)
        better = _gain(scores, positive, plain, (_drawn_to(priors, own, trust) for own in best), now, weights)
        priors = priors if better > 0 else np.where(plain, now, priors)
    threshold = _drawn_to(priors, middle, trust)
    low, high = np.minimum(low, threshold), np.maximum(high, threshold)  # NaN stays NaN
    lost = ((scores >= low) & (scores < high) & positive).sum(0) / np.maximum(positive.sum(0), 1)
    state = np.where(trust == 0, "no_evidence", np.where(lost > WIDE, "wide", "ok")).tolist()
    drawn = _f1_of(scores >= threshold, positive, resampled(groups, count, resamples, seed))
    f1 = _f1_of(scores >= threshold, positive, [np.ones(len(scores))])[0]
    f1_low, _, f1_high = _quantiles(drawn)
    return Evidence(threshold, low, high, positive.sum(0), f1, f1_low, f1_high, tuple(state))


def _best_of_each(
    scores: np.ndarray,
    positive: np.ndarray,
    labels: np.ndarray,
    objectives: Sequence[Objective],
    drawn: Iterable[np.ndarray],
    resamples: int,
) -> np.ndarray:
    """Return the best threshold of some `labels` in each resample, `[resamples, labels]`; NaN for none."""
    rows = {label: np.flatnonzero(positive[:, label]) for label in labels}
    searches = {
        label: _Search(scores[:, label], scores[own, label], objectives[label]) for label, own in rows.items()
    }
    best = np.full((resamples, scores.shape[1]), np.nan)
    for number, weights in enumerate(drawn):
        for label, own in rows.items():
            if (hits := weights[own]).any():
                search = searches[label]
                best[number, label] = search.middles[search.best(weights, hits, own)]
    return best


def _gain(
    scores: np.ndarray,
    positive: np.ndarray,
    labels: np.ndarray,
    moved: Iterable[np.ndarray],
    now: np.ndarray,
    drawn: Iterable[np.ndarray],
) -> float:
    """Return what thresholds `moved` of each resample gain over `now` in 95 % of the resamples, at least.

    The gain is that of macro-F1 over some `labels`, on the photos that the resample leaves out.
    """
    gains, now = [], np.asarray(now, np.float32)
    for own, weights in zip(moved, drawn, strict=True):
        new, table = scores[weights == 0], positive[weights == 0]
        after, before = (_f1_of(new >= side, table, [np.ones(len(new))])[0] for side in (own, now))
        if (known := labels & ~np.isnan(before)).any():
            gains.append((after - before)[known].mean())
    return float(np.quantile(gains, 0.05)) if gains else 0.0


def _drawn_to(priors: np.ndarray, own: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """Return thresholds `[labels]`, float32, between priors and the labels' own (NaN: none)."""
    trust, own = np.where(np.isnan(own), 0, trust), np.where(np.isnan(own), DEFAULT, own)
    return (1 / (1 + np.exp(-trust * _logit(own) - (1 - trust) * _logit(priors)))).astype(np.float32)


def prior_thresholds(
    scores: np.ndarray, objective: Objective | Sequence[Objective] = Objective()
) -> np.ndarray:
    """Return the threshold of each label that is best if its scores are the probabilities of having it.

    For F1 that is half of the F1 that can be attained (Lipton et al., 2014). Arguments are those of
    `evidence`; the result has shape `[labels]`.
    """
    thresholds = []
    for own, one in zip(scores.T, _each(objective, scores.shape[1]), strict=True):
        tried = np.sort(own)[:: 1 + len(own) // 2000]
        search = _Search(own, tried, one) if own.any() else None
        best = search.candidates[search.best(np.ones(len(own)), own)] if search else one.default
        thresholds.append(best)
    return np.array(thresholds)


def _f1_of(yes: np.ndarray, positive: np.ndarray, drawn: Iterable[np.ndarray]) -> np.ndarray:
    """Return the F1 of decisions `[photos, labels]` in resamples, `[resamples, labels]`."""
    rows = [[np.flatnonzero(own) for own in table.T] for table in (yes & positive, yes, positive)]
    sums = np.array([[[weights[own].sum() for own in part] for part in rows] for weights in drawn])
    right, predicted, positives = sums[:, 0], sums[:, 1], sums[:, 2]
    return np.where(positives > 0, 2 * right / np.maximum(predicted + positives, 1), np.nan)


def _quantiles(values: np.ndarray) -> np.ndarray:
    """Return the 5 %, 50 % and 95 % quantiles of each column that has numbers, else NaN."""
    found = np.full((3, values.shape[1]), np.nan)
    some = ~np.isnan(values).all(0)
    found[:, some] = np.nanquantile(values[:, some], (0.05, 0.5, 0.95), axis=0)
    return found


def _logit(values: np.ndarray) -> np.ndarray:
    """Return log odds of values cut at a distance of 1e-6 from 0 and 1."""
    cut = np.clip(np.asarray(values, np.float64), 1e-6, 1 - 1e-6)
    return np.log(cut) - np.log1p(-cut)


def _each(objective: Objective | Sequence[Objective], count: int) -> list[Objective]:
    """Return one objective for each label."""
    return [objective] * count if isinstance(objective, Objective) else list(objective)


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
