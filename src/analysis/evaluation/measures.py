"""All figures of a set of scored photos, with bootstrap intervals by group.

Every figure is one function of weights `[R, N]` of the photos: all ones for its value, the draws of the
bootstrap for its interval. The definitions are those of `models.metrics`, which computes them in training.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from src.analysis.evaluation.mistakes import Mistake, mistakes_of
from src.analysis.evaluation.scored import Scored
from src.decisions.bootstrap import group_weights
from src.errors import InputError
from src.labels import DEFAULT, apply_thresholds

LEVEL = 0.9
PER_LABEL = ("precision", "recall", "f1", "ap", "auc")
BLOCK = 1 << 18  # weights that are ranked at once: more would leave the processor's cache
Weighted = dict[str, np.ndarray]  # figures `[R]`, or of each label `[R, labels]`; NaN where undefined


@dataclass(frozen=True)
class Evaluation:
    """The figures of scored photos.

    Attributes:
        figures: `{name: {value, low, high}}`, those of a kind (heads) below its name, as in `metrics.json`.
        per_label: a row per label: `label, kind, support`, each of `PER_LABEL` with `_low` and `_high`, and
            `threshold`; NaN for undefined.
        about: facts for `evaluation.json`.
    """

    scored: Scored
    figures: dict[str, Any]
    per_label: pd.DataFrame
    about: dict[str, Any]

    @cached_property
    def mistakes(self) -> list[Mistake]:
        """The photos with a wrong decision, worst first."""
        return mistakes_of(self.scored)

    @property
    def without_positives(self) -> list[str]:
        """The labels that no photo carries, which have no figures."""
        return self.per_label["label"][self.per_label["support"] == 0].tolist()


def evaluate(scored: Scored, resamples: int = 200, seed: int = 0, **about: Any) -> Evaluation:
    """Compute all figures with intervals of 90 %, the 5th to the 95th percentile of the resamples.

    An interval leaves out the resamples in which its figure is undefined. Where all photos are of one group
    there is none.

    Raises:
        InputError: no photo, or scores that are not finite.
    """
    if not len(scored.ids):
        raise InputError("nothing labelled to evaluate on")
    scored.check_finite()
    values = _measured(scored, np.ones((1, len(scored.ids))))
    drawn = _measured(scored, group_weights(scored.groups, resamples, seed))
    groups = len(set(scored.groups))
    found = {name: _with_interval(values[name][0], drawn[name], groups > 1) for name in values}
    figures: dict[str, Any] = {}
    for name in (name for name in found if name not in PER_LABEL):
        kind, _, own = name.rpartition("/")
        plain = [None if np.isnan(number) else float(number) for number in found[name]]
        place = figures.setdefault(kind, {}) if kind else figures
        place[own] = dict(zip(("value", "low", "high"), plain, strict=True))
    about = {"task": scored.task, **about, "photos": len(scored.ids), "groups": groups}
    about |= {"resamples": resamples, "level": LEVEL}
    return Evaluation(scored, figures, _table(scored, found), about)


def _with_interval(value: np.ndarray, drawn: np.ndarray, several: bool) -> np.ndarray:
    """Return value, low and high of a figure, `[3]` or `[3, labels]`; no interval unless `several`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        ends = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.stack([value, *np.where(several & ~np.isnan(value), ends, np.nan)])


def _table(scored: Scored, found: Weighted) -> pd.DataFrame:
    kinds = [kind for kind, names in scored.labels.kinds.items() for _ in names]
    columns = {"label": scored.labels.names, "kind": kinds, "support": scored.truth.sum(0)}
    for name in PER_LABEL:
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), found[name], strict=True))
    return pd.DataFrame(columns | {"threshold": np.nan if scored.thresholds is None else scored.thresholds})


def _measured(scored: Scored, weights: np.ndarray) -> Weighted:
    """Return all figures for weights `[R, N]` of the photos, in their precision; a kind's as `kind/name`."""
    truth, decided, dtype = scored.truth, scored.decided, weights.dtype
    hits, said, support = (weights @ part.astype(dtype) for part in (truth & decided, decided, truth))
    held = np.where(support > 0, support, np.nan)
    ap, auc = np.full_like(held, np.nan), np.full_like(held, np.nan)
    for label in np.flatnonzero(truth.any(0)):
        rows = np.flatnonzero(scored.known[:, label])
        ap[:, label], auc[:, label] = _ranked(scored.scores[rows, label], truth[rows, label], weights, rows)
    f1, precision = 2 * hits / (said + held), hits / np.maximum(said, 1) + 0 * held
    labels = dict(zip(PER_LABEL, (precision, hits / held, f1, ap, auc), strict=True))
    right, everyone = (truth == decided).all(1), scored.known.all(1)
    found = {"exact_match": _mean(weights[:, everyone], right[everyone])} | _pairs(scored, weights)
    if not scored.multilabel:
        macros = []
        for kind, part in scored.labels.slices.items():
            found[f"{kind}/accuracy"] = _ratio(hits[:, part].sum(1), support[:, part].sum(1))
            macros.append(over_labels(f1[:, part]))
            found[f"{kind}/f1_macro"] = macros[-1]
            found[f"{kind}/f1_weighted"] = _weighted(f1[:, part], support[:, part])
        return labels | found | {"f1_macro": over_labels(np.stack(macros, 1))}
    half = apply_thresholds(scored.scores, np.full(len(scored.labels), DEFAULT))
    half_hits, half_said = (weights @ part.astype(dtype) for part in (half & truth, half))
    return {
        **labels,
        "hamming_loss": _mean(weights, (truth != decided).mean(1)),
        **found,
        "f1_micro": _ratio(2 * hits.sum(1), said.sum(1) + support.sum(1)),
        "f1_macro": over_labels(f1),
        "f1_weighted": _weighted(f1, support),
        "f1_macro_at_0.5": over_labels(2 * half_hits / (half_said + held)),
        "map": over_labels(ap),
    }


def _pairs(scored: Scored, weights: np.ndarray) -> Weighted:
    """Return precision and recall of the pairs of a photo's labels of two kinds: each with each other."""
    if len(scored.labels.kinds) != 2:
        return {}
    right, said, there = (
        weights
        @ np.prod([part[:, own].sum(1) for own in scored.labels.slices.values()], 0).astype(weights.dtype)
        for part in (scored.truth & scored.decided, scored.decided, scored.truth)
    )
    return {"pair_precision": _ratio(right, said), "pair_recall": _ratio(right, there)}


def _ranked(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return average precision and area under the ROC curve of one label, both `[R]`.

    Equal scores are one step, as in scikit-learn. The area is undefined without negatives.

    Args:
        scores: `[rows]`.
        positive: bool `[rows]`, one at least.
        weights: of all photos, `[R, N]`.
        rows: the photos that count for the label, as columns of `weights`.
    """
    order = np.argsort(-scores, kind="stable")
    held = np.flatnonzero(positive[order])
    borders = np.concatenate([[0], np.flatnonzero(np.diff(scores[order])) + 1, [len(order)]])
    steps = np.unique(np.searchsorted(borders, held, "right"))  # only those with positives count
    ends = np.stack([borders[steps - 1], borders[steps]])
    ap, auc = np.empty((2, len(weights)), weights.dtype)
    for part in np.array_split(np.arange(len(weights)), -(-len(weights) * len(order) // BLOCK)):
        drawn = weights[part][:, rows[order]]
        total, hits = np.cumsum(drawn, 1), np.cumsum(drawn[:, held], 1)
        (all_before, all_until), (before, until) = (
            np.where(places > 0, sums[:, places - 1], 0).swapaxes(0, 1)
            for sums, places in ((total, ends), (hits, np.searchsorted(held, ends)))
        )
        gained, negatives = until - before, total[:, -1:] - hits[:, -1:]
        below = negatives - (all_until - until + all_before - before) / 2
        ap[part] = _ratio((gained * until / np.maximum(all_until, 1)).sum(1), hits[:, -1])
        auc[part] = _ratio((gained * below).sum(1), (hits[:, -1:] * negatives)[:, 0])
    return ap, auc


def _mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return _ratio(weights @ values.astype(weights.dtype), weights.sum(1))


def _weighted(f1: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Return the mean F1 `[R]` weighted by the labels' positives, from `[R, labels]`."""
    return _ratio(np.nansum(f1 * support, 1), support.sum(1))


def over_labels(values: np.ndarray) -> np.ndarray:
    """Return the means `[R]` over the labels of `[R, labels]` with a figure; NaN where none has one."""
    return _ratio(np.nansum(values, 1), (~np.isnan(values)).sum(1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
