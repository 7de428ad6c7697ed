"""Photos as the service stores them: checked, without metadata such as GPS, named by their digest."""

import hashlib
import io
import struct
from dataclasses import dataclass

from PIL import Image

from src.images import UnreadableImage, open_image, read_header
from src.serving.storage import Folder

TYPES = {"JPEG": "image/jpeg", "PNG": "image/png"}
THUMBNAIL = 320  # pixels of the longer side
_ORIENTATION = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0"
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_IN_SCAN = {0x00, 0xFF, *range(0xD0, 0xD8)}  # after 0xFF: no marker that ends a scan


@dataclass(frozen=True)
class Checked:
    """A photo that can be read."""

    sha256: str  # of the file as it came
    content: bytes  # the file without metadata; it decodes to the same pixels
    format: str  # JPEG, or PNG for a photo that came in another format
    width: int  # pixels, upright
    height: int
    thumbnail: bytes  # a small JPEG of it


def check_photo(content: bytes, sample_bits: int | None = None) -> Checked:
    """Decode a photo in full, and take its metadata off: place, time, camera, previews."""
    header, image = read_header(content), open_image(content, sample_bits=sample_bits)
    if header.format == "JPEG":
        kept, form = without_metadata(content, header.exif["Orientation"]), "JPEG"
    else:
        kept, form = encoded(image, "PNG", compress_level=3), "PNG"
    width, height = image.size
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return Checked(digest_of(content), kept, form, width, height, encoded(image, "JPEG", quality=80))


def encoded(image: Image.Image, form: str, **options: int) -> bytes:
    """Return the content of an image's file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def without_metadata(jpeg: bytes, orientation: object = 1) -> bytes:
    """Return a JPEG file without metadata segments and without what follows its first picture.

    Kept are the segments that decoding needs, Adobe's colour transform among them, and the orientation.
    Source: ITU-T T.81, annex B.
    """
    out, at = [jpeg[:2]], 2
    if isinstance(orientation, int) and 1 < orientation < 9:
        exif = _ORIENTATION % orientation
        out.append(b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    while at + 4 <= len(jpeg):
        if jpeg[at] != 0xFF:
            raise UnreadableImage("broken JPEG (no marker where one has to be)")
        marker = jpeg[at + 1]
        if marker == 0xD9:
            break
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in _STANDALONE:
            out.append(jpeg[at : at + 2])
            at += 2
            continue
        end = at + 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
        metadata = (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE
        if marker == 0xDA:  # entropy-coded data up to the next marker
            while end < len(jpeg) - 1 and not (jpeg[end] == 0xFF and jpeg[end + 1] not in _IN_SCAN):
                end = jpeg.find(b"\xff", end + 1)
                if end < 0:
                    end = len(jpeg)
        if not metadata:
            out.append(jpeg[at:end])
        at = end
    return b"".join([*out, b"\xff\xd9"])


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a photo as it came."""
    return hashlib.sha256(content).hexdigest()


def photo_name(sha256: str, form: str) -> str:
    """Return the name of a stored photo below the service's folder."""
    return f"photos/{sha256[:2]}/{sha256}.{'jpg' if form == 'JPEG' else 'png'}"


def thumbnail_name(sha256: str) -> str:
    """Return the name of a stored photo's thumbnail."""
    return f"thumbnails/{sha256[:2]}/{sha256}.jpg"


def store_photo(folder: Folder, photo: Checked) -> bool:
    """Write a photo and its thumbnail, each whole or not at all; return whether it was not there."""
    name = photo_name(photo.sha256, photo.format)
    if is_new := not folder.has(name):
        folder.write(thumbnail_name(photo.sha256), photo.thumbnail)
        folder.write(name, photo.content)
    return is_new


def remove_photo(folder: Folder, sha256: str, form: str) -> None:
    """Remove a stored photo and its thumbnail."""
    folder.remove(photo_name(sha256, form))
    folder.remove(thumbnail_name(sha256))
