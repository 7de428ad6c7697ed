"""Files that are whole or not there at all, whatever is killed, and on the disk when a call returns."""

import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from src.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """Read what an earlier call noted down of itself.

    Raises:
        InputError: if it is not there or broken.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it to begin anew") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not what an earlier call wrote: delete it to begin anew")
    return content


def write_durably(path: Path, content: bytes, beside: Path | None = None) -> None:
    """Write a file whole or not at all, on the disk with its name when this returns.

    Its folder has to be there: that of a job in parts is gone once another process has merged them.

    Args:
        path: the file, replaced if it exists.
        content: of the file.
        beside: written first and then renamed; a kill can leave it. None: a name that no other process takes.
    """
    beside = beside or path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            to_disk(file)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder_to_disk(path.parent)


def to_disk(file: BinaryIO) -> None:
    """Wait until what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def folder_to_disk(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; Windows has no such call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
