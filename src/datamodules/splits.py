"""Train, val and test splits by whole groups, with label shares as equal as these allow."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, product

import numpy as np

from src.datamodules.groups import Linked
from src.datamodules.records import Record
from src.datamodules.stratify import split_groups
from src.errors import InputError, did_you_mean, listed
from src.labels import SPLITS

log = logging.getLogger(__name__)
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "test": "test", "testing": "test"}  # fmt: skip


def split_records(
    linked: Linked,
    shares: Mapping[str, float],
    seed: int,
    given: Mapping[str, str] | None = None,
    frozen: bool = False,
    fold: tuple[int, int] | None = None,
) -> dict[str, list[Record]]:
    """Split the records; a split that the user gave is kept, what it lacks is taken from its train part.

    Nothing is taken from the train part of a `given` split, `{ID: split}`, that is `frozen`. With a `fold`,
    `(which, of how many)`, the test split is that fold of a cross-validation, and train and val share the
    rest. Each split is sorted by path.
    """
    weights = _weights(shares)
    records = linked.records
    if not records:
        raise InputError("no photo is left to split")
    noun = records[0].noun
    _report_giant(linked)
    if fold is not None:
        chosen = _folded(linked, fold, shares, seed)
    elif given is None:
        chosen = _drawn(linked, np.ones(len(records), bool), weights, seed)
    else:
        chosen = np.array([given[r.id] for r in records], object)
        lacking = [name for name, w in zip(SPLITS, weights, strict=True) if w > 0 and name not in chosen]
        if lacking and frozen:
            log.warning("The split file names no %s for %s", noun, " and ".join(lacking))
        elif lacking:
            chosen = _carve(linked, chosen, lacking, weights, seed)
        _report_crossing(linked, chosen)
    splits = {name: [r for r, split in zip(records, chosen, strict=True) if split == name] for name in SPLITS}
    few = f"{len(records)} {noun}s in {len(np.unique(linked.groups))} group(s) are too few"
    for name in ("train", "val"):
        if not splits[name]:
            raise InputError(f"no {noun} is left for {name}: {few}")
    if not splits["test"] and (weights[2] > 0 or fold is not None):
        log.warning("No %s is left for test: %s", noun, few)
    return splits


def _report_giant(linked: Linked) -> None:
    """Warn of a group that holds more than half of all photos: it decides the shares alone."""
    sizes = np.bincount(linked.groups)
    largest = int(sizes.argmax())
    if sizes[largest] * 2 > len(linked.records) and len(sizes) > 1:
        names = dict.fromkeys(linked.records[i].group for i in np.flatnonzero(linked.groups == largest))
        log.warning(
            "One group holds %d of %d %ss (%s) and stays in one split, so the shares cannot be as asked; "
            "see data.group and data.near_duplicates",
            *(sizes[largest], len(linked.records), linked.records[0].noun, listed(names, 3)),
        )


def split_folds(linked: Linked, folds: int, seed: int, key: str = "folds") -> np.ndarray:
    """Return the number of a fold per record: whole groups, stratified as `split_groups` does it."""
    count = int(linked.groups.max(initial=-1)) + 1
    if count < 2:
        raise InputError(f"{key}={folds}: all is one group, which cannot be divided; see data.group")
    if not 2 <= folds <= count:
        raise InputError(f"{key}={folds}: needs a number from 2 to {count}, the number of groups")
    (_, targets), (_, pairs) = label_matrix(linked.records), pair_matrix(linked.records)
    return split_groups(targets, linked.groups, [1.0] * folds, seed, required=None, pairs=pairs)


def _drawn(linked: Linked, part: np.ndarray, weights: Sequence[float], seed: int) -> np.ndarray:
    (_, targets), (_, pairs) = label_matrix(linked.records), pair_matrix(linked.records)
    _, groups = np.unique(linked.groups[part], return_inverse=True)
    return np.array(SPLITS, object)[split_groups(targets[part], groups, weights, seed, pairs=pairs[part])]


def fold_shares(shares: Mapping[str, float], folds: int) -> dict[str, float]:
    """Return `{split: share}` of one fold: the test split's is 1 / folds, the others share the rest."""
    train, val, _ = _weights(shares)
    rest = 1 - 1 / folds
    return {"train": rest * train / (train + val), "val": rest * val / (train + val), "test": 1 / folds}


def _folded(linked: Linked, fold: tuple[int, int], shares: Mapping[str, float], seed: int) -> np.ndarray:
    """Return the splits of one fold of a cross-validation, `[records]`.

    A label that the fold holds all photos of gives back its smallest group: it has to be trained on.
    """
    which, folds = fold
    rest = split_folds(linked, folds, seed, key="data.folds") != which
    sizes = np.bincount(linked.groups)
    for column in label_matrix(linked.records)[1].T:
        if not (column & rest).any():
            groups = np.unique(linked.groups[column])
            rest |= linked.groups == groups[np.argmin(sizes[groups])]
    wanted = fold_shares(shares, folds)
    chosen = np.full(len(rest), "test", object)
    chosen[rest] = _drawn(linked, rest, [wanted["train"], wanted["val"], 0.0], seed)
    return chosen


def _weights(shares: Mapping[str, float]) -> list[float]:
    for name in shares:
        if name not in SPLITS:
            raise InputError(f"data.splits: unknown split '{name}': {did_you_mean(name, SPLITS)}")
    weights = [float(shares.get(name, 0)) for name in SPLITS]
    if not np.isfinite(weights).all() or min(weights) < 0 or min(weights[:2]) <= 0:
        raise InputError(f"data.splits={dict(shares)}: train and val need a share above 0, test 0 or more")
    if abs(sum(weights) - 1) > 1e-6:
        shown = ", ".join(f"{name} {w / sum(weights):.1%}" for name, w in zip(SPLITS, weights, strict=True))
        log.info("data.splits adds up to %g, so the shares are %s", sum(weights), shown)
    return weights


def label_matrix(records: Sequence[Record]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return the (kind, label) pairs that occur, sorted, and which photo has which, bool `[photos, n]`."""
    return _matrix(records, lambda labels: {(kind, name) for kind, names in labels for name in names})


def pair_matrix(records: Sequence[Record]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return the pairs of labels of two kinds that occur, sorted, and which photo has which."""
    return _matrix(
        records,
        lambda labels: {pair for (_, a), (_, b) in combinations(labels, 2) for pair in product(a, b)},
    )


def _matrix(
    records: Sequence[Record], items_of: Callable[[Sequence[tuple[str, tuple[str, ...]]]], set]
) -> tuple[list[tuple[str, str]], np.ndarray]:
    numbers: dict[tuple, int] = {}  # of the combinations of labels, which are few
    which = [numbers.setdefault(tuple(record.labels.items()), len(numbers)) for record in records]
    sets = [items_of(labels) for labels in numbers]
    items = sorted(set().union(*sets))
    rows = np.array([[item in has for item in items] for has in sets], bool).reshape(len(sets), len(items))
    return items, rows[which]


def _carve(
    linked: Linked, chosen: np.ndarray, lacking: Sequence[str], weights: Sequence[float], seed: int
) -> np.ndarray:
    train = chosen == "train"
    if not train.any():
        raise InputError(f"the given split has no train {linked.records[0].noun}s")
    told = "The given split has no %s: taken from its train %ss"
    log.warning(told, " and no ".join(lacking), linked.records[0].noun)
    asked = {"train", *lacking}
    weights = [w if name in asked else 0.0 for name, w in zip(SPLITS, weights, strict=True)]
    _, groups = np.unique(linked.groups[train], return_inverse=True)
    targets = label_matrix(linked.records)[1][train]
    chosen[train] = np.array(SPLITS, object)[split_groups(targets, groups, weights, seed)]
    return chosen


def _report_crossing(linked: Linked, chosen: np.ndarray) -> None:
    members: dict[int, dict[str, str]] = {}
    for record, number, split in zip(linked.records, linked.groups.tolist(), chosen, strict=True):
        members.setdefault(number, {}).setdefault(split, record.path)
    if crossing := [first for first in members.values() if len(first) > 1]:
        log.warning(
            "LEAK: %d groups (assets, copies, near duplicates) stand in several of the given splits, as %s",
            len(crossing),
            listed((f"{path} ({split})" for split, path in crossing[0].items()), 3),
        )


def split_hash(splits: Mapping[str, Iterable[Record]]) -> str:
    """Return 16 hex digits that stand for which ID is in which split."""
    lines = sorted(f"{record.id}\t{name}" for name, records in splits.items() for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def data_hash(records: Iterable[Record]) -> str:
    """Return 16 hex digits that stand for the photos' contents and labels, independent of their order."""
    lines = sorted(
        f"{r.id}\t{r.path}\t{r.digest}\t{sorted((k, *sorted(v)) for k, v in r.labels.items())}"
        for r in records
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
