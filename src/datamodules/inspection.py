"""Every photo is read once before it is used: can it be decoded, is it a copy, what does it look like."""

import logging
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from src.datamodules.near_duplicates import HASHED_SIZE, perceptual_hash
from src.datamodules.records import Record, Source
from src.errors import InputError, listed
from src.images import UnreadableImage, content_digest, open_image, read_header, read_photo

log = logging.getLogger(__name__)


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
    root: Path, paths: list[str], size: tuple[int, int] = (32, 32), say_from: int = 2000
) -> list[Inspection]:
    """Read every photo once, in the order of `paths`.

    Args:
        root: the folder that the paths start from.
        paths: the photos.
        size: `(height, width)` in pixels that they will be resized to; limits of `open_image` depend on it.
        say_from: number of photos from which on the log says that this takes a while.
    """
    if len(paths) >= say_from:
        log.info("Reading %d photos once, to find unreadable ones and copies first", len(paths))

    def read(path: str) -> Inspection:
        try:
            content = read_photo(root / path)
            image = open_image(content, min_size=HASHED_SIZE)
            if max(size) > max(HASHED_SIZE):
                read_header(content, min_size=size)  # a huge JPEG may be within the limits only when small
            return Inspection(content_digest(content), perceptual_hash(image))
        except UnreadableImage as error:
            return Inspection(reason=str(error))

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(read, paths))


def drop_unreadable(
    source: Source, skip: bool, size: tuple[int, int] = (32, 32)
) -> tuple[Source, dict[str, str]]:
    """Read all photos; stop with the list of unreadable ones, or leave them out and report them."""
    found = inspect_photos(source.root, [record.path for record in source.records], size)
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
