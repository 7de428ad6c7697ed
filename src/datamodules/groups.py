"""Groups of photos that stay together: the user's, joined by copies and near duplicates."""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.datamodules.near_duplicates import near_pairs
from src.datamodules.records import Record, Source
from src.errors import InputError, did_you_mean, listed

log = logging.getLogger(__name__)
NO_PAIRS = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Linked:
    """Records, and the groups that hold them together.

    Attributes:
        records: sorted by path.
        groups: int64 `[records]`, a number per joined group, from 0 in the order of the first record.
        pairs: int64 `[pairs, 2]`, near duplicates; byte-identical photos are among them.
        distances: int64 `[pairs]`, in how many bits of 64 their perceptual hashes differ.
    """

    records: list[Record]
    groups: np.ndarray
    pairs: np.ndarray
    distances: np.ndarray


def link_records(records: Sequence[Record], near_duplicates: int | None) -> Linked:
    """Join the records' groups where they share a photo: byte-identical, or near duplicates.

    Args:
        records: with groups, digests and perceptual hashes, in any order.
        near_duplicates: the largest distance of near duplicates; None: only identical photos are joined.
    """
    records = sorted(records, key=lambda record: record.path)
    pairs, distances = NO_PAIRS, np.empty(0, np.int64)
    if near_duplicates is not None:
        hashed = np.array([i for i, r in enumerate(records) if r.phash is not None], np.int64)
        hashes = np.array([records[i].phash for i in hashed], np.uint64)
        pairs, distances = near_pairs(hashes, near_duplicates)
        pairs = hashed[pairs]
    groups = join_groups([r.group for r in records], [r.digest for r in records], pairs)
    return Linked(records, groups, pairs, distances)


def report_copies(records: list[Record]) -> None:
    """Log how many photos are byte-identical to another one, and warn where the copies' labels differ."""
    copies: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        copies[record.digest].append(record)
    several = [same for digest, same in copies.items() if digest and len(same) > 1]
    if several:
        extra = sum(len(same) - 1 for same in several)
        log.info("%d photos are byte-identical copies of others; copies stay in one split", extra)
    if differing := [same for same in several if any(r.labels != same[0].labels for r in same)]:
        shown = listed((" = ".join(r.path for r in same[:3]) for same in differing), 3)
        log.warning("%d photos have byte-identical copies with other labels: %s", len(differing), shown)


def report_near_duplicates(linked: Linked) -> None:
    """Log how many photos look like another one, and how many groups of the user that joins."""
    names = [record.group for record in linked.records]
    joined = len(set(names)) - len(set(linked.groups.tolist()))
    alike = [pair for pair in linked.pairs.tolist() if len({linked.records[i].digest for i in pair}) > 1]
    if alike:
        shown = listed((" = ".join(linked.records[i].path for i in pair) for pair in alike), 1)
        log.info("%d pairs of near duplicates: %s", len(alike), shown)
    if joined:
        log.info("Copies and near duplicates join %d groups with others", joined)


def join_groups(groups: Sequence[str], others: Sequence[str], pairs: np.ndarray = NO_PAIRS) -> np.ndarray:
    """Return a number per item, int64 `[items]`, from 0 in the order of the first item.

    Items that are linked by equal `groups`, by equal, non-empty `others` or by one of `pairs` `[pairs, 2]`
    have the same number.
    """
    links = np.concatenate([_equal(groups), _equal(others), pairs])
    shape = (len(groups),) * 2
    matrix = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=shape)
    numbers = connected_components(matrix, directed=False)[1]
    return pd.factorize(numbers)[0].astype(np.int64)


def _equal(keys: Sequence[str]) -> np.ndarray:
    """Return the first item with the same key, and the item, int64 `[items with a key, 2]`."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(key, i), i) for i, key in enumerate(keys) if key]
    return np.array(pairs, np.int64).reshape(-1, 2)


def assign_groups(source: Source, group: str | None) -> list[Record]:
    """Give each record its group.

    Args:
        source: the records, and the columns of their table.
        group: a column of the table, or a regular expression searched in the file name, whose first non-empty
            capture is the group; where it does not match, and for None, the group is the ID.
    """
    if not group:
        return [replace(record, group=record.id) for record in source.records]
    if group in source.columns:
        found = _groups_of_column(source, group)
        where = f"column '{group}' names a group for"
    else:
        found = _groups_of_names(source, group)
        where = "data.group matches the file names of"
    if missed := sum(not found.get(record.id) for record in source.records):
        count = len(source.records)
        log.warning("%s %d of %d photos; the others are groups of their own", where, count - missed, count)
    return [replace(record, group=found.get(record.id) or record.id) for record in source.records]


def _groups_of_column(source: Source, column: str) -> dict[str, str]:
    """Return `{ID: group}`; groups that share a photo, through several rows of one ID, are one."""
    cells = (value.strip() for value in source.columns[column])
    pairs = zip(source.rows, cells, strict=True)
    rows = [(id_, value) for id_, value in pairs if id_ and value.lower() not in ("", "nan")]
    if not rows:
        raise InputError(f"data.group={column}: this column is empty for every photo")
    ids, values = zip(*rows, strict=True)
    names: dict[int, dict[str, None]] = defaultdict(dict)
    numbers = join_groups(values, ids).tolist()
    for number, value in zip(numbers, values, strict=True):
        names[number][value] = None
    if joined := [" + ".join(several) for several in names.values() if len(several) > 1]:
        shown = listed(joined, 5)
        log.warning("Photos with several values in column '%s' join their groups into one: %s", column, shown)
    return {id_: next(iter(names[number])) for id_, number in zip(ids, numbers, strict=True)}


def _groups_of_names(source: Source, expression: str) -> dict[str, str]:
    """Return `{ID: first non-empty capture}`, an empty one where nothing is captured."""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(f"data.group='{expression}': not a regular expression ({error})") from error
    if not pattern.groups:
        columns = f"; {did_you_mean(expression, source.columns)}" if source.columns else ""
        raise InputError(
            f"data.group='{expression}': neither a column nor a regular expression with a capture, "
            f"as ^(A\\d+)_{columns}"
        )
    matches = {record.id: pattern.search(Path(record.path).name) for record in source.records}
    found = {id_: next(filter(None, match.groups()), "") if match else "" for id_, match in matches.items()}
    if not any(found.values()):
        names = listed((Path(record.path).name for record in source.records[:3]), 3)
        raise InputError(f"data.group='{expression}' matches no file name, for example {names}")
    return found
