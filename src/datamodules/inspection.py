"""Every photo is read once before it is used: can it be decoded, is it a copy, what does it look like."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from src.datamodules.memory import Memory
from src.datamodules.near_duplicates import HASHED_SIZE, perceptual_hash
from src.datamodules.records import Record, Source
from src.errors import InputError, listed
from src.images import UnreadableImage, content_digest, open_image, read_header, read_photo
from src.overlap import cores, in_order
from src.progress_bar import ProgressBar

log = logging.getLogger(__name__)
AHEAD = 100  # photos that are read while a large one before them still is
NOTED_AT_ONCE = 10_000  # photos, and a tenth of all, that a kill makes read again at most


@dataclass(frozen=True)
class Inspection:
    """What reading a photo told.

    Attributes:
        digest: 16 hex digits of the file's content, empty for an unreadable one.
        phash: its perceptual hash, None for an unreadable one or one without contrast.
        reason: why it cannot be decoded, else empty.
    """

    digest: str = ""
    phash: int | None = None
    reason: str = ""


def inspect_photos(
    root: Path,
    paths: list[str],
    size: tuple[int, int] = (32, 32),
    cache_dir: str | None = None,
) -> list[Inspection]:
    """Read every photo once, in the order of `paths`.

    Args:
        root: the folder that the paths start from.
        paths: the photos.
        size: `(height, width)` in pixels that they will be resized to; limits of `open_image` depend on it.
        cache_dir: where it is remembered, so that photos that have not changed since are not read again;
            null: nowhere.
    """
    memory = _memory(cache_dir, root)
    keys = [memory.key(path) for path in paths] if memory else [None] * len(paths)
    known = memory.recall(keys) if memory else {}
    unread = [i for i, key in enumerate(keys) if key not in known]
    found = [Inspection(*known[key]) if key in known else Inspection() for key in keys]
    looks = in_order(lambda i: _inspect(root / paths[i], size), unread, cores(), AHEAD)
    with closing(looks), ProgressBar("Checking photos", len(unread), "photos") as bar:
        for count, (i, (look, any_size)) in enumerate(zip(unread, looks, strict=True), 1):
            found[i] = look
            bar.update()
            if memory and any_size:
                memory.note(keys[i], look.digest, look.phash)
            if memory and (memory.unsaved >= NOTED_AT_ONCE + len(unread) // 10 or count == len(unread)):
                memory.save()
    return found


def _memory(cache_dir: str | None, root: Path) -> Memory | None:
    """Return what is remembered of a folder's photos; None, and a line, where that cannot be had."""
    try:
        return Memory(cache_dir, root) if cache_dir else None
    except InputError as error:
        log.warning("Photos are read anew: %s", error)
        return None


def _inspect(path: Path, size: tuple[int, int]) -> tuple[Inspection, bool]:
    """Read a photo; also tell whether what was found holds for photos resized to any size."""
    try:
        content = read_photo(path)
        image = open_image(content, min_size=HASHED_SIZE)
        any_size = True
        try:
            read_header(content)
        except UnreadableImage:  # a huge JPEG may be within the limits only when small
            any_size = False
            read_header(content, min_size=max(size, HASHED_SIZE, key=max))
        return Inspection(content_digest(content), perceptual_hash(image)), any_size
    except UnreadableImage as error:
        return Inspection(reason=str(error)), False


def drop_unreadable(
    source: Source, skip: bool, size: tuple[int, int] = (32, 32), cache_dir: str | None = None
) -> tuple[Source, dict[str, str]]:
    """Read all photos; stop with the list of unreadable ones, or leave them out and report them."""
    found = inspect_photos(source.root, [record.path for record in source.records], size, cache_dir=cache_dir)
    inspected = list(zip(source.records, found, strict=True))
    reasons = {record.path: seen.reason for record, seen in inspected if seen.reason}
    if reasons:
        shown = [f"{path} ({reason})" for path, reason in reasons.items()]
        lines = listed(shown, 20) if skip else listed(shown, 200)
        if not skip:
            raise InputError(
                f"{len(reasons)} of {len(found)} photos cannot be read: {lines}; "
                "mend or remove them, or leave them out with data.skip_unreadable=true"
            )
        log.warning("Left out %d unreadable photos: %s", len(reasons), lines)
    kept = [
        replace(record, digest=seen.digest, phash=seen.phash) for record, seen in inspected if not seen.reason
    ]
    if not kept:
        raise InputError(f"none of the {len(found)} photos below {source.root} can be read")
    return replace(source, records=kept), reasons


def replaced_since(root: Path, records: Sequence[Record], moment: int) -> list[str]:
    """Return the paths of photos whose files have another content than their records say.

    Only files that have been written or put in their place from a moment on are read.

    Args:
        root: the folder that the paths start from.
        records: the photos, with their digests.
        moment: nanoseconds since 1970; on a disk whose clock is behind, what comes soon after is missed.
    """

    def is_replaced(record: Record) -> bool:
        try:
            status = (root / record.path).stat()
            touched = max(status.st_mtime_ns, status.st_ctime_ns) >= moment
            return (
                bool(touched and record.digest)
                and content_digest(read_photo(root / record.path)) != record.digest
            )
        except OSError:
            return False  # it is gone, and whoever wanted to read it has been told
        except UnreadableImage:
            return True

    found = in_order(is_replaced, records, cores(), AHEAD)
    return [record.path for record, replaced in zip(records, found, strict=True) if replaced]


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
        shown = listed((" = ".join(r.path for r in same[:3]) for same in differing), 3)
        log.warning("%d photos have byte-identical copies with other labels: %s", len(differing), shown)
