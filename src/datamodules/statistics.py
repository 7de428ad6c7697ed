"""Tables of label counts, and class weights."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from src.datamodules.records import Record
from src.errors import InputError
from src.labels import LabelSpace


def label_table(splits: Mapping[str, Sequence[Record]], labels: LabelSpace) -> pd.DataFrame:
    """Return photos per label and split: one row per label with `kind, label, <split>, <split> %`, ..."""
    counts = {split: label_counts(records) for split, records in splits.items()}
    return pd.DataFrame(
        {"kind": kind, "label": name, **_figures(splits, counts, name)}
        for kind, names in labels.kinds.items()
        for name in names
    )


def pair_table(splits: Mapping[str, Sequence[Record]], labels: LabelSpace) -> pd.DataFrame:
    """Return photos per combination of one label of each of the first two kinds, as `label_table` does.

    A photo without a label of a kind counts as `(none)` of it.
    """
    kinds = list(labels.kinds)[:2]
    counts = {
        split: Counter(
            pair for r in records for pair in product(*(r.labels.get(kind) or ("(none)",) for kind in kinds))
        )
        for split, records in splits.items()
    }
    pairs = sorted(set().union(*counts.values()))
    return pd.DataFrame(
        dict(zip(kinds, pair, strict=True)) | _figures(splits, counts, pair) for pair in pairs
    )


def label_counts(records: Sequence[Record]) -> Counter[str]:
    """Return how many photos carry each label; a name is of one kind only."""
    return Counter(name for record in records for names in record.labels.values() for name in names)


def _figures(
    splits: Mapping[str, Sequence[Record]], counts: Mapping[str, Counter], item: Hashable
) -> dict[str, float]:
    """Return the number and the percentage of photos of each split that an item counts."""
    figures = {}
    for split, records in splits.items():
        figures[split] = counts[split][item]
        figures[f"{split} %"] = round(100 * counts[split][item] / max(1, len(records)), 1)
    return figures


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
    weights, counter = {}, label_counts(records)
    for kind, names in labels.kinds.items():
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
