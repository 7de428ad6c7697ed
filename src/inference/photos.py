"""Which photos `images=` means: a file, a folder, or a CSV of paths."""

from dataclasses import dataclass
from pathlib import Path

from src.datamodules.photo_index import PhotoIndex
from src.datamodules.records import find_photos, ids_from_paths
from src.errors import InputError
from src.images import EXTENSIONS

PATH_COLUMNS = ("path", "file", "filename", "image", "photo", "ID")


@dataclass(frozen=True)
class Photo:
    """A photo to predict: its ID and POSIX path in the output, and where the file lies."""

    id: str
    path: str
    file: Path


def find_images(images: str | None, root: str | None = None) -> list[Photo]:
    """Return the photos, sorted by path.

    Args:
        images: a photo, a folder (searched below, too), or a CSV with a column `path`, `file` or `ID`.
        root: the folder that a CSV's relative paths start from; null: the data root of the run whose folder
            holds the CSV, else the CSV's own folder.

    Raises:
        InputError: nothing given, no such file, no photo.
    """
    if not images:
        raise InputError("images= is not set: name a photo, a folder or a CSV of paths")
    source = Path(images).expanduser()
    if source.is_dir():
        paths = find_photos(source)
        if not paths:
            raise InputError(f"images={images}: no photo in it (jpg, jpeg, png, bmp, tif, tiff, webp)")
        ids = ids_from_paths(paths)
        return [Photo(id_, path, source / path) for id_, path in zip(ids, paths, strict=True)]
    if not source.is_file():
        raise InputError(f"images={images}: no such file or folder")
    if source.suffix.lower() in EXTENSIONS:
        return [Photo(source.stem, source.name, source)]
    if source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise InputError(f"images={images}: neither a photo nor a folder nor a CSV of paths")
    return _from_csv(source, root)


def _from_csv(source: Path, root: str | None) -> list[Photo]:
    """Return the photos that a CSV of paths, or of IDs, names."""
    from src.datamodules.delimited import pick_column, read_csv  # pandas: only where a table is read

    frame = read_csv(source, key="images")
    column = pick_column(frame, None, PATH_COLUMNS, source, key="")
    paths = [path.replace("\\", "/") for path in frame[column].tolist() if path]
    if not paths:
        raise InputError(f"images={source}: its column '{column}' is empty")
    paths = list(dict.fromkeys(paths))
    ids = ids_from_paths(paths)
    if column != "ID" and "ID" in frame.columns:
        cells = [cell.replace("\\", "/") for cell in frame[column].tolist()]
        given = dict(zip(cells, frame["ID"].tolist(), strict=True))
        ids = [given.get(path) or id_ for path, id_ in zip(paths, ids, strict=True)]
    base = Path(root).expanduser() if root else data_root(source.parent) or source.parent
    if not base.is_dir():
        raise InputError(f"root={root}: no such folder")
    if column == "ID":
        beside = not root and (base / "images").is_dir()
        return _by_id(frame["ID"].tolist(), base / "images" if beside else base)
    photos = [Photo(id_, path, base / path) for id_, path in zip(ids, paths, strict=True)]
    return sorted(photos, key=lambda photo: photo.path)


def _by_id(ids: list[str], folder: Path) -> list[Photo]:
    """Return the photos that a column of IDs names below `folder`, as a table for training does."""
    index = PhotoIndex(folder)
    found = {}
    for id_ in dict.fromkeys(filter(None, ids)):
        named = index.find(id_)
        found[id_] = named[0] if len(named) == 1 else id_.replace("\\", "/")
    photos = [Photo(id_, path, folder / path) for id_, path in found.items()]
    return sorted(photos, key=lambda photo: photo.path)


def refuse_to_overwrite(output: Path, photos: list[Photo], *inputs: str | Path | None) -> None:
    """Refuse an output that is one of the photos, or a file that is being read."""
    taken = {photo.file.resolve() for photo in photos} | {Path(p).expanduser().resolve() for p in inputs if p}
    if output.resolve() in taken or output.suffix.lower() in EXTENSIONS | {".ckpt", ".onnx"}:
        raise InputError(f"output={output}: that would overwrite an input; name a CSV")


def claim(output: Path) -> None:
    """Make the file of rows, where nobody named one; refuse that of a call in the same second."""
    try:
        output.touch(exist_ok=False)
    except FileExistsError:
        raise InputError(f"{output} is there already: name another file with output=") from None


def data_root(run: Path) -> Path | None:
    """Return the folder that the paths in a run folder's tables start from; None for other folders."""
    recorded = run / ".hydra" / "data_root.txt"
    if not recorded.is_file():
        return None
    root = Path(recorded.read_text(encoding="utf-8").strip())
    if not root.is_dir():
        raise InputError(f"the photos of {run} lay in {root}, which is gone: name their folder with root=")
    return root
