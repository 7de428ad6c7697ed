"""The photos of `images=`: a file, a folder, or a CSV of paths."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import overload

from src.datamodules.records import PhotoIndex, find_photos, id_from_path, shared_ids
from src.errors import InputError, listed
from src.files import user_path
from src.images import EXTENSIONS
from src.runs import recorded_root

PATH_COLUMNS = ("path", "file", "filename", "image", "photo", "ID")


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo to predict: its ID and POSIX path in the output, and where the file lies."""

    id: str
    path: str
    file: Path


class Photos(Sequence[Photo]):
    """Photos below one folder; of each only its path is in memory, and its ID where it has one of its own.

    Args:
        paths: POSIX paths relative to `root`, in order.
        root: the folder.
        ids: an ID per path; None: the path without its extension.
        shared: paths without extension that several photos share: the ID of these is the whole path.
    """

    def __init__(
        self,
        paths: Sequence[str],
        root: Path,
        ids: Sequence[str] | None = None,
        shared: Collection[str] = (),
    ):
        self._paths, self._root, self._ids, self._shared = paths, root, ids, shared

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Photo: ...

    @overload
    def __getitem__(self, index: slice) -> "Photos": ...

    def __getitem__(self, index: int | slice) -> "Photo | Photos":
        if isinstance(index, slice):
            ids = None if self._ids is None else self._ids[index]
            return Photos(self._paths[index], self._root, ids, self._shared)
        path = self._paths[index]
        id_ = id_from_path(path, self._shared) if self._ids is None else self._ids[index]
        return Photo(id_, path, self._root / path)


def find_images(images: str | None, root: str | None = None) -> Photos:
    """Return the photos, sorted by path and then by ID.

    Args:
        images: a photo, a folder (searched below, too), or a CSV with a column `path`, `file` or `ID`; with
            several IDs for one path there are as many photos.
        root: the folder that a CSV's relative paths start from; null: the data root of the run whose folder
            holds the CSV, else the CSV's own folder.

    Raises:
        InputError: nothing given, no such file, no photo.
    """
    if not images:
        raise InputError("images= is not set: name a photo, a folder or a CSV of paths")
    source = user_path(images)
    if source.is_dir():
        paths = find_photos(source)
        if not paths:
            raise InputError(f"images={images}: no photo in it (jpg, jpeg, png, bmp, tif, tiff, webp)")
        return Photos(paths, source, shared=shared_ids(paths))
    if not source.is_file():
        raise InputError(f"images={images}: no such file or folder")
    if source.suffix.lower() in EXTENSIONS:
        return Photos([source.name], source.parent, [source.stem])
    if source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise InputError(f"images={images}: neither a photo nor a folder nor a CSV of paths")
    return _from_csv(source, root)


def _from_csv(source: Path, root: str | None) -> Photos:
    """Return the photos that a CSV of paths, or of IDs, names."""
    from src.datamodules.csv_table import pick_column, read_csv  # pandas: only where a table is read

    frame = read_csv(source, key="images")
    column = pick_column(frame, None, PATH_COLUMNS, source, key="")
    for cell in (cell for name in {column, "ID"} & {*frame.columns} for cell in frame[name].tolist()):
        if "\r" in cell or "\n" in cell:
            raise InputError(f"images={source}: {cell!a} holds a line break, which no row of an output can")
    cells = frame[column].tolist()
    if not any(cells):
        raise InputError(f"images={source}: its column '{column}' is empty")
    base = photos_root(source.parent, root) or source.parent
    if column == "ID":
        beside = not root and (base / "images").is_dir()
        return _by_id(cells, base / "images" if beside else base)
    own = frame["ID"].tolist() if "ID" in frame.columns else [""] * len(cells)
    return _by_path([_posix(cell) for cell in cells], own, base)


def _by_path(paths: Sequence[str], own: Sequence[str], folder: Path) -> Photos:
    """Return the photos at these paths, one for each ID of its own that a photo has."""
    rows = {(path, id_) for path, id_ in zip(paths, own, strict=True) if path}
    named = {path for path, id_ in rows if id_}
    rows = sorted((path, id_) for path, id_ in rows if id_ or path not in named)
    paths = [path for path, _ in rows]
    shared = shared_ids(sorted(set(paths)))
    ids = [id_ or id_from_path(path, shared) for path, id_ in rows] if named else None
    return Photos(paths, folder, ids, shared)


def _posix(cell: str) -> str:
    """Return the path in a cell with `/` and without steps that lead nowhere, so that one photo has one."""
    path = cell.replace("\\", "/")
    return PurePosixPath(path).as_posix() if "//" in path or "./" in path else path


def _by_id(ids: list[str], folder: Path) -> Photos:
    """Return the photos that a column of IDs names below `folder`, as a table for training does."""
    index = PhotoIndex(folder)
    found = {}
    for id_ in dict.fromkeys(filter(None, ids)):
        named = index.find(id_)
        if len(named) > 1:
            raise InputError(f"ID '{id_}' fits several photos, give their paths: {listed(named, 4)}")
        found[id_] = named[0] if len(named) == 1 else id_.replace("\\", "/")
    ids = sorted(found, key=lambda id_: (found[id_], id_))
    return Photos([found[id_] for id_ in ids], folder, ids)


def photos_root(run: Path, root: str | None) -> Path | None:
    """Return the folder that paths in a run folder's tables start from: `root=`, else the recorded one.

    Returns:
        None for a folder that is no run, without `root=`.

    Raises:
        InputError: if there is no such folder.
    """
    if root and not user_path(root).is_dir():
        raise InputError(f"root={root}: no such folder; name that of the photos of {run}")
    recorded = None if root else recorded_root(run)
    if recorded and not recorded.is_dir():
        raise InputError(
            f"the photos of {run} lay in {recorded}, which is gone: name their folder with root="
        )
    return user_path(root) if root else recorded


def refuse_to_overwrite(output: Path, photos: Sequence[Photo], *inputs: str | Path | None) -> None:
    """Refuse an output that is one of the photos, or a file that is being read; it may be a link to one."""
    taken, real = {user_path(path).resolve() for path in inputs if path}, output.resolve()
    if output.exists():  # photos without a photo's extension: a look at a name costs no disk
        taken |= {p.file.resolve() for p in photos if p.file.suffix.lower() not in EXTENSIONS}
    if real in taken or real.suffix.lower() in EXTENSIONS | {".ckpt", ".onnx"}:
        raise InputError(f"output={output}: that would overwrite an input; name a CSV")
