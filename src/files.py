"""Paths as a person gives them, files that are whole or not there, locks, JSON and digests."""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from src.errors import InputError, reason

if TYPE_CHECKING:  # a prediction without tables does without pandas
    import pandas as pd
if sys.platform != "win32":
    import fcntl

ARCHIVES = {".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst"}


def user_path(given: str | Path) -> Path:
    """Return a path that a person gave, with the home folder in the place of `~`."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        name = Path(given).parts[0][1:]
        why = f"no user '{name}' is known here" if name else "HOME is not set"
        raise InputError(f"{given}: {why}") from None


def refuse_archive(key: str, path: Path) -> None:
    """Refuse a file that is an archive of what a key names."""
    if path.suffix.lower() in ARCHIVES and path.is_file():
        raise InputError(f"{key}={path}: a {path.suffix[1:].upper()} archive: unpack it, and name its folder")


@contextmanager
def whole_file(path: Path, folder: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of `path` when all went well.

    A full disk or a kill leaves what was there before. Two writers of one path leave one of their files.
    Until then it lies in `folder`, which has to be there, or else next to `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process's number: machines that share a folder may well have the same
    temporary = (folder or path.parent) / f".{path.name}.{uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all."""
    with whole_file(Path(path)) as file:
        file.write(content)


def write_csv(
    path: Path, table: "pd.DataFrame", float_format: str | None = "%.6f", encoding: str = "utf-8"
) -> None:
    """Write a table whole or not at all, by default numbers with six decimals."""
    text = table.to_csv(index=False, float_format=float_format, lineterminator="\n")
    write_whole(path, text.encode(encoding))


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, whole or not at all; NaN is refused."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; `{}` for a file that is not there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object {{...}}, found {type(content).__name__}")
    return content


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(file: Path, patience: float = 0.0) -> Iterator[bool]:
    """Lock a file that is made for it and stays empty; give False where another process has the lock.

    It ends with the process, however that ends, and with its forked children. On Windows, and on a disk
    without locks, every process gets it. `patience` is the seconds to wait for another process.
    """
    if sys.platform == "win32":
        yield True
        return
    until = time.monotonic() + patience
    with open(file, "ab") as lock:
        while not (taken := _lock(lock, fcntl.LOCK_EX)) and time.monotonic() < until:
            time.sleep(0.2)
        try:
            yield taken
        finally:
            if taken:  # closing is not enough: forked children have it open as well
                _lock(lock, fcntl.LOCK_UN)


def _lock(file: BinaryIO, kind: int) -> bool:
    """Lock an open file, or unlock it; return whether that worked, or cannot work on this disk."""
    with suppress(OSError):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def is_locked(file: Path) -> bool:
    """Whether a process has the lock of a file; never where locks are not known."""
    if sys.platform == "win32" or not file.is_file():
        return False
    with open(file, "rb") as lock:
        return not _lock(lock, fcntl.LOCK_SH)


def make_folder(folder: Path) -> None:
    """Make an output folder and check that files can be written there, before anything is computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"output={folder}: cannot be written ({reason(error)}); name another folder"
        ) from error
