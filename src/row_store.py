"""What has been computed of a photo, kept on disk by the photo's content.

A store holds one row per content: the resized pixels, or the features of a frozen backbone. Its folder is
named by all that the rows depend on beside the photo, so that other weights or another size never meet them.
Rows lie in files that are written whole and never changed, so that a kill, a full disk or a second run beside
this one leaves nothing that is half right: at worst two files hold the same row.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
import tokenize
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from src.errors import InputError, reason
from src.files import user_path, whole_file, write_whole

log = logging.getLogger(__name__)
FORMAT = 1
MARKER = "corbel-cache.json"
ROWS_A_FILE, BYTES_A_FILE = 2048, 64 * 2**20  # a kill loses no more work than one file's
OPEN_FILES = 128  # each open map holds a file descriptor
STALE = 3600  # seconds after which a temporary file belongs to nobody
EMPTY = np.empty(0, np.uint64)
# what NumPy raises for a file whose header is damaged, beside the disk's own errors
UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, MemoryError, OverflowError, tokenize.TokenError)


def checked_folder(cache_dir: str | Path) -> Path:
    """Return the folder of all stores, made if it is not there.

    Raises:
        InputError: if it cannot be made, or belongs to another version or to somebody else.
    """
    folder = user_path(cache_dir)
    marker = folder / MARKER
    elsewhere = "name another folder with data.cache_dir="
    try:
        if marker.is_file():
            found = json.loads(marker.read_bytes())["format"]
            if found != FORMAT:
                raise InputError(
                    f"data.cache_dir={folder}: of another version of Corbel "
                    f"(format {found!r}, here {FORMAT}): delete it, or {elsewhere}"
                )
        elif folder.is_dir() and _holds_others(folder):
            raise InputError(f"data.cache_dir={folder}: holds files, and no cache: {elsewhere}")
        else:
            write_whole(marker, json.dumps({"format": FORMAT}).encode())
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"data.cache_dir={folder}: its {MARKER} is damaged: delete the folder") from None
    except OSError as error:
        raise InputError(f"data.cache_dir={folder}: {reason(error)}; {elsewhere}") from None
    return folder


def _holds_others(folder: Path) -> bool:
    """Whether a folder holds files and no marker; another run may be making it a cache right now."""
    found = [name for name in os.listdir(folder) if not name.startswith(".")]
    return bool(found) and MARKER not in found


def clear_stale(folder: Path) -> None:
    """Delete temporary files that killed runs left in a folder."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # its owner has just given it its name, or nobody may write here
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()


class RowStore:
    """Rows of one shape and type, one for each content of a photo.

    Args:
        cache_dir: the folder of all stores.
        kind: `images` or `features`.
        about: all that a row depends on beside the photo's content; plain values.
        shape: of a row.
        dtype: of a row.

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
        said = json.dumps({"rows": [list(shape), dtype], **about}, sort_keys=True, indent=1)
        name = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        self.folder = checked_folder(cache_dir) / kind / name
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._about = said
        self._new: list[tuple[int, np.ndarray]] = []
        self._damaged: set[Path] = set()
        self.refresh()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def refresh(self) -> None:
        """Look at the files that are there now; one that is damaged is named and left out."""
        self.files: list[Path] = []
        keys, places = [], []
        for path in sorted(self.folder.glob("*.rows")):
            try:
                found = self._contents(path)
            except UNREADABLE as error:
                if path not in self._damaged:
                    log.warning("%s is damaged (%s): its photos are read anew; delete it", path, error)
                self._damaged.add(path)
                continue
            keys.append(found)
            places.append(np.stack([np.full(len(found), len(self.files)), np.arange(len(found))], 1))
            self.files.append(path)
        self._keys = np.concatenate(keys) if keys else EMPTY
        self._places = np.concatenate(places) if places else np.empty((0, 2), np.int64)
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._places = self._keys[order], self._places[order]

    def _contents(self, path: Path) -> np.ndarray:
        """Return the keys of a file whose rows are all there."""
        with open(path, "rb") as file:
            keys = np.lib.format.read_array(file)
            checksums = np.lib.format.read_array(file)
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
        kinds = (keys.dtype, checksums.dtype, dtype)
        if version != (1, 0) or fortran or kinds != (np.uint64, np.uint32, self.dtype):
            raise ValueError("not such a file")
        if shape != (len(keys), *self.shape) or size != offset + len(keys) * self.row_bytes:
            raise ValueError(f"{size:,} bytes for {len(keys)} rows")
        return keys

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Return the digests that the store has no row for, each once, in their order."""
        unique = list(dict.fromkeys(digests))
        return [digest for digest, at in zip(unique, self._find(unique), strict=True) if at < 0]

    def _find(self, digests: Sequence[str]) -> np.ndarray:
        """Return the position of each digest among the sorted keys, -1 where it is not."""
        wanted = np.array([int(digest, 16) for digest in digests], np.uint64)
        if not len(self._keys):
            return np.full(len(wanted), -1)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[at] == wanted, at, -1)

    def rows(self, digests: Sequence[str]) -> "Rows":
        """Return the rows of these photos, memory-mapped.

        Raises:
            InputError: for a photo without a row.
        """
        at = self._find(digests)
        if (at < 0).any():
            raise InputError(
                f"the cache {self.folder} has lost {int((at < 0).sum())} photos while this ran: try again"
            )
        return Rows(self.files, self._places[at], self.shape, self.dtype)

    def add(self, digest: str, row: np.ndarray) -> None:
        """Take a row; it is on the disk with the next file of rows, at the latest after `flush`.

        Raises:
            InputError: if the disk refuses; what earlier files hold stays.
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
        """Write the rows that were added as one more file."""
        keys = np.array([key for key, _ in self._new], np.uint64)
        rows = np.stack([row for _, row in self._new]).astype(self.dtype, copy=False)
        checksums = np.array([zlib.crc32(row) for row in rows], np.uint32)
        self._new = []
        try:
            with whole_file(self.folder / f"{time.time_ns():020d}-{os.getpid()}.rows") as file:
                for array in (keys, checksums, rows):
                    header = np.lib.format.header_data_from_array_1_0(array)
                    np.lib.format.write_array_header_1_0(file, header)
                    file.write(array)  # NumPy's own writing does not tell why a disk refuses
        except OSError as error:
            self.refresh()
            raise InputError(self._refusal(error)) from None

    def _refusal(self, error: OSError) -> str:
        """Return the line for a disk that does not take the rows."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why, cure = ("the disk is full", "make room, or name") if full else (error.strerror, "name")
        return (
            f"the cache {self.folder} cannot be written: {why}; {len(self._keys):,} photos are kept in it: "
            f"{cure} another folder with data.cache_dir="
        )

    def check_room(self, rows: int) -> None:
        """Refuse to begin what the disk cannot hold or nobody may write; clear what killed runs left.

        Raises:
            InputError: likewise.
        """
        if not rows:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            clear_stale(self.folder)
            with whole_file(self.folder / "about.json") as file:
                file.write(self._about.encode())
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise InputError(self._refusal(error)) from None
        need = rows * self.row_bytes
        if need > free:
            raise InputError(
                f"the cache {self.folder} needs {gigabytes(need)}, {gigabytes(free)} are free: make room, "
                "name another folder with data.cache_dir=, or leave it out with data.cache=null"
            )


def gigabytes(size: int) -> str:
    """Return a size as one reads it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


class Rows:
    """The rows of some photos, in their order, memory-mapped from the files of a store.

    Args:
        files: of the store.
        places: int64 `[photos, 2]`: file and row.
        shape: of a row.
        dtype: of a row.
    """

    def __init__(self, files: Sequence[Path], places: np.ndarray, shape: tuple[int, ...], dtype: np.dtype):
        self.files, self.places, self.shape, self.dtype = list(files), places, shape, dtype
        self._maps: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return a copy of a photo's row."""
        return self.take([index])[0]

    def select(self, indices: Sequence[int]) -> "Rows":
        """Return the rows of some of these photos, in that order."""
        return Rows(self.files, self.places[np.asarray(indices, np.int64)], self.shape, self.dtype)

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """Return the rows `[len(indices), ...]` of several photos.

        Raises:
            InputError: if a file is gone, or a row is not what was written.
        """
        found = np.empty((len(indices), *self.shape), self.dtype)
        for place, (file, row) in zip(
            found, self.places[np.asarray(indices, np.int64)].tolist(), strict=True
        ):
            rows, checksums = self._map(file)
            place[...] = rows[row]
            if zlib.crc32(place) != checksums[row]:
                raise InputError(f"the cache file {self.files[file]} is damaged: delete it, and try again")
        return found

    def _map(self, file: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a file's rows and checksums, mapped once and kept while it is among those used last."""
        found = self._maps.pop(file, None)
        if found is None:
            found = self._open(self.files[file])
            if len(self._maps) >= OPEN_FILES:
                self._maps.popitem(last=False)
        self._maps[file] = found
        return found

    def _open(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Map the rows of a file."""
        try:
            with open(path, "rb") as file:
                np.lib.format.read_array(file)
                checksums = np.lib.format.read_array(file)
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                shape = (len(checksums), *self.shape)
                return np.memmap(file, self.dtype, "r", file.tell(), shape), checksums
        except UNREADABLE as error:
            raise InputError(f"the cache file {path} is gone or damaged ({error}): try again") from None

    def __getstate__(self) -> dict[str, object]:
        """Leave the maps out: a loader's worker makes its own."""
        return {**vars(self), "_maps": OrderedDict()}
