"""Groups of photos that stay together: the user's, joined by copies and near duplicates."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from src.datamodules.findings import MISSING, quoted, spellings, visible, word
from src.datamodules.records import EXAMPLES, Finding, Record, Source, tidy
from src.errors import InputError, did_you_mean, listed

log = logging.getLogger(__name__)
NO_PAIRS = np.empty((0, 2), np.int64)
HASHED_SIZE = (64, 64)  # photos are decoded for it at no less, whatever size a model takes
BITS = 64
MANY, PER_PHOTO = 100_000, 4  # near pairs that are all kept, whichever is more
BLOCK = 256  # hashes that are compared with all others at once
MIN_CONTRAST = 1.0  # gray levels of standard deviation in the low frequencies; below, the bits are noise


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

    `near_duplicates` is their largest distance; None: only identical photos are joined.
    """
    records = sorted(records, key=lambda record: record.path)
    pairs, apart = NO_PAIRS, np.empty(0, np.int64)
    if near_duplicates is not None:
        hashed = np.array([i for i, r in enumerate(records) if r.phash is not None], np.int64)
        hashes = np.array([records[i].phash for i in hashed], np.uint64)
        pairs, apart = near_pairs(hashes, near_duplicates)
        pairs = hashed[pairs]
    groups = join_groups([r.group for r in records], [r.digest for r in records], pairs)
    return Linked(records, groups, pairs, apart)


def identical_sets(records: Sequence[Record]) -> list[list[Record]]:
    """Return the sets of byte-identical photos, in the order of the records."""
    sets: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.digest:
            sets[record.digest].append(record)
    return [same for same in sets.values() if len(same) > 1]


def report_copies(records: list[Record]) -> None:
    """Log how many photos are byte-identical to another one, and warn where the copies' labels differ."""
    if several := identical_sets(records):
        extra = sum(len(same) - 1 for same in several)
        log.info("%d photos are byte-identical copies of others; copies stay in one split", extra)
    if differing := [same for same in several if any(r.labels != same[0].labels for r in same)]:
        apart = [{str(r.labels): r.path for r in reversed(same)}.values() for same in differing]
        shown = listed((" = ".join([*paths][::-1][:3]) for paths in apart), 3)
        count = sum(map(len, differing))
        log.warning("%d photos have byte-identical copies with other labels: %s", count, shown)


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
    """Give each record its group; what looks wrong in the groups is added to the source's findings.

    `group` is a column of the table, or a regular expression searched in the file name, or in the cells of a
    column, `COLUMN:EXPRESSION`, whose first non-empty capture is the group. Where it does not match, and for
    None, the group is the ID.
    """
    if not group:
        return [replace(record, group=record.id) for record in source.records]
    column, _, expression = group.partition(":")
    if group in source.columns:
        column, expression = group, ""
    if column in source.columns:
        ids, texts = source.rows, source.columns[column]
    else:
        ids, expression = [record.id for record in source.records], group
        texts = [Path(record.path).name for record in source.records]
    names = _captures(source, expression, texts) if expression else texts
    named = [pair for pair in zip(ids, _without_missing(group, names), strict=True) if all(pair)]
    if not named:
        raise InputError(f"data.group='{group}' names no group, for example in {listed(texts, 3)}")
    found = _joined_groups(group, named)
    if missed := sum(record.id not in found for record in source.records):
        count = len(source.records)
        line = "data.group=%s names a group for %d of %d %ss; the others are groups of their own"
        log.warning(line, group, count - missed, count, source.records[0].noun)
    source.findings += _alike(group, found, source.records[0].noun)
    return [replace(record, group=found.get(record.id, record.id)) for record in source.records]


def _alike(group: str, group_of: Mapping[str, str], noun: str) -> list[Finding]:
    """Return a finding of groups that a reader takes for one: they may put one asset into two splits."""
    photos = Counter(group_of.values())
    if not (alike := spellings(photos)):
        return []
    count = sum(photos[name] for names in alike for name in names)
    shown = listed((" = ".join(map(visible, names)) for names in alike), EXAMPLES)
    text = f"data.group={group}: {len(alike)} groups in several spellings ({count} {noun}s): {shown}"
    return [Finding("groups_alike", text, "write each in one way, or splits may share an asset", count)]


def _joined_groups(group: str, named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return `{ID: group}` of pairs; groups that share a photo, through several rows of one ID, are one."""
    ids, values = zip(*named, strict=True)
    names: dict[int, dict[str, None]] = defaultdict(dict)
    numbers = join_groups(values, ids).tolist()
    for number, value in zip(numbers, values, strict=True):
        names[number][value] = None
    if joined := [" + ".join(several) for several in names.values() if len(several) > 1]:
        line = "data.group=%s: IDs with several values join their groups into one: %s"
        log.warning(line, group, listed(joined, 5))
    return {id_: next(iter(names[number])) for id_, number in zip(ids, numbers, strict=True)}


def _captures(source: Source, expression: str, texts: Iterable[str]) -> list[str]:
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
    matches = map(pattern.search, texts)
    return [next(filter(None, match.groups()), "") if match else "" for match in matches]


def _without_missing(group: str, names: Iterable[str]) -> list[str]:
    names = list(map(tidy, names))
    missing = Counter(name for name in names if name and word(name) in MISSING)
    if words := {name: count for name, count in missing.items() if name.lower() != "nan"}:
        log.warning("data.group=%s: words for a missing group name none: %s", group, quoted(words, words))
    return ["" if name in missing else name for name in names]


def perceptual_hash(image: Image.Image) -> int | None:
    """Return 64 bits that a copy of the photo shares but for a few, or None for one without contrast.

    The signs, about their median, of the 8 x 8 lowest frequencies of a cosine transform of the photo's 32 x
    32 gray levels, without the mean (Zauner, 2010, Implementation and benchmarking of perceptual image hash
    functions). It withstands another size, compression and brightness; not cropping, mirroring, turning.
    """
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), np.float64)
    low = dctn(gray, norm="ortho")[:8, :8]
    low[0, 0] = 0
    if np.sqrt((low**2).sum()) / 32 < MIN_CONTRAST:
        return None
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def near_pairs(hashes: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of hashes that differ in at most `max_distance` bits.

    Exact: the bits are cut into more bands than `max_distance`, so that two such hashes agree in a few whole
    bands, and only hashes that do are compared. Of equal hashes each is paired with the first one alone, and
    only that one with others: a thousand copies are a thousand pairs, not a million. Past `many` pairs, as a
    fixed camera may make, only those are kept that hold the same photos together, the closest first.

    Args:
        hashes: uint64 `[photos]`.
        max_distance: 0 to 7.

    Returns:
        pairs int64 `[pairs, 2]`, the lower position first, sorted; and their distances int64 `[pairs]`.
    """
    values, first, which = np.unique(np.asarray(hashes, np.uint64), return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[which] != np.arange(len(which)))
    equal = np.column_stack([first[which[copies]], copies])
    shared = 2 if max_distance <= 5 else 3  # bands that two near hashes have in common
    bands = np.array_split(np.arange(BITS, dtype=np.uint64), max_distance + shared)
    masks = [np.bitwise_or.reduce(np.uint64(1) << band) for band in bands]
    many = max(MANY, PER_PHOTO * len(hashes))
    keys = np.empty(0, np.int64)  # of a pair: one number for both positions
    for chosen in combinations(masks, shared) if max_distance else ():
        found = _within_buckets(values, np.bitwise_or.reduce(chosen), max_distance, many)
        keys = np.union1d(keys, found[:, 0] * len(values) + found[:, 1])
        if len(keys) > many:
            kept = _holding_together(values, np.column_stack(np.divmod(keys, len(values))))
            keys = np.unique(kept[:, 0] * len(values) + kept[:, 1])
    near = first[np.column_stack(np.divmod(keys, max(len(values), 1)))]
    pairs = np.sort(np.concatenate([equal, near]), axis=1).astype(np.int64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs, distances(hashes, pairs)


def _within_buckets(values: np.ndarray, mask: np.uint64, max_distance: int, many: int) -> np.ndarray:
    """Return the near pairs `[pairs, 2]`, the lower position first, among values that agree under `mask`.

    Past `many` of them, those that hold the same values together.
    """
    keys = values & mask
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    found = [np.empty((0, 2), np.int64)]
    start, lag, held = np.arange(len(keys)), 0, 0
    while len(start):
        lag += 1
        start = start[start + lag < len(keys)]
        start = start[keys[start] == keys[start + lag]]
        pairs = np.sort(np.column_stack([order[start], order[start + lag]]), axis=1)
        found.append(pairs[distances(values, pairs) <= max_distance])
        held += len(found[-1])
        if held > many:
            found = [_holding_together(values, np.concatenate(found))]
            held = len(found[0])
    return np.concatenate(found)


def _holding_together(values: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return a minimum spanning forest of `pairs` `[pairs, 2]`, lower position first: no set falls apart."""
    links = coo_array((distances(values, pairs), (pairs[:, 0], pairs[:, 1])), shape=(len(values),) * 2)
    return np.sort(np.column_stack(minimum_spanning_tree(links.tocsr()).nonzero()), axis=1).astype(np.int64)


def distances(hashes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return in how many bits the hashes of each pair `[pairs, 2]` differ, int64 `[pairs]`."""
    hashes = np.asarray(hashes, np.uint64)
    return np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]).astype(np.int64)


def nearest_across(hashes: np.ndarray, sides: np.ndarray) -> tuple[int, int, int] | None:
    """Return the closest pair of hashes, uint64 `[photos]`, on different sides, int `[photos]`.

    That is `(position, position, distance)`.
    """
    hashes, best = np.asarray(hashes, np.uint64), None
    for begin in range(0, len(hashes), BLOCK):
        part = slice(begin, begin + BLOCK)
        apart = np.bitwise_count(hashes[part, None] ^ hashes)
        apart[sides[part, None] == sides] = BITS + 1
        i, j = np.unravel_index(apart.argmin(), apart.shape)
        if apart[i, j] < (best[2] if best else BITS + 1):
            best = (*sorted((begin + int(i), int(j))), int(apart[i, j]))
    return best
