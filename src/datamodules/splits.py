"""Which photo is trained on, validated on, tested on: whole groups, label shares as equal as these allow."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from src.datamodules.csv_table import ID_COLUMNS, pick_column, read_csv
from src.datamodules.groups import Linked
from src.datamodules.records import Record
from src.datamodules.stratify import split_groups
from src.errors import InputError, did_you_mean, listed

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
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

    Args:
        linked: the records, and which of them belong together.
        shares: `{train: 0.7, val: 0.15, test: 0.15}`.
        seed: of the draw.
        given: `{ID: split}`.
        frozen: nothing is taken from `given`'s train part for a split that it lacks.
        fold: `(which, of how many)`: the test split is that fold of a cross-validation, and train and val
            share the rest. A label that the fold holds all photos of gives its smallest group back.

    Returns:
        `{train: records, val: records, test: records}`, each sorted by path.

    Raises:
        InputError: for shares that make no sense, or where no photo is left for train or val.
    """
    weights = _weights(shares)
    records, groups = linked.records, linked.groups
    if not records:
        raise InputError("no photo is left to split")
    targets, pairs = label_columns(records), pair_columns(records)
    _report_giant(linked)
    if given is None and fold is None:
        chosen = np.array(SPLITS, object)[split_groups(targets, groups, weights, seed, pairs=pairs)]
    elif fold is not None:
        chosen = _folded(linked, targets, pairs, fold, shares, seed)
    else:
        chosen = np.array([given[r.id] for r in records], object)
        lacking = [name for name, w in zip(SPLITS, weights, strict=True) if w > 0 and name not in chosen]
        if frozen and lacking:
            log.warning("The split file names no photo for %s", " and ".join(lacking))
            lacking = []
        if lacking:
            chosen = _carve(chosen, targets, groups, lacking, weights, seed)
        report_crossing(records, groups, chosen)
    splits = {name: [r for r, split in zip(records, chosen, strict=True) if split == name] for name in SPLITS}
    few = f"{len(records)} photos in {len(set(groups.tolist()))} group(s) are too few"
    for name in ("train", "val"):
        if not splits[name]:
            raise InputError(f"no photo is left for {name}: {few}")
    if not splits["test"] and (weights[2] > 0 or fold is not None):
        log.warning("No photo is left for test: %s", few)
    return splits


def _report_giant(linked: Linked) -> None:
    """Warn of a group that holds more than half of all photos: it decides the shares alone."""
    sizes = np.bincount(linked.groups)
    largest = int(sizes.argmax())
    if sizes[largest] * 2 > len(linked.records) and len(sizes) > 1:
        members = [linked.records[i] for i in np.flatnonzero(linked.groups == largest)]
        names = listed(dict.fromkeys(r.group for r in members), 3)
        log.warning(
            "One group holds %d of %d photos (%s) and stays in one split, so the shares cannot be as asked; "
            "see data.group and data.near_duplicates",
            len(members),
            len(linked.records),
            names,
        )


def split_folds(linked: Linked, folds: int, seed: int, key: str = "folds") -> np.ndarray:
    """Return the number of a fold per record: whole groups, stratified as `split_groups` does it.

    Raises:
        InputError: for fewer than two folds, or fewer groups than folds; it names the `key`.
    """
    count = int(linked.groups.max(initial=-1)) + 1
    if count < 2:
        raise InputError(f"{key}={folds}: all photos are one group, which cannot be divided; see data.group")
    if not 2 <= folds <= count:
        raise InputError(f"{key}={folds}: needs a number from 2 to {count}, the number of groups")
    targets, pairs = label_columns(linked.records), pair_columns(linked.records)
    return split_groups(targets, linked.groups, [1.0] * folds, seed, required=None, pairs=pairs)


def fold_shares(shares: Mapping[str, float], folds: int) -> dict[str, float]:
    """Return `{split: share}` of one fold: the test split's is 1 / folds, the others share the rest."""
    train, val, _ = _weights(shares)
    rest = 1 - 1 / folds
    return {"train": rest * train / (train + val), "val": rest * val / (train + val), "test": 1 / folds}


def _folded(
    linked: Linked,
    targets: np.ndarray,
    pairs: np.ndarray,
    fold: tuple[int, int],
    shares: Mapping[str, float],
    seed: int,
) -> np.ndarray:
    """Return the splits of one fold of a cross-validation, `[records]`.

    A label that the fold holds all photos of gives back its smallest group: it has to be trained on.
    """
    which, folds = fold
    rest = split_folds(linked, folds, seed, key="data.folds") != which
    sizes = np.bincount(linked.groups)
    for column in targets.T:
        if not (column & rest).any():
            groups = np.unique(linked.groups[column])
            rest |= linked.groups == groups[np.argmin(sizes[groups])]
    wanted = fold_shares(shares, folds)
    chosen = np.full(len(rest), "test", object)
    _, numbers = np.unique(linked.groups[rest], return_inverse=True)
    two = [wanted["train"], wanted["val"], 0.0]
    chosen[rest] = np.array(SPLITS, object)[
        split_groups(targets[rest], numbers, two, seed, pairs=pairs[rest])
    ]
    return chosen


def _weights(shares: Mapping[str, float]) -> list[float]:
    """Return the shares in the order of `SPLITS`."""
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


def label_columns(records: Sequence[Record]) -> np.ndarray:
    """Return which labels each photo carries, bool `[photos, labels]`, the labels sorted."""
    return columns_of(carried_by(records, labels_of))


def pair_columns(records: Sequence[Record]) -> np.ndarray:
    """Return which pairs of labels of two kinds each photo carries, bool `[photos, pairs]`, sorted."""
    return columns_of(carried_by(records, pairs_of))


def labels_of(labels: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    """Return the (kind, label) pairs among a photo's labels."""
    return {(kind, name) for kind, names in labels.items() for name in names}


def pairs_of(labels: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    """Return the pairs of labels of two kinds among a photo's labels."""
    kinds = list(labels.values())
    return {pair for i, names in enumerate(kinds) for others in kinds[:i] for pair in product(others, names)}


def carried_by(records: Sequence[Record], what: Callable[[Mapping[str, Sequence[str]]], set]) -> list[set]:
    """Return what each photo's labels make, made once for each combination of labels.

    Not a set for each of a million photos, which Python's garbage collector would visit again and again.
    """
    made: dict[tuple, set] = {}
    found = []
    for record in records:
        key = tuple(record.labels.items())
        if key not in made:
            made[key] = what(record.labels)
        found.append(made[key])
    return found


def columns_of(carried: Sequence[set]) -> np.ndarray:
    """Return which of the sets hold each item that occurs, bool `[sets, items]`, the items sorted."""
    column = {item: i for i, item in enumerate(sorted(set().union(*carried)))}
    rows = np.repeat(np.arange(len(carried)), [len(items) for items in carried])
    found = np.zeros((len(carried), len(column)), bool, order="F")
    found[rows, [column[item] for items in carried for item in items]] = True
    return found


def _carve(
    chosen: np.ndarray,
    targets: np.ndarray,
    joined: np.ndarray,
    lacking: list[str],
    weights: list[float],
    seed: int,
) -> np.ndarray:
    """Return `chosen` with the splits that it lacks taken, by whole groups, from its train part."""
    train = chosen == "train"
    if not train.any():
        raise InputError("the given split has no train photos")
    log.warning("The given split has no %s: taken from its train photos", " and no ".join(lacking))
    shares = [
        weight if name == "train" or name in lacking else 0.0
        for name, weight in zip(SPLITS, weights, strict=True)
    ]
    _, numbers = np.unique(joined[train], return_inverse=True)
    chosen = chosen.copy()
    chosen[train] = np.array(SPLITS, object)[split_groups(targets[train], numbers, shares, seed)]
    return chosen


def report_crossing(records: Sequence[Record], joined: np.ndarray, chosen: np.ndarray) -> None:
    """Warn of groups, copies or near duplicates that stand in several parts of a split that the user gave."""
    members: dict[int, dict[str, list[str]]] = {}
    for record, number, split in zip(records, joined.tolist(), chosen, strict=True):
        members.setdefault(number, {}).setdefault(split, []).append(record.path)
    crossing = [splits for splits in members.values() if len(splits) > 1]
    if crossing:
        example = listed((f"{paths[0]} ({split})" for split, paths in crossing[0].items()), 3)
        log.warning(
            "LEAK: %d groups (assets, copies, near duplicates) stand in several of the given splits, as %s",
            len(crossing),
            example,
        )


def split_hash(splits: Mapping[str, Iterable[Record]]) -> str:
    """Return 16 hex digits that stand for which ID is in which split."""
    lines = sorted(f"{record.id}\t{name}" for name, records in splits.items() for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def data_hash(records: Iterable[Record]) -> str:
    """Return 16 hex digits that stand for the photos' contents and labels, in whatever order they come."""
    lines = sorted(
        f"{r.id}\t{r.path}\t{r.digest}\t{sorted((k, *sorted(v)) for k, v in r.labels.items())}"
        for r in records
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def read_split_file(path: Path) -> dict[str, str]:
    """Return `{ID: split}` from a run folder's metadata, or from a CSV with the columns `ID,split`.

    Raises:
        InputError: no such file, no run folder, an unknown split's name, an ID in two splits.
    """
    key = "data.split_file"
    if path.is_dir():
        pairs = []
        for name in SPLITS:
            file = path / f"{name}_metadata.csv"
            if name != "test" or file.is_file():
                frame = read_csv(file, key=key, allow_empty=True)
                pairs += [(id_, name) for id_ in frame[pick_column(frame, "ID", (), file, "")].tolist()]
    else:
        frame = read_csv(path, key=key)
        ids = [id_.strip() for id_ in frame[pick_column(frame, None, ID_COLUMNS, path, "")].tolist()]
        names = [name.strip().lower() for name in frame[pick_column(frame, "split", (), path, "")].tolist()]
        for row, name in enumerate(names, 1):
            if name not in SPLIT_NAMES:
                raise InputError(f"{path}, row {row}: unknown split '{name}': {did_you_mean(name, SPLITS)}")
        pairs = [(id_, SPLIT_NAMES[name]) for id_, name in zip(ids, names, strict=True)]
    given = dict(pairs)
    if twice := dict.fromkeys(id_ for id_, name in pairs if given[id_] != name):
        raise InputError(f"{key}={path}: IDs in two splits: {listed(twice)}")
    return given
