"""What reading a photo told, remembered as long as the file stays what it was."""

import hashlib
import io
import logging
import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from src.datamodules.cache import UNREADABLE, checked_folder, clear_stale, decoder
from src.datamodules.near_duplicates import HASHED_SIZE
from src.files import write_whole

log = logging.getLogger(__name__)
ROW = np.dtype([("key", "S16"), ("digest", "u8"), ("phash", "u8"), ("hashed", "?")])
SETTLED = 2 * 10**9  # nanoseconds; a younger file may still change within one tick of its file system's clock
Found = tuple[str, int | None]


class Memory:
    """The digests and perceptual hashes of the photos below one folder.

    A photo is known by its path, size, times and number on the disk. A file that is put in its place has
    another time of change, which no program can set; one that was changed within the last two seconds is not
    remembered, as its times could not tell a second change.

    Args:
        cache_dir: the folder of all stores.
        root: the folder that the paths start from.

    Raises:
        InputError: see `checked_folder`.
    """

    def __init__(self, cache_dir: str | Path, root: Path):
        about = f"{root.absolute()}\n{HASHED_SIZE}\n{sorted(decoder().items())}\nchecksum"
        name = hashlib.blake2b(about.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.root, self.file = root, checked_folder(cache_dir) / "inspected" / f"{name}.npy"
        self._rows: dict[bytes, tuple[int, int, bool]] = {}
        self.unsaved = 0  # photos
        try:
            content = self.file.read_bytes()
            if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
                raise ValueError("not what was written")
            stored = np.load(io.BytesIO(content), allow_pickle=False)
            if stored.dtype != ROW:
                raise ValueError("other columns")
        except FileNotFoundError:
            return
        except UNREADABLE as error:
            log.warning("%s is damaged (%s): photos are read anew", self.file, error)
            return
        columns = (stored[name].tolist() for name in ("digest", "phash", "hashed"))
        self._rows = dict(zip(_keys(stored), zip(*columns, strict=True), strict=True))

    def key(self, path: str) -> bytes | None:
        """Return what a photo is known by, or None for one that is not there or too young."""
        try:
            status = os.stat(os.path.join(self.root, path))
        except (OSError, ValueError):
            return None
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED:
            return None
        said = f"{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        return hashlib.blake2b(said.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    def recall(self, keys: Iterable[bytes | None]) -> dict[bytes, Found]:
        """Return `(digest, perceptual hash)` of the photos that are known, by key."""
        found = {}
        for key in keys:
            if key in self._rows:
                digest, phash, hashed = self._rows[key]
                found[key] = (f"{digest:016x}", phash if hashed else None)
        return found

    def note(self, key: bytes | None, digest: str, phash: int | None) -> None:
        """Remember a photo that could be read."""
        if key is not None:
            self._rows[key] = (int(digest, 16), phash or 0, phash is not None)
            self.unsaved += 1

    def save(self) -> None:
        """Write what is new; where the disk refuses, say so: photos are then read again next time."""
        if not self.unsaved:
            return
        clear_stale(self.file.parent)
        rows = np.empty(len(self._rows), ROW)
        rows["key"] = list(self._rows)
        for column, values in zip(
            ("digest", "phash", "hashed"), zip(*self._rows.values(), strict=True), strict=True
        ):
            rows[column] = values
        content = io.BytesIO()
        np.save(content, rows)
        try:
            write_whole(self.file, content.getvalue() + zlib.crc32(content.getbuffer()).to_bytes(4, "little"))
            self.unsaved = 0
        except OSError as error:
            log.warning(
                "%s cannot be written (%s): photos are read again next time", self.file, error.strerror
            )


def _keys(rows: np.ndarray) -> list[bytes]:
    """Return the keys in full: NumPy takes zeros at the end of bytes for padding."""
    return [key.ljust(16, b"\0") for key in rows["key"].tolist()]
