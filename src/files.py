"""Paths as a person gives them, files that are whole or not there, and files that one process holds."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from src.errors import InputError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)


def user_path(given: str | Path) -> Path:
    """Return a path that a person gave, with the home folder in the place of `~`.

    Raises:
        InputError: for the home folder of somebody who is not known here.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise InputError(f"{given}: no user '{Path(given).parts[0][1:]}' is known here") from None


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


def hold(file: BinaryIO) -> bool:
    """Hold a file until it is closed, let go of, or the process ends; False where another one holds it.

    A file system that knows no locks is warned of, and everybody holds. Windows has none of this kind.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        why = error.strerror
        log.warning("%s cannot be locked (%s): start no second call that writes it", file.name, why)
    return True


def let_go(file: BinaryIO) -> None:
    """Let go of a file that is held, whichever forked processes have it open as well."""
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_UN)
