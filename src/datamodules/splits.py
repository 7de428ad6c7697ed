"""Which photo is trained on, validated on, tested on: whole groups, label shares kept as well as groups allow."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from src.datamodules.records import Record
from src.errors import InputError, did_you_mean, listed

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
SIZE_WEIGHT = 0.5  # what keeping the split's size counts against keeping one label's share


def join_groups(groups: Sequence[str], digests: Sequence[str]) -> np.ndarray:
    """Return a group number per photo, shape `[photos]`: photos of one group, or byte-identical, share it."""
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        root = node
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[node] != root:
            parent[node], node = root, parent[node]
        return root

    for group, digest in zip(groups, digests, strict=True):
        if digest:
            parent[find(f"d{digest}")] = find(f"g{group}")
    roots = [find(f"g{group}") for group in groups]
    number = {root: i for i, root in enumerate(dict.fromkeys(roots))}
    return np.array([number[root] for root in roots], np.int64)


def split_groups(
    targets: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int, required: int = 0
) -> np.ndarray:
    """Assign whole groups to splits so that every label keeps the asked shares.

    Iterative stratification (Sechidis et al., 2011, On the stratification of multi-label data) on groups: the
    groups of the rarest label first, each to the split that still lacks most of its labels. Afterwards a label that
    at least as many groups carry as there are splits gets one group in each.

    Args:
        targets: `[photos, labels]`, which labels each photo carries.
        groups: `[photos]`, group numbers from 0.
        shares: the share of photos that each split should get; they are scaled to sum to 1.
        seed: breaks ties.
        required: the split that gets the first group of every label.

    Returns:
        the split's index per photo, `[photos]`.
    """
    rng = np.random.default_rng(seed)
    shares = np.asarray(shares, float) / np.sum(shares)
    count = int(groups.max()) + 1
    held = np.zeros((count, targets.shape[1] + 1))
    np.add.at(held[:, :-1], groups, targets.astype(float))
    held[:, -1] = np.bincount(groups, minlength=count)
    total = np.maximum(held.sum(0), 1)
    weighted = held / total
    weighted[:, -1] *= SIZE_WEIGHT
    carries = held[:, :-1] > 0
    spread = carries.sum(0)
    rarity = np.where(carries, spread, count + 1).min(1, initial=count + 1)
    order = np.lexsort((rng.random(count), -held[:, -1], rarity))
    lack = shares[:, None] * np.ones(held.shape[1])
    lack[:, -1] *= SIZE_WEIGHT
    assigned = np.empty(count, np.int64)
    begun = np.zeros(targets.shape[1], bool)
    for group in order:
        new = carries[group] & ~begun
        use = weighted[group] > 0
        # each label's need counts by how much of it this group brings
        gain = lack[:, use] @ weighted[group, use] / weighted[group, use].sum()
        allowed = np.flatnonzero(shares > 0)
        rare = new & (spread < len(allowed))
        choice = required if rare.any() else allowed[np.argmax(gain[allowed])]
        assigned[group] = choice
        lack[choice] -= weighted[group]
        begun |= carries[group]
    _spread_rare(assigned, carries, held[:, -1], np.flatnonzero(shares > 0), required)
    return assigned[groups]


def _spread_rare(
    assigned: np.ndarray, carries: np.ndarray, sizes: np.ndarray, splits: np.ndarray, required: int
) -> None:
    """Move small groups, in place, until labels with enough groups stand in every split (and all in `required`)."""
    for label in np.argsort(carries.sum(0), kind="stable"):
        members = np.flatnonzero(carries[:, label])
        wanted = splits if len(members) >= len(splits) else np.array([required])
        for split in wanted if len(members) else []:
            held = np.bincount(assigned[members], minlength=splits.max() + 1)
            if held[split]:
                continue
            donor = int(np.argmax(held))
            candidates = members[assigned[members] == donor]
            others = [
                sum(
                    ((assigned == donor) & carries[:, other]).sum() < 2
                    for other in np.flatnonzero(carries[group])
                )
                for group in candidates
            ]
            best = candidates[np.lexsort((sizes[candidates], others))[0]]
            assigned[best] = split


def split_records(
    records: list[Record], shares: Mapping[str, float], seed: int, given: Mapping[str, str] | None = None
) -> dict[str, list[Record]]:
    """Split the records; a split that the user gave is kept, and only what it lacks is taken from its train part.

    Args:
        records: with groups and digests.
        shares: `{train: 0.7, val: 0.15, test: 0.15}`.
        seed: of the draw.
        given: `{ID: split}`.

    Returns:
        `{train: records, val: records, test: records}`, each in the order of `records`.
    """
    unknown = [name for name in shares if name not in SPLITS]
    if unknown:
        raise InputError(f"data.splits: unknown split '{unknown[0]}': {did_you_mean(unknown[0], SPLITS)}")
    weights = [float(shares.get(name, 0)) for name in SPLITS]
    if min(weights) < 0 or weights[0] <= 0 or weights[1] <= 0:
        raise InputError(f"data.splits={dict(shares)}: train and val need a share above 0, test 0 or more")
    joined = join_groups([r.group for r in records], [r.digest for r in records])
    names = sorted({(kind, label) for r in records for kind, labels in r.labels.items() for label in labels})
    column = {name: i for i, name in enumerate(names)}
    targets = np.zeros((len(records), len(names)), bool)
    for row, record in enumerate(records):
        for kind, labels in record.labels.items():
            targets[row, [column[kind, label] for label in labels]] = True
    if given is None:
        chosen = np.array(SPLITS, object)[split_groups(targets, joined, weights, seed)]
    else:
        chosen = np.array([given[r.id] for r in records], object)
        lacking = [name for name in SPLITS if name not in set(chosen) and shares.get(name, 0) > 0]
        if lacking:
            chosen = _carve(chosen, targets, joined, lacking, weights, seed)
        report_crossing(records, joined, chosen)
    splits = {name: [r for r, split in zip(records, chosen, strict=True) if split == name] for name in SPLITS}
    for name in ("train", "val"):
        if not splits[name]:
            groups = len(set(joined))
            raise InputError(
                f"no photo is left for {name}: {len(records)} photos in {groups} group(s) are too few"
            )
    return splits


def _carve(
    chosen: np.ndarray,
    targets: np.ndarray,
    joined: np.ndarray,
    lacking: list[str],
    weights: list[float],
    seed: int,
) -> np.ndarray:
    log.warning("The given split has no %s: taken from its train photos", " and no ".join(lacking))
    shares = [
        weight if name == "train" or name in lacking else 0.0
        for name, weight in zip(SPLITS, weights, strict=True)
    ]
    train = chosen == "train"
    if not train.any():
        raise InputError("the given split has no train photos")
    _, numbers = np.unique(joined[train], return_inverse=True)
    chosen = chosen.copy()
    chosen[train] = np.array(SPLITS, object)[split_groups(targets[train], numbers, shares, seed)]
    return chosen


def report_crossing(records: list[Record], joined: np.ndarray, chosen: np.ndarray) -> None:
    """Warn of groups, or byte-identical photos, that stand in several splits of a split that the user gave."""
    seen: dict[int, set[str]] = {}
    members: dict[int, list[str]] = {}
    for record, number, split in zip(records, joined, chosen, strict=True):
        seen.setdefault(number, set()).add(split)
        members.setdefault(number, []).append(record.path)
    crossing = [number for number, splits in seen.items() if len(splits) > 1]
    if crossing:
        log.warning(
            "LEAK: %d groups (or identical photos) of the given split stand in several splits, for example %s",
            len(crossing),
            listed(members[crossing[0]], 4),
        )


def split_hash(splits: Mapping[str, Iterable[Record]]) -> str:
    """Return 16 hex digits that stand for which ID is in which split."""
    lines = sorted(f"{record.id}\t{name}" for name, records in splits.items() for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def data_hash(records: Iterable[Record]) -> str:
    """Return 16 hex digits that stand for the photos' contents and labels."""
    lines = sorted(
        f"{r.id}\t{r.path}\t{r.digest}\t{sorted((k, *v) for k, v in r.labels.items())}" for r in records
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def read_split_file(path: Path) -> dict[str, str]:
    """Return `{ID: split}` from a run folder's metadata, or from a CSV with the columns `ID,split`."""
    from src.datamodules.table import pick_column, read_csv

    if path.is_dir():
        given = {}
        for name in SPLITS:
            file = path / f"{name}_metadata.csv"
            if file.is_file():
                frame = read_csv(file, key="data.split_file")
                given.update(dict.fromkeys(frame["ID"].tolist(), name))
        if not given:
            raise InputError(f"data.split_file={path}: no train_metadata.csv in this folder: not a run's")
        return given
    frame = read_csv(path, key="data.split_file")
    ids = frame[pick_column(frame, "ID", (), path, "ID")].tolist()
    names = [name.strip().lower() for name in frame[pick_column(frame, "split", (), path, "split")]]
    for row, name in enumerate(names, 2):
        if name not in SPLITS:
            raise InputError(f"{path}, line {row}: unknown split '{name}': {did_you_mean(name, SPLITS)}")
    given = dict(zip(ids, names, strict=True))
    twice = [id_ for id_, name in zip(ids, names, strict=True) if given[id_] != name]
    if twice:
        raise InputError(f"{path}: IDs in two splits: {listed(twice)}")
    return given
