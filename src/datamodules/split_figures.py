"""A split in figures: its certificate, tables of label counts, class weights."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from src.datamodules.groups import Linked, nearest_across
from src.datamodules.records import Record
from src.datamodules.splits import SPLITS, label_matrix, pair_matrix, split_hash
from src.errors import InputError
from src.labels import LabelSpace

SEARCHED = 10_000  # most photos among which the closest pair across splits is looked for
SHOWN = 20  # most pairs and groups that cross in the list


def certify(
    linked: Linked,
    splits: Mapping[str, Sequence[Record]],
    asked: Mapping[str, float] | None,
    near_duplicates: int | None,
    noun: str = "photo",
) -> dict[str, Any]:
    """Return the content of `split_certificate.json`, see docs/data.md.

    `asked` is `{split: share}`, None where the split was given: then the share of the photos that each split
    has; `near_duplicates` is the distance up to which photos were joined, or None. `deviation` is over labels
    and splits, `pair_deviation` over pairs of labels of two kinds.
    """
    records = linked.records
    split_of = {r.id: SPLITS.index(name) for name, found in splits.items() for r in found}
    chosen = np.array([split_of[r.id] for r in records], np.int64)
    photos = np.bincount(chosen, minlength=len(SPLITS))
    shares = photos if asked is None else np.array([asked.get(name, 0.0) for name in SPLITS])
    shares = shares / shares.sum()
    labels, carried = label_matrix(records)
    pairs, paired = pair_matrix(records)
    counts = _counts(carried, chosen)
    groups = [len(np.unique(linked.groups[column])) for column in carried.T]
    numbers = [len(np.unique(linked.groups[chosen == split])) for split in range(len(SPLITS))]
    return {
        "hash": split_hash(splits),
        "given": asked is None,
        "asked": dict(zip(SPLITS, np.round(shares, 6).tolist(), strict=True)),
        "photos": dict(zip(SPLITS, photos.tolist(), strict=True)),
        "groups": dict(zip(SPLITS, numbers, strict=True)),
        "labels": [
            {"label": label, "kind": kind, **dict(zip(SPLITS, row, strict=True)), "groups": number}
            for (kind, label), row, number in zip(labels, counts.tolist(), groups, strict=True)
        ],
        "deviation": _deviation([label for _, label in labels], counts, shares),
        "pair_deviation": _deviation([" + ".join(pair) for pair in pairs], _counts(paired, chosen), shares),
        "crossing": _crossing(linked, chosen),
        "near_duplicates": {
            "max_distance": near_duplicates,
            "pairs": len(linked.pairs),
            "without_contrast": sum(r.phash is None for r in records),
            "groups_of_the_user": len({r.group for r in records}),
            "groups_joined": int(linked.groups.max()) + 1,
        },
        "closest": _closest(records, chosen),
        "not_evaluable": {
            label: f"no {noun} in {' and '.join(lacking)}: {number} group(s) carry it"
            for (_, label), row, number in zip(labels, counts, groups, strict=True)
            if (lacking := [SPLITS[split] for split in (1, 2) if photos[split] and not row[split]])
        },
    }


def _counts(carried: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.stack([carried[chosen == split].sum(0) for split in range(len(SPLITS))], axis=1)


def _deviation(names: Sequence[str], counts: np.ndarray, shares: np.ndarray) -> dict[str, Any] | None:
    """Return mean and worst of |share of an item in a split - share of the split|; None without items."""
    if not names:
        return None
    apart = np.abs(counts / counts.sum(1, keepdims=True) - shares)
    worst, split = np.unravel_index(apart.argmax(), apart.shape)
    return {
        "mean": round(float(apart.mean()), 6),
        "worst": round(float(apart.max()), 6),
        "worst_label": names[worst],
        "worst_split": SPLITS[split],
    }


def _crossing(linked: Linked, chosen: np.ndarray) -> dict[str, Any]:

    def several(keys: Sequence[str]) -> list[str]:
        places = set(zip(keys, chosen.tolist(), strict=True))
        return sorted(key for key, number in Counter(key for key, _ in places).items() if number > 1)

    groups = several([r.group for r in linked.records])
    across = linked.pairs[chosen[linked.pairs[:, 0]] != chosen[linked.pairs[:, 1]]]
    return {
        "groups": len(groups),
        "identical_photos": sum(map(bool, several([r.digest for r in linked.records]))),
        "near_duplicate_pairs": len(across),
        "examples": {
            "groups": groups[:SHOWN],
            "near_duplicate_pairs": [
                [_placed(linked.records, chosen, i) for i in pair] for pair in across[:SHOWN].tolist()
            ],
        },
    }


def _placed(records: Sequence[Record], chosen: np.ndarray, position: int) -> dict[str, str]:
    return {"path": records[position].path, "split": SPLITS[chosen[position]]}


def _closest(records: Sequence[Record], chosen: np.ndarray) -> dict[str, Any] | None:
    hashed = np.array([i for i, r in enumerate(records) if r.phash is not None], np.int64)
    if not 2 <= len(hashed) <= SEARCHED:
        return None
    found = nearest_across(np.array([records[i].phash for i in hashed], np.uint64), chosen[hashed])
    if found is None:
        return None
    *pair, distance = found
    return {"distance": distance, "photos": [_placed(records, chosen, hashed[i]) for i in pair]}


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
    """The shape of class weights: their square root, and a lower and upper bound, applied last."""

    sqrt: bool = False
    clip: Sequence[float] | None = None


def class_weights(
    records: Sequence[Record], labels: LabelSpace, multilabel: bool, weighting: Weighting
) -> dict[str, list[float]]:
    """Return weights of the loss by kind, in the order of the labels, from the training split.

    For heads the inverse frequency n / (classes * n_class), which leaves the mean weight of a photo at 1; for
    sigmoids the weight of the positives, negatives / positives.
    """
    clip = weighting.clip
    if clip is not None and (len(clip) != 2 or not 0 < clip[0] <= clip[1]):
        raise InputError(f"data.class_weights.clip={list(clip)}: needs two numbers, 0 < low <= high")
    weights, counter = {}, label_counts(records)
    for kind, names in labels.kinds.items():
        positives = np.array([max(1, counter[name]) for name in names], float)
        if multilabel:
            values = np.maximum(len(records) - positives, 1) / positives
        else:
            values = positives.sum() / (len(names) * positives)
        if weighting.sqrt:
            values = np.sqrt(values)
        if clip is not None:
            values = np.clip(values, *clip)
        weights[kind] = [round(float(v), 6) for v in values]
    return weights
