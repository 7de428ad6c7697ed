"""What the photos of a data set look like: each is read once, and only figures about it are kept."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from src.datamodules.near_duplicates import HASHED_SIZE, perceptual_hash
from src.images import Header, UnreadableImage, content_digest, open_image, read_header, read_photo
from src.overlap import cores

SHORT_SIDE = 256  # pixels that a photo is measured at, whatever its size; smaller ones as they are
TILE = 32  # pixels; sharpness is judged where a tile has contrast
TILE_CONTRAST = 6.0  # gray levels of standard deviation that such a tile has
ROUNDING = 20 / 12  # variance of the Laplacian that whole gray levels alone bring about
WHITE = 250  # gray level from which a pixel counts as blown out
PHOTOS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Look:
    """What reading one photo told; of an unreadable one only `reason`.

    Attributes:
        reason: why it cannot be decoded, else empty.
        digest: 16 hex digits of the file's content.
        phash: its perceptual hash, None without contrast; the one that the splits go by.
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
        camera: make and model, empty likewise.
        taken: when, as the file says it, empty likewise.
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


def survey_photos(root: Path, paths: Sequence[str], size: tuple[int, int] = (32, 32)) -> Iterator[Look]:
    """Read photos in threads and give a `Look` for each, in the order of `paths`; no pixels are kept.

    Args:
        root: the folder that the paths start from.
        paths: the photos.
        size: `(height, width)` in pixels that training resizes to; limits of `open_image` depend on it.
    """
    with ThreadPoolExecutor(cores()) as pool:
        for begin in range(0, len(paths), PHOTOS_AT_ONCE):
            yield from pool.map(
                lambda path: look_at(root / path, size), paths[begin : begin + PHOTOS_AT_ONCE]
            )


def look_at(path: Path, size: tuple[int, int] = (32, 32)) -> Look:
    """Read one photo; what keeps it from being read is the `reason`."""
    try:
        content = read_photo(path)
        hashed = open_image(content, min_size=HASHED_SIZE)
        # Of a huge JPEG the limits may hold at a small scale only, and training decodes it at its own.
        header = read_header(content, min_size=size if max(size) > max(HASHED_SIZE) else HASHED_SIZE)
        gray = gray_levels(_large_enough(hashed, content, header))
    except UnreadableImage as error:
        return Look(reason=str(error))
    return Look(
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
        "camera": sys.intern(camera),
        "taken": said["DateTime"],
        "located": bool(header.exif.get("GPSInfo")),
    }


def _plain(value: object) -> str:
    """Return a tag's text without padding; cameras fill with zeros and spaces."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return " ".join(value.replace("\0", " ").split())[:60] if isinstance(value, str) else ""
