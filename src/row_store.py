"""Disk cache of arrays, one row per photo content: resized pixels, or the features of a frozen backbone.

The folder of a store is named by everything that its rows depend on apart from the photo, so that other
weights or another size never meet them. Rows lie in files that are written whole and never changed: a kill, a
full disk or a second run leaves nothing half right, at worst two files that hold the same row.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from src.errors import InputError, reason
from src.files import user_path, whole_file, write_whole

log = logging.getLogger(__name__)

LAYOUT = 3  # of a file: the rows, then the `KEY` of each, the digest of its photo
KEY = np.dtype("<u8")
PLACE = np.dtype([("key", KEY), ("file", "<i4"), ("row", "<i4")])
MARKER = "corbel-cache.json"
ROWS_A_FILE, BYTES_A_FILE = 2048, 64 * 2**20  # a kill loses no more work than one file's
OPEN_FILES = 128  # each open map holds a file descriptor


def checked_folder(cache_dir: str | Path) -> Path:
    """Return the folder of all stores, made if it is not there.

    Raises:
        InputError: if it cannot be made, or holds other files.
    """
    folder = user_path(cache_dir)
    cure = "name another folder with data.cache_dir="
    try:
        names = {name for name in os.listdir(folder) if not name.startswith(".")} if folder.is_dir() else ()
        if names and MARKER not in names:
            raise InputError(f"data.cache_dir={folder}: holds files, and no cache: {cure}")
        if not names:
            write_whole(folder / MARKER, b"{}")
    except OSError as error:
        raise InputError(f"data.cache_dir={folder}: {reason(error)}; {cure}") from None
    return folder


class RowStore:
    """Rows of one shape and type, one for each content of a photo.

    `about` holds everything else that a row depends on, in plain values; `kind` is `images` or `features`.

    Raises:
        InputError: see `checked_folder`.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        kind: str,
        about: Mapping[str, object],
        shape: tuple[int, ...],
        dtype: str,
    ):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(shape)) * self.dtype.itemsize
        rows = {"layout": LAYOUT, "rows": [list(shape), dtype]}
        self._about = json.dumps(rows | dict(about), sort_keys=True, indent=1).encode()
        name = hashlib.blake2b(self._about, digest_size=8).hexdigest()
        self.folder = checked_folder(cache_dir) / kind / name
        self._new: list[tuple[int, np.ndarray]] = []
        self.refresh()

    def refresh(self) -> None:
        """Look at the files that are there now."""
        self.files = sorted(self.folder.glob("*.rows"))
        found = [np.empty(0, PLACE), *(self._places(number) for number in range(len(self.files)))]
        places = np.concatenate(found)
        self._known = places[np.argsort(places["key"], kind="stable")]

    def _places(self, number: int) -> np.ndarray:
        """Return the places of the rows in a file; none where it does not hold whole rows."""
        path = self.files[number]
        count, rest = divmod(path.stat().st_size, self.row_bytes + KEY.itemsize)
        if rest:
            log.warning("%s is damaged: its photos are read anew; delete it", path)
            return np.empty(0, PLACE)
        places = np.empty(count, PLACE)
        places["key"] = np.fromfile(path, KEY, offset=count * self.row_bytes)
        places["file"], places["row"] = number, np.arange(count)
        return places

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Return the digests that the store has no row for, each once, in their order."""
        unique = list(dict.fromkeys(digests))
        return [digest for digest, at in zip(unique, self._find(unique), strict=True) if at < 0]

    def _find(self, digests: Sequence[str]) -> np.ndarray:
        """Return the position of each digest among the sorted keys, -1 where it is not."""
        wanted = np.array([int(digest, 16) for digest in digests], np.uint64)
        keys = self._known["key"]
        at = np.searchsorted(keys, wanted)
        inside = at < len(keys)
        inside[inside] = keys[at[inside]] == wanted[inside]
        return np.where(inside, at, -1)

    def rows(self, digests: Sequence[str]) -> "Rows":
        """Return the rows of these photos, memory-mapped.

        Raises:
            InputError: for a photo without a row.
        """
        at = self._find(digests)
        if lost := int((at < 0).sum()):
            raise InputError(f"the cache {self.folder} has lost {lost} photos while this ran: try again")
        return Rows(self.files, self._known[at], self.shape, self.dtype)

    def add(self, digest: str, row: np.ndarray) -> None:
        """Take a row; it is on the disk with the next file of rows, at the latest after `flush`.

        Raises:
            InputError: if the disk refuses; the rows of earlier files stay.
        """
        self._new.append((int(digest, 16), row))
        if len(self._new) >= min(ROWS_A_FILE, max(1, BYTES_A_FILE // self.row_bytes)):
            self._write_new()

    def flush(self) -> None:
        """Write the rows that were added, and let `rows` find them; raises as `add`."""
        if self._new:
            self._write_new()
        self.refresh()

    def _write_new(self) -> None:
        rows = np.stack([row for _, row in self._new]).astype(self.dtype, copy=False)
        keys = np.array([key for key, _ in self._new], KEY)
        self._new = []
        try:
            with whole_file(self.folder / f"{time.time_ns():020d}-{os.getpid()}.rows") as file:
                file.write(rows)
                file.write(keys.tobytes())
        except OSError as error:
            self.refresh()
            raise self._refusal(error) from None

    def _refusal(self, error: OSError) -> InputError:
        return InputError(
            f"the cache {self.folder} cannot be written: {reason(error)}; {len(self._known):,} photos are "
            "kept in it: make room, or name another folder with data.cache_dir="
        )

    def check_room(self, rows: int) -> None:
        """Prepare the folder for `rows` more rows.

        Raises:
            InputError: if the disk cannot hold them, or the folder cannot be written.
        """
        if not rows:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "about.json", self._about)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise self._refusal(error) from None
        need = rows * self.row_bytes
        if need > free:
            raise InputError(
                f"the cache {self.folder} needs {gigabytes(need)}, {gigabytes(free)} are free: make room, "
                "name another folder with data.cache_dir=, or leave it out with data.cache=null"
            )


def gigabytes(size: int) -> str:
    """Return a number of bytes as text, in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


class Rows:
    """The rows of some photos, in their order, at `places` (of type `PLACE`) in the files of a store."""

    def __init__(self, files: Sequence[Path], places: np.ndarray, shape: tuple[int, ...], dtype: np.dtype):
        self.files, self.places, self.shape, self.dtype = list(files), places, shape, dtype

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.take([index])[0]

    def select(self, indices: Sequence[int]) -> "Rows":
        """Return the rows of some of these photos, in that order."""
        return Rows(self.files, self.places[np.asarray(indices, np.int64)], self.shape, self.dtype)

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """Return the rows `[len(indices), ...]` of several photos."""
        found = np.empty((len(indices), *self.shape), self.dtype)
        places = self.places[np.asarray(indices, np.int64)].tolist()
        for target, (_, file, row) in zip(found, places, strict=True):
            target[...] = _mapped(self.files[file], self.shape, self.dtype)[row]
        return found


@lru_cache(OPEN_FILES)
def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return the rows of a file, memory-mapped; the files used last stay open."""
    count = path.stat().st_size // (int(np.prod(shape)) * dtype.itemsize + KEY.itemsize)
    return np.memmap(path, dtype, "r", 0, (count, *shape))
