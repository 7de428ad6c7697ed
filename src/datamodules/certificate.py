"""What a split guarantees, in figures: shares kept, groups and near duplicates that cross it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.datamodules.groups import Linked
from src.datamodules.near_duplicates import nearest_across
from src.datamodules.records import Record
from src.datamodules.splits import SPLITS, carried_by, columns_of, labels_of, pairs_of, split_hash

SEARCHED = 10_000  # up to so many photos the closest pair across splits is looked for
SHOWN = 20  # pairs and groups that cross are listed up to so many


def certify(
    linked: Linked,
    splits: Mapping[str, Sequence[Record]],
    asked: Mapping[str, float] | None,
    near_duplicates: int | None,
) -> dict[str, Any]:
    """Return the content of `split_certificate.json`.

    Args:
        linked: the records, and which of them belong together.
        splits: `{split: records}` of them.
        asked: `{split: share}`; None where the split was given: the share that each split has of the photos.
        near_duplicates: up to which distance photos were joined, or None.

    Returns:
        `photos` and `groups` per split; per label its `kind`, its photos per split and the groups that carry
        it; `deviation`: mean and worst difference, over labels and splits, of a label's share from the asked
        one (`pair_deviation`: of pairs of labels of two kinds); `crossing`: groups, identical photos and near
        duplicates that stand in several splits; `closest`: the most alike photos of different splits;
        `not_evaluable`: labels without a photo in val or test, with the reason; `hash`.
    """
    records = linked.records
    split_of = {r.id: SPLITS.index(name) for name, found in splits.items() for r in found}
    chosen = np.array([split_of[r.id] for r in records], np.int64)
    photos = np.bincount(chosen, minlength=len(SPLITS))
    shares = photos if asked is None else np.array([asked.get(name, 0.0) for name in SPLITS])
    shares = shares / shares.sum()
    carried = carried_by(records, labels_of)
    labels = _tally(carried, chosen)
    pairs = _tally(carried_by(records, pairs_of), chosen)
    groups = {
        label: len(np.unique(linked.groups[column]))
        for label, column in zip(sorted(labels), columns_of(carried).T, strict=True)
    }
    numbers = [len(set(linked.groups[chosen == split].tolist())) for split in range(len(SPLITS))]
    return {
        "hash": split_hash(splits),
        "given": asked is None,
        "asked": dict(zip(SPLITS, np.round(shares, 6).tolist(), strict=True)),
        "photos": dict(zip(SPLITS, photos.tolist(), strict=True)),
        "groups": dict(zip(SPLITS, numbers, strict=True)),
        "labels": [
            {"label": key[1], "kind": key[0], **dict(zip(SPLITS, counts, strict=True)), "groups": groups[key]}
            for key, counts in sorted(labels.items())
        ],
        "deviation": _deviation({name: counts for (_, name), counts in labels.items()}, shares),
        "pair_deviation": _deviation({" + ".join(pair): n for pair, n in pairs.items()}, shares),
        "crossing": _crossing(linked, chosen),
        "near_duplicates": {
            "max_distance": near_duplicates,
            "pairs": len(linked.pairs),
            "without_contrast": sum(r.phash is None for r in records),
            "groups_of_the_user": len({r.group for r in records}),
            "groups_joined": int(linked.groups.max()) + 1,
        },
        "closest": _closest(records, chosen),
        "not_evaluable": _not_evaluable(labels, groups, photos),
    }


def _tally(carried: Sequence[set], chosen: np.ndarray) -> dict[Any, list[int]]:
    """Return how many photos of each split carry each item."""
    counts: dict[Any, list[int]] = {}
    for items, split in zip(carried, chosen.tolist(), strict=True):
        for item in items:
            counts.setdefault(item, [0] * len(SPLITS))[split] += 1
    return counts


def _deviation(counts: Mapping[str, Sequence[int]], shares: np.ndarray) -> dict[str, Any] | None:
    """Return mean and worst of |share of an item in a split - share of the split|; None without items."""
    if not counts:
        return None
    names = list(counts)
    table = np.array([counts[name] for name in names], float)
    apart = np.abs(table / table.sum(1, keepdims=True) - shares)
    worst, split = np.unravel_index(apart.argmax(), apart.shape)
    return {
        "mean": round(float(apart.mean()), 6),
        "worst": round(float(apart.max()), 6),
        "worst_label": names[worst],
        "worst_split": SPLITS[split],
    }


def _crossing(linked: Linked, chosen: np.ndarray) -> dict[str, Any]:
    """Return what stands in several splits: groups of the user, identical photos, near duplicates."""

    def several(keys: Sequence[str]) -> list[str]:
        first = dict(zip(reversed(keys), reversed(chosen.tolist()), strict=True))
        return sorted({key for key, split in zip(keys, chosen.tolist(), strict=True) if first[key] != split})

    groups = several([r.group for r in linked.records])
    across = linked.pairs[chosen[linked.pairs[:, 0]] != chosen[linked.pairs[:, 1]]]
    return {
        "groups": len(groups),
        "identical_photos": len([digest for digest in several([r.digest for r in linked.records]) if digest]),
        "near_duplicate_pairs": len(across),
        "examples": {
            "groups": groups[:SHOWN],
            "near_duplicate_pairs": [
                [_placed(linked.records, chosen, i) for i in pair] for pair in across[:SHOWN].tolist()
            ],
        },
    }


def _placed(records: Sequence[Record], chosen: np.ndarray, position: int) -> dict[str, str]:
    """Return where a photo stands."""
    return {"path": records[position].path, "split": SPLITS[chosen[position]]}


def _closest(records: Sequence[Record], chosen: np.ndarray) -> dict[str, Any] | None:
    """Return the most alike photos of different splits; None where they are too many to compare."""
    hashed = np.array([i for i, r in enumerate(records) if r.phash is not None], np.int64)
    if not 2 <= len(hashed) <= SEARCHED:
        return None
    found = nearest_across(np.array([records[i].phash for i in hashed], np.uint64), chosen[hashed])
    if found is None:
        return None
    *pair, distance = found
    return {"distance": distance, "photos": [_placed(records, chosen, hashed[i]) for i in pair]}


def _not_evaluable(
    labels: Mapping[tuple[str, str], Sequence[int]], groups: Mapping[tuple[str, str], int], photos: np.ndarray
) -> dict[str, str]:
    """Return `{label: why}` of the labels without a photo in a split that has photos."""
    reasons = {}
    for key, counts in sorted(labels.items()):
        lacking = [
            name
            for name, held, size in zip(SPLITS, counts, photos.tolist(), strict=True)
            if size and not held and name != "train"
        ]
        if lacking:
            reasons[key[1]] = f"no photo in {' and '.join(lacking)}: {groups[key]} group(s) carry it"
    return reasons
