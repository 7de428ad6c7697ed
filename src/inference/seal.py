"""A checksum at the end of an ONNX file, by which damage in it is noticed."""

import hashlib
from pathlib import Path

KEY = b"seal"
VALUE = 64  # hexadecimal digits of a SHA-256
HEAD = b"\x0a" + bytes([len(KEY)]) + KEY + b"\x12" + bytes([VALUE])
# one more `metadata_props`, field 14 of ONNX's ModelProto in protobuf's wire format, which any reader takes
TAG = b"\x72" + bytes([len(HEAD) + VALUE]) + HEAD
LENGTH = len(TAG) + VALUE


def seal(file: Path) -> None:
    """Append the checksum of all that stands in a file."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with open(file, "ab") as end:
        end.write(TAG + digest.encode())


def is_damaged(file: Path) -> bool:
    """Whether a file is not what it was when it was sealed.

    A file without a seal at its end, as another program that added something would write it, is not.
    """
    content = memoryview(file.read_bytes())
    end = bytes(content[-LENGTH:])
    if not end.startswith(TAG):
        return False
    return hashlib.sha256(content[:-LENGTH]).hexdigest().encode() != end[len(TAG) :]
