"""Files that are whole or not there: written beside their place, flushed to the disk, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of `path` when all went well.

    A full disk or a kill leaves what was there before. Two writers of one path leave one of their files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process's number: machines that share a folder may well have the same
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(Path(path)) as file:
        file.write(content)
