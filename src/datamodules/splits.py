"""Which photo is trained on, validated on, tested on: whole groups, label shares as equal as these allow."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from src.datamodules.delimited import ID_COLUMNS, pick_column, read_csv
from src.datamodules.records import Record, join_groups
from src.errors import InputError, did_you_mean, listed

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "test": "test", "testing": "test"}  # fmt: skip
SIZE_WEIGHT = 2.0  # what keeping the split's size counts against keeping one label's share
FEW_GROUPS, PASSES = 20_000, 3  # up to so many groups the split is refined in so many passes


def split_groups(
    targets: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int, required: int = 0
) -> np.ndarray:
    """Assign whole groups to splits so that the photos and every label keep the asked shares.

    Greedy stratification in the spirit of Sechidis et al. (2011, On the stratification of multi-label data),
    on groups and with a quadratic cost: groups come one by one, large ones first, and each goes where the sum
    of squared deviations from the shares of what is placed so far, relative to the share, grows least. Where
    groups are few, further passes take each group out and place it again. At last a label that at least as
    many groups carry as there are splits gets one group in each, and every label one in `required`.

    Args:
        targets: `[photos, labels]`, which labels each photo carries.
        groups: `[photos]`, group numbers from 0, none left out.
        shares: the share of photos that each split should get; they are scaled to sum to 1.
        seed: of the order among groups of about the same size.
        required: the split that no label is absent from.

    Returns:
        the split's index per photo, `[photos]`.
    """
    rng = np.random.default_rng(seed)
    shares = np.asarray(shares, float) / np.sum(shares)
    count = int(groups.max()) + 1
    held = np.zeros((count, targets.shape[1] + 1))
    np.add.at(held, groups, np.column_stack([targets, np.ones(len(targets))]))
    sizes = held[:, -1]
    part = held / np.maximum(held.sum(0), 1)
    part[:, -1] *= SIZE_WEIGHT**0.5
    order = np.lexsort((rng.random(count), -np.ceil(np.log2(sizes)))).tolist()
    passes = PASSES if count <= FEW_GROUPS else 1
    assigned = _place(part, order, shares.tolist(), passes)
    _spread_rare(assigned, held[:, :-1] > 0, sizes, np.flatnonzero(shares > 0).tolist(), required)
    return assigned[groups]


def _place(part: np.ndarray, order: list[int], shares: list[float], passes: int) -> np.ndarray:
    """Return the split of each group, `[groups]`; `part[g, l]` is the part of label l's photos in group g.

    Plain lists: a group has few labels, for which they are faster than arrays.
    """
    columns = [np.flatnonzero(row).tolist() for row in part]
    values = [row[column].tolist() for row, column in zip(part, columns, strict=True)]
    over = [[0.0] * part.shape[1] for _ in shares]  # what each split has beyond its share of what is placed
    assigned = [-1] * len(part)

    def move(group: int, split: int, sign: int) -> None:
        for column, value in zip(columns[group], values[group], strict=True):
            for other, share in zip(over, shares, strict=True):
                other[column] -= sign * value * share
            over[split][column] += sign * value

    for _ in range(passes):
        for group in order:
            if assigned[group] >= 0:
                move(group, assigned[group], -1)
            own = list(zip(columns[group], values[group], strict=True))
            square = sum([value * value for _, value in own])
            lowest = float("inf")
            for split, share in enumerate(shares):
                if share > 0:
                    linear = sum([value * over[split][column] for column, value in own])
                    cost = (2 * linear + square * (1 - share)) / share
                    if cost < lowest:
                        assigned[group], lowest = split, cost
            move(group, assigned[group], 1)
    return np.array(assigned, np.int64)


def _spread_rare(
    assigned: np.ndarray, carries: np.ndarray, sizes: np.ndarray, splits: list[int], required: int
) -> None:
    """Move small groups, in place, until each label stands in `required`, and with enough groups everywhere.

    Only a move into `required` may take a label's last group away from another split.
    """
    counts = np.stack([carries[assigned == split].sum(0) for split in range(max(splits) + 1)])
    spread = carries.sum(0)
    wanted = [required, *(split for split in splits if split != required)]
    for label in np.argsort(spread, kind="stable"):
        members = np.flatnonzero(carries[:, label])
        for split in wanted if len(members) >= len(splits) else [required]:
            if counts[split, label] or not len(members):
                continue
            lost = (carries[members] & (counts[assigned[members]] == 1)).sum(1)
            best = np.lexsort((sizes[members], lost))[0]
            if lost[best] and split != required:
                continue
            group = members[best]
            counts[assigned[group]] -= carries[group]
            counts[split] += carries[group]
            assigned[group] = split


def split_records(
    records: Sequence[Record],
    shares: Mapping[str, float],
    seed: int,
    given: Mapping[str, str] | None = None,
    frozen: bool = False,
) -> dict[str, list[Record]]:
    """Split the records; a split that the user gave is kept, what it lacks is taken from its train part.

    Args:
        records: with groups and digests; their order does not matter.
        shares: `{train: 0.7, val: 0.15, test: 0.15}`.
        seed: of the draw.
        given: `{ID: split}`.
        frozen: nothing is taken from `given`'s train part for a split that it lacks.

    Returns:
        `{train: records, val: records, test: records}`, each sorted by path.

    Raises:
        InputError: for shares that make no sense, or where no photo is left for train or val.
    """
    weights = _weights(shares)
    records = sorted(records, key=lambda record: record.path)
    if not records:
        raise InputError("no photo is left to split")
    joined = join_groups([r.group for r in records], [r.digest for r in records])
    targets = _targets(records)
    if given is None:
        chosen = np.array(SPLITS, object)[split_groups(targets, joined, weights, seed)]
    else:
        chosen = np.array([given[r.id] for r in records], object)
        lacking = [name for name, w in zip(SPLITS, weights, strict=True) if w > 0 and name not in chosen]
        if frozen and lacking:
            log.warning("The split file names no photo for %s", " and ".join(lacking))
            lacking = []
        if lacking:
            chosen = _carve(chosen, targets, joined, lacking, weights, seed)
        report_crossing(records, joined, chosen)
    splits = {name: [r for r, split in zip(records, chosen, strict=True) if split == name] for name in SPLITS}
    few = f"{len(records)} photos in {len(set(joined))} group(s) are too few"
    for name in ("train", "val"):
        if not splits[name]:
            raise InputError(f"no photo is left for {name}: {few}")
    if not splits["test"] and weights[2] > 0:
        log.warning("No photo is left for test: %s", few)
    return splits


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


def _targets(records: Sequence[Record]) -> np.ndarray:
    """Return which labels each photo carries, bool `[photos, labels]`, the labels sorted."""
    carried = [{(kind, name) for kind, names in r.labels.items() for name in names} for r in records]
    column = {label: i for i, label in enumerate(sorted(set().union(*carried)))}
    targets = np.zeros((len(records), len(column)), bool)
    for row, labels in enumerate(carried):
        targets[row, [column[label] for label in labels]] = True
    return targets


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
    """Warn of groups, or byte-identical photos, that stand in several parts of a split that the user gave."""
    members: dict[int, dict[str, list[str]]] = {}
    for record, number, split in zip(records, joined.tolist(), chosen, strict=True):
        members.setdefault(number, {}).setdefault(split, []).append(record.path)
    crossing = [splits for splits in members.values() if len(splits) > 1]
    if crossing:
        example = listed((f"{paths[0]} ({split})" for split, paths in crossing[0].items()), 3)
        log.warning(
            "LEAK: %d groups (or identical photos) of the given split stand in several splits, as %s",
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
