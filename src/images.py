"""The one door for pixels: open, limits, EXIF, modes, scaled decode.

Training, evaluation, prediction and a service read photos here and nowhere else, so that all of them see the
same pixels. Pillow and NumPy only.

Pillow's decoders are called by class after a look at the first bytes. `Image.open` would put a limit and
warnings of its own around the size of a photo, both global to the process.
"""

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from src.errors import InputError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif"})
MAX_BYTES = 100 * 2**20
MAX_PIXELS = 50_000_000
MAX_JPEG_PIXELS = 200_000_000  # in the header, whatever the scale it is decoded at
OVERSAMPLING = 2  # a scaled JPEG decode keeps this many times the pixels that a resize needs, along each axis

_ACCEPTED = "JPEG, PNG, WebP, BMP, TIFF"
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_REFUSED = {
    b"GIF8": "GIF",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP archive",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRUNCATED = ("truncated", "end of file", "requires a buffer", "insufficient", "too small", "chunk b''")

# Pillow warns of odd metadata without naming the photo; what matters in it is read with care below.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


class UnreadableImage(InputError):
    """A photo that cannot be read; the message is a short reason without the path, which the caller knows."""


class _Tiff(TiffImageFile):
    """TIFF without Pillow's own pixel limit and its own turning by the EXIF tag."""

    def load_prepare(self) -> None:
        """Make room for the pixels as they lie in the file, without a limit."""
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        super().load_prepare()

    def load_end(self) -> None:
        """Take the size of the pixels as they are."""
        self._size = self.im.size


def open_image(
    source: str | Path | bytes | BinaryIO,
    min_size: tuple[int, int] | None = None,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Open a photo as upright RGB, or say in a few words why that is not possible.

    The format is told by the first bytes, never by the name: JPEG, PNG, WebP, BMP, TIFF, and HEIF where the
    extra `heic` is installed. The first frame of several is taken, transparent pixels lie on white, 16-bit
    gray is scaled to 8 bit, and the photo is turned by its EXIF orientation (malformed EXIF counts as none).

    Args:
        source: A path, the bytes of a file, or a binary file object (read from its start, left open).
        min_size: `(height, width)` in pixels, upright, that the photo will be resized to. A larger JPEG is
            then decoded at 1/2, 1/4 or 1/8 of its size, with at least `OVERSAMPLING` times as many pixels
            along each axis. None decodes in full.
        max_bytes: Size of the file, in bytes, checked before it is read.
        max_pixels: Width times height, checked before pixels are decoded. A JPEG counts at the scale it is
            decoded at, yet never above `MAX_JPEG_PIXELS` in its header; a progressive one counts in full,
            because its decoder holds the coefficients of the full size at any scale.

    Returns:
        An RGB image without metadata, so that nobody can turn it a second time.

    Raises:
        UnreadableImage: for everything that keeps the photo from being read in full: no such file, too large,
            not an accepted format, truncated, broken. A part of a photo is never returned.
    """
    with _opened(source, max_bytes) as (image, name):
        return _decode(image, name, min_size, max_pixels)


@dataclass(frozen=True)
class Header:
    """What a photo's file says before its pixels.

    Attributes:
        format: `JPEG`, `PNG`, `WebP`, `TIFF`, `BMP` or `HEIC`.
        width: pixels across as displayed, that is turned by its EXIF orientation.
        height: pixels down, likewise.
        exif: the main tags by name, as `Orientation`, `Model`, `DateTime`; of a place only `GPSInfo: True`.
    """

    format: str
    width: int
    height: int
    exif: Mapping[str, object]


def read_header(
    source: str | Path | bytes | BinaryIO,
    min_size: tuple[int, int] | None = None,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Header:
    """Read what comes before the pixels, within the limits of `open_image`, whose arguments these are.

    Raises:
        UnreadableImage: for what `open_image` would refuse without decoding.
    """
    with _opened(source, max_bytes) as (image, name):
        width, height = image.size
        orientation = _orientation(image)
        _scale(image, name, min_size, max_pixels)
        if orientation >= 5:
            width, height = height, width
        return Header(name, width, height, _named_exif(image))


def _named_exif(image: Image.Image) -> dict[str, object]:
    """Return the main EXIF tags by name; none where they are malformed."""
    try:
        tags = dict(image.getexif())
    except Exception:  # malformed metadata says nothing about the pixels
        return {}
    named = {ExifTags.TAGS[tag]: value for tag, value in tags.items() if tag in ExifTags.TAGS}
    return named | ({"GPSInfo": True} if "GPSInfo" in named else {})


@contextmanager
def _opened(
    source: str | Path | bytes | BinaryIO, max_bytes: int
) -> Iterator[tuple[ImageFile.ImageFile, str]]:
    """Give a decoder that stands before the pixels, and its format; every fault is an `UnreadableImage`."""
    with _stream(source, max_bytes) as stream:
        name, reader = _reader(stream.read(64))
        stream.seek(0)
        try:
            with reader(stream) as image:
                yield image, name
        except UnreadableImage:
            raise
        except Exception as error:  # decoders raise nearly every type there is on hostile bytes
            raise UnreadableImage(_reason(name, error)) from error


def read_photo(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file within the limit; `UnreadableImage` for anything else."""
    with _stream(path, max_bytes) as file:
        return file.read()


def content_digest(content: bytes) -> str:
    """Return 16 hex digits that stand for a file's content."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


@contextmanager
def _stream(source: str | Path | bytes | BinaryIO, max_bytes: int) -> Iterator[BinaryIO]:
    """Give a seekable stream of at most `max_bytes`, closed afterwards unless it is the caller's."""
    if isinstance(source, str | os.PathLike):
        file, size = _open_file(source)
    else:
        if not isinstance(source, bytes | bytearray | memoryview):
            if source.seekable():
                source.seek(0)
            source = source.read(max_bytes + 1)
        file, size = io.BytesIO(source), len(source)
    with file:
        if not size:
            raise UnreadableImage("empty file")
        if size > max_bytes:
            raise UnreadableImage(f"{size:,} bytes or more exceed the limit of {max_bytes:,} bytes")
        yield file


def _open_file(path: str | os.PathLike) -> tuple[BinaryIO, int]:
    """Open a regular file: a pipe would block, a device would never end."""
    try:
        status = os.stat(path)
        file = open(path, "rb") if stat.S_ISREG(status.st_mode) else None  # noqa: SIM115, closed by _stream
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a name that no system can hold
        raise UnreadableImage("no such file") from None
    except PermissionError:
        raise UnreadableImage("permission denied") from None
    except OSError as error:
        raise UnreadableImage(f"cannot open the file ({error.strerror})") from None
    if file is None:
        raise UnreadableImage("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    return file, status.st_size


def _reader(head: bytes) -> tuple[str, Callable[[BinaryIO], ImageFile.ImageFile]]:
    """Return the format's name and its decoder, from the first bytes of a file."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG", JpegImageFile  # also the first photo of an MPO file
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", PngImageFile
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP", WebPImageFile
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF", _Tiff
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIC", _heif_reader()
    if head.startswith(b"BM") and not _is_text(head):
        return "BMP", BmpImageFile
    raise UnreadableImage(_refusal(head))


def _heif_reader() -> Callable[[BinaryIO], ImageFile.ImageFile]:
    """Return pillow-heif's decoder, imported when the first HEIC photo comes."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnreadableImage(
            "HEIC photo: install the extra `heic` (python -m pip install -e '.[heic]')"
        ) from None
    return HeifImageFile


def _is_text(head: bytes) -> bool:
    """Tell whether bytes look like text: no control characters but white space."""
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def _refusal(head: bytes) -> str:
    """Name what the bytes are, where it is neither an accepted format nor broken."""
    for signature, name in _REFUSED.items():
        if head.startswith(signature):
            return f"{name}, none of {_ACCEPTED}"
    if head[4:8] == b"ftyp":
        name = "AVIF" if head[8:12] in (b"avif", b"avis") else "video or other media"
        return f"{name}, none of {_ACCEPTED}"
    if _is_text(head):
        return "not an image (text?)"
    return f"not an image, or none of {_ACCEPTED}"


def _reason(name: str, error: Exception) -> str:
    """Put a decoder's exception into a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, EOFError) or any(sign in text.lower() for sign in _TRUNCATED):
        return "truncated"
    return f"broken {name} ({text[:80]})" if text else f"broken {name}"


def _decode(
    image: ImageFile.ImageFile, name: str, min_size: tuple[int, int] | None, max_pixels: int
) -> Image.Image:
    """Decode what a reader has opened, within the limits, to upright RGB."""
    early = name in ("JPEG", "TIFF")  # TIFF forgets the tag in decoding, PNG may hold it behind the pixels
    orientation = _orientation(image) if early else 1
    _scale(image, name, min_size, max_pixels)
    if name == "PNG":
        _scale_png_transparency(image)
    image.load()
    orientation = orientation if early else _orientation(image)
    return _upright_rgb(image, orientation)


def _scale(image: ImageFile.ImageFile, name: str, min_size: tuple[int, int] | None, max_pixels: int) -> None:
    """Choose the scale that a JPEG is decoded at, and hold what will be decoded to the limits."""
    header = image.size
    if name == "JPEG":
        _limit(header, header, MAX_JPEG_PIXELS)
        if "progressive" in image.info:
            _limit(header, header, max_pixels)
        if min_size is not None:
            height, width = (OVERSAMPLING * side for side in min_size)
            image.draft("RGB", (height, width) if _orientation(image) >= 5 else (width, height))
    _limit(image.size, header, max_pixels)


def as_upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image that somebody else opened as `open_image` would have: upright, RGB, alpha on white."""
    # Pillow's TIFF reader turns the pixels itself while it loads, and forgets the tag.
    image.load()
    return _upright_rgb(image, _orientation(image))


def _upright_rgb(image: Image.Image, orientation: int) -> Image.Image:
    """Return loaded pixels as RGB, turned by their EXIF orientation, without metadata."""
    rgb = _to_rgb(image)
    rgb = rgb.transpose(_TURNS[orientation]) if orientation > 1 else rgb.copy()
    rgb.info.clear()
    return rgb


def _limit(decoded: tuple[int, int], header: tuple[int, int], limit: int) -> None:
    """Refuse `decoded` pixels above `limit`, naming the size in the header."""
    if decoded[0] * decoded[1] > limit:
        raise UnreadableImage(f"{header[0]} x {header[1]} px exceed the limit of {limit / 1e6:g} MP")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it makes no sense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # malformed metadata says nothing about the pixels
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _scale_png_transparency(image: Image.Image) -> None:
    """Bring a transparent gray or colour of 2, 4 or 16 bits to the 8 bits that Pillow unpacks samples to."""
    key, raw = image.info.get("transparency"), image.tile[0][3] if image.tile else ""
    if isinstance(key, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[raw]
    elif isinstance(key, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; transparent pixels on white."""
    if image.mode.startswith("I"):
        return _gray_to_8_bit(image).convert("RGB")
    if image.mode == "F":
        raise UnreadableImage("32-bit float samples, which have no range to scale to 8 bit")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _gray_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to mode L, `round(v / 257)`; Pillow's `convert` would clip at 255: all white."""
    samples = np.asarray(image)
    if image.mode == "I" and (samples.min() < 0 or samples.max() > 65535):
        raise UnreadableImage("32-bit gray samples beyond 0 to 65535, which have no range to scale to 8 bit")
    gray = samples.astype(np.uint32)
    gray += 128
    gray //= 257
    gray = gray.astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[samples == transparent] = 255
    return Image.fromarray(gray)
