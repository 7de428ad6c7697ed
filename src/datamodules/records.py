"""The one table of records that folders and CSVs both end in, and what is done to it before the split."""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from src.errors import InputError, did_you_mean, listed
from src.images import EXTENSIONS, UnreadableImage, open_image

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
    """What a reader found: the records, where their photos lie, and the splits that the user gave, if any."""

    root: Path
    records: list[Record]
    columns: dict[str, dict[str, str]] = field(default_factory=dict)  # column -> {ID: value}, for groups
    given: dict[str, str] | None = None  # ID -> train, val or test


def find_photos(root: Path) -> list[str]:
    """Return the POSIX paths below `root` of all files with a photo's extension, sorted; hidden ones are left out."""
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        relative = Path(folder).relative_to(root)
        for name in files:
            if Path(name).suffix.lower() in EXTENSIONS and not name.startswith("."):
                found.append((relative / name).as_posix())
    return sorted(found)


def ids_from_paths(paths: Iterable[str]) -> list[str]:
    """Return an ID per path: the path without its extension, or the whole path where two would share one."""
    paths = list(paths)
    stems = [path[: -len(Path(path).suffix)] if Path(path).suffix else path for path in paths]
    count = Counter(stems)
    return [stem if count[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]


def inspect_photos(root: Path, paths: list[str], say_from: int = 2000) -> tuple[list[str], dict[str, str]]:
    """Read every photo once: its content's digest, and the reason where it cannot be decoded.

    Returns:
        the digests (16 hex digits) in the order of `paths`, and `{path: reason}` of the unreadable ones.
    """
    if len(paths) >= say_from:
        log.info(
            "Reading %d photos once, to find unreadable ones and copies before the first epoch", len(paths)
        )

    def read(path: str) -> tuple[str, str]:
        try:
            content = (root / path).read_bytes()
        except OSError as error:
            return "", error.strerror or "cannot be read"
        try:
            open_image(content, min_size=(32, 32)).close()
        except UnreadableImage as error:
            return "", str(error)
        return hashlib.blake2b(content, digest_size=8).hexdigest(), ""

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        results = list(pool.map(read, paths))
    reasons = {path: reason for path, (_, reason) in zip(paths, results, strict=True) if reason}
    return [digest for digest, _ in results], reasons


def drop_unreadable(source: Source, skip: bool) -> tuple[Source, dict[str, str]]:
    """Read all photos; stop with the list of unreadable ones, or leave them out and report them."""
    digests, reasons = inspect_photos(source.root, [record.path for record in source.records])
    if reasons:
        lines = listed((f"{path} ({reason})" for path, reason in reasons.items()), 20)
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


def assign_groups(source: Source, group: str | None) -> list[Record]:
    """Give each record its group.

    Args:
        group: a column of the table, or a regular expression searched in the file name, whose first non-empty
            capture is the group; where it does not match, and for None, the group is the ID.
    """
    if not group:
        return [replace(record, group=record.id) for record in source.records]
    if group in source.columns:
        column = source.columns[group]
        return [replace(record, group=column.get(record.id) or record.id) for record in source.records]
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise InputError(f"data.group='{group}': not a regular expression ({error})") from error
    if not pattern.groups:
        columns = f"; {did_you_mean(group, source.columns)}" if source.columns else ""
        raise InputError(
            f"data.group='{group}': neither a column nor a regular expression with a capture, as ^(A\\d+)_{columns}"
        )
    matches = [pattern.search(Path(record.path).name) for record in source.records]
    captures = [next((c for c in match.groups() if c), "") if match else "" for match in matches]
    if not any(captures):
        names = listed((Path(record.path).name for record in source.records), 3)
        raise InputError(f"data.group='{group}' matches no file name, for example {names}")
    if missed := captures.count(""):
        log.warning(
            "data.group matches %d of %d file names; the others are groups of their own",
            len(captures) - missed,
            len(captures),
        )
    return [replace(r, group=capture or r.id) for r, capture in zip(source.records, captures, strict=True)]


def one_label_per_kind(records: list[Record], multiple: str) -> list[Record]:
    """Hold each photo to one label of a kind, as heads need: `error`, `first` or `drop` those with several."""
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
