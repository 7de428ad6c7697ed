"""Paths as a person gives them, files that are whole or not there, and files that one process holds."""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from src.errors import InputError, reason

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
        name = Path(given).parts[0][1:]
        why = f"no user '{name}' is known here" if name else "HOME is not set"
        raise InputError(f"{given}: {why}") from None


@contextmanager
def whole_file(path: Path, folder: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of `path` when all went well.

    A full disk or a kill leaves what was there before. Two writers of one path leave one of their files.
    Until then it lies in `folder`, which has to be there, or else beside `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process's number: machines that share a folder may well have the same
    beside = (folder or path.parent) / f".{path.name}.{uuid4().hex}.tmp"
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all."""
    with whole_file(Path(path)) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, whole or not at all; NaN is refused."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, (text + "\n").encode())


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def held(lock: Path, patience: float = 0.0) -> Iterator[bool]:
    """Hold a file that is made for it and removed with it; give False where another process holds it.

    Nobody reads or writes the file, as some network disks refuse that while it is locked. It is let go of
    when the process ends, however it does, and its forked children with it. On Windows, and on a disk that
    knows no locks, which is warned of, everybody holds it.

    Args:
        lock: the file; its folder is there.
        patience: seconds to wait for another process to let go.

    Raises:
        OSError: if the file cannot be made.
    """
    if sys.platform == "win32":
        yield True
        return
    until = time.monotonic() + patience
    file = _taken(lock)
    if file is None and patience:
        log.info("Another process holds %s: waiting up to %d s for it", lock, patience)
    while file is None and time.monotonic() < until:
        time.sleep(0.2)
        file = _taken(lock)
    if file is None:
        yield False
        return
    with file:
        try:
            yield True
        finally:
            with suppress(OSError):
                lock.unlink()
            with suppress(OSError):  # closing is not enough: forked children have it open as well
                fcntl.flock(file, fcntl.LOCK_UN)


def is_held(lock: Path) -> bool:
    """Whether a process holds the file, see `held`; where locks are not known, none does."""
    if sys.platform == "win32":
        return False
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def make_folder(folder: Path) -> None:
    """Make an output folder and check that files can be written there, before anything is computed.

    Raises:
        InputError: if not.
    """
    whole, probe = folder.absolute(), folder / f".{os.getpid()}.tmp"
    try:
        if any(path.exists() and not path.is_dir() for path in (whole, *whole.parents)):
            raise InputError(f"output={folder}: there is a file of this name; name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"output={folder}: cannot be written ({reason(error)}); name another folder"
        ) from error


def _taken(lock: Path) -> BinaryIO | None:
    """Return the open file if it could be locked, or cannot be at all; None where another process has it."""
    while True:
        file = open(lock, "ab")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                return file
        except FileNotFoundError:
            log.debug("%s was let go of between two steps", lock)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            log.warning("%s cannot be locked (%s): let no second call write there", lock, error.strerror)
            return file
        file.close()  # its holder has just removed it: hold a new one
