"""Pillow's decoders by the first bytes of a file, without files whose samples they would mistake.

Pillow's decoders are called by class after a look at the first bytes. `Image.open` would put a limit and
warnings of its own around the size of a photo, both global to the process.
"""

import warnings
from collections.abc import Callable
from typing import BinaryIO

from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from src.errors import UnreadableImage

BITS, PHOTOMETRIC, SAMPLES, PLANES, EXTRA, FORMAT = 258, 262, 277, 284, 338, 339  # tags of a TIFF
BANDS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # of colours, by the photometric tag
_ACCEPTED = "JPEG, PNG, WebP, BMP, TIFF"
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_REFUSED = {b"GIF8": "GIF", b"%PDF": "PDF", b"PK\x03\x04": "ZIP archive", b"\0\0\0\x0cjP  ": "JPEG 2000"}
_REFUSED |= {b"ftypavif": "AVIF", b"ftyp": "video or other media"}  # after a length of 4 bytes

# Pillow warns of odd metadata without naming the photo; what matters in it is read with care below.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


def find_decoder(head: bytes) -> tuple[str, Callable[[BinaryIO], ImageFile.ImageFile]]:
    """Return the format's name and its decoder, from the first bytes of a file."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG", JpegImageFile  # also the first photo of an MPO file
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", PngImageFile
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP", WebPImageFile
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF", _tiff
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIC", _heif_reader()
    if refused := next((name for signature, name in _REFUSED.items() if signature in head[:12]), None):
        raise UnreadableImage(f"{refused}, none of {_ACCEPTED}")
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):  # no control characters but white space
        raise UnreadableImage("not an image (text?)")
    if head.startswith(b"BM"):
        return "BMP", BmpImageFile
    raise UnreadableImage(f"not an image, or none of {_ACCEPTED}")


def _heif_reader() -> Callable[[BinaryIO], ImageFile.ImageFile]:
    """Return pillow-heif's decoder, imported when the first HEIC photo comes."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnreadableImage(
            "HEIC photo: install the extra `heic` (python -m pip install -e '.[heic]')"
        ) from None
    return HeifImageFile


def _tiff(file: BinaryIO) -> TiffImageFile:
    """Return a decoder of a TIFF; refuse samples that Pillow cannot read, or would take for others."""
    try:
        image = TiffImageFile(file)
    except SyntaxError:
        raise UnreadableImage("TIFF of a kind that cannot be read: save it as 8-bit RGB or gray") from None
    tags = image.tag_v2
    bits, bands, photometric = max(tags.get(BITS, (1,))), tags.get(SAMPLES, 1), tags.get(PHOTOMETRIC)
    plain = bands == BANDS.get(photometric, 1) or EXTRA in tags
    deep = photometric in (1, 2) and tags.get(PLANES, 1) == 1 and tags.get(FORMAT, (1,))[0] == 1
    if not plain or bits > 16 or (bits > 8 and not deep):
        raise UnreadableImage(
            f"TIFF of {bands} x {bits} bits a pixel, which is not read: save it as 8-bit RGB or gray"
        )
    return image
