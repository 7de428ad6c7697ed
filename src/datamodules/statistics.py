"""Counts of the training photos: the tables that a run begins with, and the class weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.datamodules.records import Record
from src.errors import InputError
from src.labels import LabelSpace


def label_table(splits: Mapping[str, Sequence[Record]], labels: LabelSpace) -> pd.DataFrame:
    """Return photos per label and split: one row per label with `kind, label, <split>, <split> %`, ..."""
    rows = []
    for kind, names in labels.kinds.items():
        counts = {
            s: Counter(n for r in records for n in r.labels.get(kind, ())) for s, records in splits.items()
        }
        for name in names:
            row: dict[str, object] = {"kind": kind, "label": name}
            for split, records in splits.items():
                row[split] = counts[split][name]
                row[f"{split} %"] = round(100 * counts[split][name] / max(1, len(records)), 1)
            rows.append(row)
    return pd.DataFrame(rows)


def pair_table(splits: Mapping[str, Sequence[Record]], labels: LabelSpace) -> pd.DataFrame:
    """Return photos per combination of one label of each of the first two kinds, as `label_table` does.

    A photo without a label of a kind counts as `(none)` of it.
    """
    first, second = list(labels.kinds)[:2]
    none = ("(none)",)
    counts = {
        split: Counter(
            (a, b) for r in records for a in r.labels.get(first) or none for b in r.labels.get(second) or none
        )
        for split, records in splits.items()
    }
    rows = []
    for pair in sorted(set().union(*counts.values())):
        row: dict[str, object] = dict(zip((first, second), pair, strict=True))
        for split, records in splits.items():
            row[split] = counts[split][pair]
            row[f"{split} %"] = round(100 * counts[split][pair] / max(1, len(records)), 1)
        rows.append(row)
    return pd.DataFrame(rows)


def not_evaluable(splits: Mapping[str, Sequence[Record]], labels: LabelSpace) -> dict[str, list[str]]:
    """Return `{split: labels}` that have no photo in `val` or `test`: no figure there speaks of them."""
    held = {
        split: {n for r in records for names in r.labels.values() for n in names}
        for split, records in splits.items()
    }
    return {s: [n for n in labels.names if n not in held[s]] for s in ("val", "test") if splits.get(s)}


@dataclass(frozen=True)
class Weighting:
    """How `data.class_weights` shapes the weights: see `class_weights`."""

    sqrt: bool = False
    clip: Sequence[float] | None = None


def class_weights(
    records: Sequence[Record],
    labels: LabelSpace,
    multilabel: bool,
    sqrt: bool = False,
    clip: Sequence[float] | None = None,
) -> dict[str, list[float]]:
    """Return weights of the loss by kind, in the order of the labels.

    For heads the inverse frequency n / (classes * n_class), which leaves the mean weight of a photo at 1; for
    sigmoids the weight of the positives, negatives / positives.

    Args:
        records: the training split.
        labels: the label space.
        multilabel: whether the weights are those of sigmoids.
        sqrt: take the square root.
        clip: lower and upper bound, applied last.
    """
    if clip is not None and (len(clip) != 2 or not 0 < clip[0] <= clip[1]):
        raise InputError(f"data.class_weights.clip={list(clip)}: needs two numbers, 0 < low <= high")
    weights = {}
    for kind, names in labels.kinds.items():
        counter = Counter(n for r in records for n in r.labels.get(kind, ()))
        positives = np.array([max(1, counter[name]) for name in names], float)
        if multilabel:
            values = np.maximum(len(records) - positives, 1) / positives
        else:
            values = positives.sum() / (len(names) * positives)
        if sqrt:
            values = np.sqrt(values)
        if clip is not None:
            values = np.clip(values, *clip)
        weights[kind] = [round(float(v), 6) for v in values]
    return weights
