"""Readability, digest, perceptual hash and image statistics of every photo, from one reading.

The result is kept on disk, so that neither `explore` nor training reads a photo again that has not changed.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from src.datamodules.groups import HASHED_SIZE, perceptual_hash
from src.datamodules.records import EXAMPLES, Finding, Source
from src.errors import InputError, UnreadableImage, listed
from src.files import write_whole
from src.images import MAX_PIXELS, Header, content_digest, largest_sample, open_image, read_header, read_photo
from src.parallel import ProgressBar, bounded_map, cores
from src.preprocess import Preprocess, decoder
from src.row_store import checked_folder

log = logging.getLogger(__name__)
SHORT_SIDE = 256  # pixels of a photo whose look is measured; smaller ones as they are
TILE = 32  # pixels; sharpness is judged where a tile has contrast
TILE_CONTRAST = 6.0  # gray levels of standard deviation that such a tile has
ROUNDING = 20 / 12  # variance of the Laplacian that whole gray levels alone bring about
WHITE = 250  # gray level from which a pixel counts as blown out
SPARE_BITS = 2  # that the samples of a photo leave unused, where they use a small part of their range
AHEAD = 100  # photos that are read while a large one before them still is


@dataclass(frozen=True, slots=True)
class ImageStats:
    """Content and look of one photo; of an unreadable one only `reason`.

    Attributes:
        digest: 16 hex digits of the file's content.
        phash: its perceptual hash, None without contrast.
        width, height: pixels, upright.
        brightness: mean gray level, 0 to 255.
        bright_end: gray level that 95 of 100 pixels do not exceed.
        contrast: standard deviation of the gray levels.
        sharpness: variance of the Laplacian over the variance of the gray levels, in the sharpest tenth of
            the tiles that have contrast; None where none has, and for photos too small to hold a tile.
        white: share of blown-out pixels.
        glare: share of the largest blown-out area that does not reach the photo's edge.
        camera: make and model, else empty.
        located: whether the file tells a place.
        bits: of a sample in the file; 8 for less.
        largest: the largest sample, where they have more than 8 bits; of colour by its upper 8 bits.
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
    bits: int = 8
    largest: int = 0
    coloured: bool = False


def inspect_photos(
    root: Path,
    paths: Sequence[str],
    size: tuple[int, int] = (32, 32),
    cache_dir: str | Path | None = None,
    sample_bits: int | None = None,
) -> list[ImageStats]:
    """Read every photo that has changed since the last time, in threads; no pixels are kept.

    `size` is `(height, width)` in pixels that training resizes to; limits of `open_image`, to which
    `sample_bits` goes, depend on it. Without `cache_dir`, the folder of all caches, every photo is read.
    """
    cache = _StatsCache(cache_dir, root, sample_bits)
    keys = [cache.key(path) for path in paths]
    found = [cache.known.get(key) for key in keys]
    unread = [i for i, stats in enumerate(found) if stats is None]
    results = bounded_map(lambda i: inspect_photo(root / paths[i], size, sample_bits), unread, cores(), AHEAD)
    try:
        with closing(results), ProgressBar("Checking photos", len(unread), "photos") as bar:
            for i, stats in zip(unread, results, strict=True):
                found[i] = stats
                # whether a huge JPEG is within the limits depends on the size it is decoded for
                if keys[i] and not stats.reason and stats.width * stats.height <= MAX_PIXELS:
                    cache.known[keys[i]] = stats
                bar.update()
    finally:
        if unread:
            cache.save()
    return found


def inspect_photo(path: Path, size: tuple[int, int] = (32, 32), sample_bits: int | None = None) -> ImageStats:
    """Read one photo; `size` and `sample_bits` as for `inspect_photos`."""
    try:
        content = read_photo(path)
        photo = hashed = open_image(content, HASHED_SIZE, sample_bits)
        header = read_header(content, min_size=size)
        if min(hashed.size) < min(SHORT_SIDE, header.width, header.height):  # decoded at twice this, or more
            photo = open_image(content, (SHORT_SIDE // 2, SHORT_SIDE // 2), sample_bits)
        gray = gray_levels(photo)
        largest, coloured = largest_sample(content) if header.bits > 8 else (0, False)
    except UnreadableImage as error:
        return ImageStats(reason=str(error))
    white = gray >= WHITE
    return ImageStats(
        digest=content_digest(content),
        phash=perceptual_hash(hashed),
        format=header.format,
        width=header.width,
        height=header.height,
        brightness=float(gray.mean()),
        bright_end=int(np.percentile(gray, 95, method="inverted_cdf")),
        contrast=float(gray.std()),
        sharpness=sharpness(gray),
        white=float(white.mean()),
        glare=_largest_inner_area(white),
        **_camera(header),
        bits=header.bits,
        largest=largest,
        coloured=coloured,
    )


def gray_levels(image: Image.Image) -> np.ndarray:
    """Return gray levels, uint8 `[height, width]`, the shorter side at most `SHORT_SIDE` pixels."""
    gray = image.convert("L")
    scale = SHORT_SIDE / min(gray.size)
    if scale < 1:
        size = (max(1, round(gray.width * scale)), max(1, round(gray.height * scale)))
        gray = gray.resize(size, Image.Resampling.BOX)
    return np.asarray(gray)


def sharpness(gray: np.ndarray) -> float | None:
    """Return the sharpness of the sharpest parts of a photo; None where nothing in it has contrast.

    The variance of the Laplacian (Pech-Pacheco and others, 2000) falls with blur, but also with contrast:
    smooth concrete is not blurred. So it is divided by the variance of the gray levels, tile by tile: one
    sharp edge makes a sharp photo although the rest is smooth.

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
    make, model, taken = (_plain(header.exif[tag]) for tag in ("Make", "Model", "DateTime"))
    orientation = header.exif["Orientation"]
    return {
        "orientation": orientation if isinstance(orientation, int) else None,
        "camera": model if model.lower().startswith(make.lower()) else f"{make} {model}".strip(),
        "taken": taken,
        "located": header.exif["GPSInfo"] is not None,
    }


def _plain(value: object) -> str:
    """Return a tag's text without padding; cameras fill with zeros and spaces."""
    return " ".join(value.replace("\0", " ").split())[:60] if isinstance(value, str) else ""


class _StatsCache:
    """The stats of the photos below one folder, on disk; a file that cannot be written is left alone.

    A photo is known by its path, size, timestamps and inode. A file that is put in its place has another time
    of change, which no program can set. Without a `cache_dir` nothing is kept.
    """

    def __init__(self, cache_dir: str | Path | None, root: Path, sample_bits: int | None = None):
        self.root, self.file = root, None
        self.known: dict[str | None, ImageStats] = {}
        if not cache_dir:
            return
        names = [field.name for field in fields(ImageStats)]
        about = [3, str(root.absolute()), HASHED_SIZE, sorted(decoder().items()), names]
        about += [SHORT_SIDE, TILE, TILE_CONTRAST, ROUNDING, WHITE, sample_bits]
        name = hashlib.blake2b(repr(about).encode(), digest_size=8).hexdigest()
        self.file = checked_folder(cache_dir) / "inspected" / f"{name}.json.z"
        try:
            rows = json.loads(zlib.decompress(self.file.read_bytes()))
            self.known = {key: ImageStats(*row) for key, row in rows.items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, zlib.error) as error:
            log.warning("Photos are read anew: %s cannot be read (%s)", self.file, error)

    def key(self, path: str) -> str | None:
        """Return the key of a photo, or None for one that is not there."""
        try:
            status = os.stat(os.path.join(self.root, path))
        except OSError:
            return None
        text = f"{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def save(self) -> None:
        """Write the file; where the disk refuses, photos are read again next time."""
        if self.file is None:
            return
        content = json.dumps({key: astuple(stats) for key, stats in self.known.items()})
        try:
            write_whole(self.file, zlib.compress(content.encode(), 1))
        except OSError as error:
            said = "%s cannot be written (%s): photos are read again next time"
            log.warning(said, self.file, error.strerror)


def drop_unreadable(
    source: Source, skip: bool, preprocess: Preprocess, cache_dir: str | None = None
) -> tuple[Source, dict[str, str]]:
    """Read all photos; stop with the list of unreadable ones, or leave them out and report them."""
    paths, bits = [record.path for record in source.records], preprocess.sample_bits
    found = inspect_photos(source.root, paths, preprocess.decode_size, cache_dir, bits)
    if bits and (count := sum(look.bits > 8 for look in found)):
        log.info("preprocess.sample_bits=%d is the range of %d photos of more than 8 bits", bits, count)
    source.findings += sample_range(paths, found, bits)
    inspected = list(zip(source.records, found, strict=True))
    reasons = {record.path: stats.reason for record, stats in inspected if stats.reason}
    shown = listed((f"{path} ({reason})" for path, reason in reasons.items()), 20 if skip else 200)
    if reasons and not skip:
        raise InputError(
            f"{len(reasons)} of {len(found)} photos cannot be read: {shown}; "
            "mend or remove them, or leave them out with data.skip_unreadable=true"
        )
    if reasons:
        log.warning("Left out %d unreadable photos: %s", len(reasons), shown)
    readable = [(record, stats) for record, stats in inspected if not stats.reason]
    kept = [replace(record, digest=stats.digest, phash=stats.phash) for record, stats in readable]
    if not kept:
        raise InputError(f"none of the {len(found)} photos below {source.root} can be read")
    return replace(source, records=kept), reasons


def sample_range(
    paths: Sequence[str], looks: Sequence[ImageStats], sample_bits: int | None = None
) -> list[Finding]:
    """Return a finding of photos that use a small part of their range or, with `sample_bits`, exceed it.

    Some dark photos among others of the same depth are no reason to say anything.
    """

    def is_odd(look: ImageStats) -> bool:
        used = look.largest.bit_length()
        return used > sample_bits if sample_bits else 0 < used <= look.bits - SPARE_BITS

    deep = [(path, look) for path, look in zip(paths, looks, strict=True) if look.bits > 8]
    odd = [(path, look) for path, look in deep if is_odd(look)]
    if not odd or (not sample_bits and 2 * len(odd) < len(deep)):
        return []
    largest, bits = (max(getattr(look, name) for _, look in odd) for name in ("largest", "bits"))
    if sample_bits:
        cure = f"above preprocess.sample_bits={sample_bits} they are clipped"
    elif any(look.coloured for _, look in odd) or len(odd) < len(deep):  # of colour the upper 8 bits are read
        cure = "scale these files to 8 bits"
    else:
        cure = f"preprocess.sample_bits={max(8, largest.bit_length() + largest.bit_length() % 2)}"
    values = f"up to {largest:,} of {2**bits - 1:,} ({len(odd)} photos)"
    text = f"{bits}-bit photos {'have' if sample_bits else 'use only'} values {values}"
    return [Finding("sample_range", text, cure, len(odd), tuple(path for path, _ in odd[:EXAMPLES]))]
