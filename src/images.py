"""Reading of photos: limits, EXIF, colour modes, scaled decode.

Training, evaluation, prediction and a service read photos here and nowhere else, so that all of them see the
same pixels. Pillow and NumPy only.
"""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from src.decoders import BITS, find_decoder
from src.errors import UnreadableImage

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".heic",
                        ".heif"})  # fmt: skip
MAX_BYTES = 100 * 2**20
MAX_PIXELS = 50_000_000
MAX_JPEG_PIXELS = 200_000_000  # in the header, whatever the scale it is decoded at
EXIF_TAGS = ("Orientation", "Make", "Model", "DateTime", "GPSInfo")
OVERSAMPLING = 2  # a scaled JPEG decode keeps this many times the pixels that a resize needs, along each axis

_TO = Image.Transpose
_TURNS = {2: _TO.FLIP_LEFT_RIGHT, 3: _TO.ROTATE_180, 4: _TO.FLIP_TOP_BOTTOM, 5: _TO.TRANSPOSE,
          6: _TO.ROTATE_270, 7: _TO.TRANSVERSE, 8: _TO.ROTATE_90}  # fmt: skip
_TRUNCATED = ("truncated", "end of file", "requires a buffer", "insufficient", "too small", "chunk b''")


def open_image(
    source: str | Path | bytes | BinaryIO,
    min_size: tuple[int, int] | None = None,
    sample_bits: int | None = None,
) -> Image.Image:
    """Open a photo as upright RGB, or give the reason why that is not possible.

    The first bytes decide about the format, never the name: JPEG, PNG, WebP, BMP, TIFF, and HEIF where the
    extra `heic` is installed. The first frame of several is taken, transparent pixels lie on white (alpha
    that is 0 everywhere counts as none), deeper gray is scaled to 8 bit, and the photo is turned by its EXIF
    orientation (malformed EXIF counts as none).
    A file has at most `MAX_BYTES`, and at most `MAX_PIXELS` are decoded: a JPEG counts at the scale it is
    decoded at, yet never above `MAX_JPEG_PIXELS` in its header; a progressive one counts in full, because its
    decoder holds the coefficients of the full size at any scale.

    Args:
        source: A path, the bytes of a file, or a binary file object (read from its start, left open).
        min_size: `(height, width)` in pixels, upright, that the photo will be resized to. A larger JPEG is
            then decoded at 1/2, 1/4 or 1/8 of its size, with at least `OVERSAMPLING` times as many pixels
            along each axis. None decodes in full.
        sample_bits: the bits that gray samples of more than 8 bits really use; higher values are clipped.
            None: all bits of the file's samples.

    Returns:
        An RGB image without metadata, so that nobody can turn it a second time.

    Raises:
        UnreadableImage: for everything that keeps the photo from being read in full: no such file, too large,
            not an accepted format, truncated, broken. A part of a photo is never returned.
    """
    with _opened(source) as (image, name):
        _scale(image, name, min_size)
        return as_upright_rgb(image, sample_bits)


@dataclass(frozen=True)
class Header:
    """The description in a photo's file.

    Attributes:
        format: `JPEG`, `PNG`, `WebP`, `TIFF`, `BMP` or `HEIC`.
        width: pixels across, upright.
        height: pixels down, upright.
        exif: the tags `EXIF_TAGS` by name, None where the file has none.
        bits: of a sample; 8 for less.
    """

    format: str
    width: int
    height: int
    exif: dict[str, object]
    bits: int = 8


def read_header(source: str | Path | bytes | BinaryIO, min_size: tuple[int, int] | None = None) -> Header:
    """Read a photo's header, within the limits of `open_image`, whose arguments these are.

    Raises:
        UnreadableImage: where `open_image` would refuse without decoding.
    """
    with _opened(source) as (image, name):
        (width, height), bits = image.size, _bits(image)  # tags of a PNG load it
        exif = {tag: _exif(image, ExifTags.Base[tag]) for tag in EXIF_TAGS}
        turned = _orientation(image) >= 5 and name != "TIFF"  # Pillow has swapped the sides of that
        _scale(image, name, min_size)
        return Header(name, *((height, width) if turned else (width, height)), exif, bits)


def largest_sample(content: bytes) -> tuple[int, bool]:
    """Return the largest sample of a photo of more than 8 bits, and whether it is coloured.

    Of colour the upper 8 bits are read, so that the lower ones count as set.
    """
    with _opened(content) as (image, _):
        image.load()
        if image.mode.startswith("I"):
            return int(np.asarray(image).max()), False
        bands = zip(image.getbands(), np.reshape(image.getextrema(), (-1, 2)), strict=True)
        return 256 * max(int(high) for band, (_, high) in bands if band not in "Aa") + 255, True


@contextmanager
def _opened(source: str | Path | bytes | BinaryIO) -> Iterator[tuple[ImageFile.ImageFile, str]]:
    """Give a decoder before the pixels, and its format; every fault is an `UnreadableImage`."""
    content = read_photo(source)
    name, reader = find_decoder(content[:64])
    try:
        with reader(io.BytesIO(content)) as image:
            yield image, name
    except UnreadableImage:
        raise
    except Exception as error:  # decoders raise nearly every type there is on hostile bytes
        raise UnreadableImage(_reason(name, error)) from error


def read_photo(source: str | Path | bytes | BinaryIO) -> bytes:
    """Return the content of a photo's file, see `open_image`; `UnreadableImage` outside the limit."""
    if isinstance(source, str | os.PathLike):
        return _file_content(source)
    if not isinstance(source, bytes | bytearray | memoryview):
        if source.seekable():
            source.seek(0)
        source = source.read(MAX_BYTES + 1)
    _limit_bytes(len(source))
    return bytes(source)


def content_digest(content: bytes) -> str:
    """Return 16 hex digits that stand for a file's content."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _file_content(path: str | os.PathLike) -> bytes:
    """Return the content of a regular file: a pipe would block, a device would never end."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        _limit_bytes(status.st_size)
        with open(path, "rb") as file:
            return file.read()
    except UnreadableImage:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a name that no system can hold
        raise UnreadableImage("no such file") from None
    except OSError as error:
        raise UnreadableImage(f"cannot open the file ({error.strerror})") from None


def _limit_bytes(size: int) -> None:
    """Refuse an empty file, and one above `MAX_BYTES`."""
    if not size:
        raise UnreadableImage("empty file")
    if size > MAX_BYTES:
        raise UnreadableImage(f"{size:,} bytes or more exceed the limit of {MAX_BYTES:,} bytes")


def _reason(name: str, error: Exception) -> str:
    """Put a decoder's exception into a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, EOFError) or any(sign in text.lower() for sign in _TRUNCATED):
        return "truncated"
    return f"broken {name} ({text[:80]})" if text else f"broken {name}"


def _scale(image: ImageFile.ImageFile, name: str, min_size: tuple[int, int] | None) -> None:
    """Choose the scale that a JPEG is decoded at, and hold the pixels to decode to the limits."""
    header = image.size
    if name == "JPEG":
        _limit(header, header, MAX_JPEG_PIXELS)
        if "progressive" in image.info:
            _limit(header, header, MAX_PIXELS)
        if min_size is not None:
            height, width = (OVERSAMPLING * side for side in min_size)
            image.draft("RGB", (height, width) if _orientation(image) >= 5 else (width, height))
    _limit(image.size, header, MAX_PIXELS)


def as_upright_rgb(image: Image.Image, sample_bits: int | None = None) -> Image.Image:
    """Return an opened image as upright RGB without metadata, alpha on white; see `open_image`."""
    if sample_bits and sample_bits < _bits(image) == 16 and not image.mode.startswith("I"):
        raise UnreadableImage(
            f"16-bit colour, of which the upper 8 bits are read: preprocess.sample_bits={sample_bits} is for "
            "gray; save it with 8 bits"
        )
    image.load()
    # only now: PNG may hold the tag behind the pixels; Pillow's TIFF reader turns them itself, and forgets it
    orientation = _orientation(image)
    rgb = _to_rgb(image, sample_bits)
    rgb = rgb.transpose(_TURNS[orientation]) if orientation > 1 else rgb.copy()
    rgb.info.clear()
    return rgb


def _bits(image: Image.Image) -> int:
    """Return the bits of a sample of an image; 8 for less, and for colour of 16 bits that has been loaded."""
    if isinstance(image, TiffImageFile):
        return max(8, *image.tag_v2.get(BITS, (1,)))
    deep = image.mode.startswith("I") or (image.format == "PNG" and ";16" in str(image.tile))
    return 16 if deep else 8


def _limit(decoded: tuple[int, int], header: tuple[int, int], limit: int) -> None:
    """Refuse `decoded` pixels above `limit`, naming the size in the header."""
    if decoded[0] * decoded[1] > limit:
        raise UnreadableImage(f"{header[0]} x {header[1]} px exceed the limit of {limit / 1e6:g} MP")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it makes no sense."""
    value = _exif(image, ExifTags.Base.Orientation)
    return value if isinstance(value, int) and value in _TURNS else 1


def _exif(image: Image.Image, tag: int) -> object:
    """Return an EXIF tag's value; None where there is none or the metadata are malformed."""
    try:
        return image.getexif().get(tag)
    except Exception:  # malformed metadata says nothing about the pixels
        return None


def _to_rgb(image: Image.Image, sample_bits: int | None = None) -> Image.Image:
    """Convert any mode to RGB; transparent pixels on white."""
    if image.mode.startswith("I;16"):
        return _gray_to_8_bit(image, sample_bits).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableImage("32-bit samples, which have no range to scale to 8 bit: save 8 or 16 bits")
    if image.has_transparency_data:
        colours = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = colours.getchannel("A")
        none, *_, full = counts = alpha.histogram()
        if isinstance(image, TiffImageFile) and 2 * (none + full) < sum(counts):
            raise UnreadableImage("its extra band is declared as alpha and is no mask: save the photo as RGB")
        if alpha.getextrema()[1] == 0:
            return colours.convert("RGB")
        white = Image.new("RGB", image.size, "white")
        white.paste(colours, mask=alpha)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _gray_to_8_bit(image: Image.Image, sample_bits: int | None) -> Image.Image:
    """Scale gray of more than 8 bits to mode L; Pillow's `convert` would clip at 255: all white."""
    stored = _bits(image)
    top = 2 ** min(sample_bits or stored, stored) - 1
    gray = np.minimum(np.asarray(image), top).astype(np.uint32)
    return Image.fromarray(((510 * gray + top) // (2 * top)).astype(np.uint8))
