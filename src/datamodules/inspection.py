"""One reading of every photo: can it be decoded, its digest and perceptual hash, figures about its look.

The result is kept on disk, so that neither `explore` nor training reads a photo again that has not changed.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from src.datamodules.near_duplicates import HASHED_SIZE, perceptual_hash
from src.datamodules.records import Record, Source
from src.errors import InputError, listed
from src.files import write_whole
from src.images import Header, UnreadableImage, content_digest, open_image, read_header, read_photo
from src.parallel import bounded_map, cores
from src.preprocess import decoder
from src.progress_bar import ProgressBar
from src.row_store import checked_folder, clear_stale

log = logging.getLogger(__name__)
SHORT_SIDE = 256  # pixels of a photo whose look is measured; smaller ones as they are
TILE = 32  # pixels; sharpness is judged where a tile has contrast
TILE_CONTRAST = 6.0  # gray levels of standard deviation that such a tile has
ROUNDING = 20 / 12  # variance of the Laplacian that whole gray levels alone bring about
WHITE = 250  # gray level from which a pixel counts as blown out
AHEAD = 100  # photos that are read while a large one before them still is
SAVED_AT_ONCE = 10_000  # photos, and a tenth of all, that a kill makes read again at most
SETTLED = 2 * 10**9  # nanoseconds; a younger file may still change within one tick of its file system's clock


@dataclass(frozen=True, slots=True)
class ImageStats:
    """Content and look of one photo; of an unreadable one only `reason`.

    Attributes:
        reason: why it cannot be decoded, else empty.
        digest: 16 hex digits of the file's content.
        phash: its perceptual hash, None without contrast.
        format: `JPEG`, `PNG`, ...
        width: pixels across, upright.
        height: pixels down, upright.
        brightness: mean gray level, 0 to 255.
        bright_end: gray level that 95 of 100 pixels do not exceed.
        contrast: standard deviation of the gray levels.
        sharpness: variance of the Laplacian over the variance of the gray levels, in the sharpest tenth of
            the tiles that have contrast; None where none has, and for photos too small to hold a tile.
        white: share of blown-out pixels.
        glare: share of the largest blown-out area that does not reach the photo's edge.
        orientation: EXIF orientation, None where the file says nothing.
        camera: make and model, else empty.
        taken: date and time in the file, else empty.
        located: whether the file tells a place.
    """

    reason: str = ""
    digest: str = ""
    phash: int | None = None
    format: str = ""
    width: int = 0
    height: int = 0
    brightness: float = 0.0
    bright_end: int = 0
    contrast: float = 0.0
    sharpness: float | None = None
    white: float = 0.0
    glare: float = 0.0
    orientation: int | None = None
    camera: str = ""
    taken: str = ""
    located: bool = False


NAMES = tuple(field.name for field in fields(ImageStats))


def inspect_photos(
    root: Path, paths: Sequence[str], size: tuple[int, int] = (32, 32), cache_dir: str | Path | None = None
) -> list[ImageStats]:
    """Read every photo that has changed since the last time, in threads; no pixels are kept.

    Args:
        root: the folder that the paths start from.
        paths: the photos, in the order of the result.
        size: `(height, width)` in pixels that training resizes to; limits of `open_image` depend on it.
        cache_dir: the folder of all caches; None: every photo is read.
    """
    cache = _open_cache(cache_dir, root)
    keys = [cache.key(path) for path in paths] if cache else [None] * len(paths)
    found = [cache.known.get(key) for key in keys] if cache else [None] * len(paths)
    unread = [i for i, stats in enumerate(found) if stats is None]
    results = bounded_map(lambda i: inspect_photo(root / paths[i], size), unread, cores(), AHEAD)
    with closing(results), ProgressBar("Checking photos", len(unread), "photos") as bar:
        for count, (i, (stats, any_size)) in enumerate(zip(unread, results, strict=True), 1):
            found[i] = stats
            bar.update()
            if cache and any_size and keys[i]:
                cache.known[keys[i]] = stats
                cache.unsaved += 1
            if cache and (cache.unsaved >= SAVED_AT_ONCE + len(unread) // 10 or count == len(unread)):
                cache.save()
    return found


def inspect_photo(path: Path, size: tuple[int, int] = (32, 32)) -> tuple[ImageStats, bool]:
    """Read one photo; also return whether the result holds for photos resized to any size."""
    try:
        content = read_photo(path)
        hashed = open_image(content, min_size=HASHED_SIZE)
        any_size = True
        try:
            header = read_header(content)
        except UnreadableImage:  # a huge JPEG may be within the limits only when small
            any_size, header = False, read_header(content, min_size=max(size, HASHED_SIZE, key=max))
        gray = gray_levels(_large_enough(hashed, content, header))
    except UnreadableImage as error:
        return ImageStats(reason=str(error)), False
    stats = ImageStats(
        digest=content_digest(content),
        phash=perceptual_hash(hashed),
        format=header.format,
        width=header.width,
        height=header.height,
        sharpness=sharpness(gray),
        glare=_largest_inner_area(gray >= WHITE),
        **_levels(gray),
        **_camera(header),
    )
    return stats, any_size


def _large_enough(hashed: Image.Image, content: bytes, header: Header) -> Image.Image:
    """Return the photo at no less than `SHORT_SIDE`, if it has that; a phone photo is not decoded again."""
    if min(hashed.size) >= min(SHORT_SIDE, header.width, header.height):
        return hashed
    return open_image(content, min_size=(SHORT_SIDE // 2, SHORT_SIDE // 2))  # decoded at twice that, or more


def gray_levels(image: Image.Image) -> np.ndarray:
    """Return gray levels, uint8 `[height, width]`, the shorter side at most `SHORT_SIDE` pixels."""
    gray = image.convert("L")
    scale = SHORT_SIDE / min(gray.size)
    if scale < 1:
        size = (max(1, round(gray.width * scale)), max(1, round(gray.height * scale)))
        gray = gray.resize(size, Image.Resampling.BOX)
    return np.asarray(gray)


def _levels(gray: np.ndarray) -> dict[str, float]:
    """Return what the histogram of the gray levels tells."""
    counts, levels = np.bincount(gray.ravel(), minlength=256), np.arange(256)
    mean = counts @ levels / gray.size
    return {
        "brightness": float(mean),
        "bright_end": int(np.searchsorted(counts.cumsum(), 0.95 * gray.size)),
        "contrast": float(np.sqrt(max(counts @ levels**2 / gray.size - mean**2, 0.0))),
        "white": float(counts[WHITE:].sum() / gray.size),
    }


def sharpness(gray: np.ndarray) -> float | None:
    """Return how sharp the sharpest parts of a photo are; None where nothing in it has contrast.

    The variance of the Laplacian (Pech-Pacheco and others, 2000) falls with blur, but also with contrast:
    smooth concrete is not blurred. So it is divided by the variance of the gray levels, tile by tile, and one
    sharp edge tells of a sharp photo although the rest is smooth.

    Args:
        gray: uint8 `[height, width]`.
    """
    gray = gray.astype(np.float32)
    inner = gray[1:-1, 1:-1]
    around = gray[2:, 1:-1] + gray[:-2, 1:-1] + gray[1:-1, 2:] + gray[1:-1, :-2]
    level, change = _tiles(inner).var(axis=1), _tiles(around - 4 * inner).var(axis=1)
    judged = level > TILE_CONTRAST**2
    if judged.sum() <= 0.05 * len(judged):
        return None
    ratio = np.maximum(change[judged] - ROUNDING, 0) / level[judged]
    return float(np.percentile(ratio, 90))


def _tiles(pixels: np.ndarray) -> np.ndarray:
    """Cut `[height, width]` into whole tiles, `[tiles, pixels]`; the rest at the edges is dropped."""
    rows, columns = (side // TILE for side in pixels.shape)
    tiles = pixels[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE)
    return tiles.swapaxes(1, 2).reshape(rows * columns, TILE * TILE)


def _largest_inner_area(white: np.ndarray) -> float:
    """Return the share of the largest connected area that does not touch the edge: not the sky."""
    if not white.any():
        return 0.0
    areas, _ = ndimage.label(white)
    sizes = np.bincount(areas.ravel())
    sizes[np.concatenate([[0], areas[0], areas[-1], areas[:, 0], areas[:, -1]])] = 0
    return float(sizes.max() / white.size)


def _camera(header: Header) -> dict[str, object]:
    """Return what EXIF says of camera, time and place, in plain values."""
    said = {name: _plain(header.exif.get(name)) for name in ("Make", "Model", "DateTime")}
    make, model = said["Make"], said["Model"]
    camera = model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()
    orientation = header.exif.get("Orientation")
    return {
        "orientation": orientation if isinstance(orientation, int) else None,
        "camera": camera,
        "taken": said["DateTime"],
        "located": bool(header.exif.get("GPSInfo")),
    }


def _plain(value: object) -> str:
    """Return a tag's text without padding; cameras fill with zeros and spaces."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return " ".join(value.replace("\0", " ").split())[:60] if isinstance(value, str) else ""


class _StatsCache:
    """The stats of the photos below one folder, on disk.

    A photo is known by its path, size, timestamps and inode. A file that is put in its place has another time
    of change, which no program can set; one that was changed within the last two seconds is not kept, as its
    timestamps could not tell a second change.

    Raises:
        InputError: see `checked_folder`.
    """

    def __init__(self, cache_dir: str | Path, root: Path):
        about = [str(root.absolute()), HASHED_SIZE, sorted(decoder().items()), NAMES]
        about += [SHORT_SIDE, TILE, TILE_CONTRAST, ROUNDING, WHITE]
        name = hashlib.blake2b(repr(about).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.root, self.file = root, checked_folder(cache_dir) / "inspected" / f"{name}.json.z"
        self.known: dict[str | None, ImageStats] = {}
        self.unsaved = 0  # photos
        try:
            rows = json.loads(zlib.decompress(self.file.read_bytes()))
            self.known = {key: ImageStats(*row) for key, row in rows.items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError, zlib.error) as error:
            log.warning("%s is damaged (%s): photos are read anew", self.file, error)

    def key(self, path: str) -> str | None:
        """Return the key of a photo, or None for one that is not there or too young."""
        try:
            status = os.stat(os.path.join(self.root, path))
        except (OSError, ValueError):
            return None
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED:
            return None
        text = f"{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def save(self) -> None:
        """Write the file if anything is new; where the disk refuses, photos are read again next time."""
        if not self.unsaved:
            return
        row = attrgetter(*NAMES)
        content = json.dumps({key: row(stats) for key, stats in self.known.items()})
        try:
            clear_stale(self.file.parent)
            write_whole(self.file, zlib.compress(content.encode(), 1))
            self.unsaved = 0
        except OSError as error:
            why = f"cannot be written ({error.strerror})"
            log.warning("%s %s: photos are read again next time", self.file, why)


def _open_cache(cache_dir: str | Path | None, root: Path) -> _StatsCache | None:
    """Return the cache of a folder's photos; None, and a line, where there can be none."""
    try:
        return _StatsCache(cache_dir, root) if cache_dir else None
    except InputError as error:
        log.warning("Photos are read anew: %s", error)
        return None


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
        path = root / record.path
        try:
            status = path.stat()
            if not record.digest or max(status.st_mtime_ns, status.st_ctime_ns) < moment:
                return False
            return content_digest(read_photo(path)) != record.digest
        except OSError:
            return False  # it is gone: its reader has said so
        except UnreadableImage:
            return True

    found = bounded_map(is_replaced, records, cores(), AHEAD)
    return [record.path for record, replaced in zip(records, found, strict=True) if replaced]
