"""The one table of records that folders and CSVs both end in, and what is done to it before the split."""

import hashlib
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from src.errors import InputError, did_you_mean, listed
from src.images import EXTENSIONS, UnreadableImage, open_image, read_photo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One photo.

    Attributes:
        id: unique among the records.
        path: POSIX, relative to the data root.
        labels: `{kind: labels}`, without duplicates, in the order of the source.
        group: photos of one group stay in one split.
        digest: 16 hex digits of the file's content, empty until it has been read.
    """

    id: str
    path: str
    labels: Mapping[str, tuple[str, ...]]
    group: str = ""
    digest: str = ""


@dataclass
class Source:
    """What a reader found.

    Attributes:
        root: the folder that the records' paths start from.
        records: the labelled photos.
        rows: of a table, the ID of each row, empty for a row without a photo.
        columns: of a table, `{column: cells}`, as long as `rows`.
        given: `{ID: split}` of a split that the user gave.
    """

    root: Path
    records: list[Record]
    rows: Sequence[str] = ()
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    given: dict[str, str] | None = None


def tidy(name: str) -> str:
    """Return a label's name without outer spaces, and with composed letters: macOS names files decomposed."""
    return unicodedata.normalize("NFC", name.strip())


def find_photos(root: Path) -> list[str]:
    """Return the POSIX paths below `root` of all files with a photo's extension, sorted.

    Hidden files and folders are left out. Linked folders are searched too, each folder once.

    Raises:
        InputError: for a folder that cannot be listed, or a file name that is not UTF-8.
    """
    found = []
    seen = {os.path.realpath(root)}
    for folder, subfolders, files in os.walk(root, onerror=_unlisted, followlinks=True):
        subfolders[:] = [
            name
            for name in sorted(subfolders)
            if not name.startswith((".", "__MACOSX")) and _is_new(os.path.join(folder, name), seen)
        ]
        relative = Path(folder).relative_to(root)
        for name in files:
            if Path(name).suffix.lower() in EXTENSIONS and not name.startswith("."):
                found.append((relative / name).as_posix())
    for path in found:
        if not path.isascii() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise InputError(f"{root}: the file name {path!a} is not UTF-8: rename it")
    return sorted(found)


def _unlisted(error: OSError) -> None:
    """Refuse a folder that cannot be listed, for `os.walk`."""
    raise InputError(f"{error.filename}: cannot list this folder ({error.strerror})") from error


def _is_new(folder: str, seen: set[str]) -> bool:
    """Whether a folder has not been met under another name; `seen` takes it in."""
    real = os.path.realpath(folder)
    if real in seen:
        log.warning("Left out the folder %s: it is a link to one that is read anyway", folder)
        return False
    seen.add(real)
    return True


def ids_from_paths(paths: Iterable[str]) -> list[str]:
    """Return an ID per path: the path without its extension, or the whole path where two would share one."""
    paths = list(paths)
    stems = [path[: -len(Path(path).suffix)] if Path(path).suffix else path for path in paths]
    count = Counter(stems)
    return [stem if count[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]


def inspect_photos(
    root: Path, paths: list[str], size: tuple[int, int] = (32, 32), say_from: int = 2000
) -> tuple[list[str], dict[str, str]]:
    """Read every photo once: its content's digest, and the reason where it cannot be decoded.

    Args:
        root: the folder that the paths start from.
        paths: the photos.
        size: `(height, width)` in pixels that they will be resized to; limits of `open_image` depend on it.
        say_from: number of photos from which on the log says that this takes a while.

    Returns:
        the digests (16 hex digits) in the order of `paths`, and `{path: reason}` of the unreadable ones.
    """
    if len(paths) >= say_from:
        log.info(
            "Reading %d photos once, to find unreadable ones and copies before the first epoch", len(paths)
        )

    def read(path: str) -> tuple[str, str]:
        try:
            content = read_photo(root / path)
            open_image(content, min_size=size).close()
        except UnreadableImage as error:
            return "", str(error)
        return hashlib.blake2b(content, digest_size=8).hexdigest(), ""

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        results = list(pool.map(read, paths))
    reasons = {path: reason for path, (_, reason) in zip(paths, results, strict=True) if reason}
    return [digest for digest, _ in results], reasons


def drop_unreadable(
    source: Source, skip: bool, size: tuple[int, int] = (32, 32)
) -> tuple[Source, dict[str, str]]:
    """Read all photos; stop with the list of unreadable ones, or leave them out and report them."""
    digests, reasons = inspect_photos(source.root, [record.path for record in source.records], size)
    if reasons:
        shown = [f"{path} ({reason})" for path, reason in reasons.items()]
        lines = listed(shown, 20) if skip else listed(shown, 200)
        if not skip:
            raise InputError(
                f"{len(reasons)} of {len(digests)} photos cannot be read: {lines}; "
                "mend or remove them, or leave them out with data.skip_unreadable=true"
            )
        log.warning("Left out %d unreadable photos: %s", len(reasons), lines)
    kept = [
        replace(record, digest=digest)
        for record, digest in zip(source.records, digests, strict=True)
        if record.path not in reasons
    ]
    if not kept:
        raise InputError(f"none of the {len(digests)} photos below {source.root} can be read")
    return replace(source, records=kept), reasons


def join_groups(groups: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Return a number per item, shape `[items]`, from 0 in the order of the first item.

    Items that are linked by equal `groups` or by equal, non-empty `others` have the same number.
    """
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        root = node
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[node] != root:
            parent[node], node = root, parent[node]
        return root

    for group, other in zip(groups, others, strict=True):
        if other:
            parent[find(f"o{other}")] = find(f"g{group}")
    roots = [find(f"g{group}") for group in groups]
    number = {root: i for i, root in enumerate(dict.fromkeys(roots))}
    return np.array([number[root] for root in roots], np.int64)


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
    rows = [
        (id_, value)
        for id_, value in zip(source.rows, cells, strict=True)
        if id_ and value.lower() not in ("", "nan")
    ]
    if not rows:
        raise InputError(f"data.group={column}: this column is empty for every photo")
    ids, values = zip(*rows, strict=True)
    names: dict[int, dict[str, None]] = defaultdict(dict)
    numbers = join_groups(values, ids).tolist()
    for number, value in zip(numbers, values, strict=True):
        names[number][value] = None
    if joined := [list(several) for several in names.values() if len(several) > 1]:
        log.warning(
            "Photos with several values in column '%s' join their groups into one: %s",
            column,
            listed((" + ".join(several) for several in joined), 5),
        )
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


def report_copies(records: list[Record]) -> None:
    """Log how many photos are byte-identical to another one, and warn where the copies' labels differ."""
    copies: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        copies[record.digest].append(record)
    copies = {digest: same for digest, same in copies.items() if digest and len(same) > 1}
    if copies:
        extra = sum(len(same) - 1 for same in copies.values())
        log.info("%d photos are byte-identical copies of others; copies stay in one split", extra)
    differing = [same for same in copies.values() if any(r.labels != same[0].labels for r in same)]
    if differing:
        shown = listed((" = ".join(r.path for r in same) for same in differing), 3)
        log.warning("%d photos have byte-identical copies with other labels: %s", len(differing), shown)


def one_label_per_kind(records: list[Record], multiple: str) -> list[Record]:
    """Hold each photo to one label of a kind, as heads need; for others `error`, `first` or `drop`."""
    several = [r for r in records if any(len(names) > 1 for names in r.labels.values())]
    if not several:
        return records
    if multiple == "first":
        log.warning("%d photos have several labels of a kind: the first one is kept", len(several))
        return [replace(r, labels={kind: names[:1] for kind, names in r.labels.items()}) for r in records]
    if multiple == "drop":
        log.warning("Left out %d photos with several labels of a kind", len(several))
        dropped = {r.id for r in several}
        return [r for r in records if r.id not in dropped]
    shown = listed(
        (f"{r.id} ({'; '.join('+'.join(n) for n in r.labels.values() if len(n) > 1)})" for r in several), 5
    )
    raise InputError(
        f"{len(several)} photos have several labels of a kind, which a softmax head cannot learn: {shown}; "
        "use model=multilabel, or data.multiple=first or data.multiple=drop"
    )


def without_healthy(records: list[Record], healthy: Iterable[str]) -> list[Record]:
    """Turn labels that mean "nothing wrong" into the absence of labels, as independent sigmoids need."""
    healthy = set(healthy)
    return [
        replace(
            r, labels={kind: tuple(n for n in names if n not in healthy) for kind, names in r.labels.items()}
        )
        for r in records
    ]
