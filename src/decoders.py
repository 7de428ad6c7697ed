"""Pillow's decoders by the first bytes of a file, with what some of them refuse or mistake set right.

Pillow's decoders are called by class after a look at the first bytes. `Image.open` would put a limit and
warnings of its own around the size of a photo, both global to the process.
"""

import io
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngStream
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from src.errors import UnreadableImage

PHOTOMETRIC, SAMPLES, BITS, FORMAT, EXTRA = 262, 277, 258, 339, 338  # tags of a TIFF
PLANES, COMPRESSION = 284, 259
TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
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
        return "PNG", _png
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP", WebPImageFile
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF", _Tiff
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


def _png(file: io.BytesIO) -> PngImageFile:
    """Return a decoder of a PNG without the texts and profiles that are larger than Pillow accepts."""
    content, stream, kept, begun, at = file.getvalue(), PngStream(file), [], 0, 8
    while len(head := content[at : at + 8]) == 8:
        length, name = struct.unpack(">I4s", head)
        start, at = at, at + 12 + length
        if name in TEXTS:
            file.seek(start + 8)
            try:
                with suppress(SyntaxError, OSError, IndexError):  # broken: the decoder of the photo says so
                    stream.call(name, start + 8, length)
            except ValueError:
                kept.append(content[begun:start])
                begun = at
    return PngImageFile(io.BytesIO(b"".join([*kept, content[begun:]])))


class _Tiff(TiffImageFile):
    """Pillow's decoder of a TIFF, with tags that it takes for others, or for none, set right before."""

    def _setup(self) -> None:
        """Choose how samples are read; refuse what Pillow cannot read."""
        tags = self.tag_v2
        photometric, samples, form = tags.get(PHOTOMETRIC), tags.get(SAMPLES, 1), tags.get(FORMAT)
        bits = max(tags.get(BITS, (1,)))
        if photometric == 0 and bits > 8:  # white is zero: `_gray_to_8_bit` inverts
            tags[PHOTOMETRIC] = 1
        if bits == 32 and form in (None, (1,)):  # unsigned, see `_samples`
            tags[FORMAT] = (2,)
        extra = samples - {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric, 1)
        if 0 < extra <= 3 and EXTRA not in tags:  # Pillow would take the fourth for alpha
            tags[EXTRA] = (0,) * extra
        if tags.get(PLANES) == 2 and samples > 1 and tags.get(COMPRESSION, 1) == 1:
            tags[COMPRESSION] = 5  # libtiff reads it, by the file's own tag; Pillow's 8 bits would be noise
        try:
            super()._setup()
        except SyntaxError:
            raise UnreadableImage(
                f"TIFF of {samples} x {bits} bits a pixel, which cannot be read: save it as 8-bit RGB or gray"
            ) from None
        if self.use_load_libtiff:  # which gives samples in this machine's byte order
            swap = {"I;32BS": "I;32NS", "I;32S": "I;32NS", "I;16BS": "I;16NS", "I;16S": "I;16NS"}
            self.tile = [t._replace(args=(swap.get(t.args[0], t.args[0]), *t.args[1:])) for t in self.tile]
        for tag, value in ((PHOTOMETRIC, photometric), (FORMAT, form)):
            if value is not None:
                tags[tag] = value
            elif tag in tags:
                del tags[tag]
