"""Photos to predict, decoded and scored in batches of one size, results in order. No torch.

Libraries may give a photo other last bits at another place in a batch (oneDNN does on CPUs with AVX2), in a
batch of another size, or on another number of threads. So the same bytes come from the same division: photos
are divided into chunks of `CHUNK`, and each chunk into batches from its first photo on.
"""

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from src.datamodules.records import PhotoIndex, find_photos, ids_from_paths
from src.errors import InputError, UnreadableImage, listed
from src.files import refuse_archive, user_path
from src.images import EXTENSIONS, content_digest
from src.labels import TASKS, LabelSpace
from src.parallel import bounded_map, cores
from src.preprocess import Preprocess
from src.runs import BOTH, TEXTS, recorded_root

log = logging.getLogger(__name__)
CHUNK = 512  # photos; a batch never crosses from one chunk to the next
TABLES = {".csv", ".tsv", ".txt", ".xlsx", ".xls", ".ods", ".json", ".parquet", ".xml"}  # or taken for one
PATH_COLUMNS = ("path", "file", "filename", "image", "photo", "ID")


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo to predict: its ID and POSIX path in the output, and the folder that the path starts from.

    `text` is a note that goes with it, or that is predicted by itself.
    """

    id: str
    path: str
    root: Path
    text: str | None = None

    @property
    def file(self) -> Path:
        """The photo's file."""
        return self.root / self.path


def find_images(images: str | None, root: str | None = None) -> list[Photo]:
    """Return the photos of `images=`, sorted by path and then by ID.

    Those are a photo, a folder (searched below, too), a list of paths, one per line, or a CSV with a column
    `path`, `file` or `ID`; with several IDs for one path there are as many photos. Relative paths of a CSV
    start from `root`, else from the data root of the run whose folder holds it, else from its own folder.
    """
    if not images:
        raise InputError("images= is not set: name a photo, a folder or a CSV of paths; or a CSV with texts=")
    source = user_path(images)
    refuse_archive("images", source)
    if source.is_dir():
        listing = find_photos(source, "images")
        for finding in listing.findings():
            log.warning("%s", finding)
        paths = listing.paths
        return [Photo(id_, path, source) for id_, path in zip(ids_from_paths(paths), paths, strict=True)]
    if not source.is_file():
        raise InputError(f"images={images}: no such file or folder")
    if source.suffix.lower() in EXTENSIONS:
        return [Photo(source.stem, source.name, source.parent)]
    if source.suffix.lower() not in TABLES:
        raise InputError(f"images={images}: neither a photo nor a folder nor a CSV of paths")
    return _from_csv(source, root)


def find_texts(texts: str, run: Path | None = None) -> list[Photo]:
    """Return the texts of a CSV in its order, each with its ID, or the number of its row.

    The columns, the encoding and the delimiter are those that the model's `run` was trained with.
    """
    from src.datamodules.text_columns import read_table_of_texts, reading_of  # pandas: only for a table

    path = user_path(texts)
    pairs, _ = read_table_of_texts(path, "texts", reading_of(run))
    return [Photo(id_, "", path.parent, text) for id_, text in pairs]


def find_items(
    images: str | None, texts: str | None, root: str | None = None, run: Path | None = None
) -> list[Photo]:
    """Return what is to be predicted: photos, or texts, or photos with the notes of their IDs.

    A note without a photo is an item, too. `run` is as for `find_texts`.
    """
    if texts is None:
        return find_images(images, root)
    if not images:
        return find_texts(texts, run)
    from src.datamodules.text_columns import notes_by_path, read_notes, reading_of

    photos, path = find_images(images, root), user_path(texts)
    notes = read_notes(path, "texts", reading_of(run))
    own = {photo.id for photo in photos} & notes.keys()
    others = {photo.path: photo.id for photo in photos if photo.id not in own}
    by_path = notes_by_path(notes.keys() - own, others, photos[0].root)
    if not (own or by_path):
        raise InputError(f"texts={texts}: none of its {len(notes)} IDs names one of the photos")
    note_of = [photo.id if photo.id in own else by_path.get(photo.path) for photo in photos]
    alone = sorted(notes.keys() - {*note_of})
    noted = [replace(photo, text=notes.get(id_)) for photo, id_ in zip(photos, note_of, strict=True)]
    return noted + [Photo(id_, "", path.parent, notes[id_]) for id_ in alone]


def newest_for(images: str | None, texts: str | None) -> tuple[str, ...]:
    """Return the folders of `outputs` with the runs that can predict photos, texts, or both."""
    return (BOTH,) if images and texts else (TEXTS,) if texts else TASKS


def _from_csv(source: Path, root: str | None) -> list[Photo]:
    from src.datamodules.csv_table import read_csv  # pandas: only where a table is read
    from src.datamodules.table_checks import photo_column

    index_of, where = cache(PhotoIndex), f"images={source}"
    folder = photos_root(source.parent, root) or source.parent
    below = folder / "images" if not root and (folder / "images").is_dir() else folder
    frame = read_csv(source, key="images", headless="path")
    column = photo_column(frame, None, PATH_COLUMNS, source, "", lambda: index_of(below))
    ids = next((name for name in frame.columns if name.casefold() == "id"), None)
    frame = frame.map(lambda cell: re.sub(r"[\r\n]+", " ", cell.strip("\r\n")))  # a row of output is one line
    cells = frame[column].tolist()
    if not any(cells):
        raise InputError(f"{where}: its column '{column}' is empty")
    paths = cells if column == ids else list(map(_posix, cells))
    if column == ids or not any(os.path.isfile(folder / path) for path in paths if path):
        folder = below
    paths = _photos_named(paths, column == ids, folder, partial(index_of, folder), where)
    unique = list(set(paths))
    id_of = dict(zip(unique, ids_from_paths(unique), strict=True))
    own = frame[ids].tolist() if ids else [""] * len(cells)
    rows = {(path, id_ or id_of[path]) for path, id_ in zip(paths, own, strict=True) if path}
    return [Photo(id_, path, folder) for path, id_ in sorted(rows)]


def _posix(cell: str) -> str:
    return cell if not cell or "://" in cell else PurePosixPath(cell.replace("\\", "/")).as_posix()


def _photos_named(
    cells: Sequence[str], by_id: bool, folder: Path, index: Callable[[], PhotoIndex], where: str
) -> list[str]:
    """Return the paths in cells; of IDs, and paths of no file, the photo that they name in training."""
    from src.datamodules.table_checks import find_all

    there = {cell for cell in set(cells) if not cell or (not by_id and os.path.isfile(folder / cell))}
    if there.issuperset(cells):
        return list(cells)
    found, findings = find_all(cells, index(), where)
    for finding in findings:
        log.warning("%s: %s", where, finding)
    for id_ in (id_ for id_, paths in found.items() if by_id and len(paths) > 1):
        raise InputError(f"ID '{id_}' fits several photos, give their paths: {listed(found[id_], 4)}")
    clear = {cell: paths[0] for cell, paths in found.items() if len(paths) == 1 and cell not in there}
    return [clear.get(cell) or cell.replace("\\", "/") for cell in cells]


def photos_root(run: Path, root: str | None) -> Path | None:
    """Return the folder that paths in a run folder's tables start from: `root=`, else the recorded one.

    None for a folder that is no run, without `root=`. One that is gone is an `InputError`.
    """
    found = user_path(root) if root else recorded_root(run)
    if found and not found.is_dir():
        if root:
            raise InputError(f"root={root}: no such folder; name that of the photos of {run}")
        raise InputError(f"the photos of {run} lay in {found}, which is gone: name their folder with root=")
    return found


def refuse_to_overwrite(output: Path, photos: Sequence[Photo], *inputs: str | Path | None) -> None:
    """Refuse an output that is one of the photos, or a file that is being read; it may be a link to one."""
    taken, real = {user_path(path).resolve() for path in inputs if path}, output.resolve()
    if output.exists():  # photos without a photo's extension: a look at a name costs no disk
        taken |= {p.file.resolve() for p in photos if p.file.suffix.lower() not in EXTENSIONS}
    if real in taken or real.suffix.lower() in EXTENSIONS | {".ckpt", ".onnx", ".tflite"}:
        raise InputError(f"output={output}: that would overwrite an input; name a CSV")


@dataclass(frozen=True)
class Result:
    """The outcome for one photo.

    Attributes:
        values: float32 of shape `[values]`; None where the photo cannot be read.
        digest: of the file's content; empty where it cannot be read, or is not asked for.
    """

    index: int
    values: np.ndarray | None = None
    digest: str = ""
    error: str = ""


@dataclass(frozen=True)
class Batch:
    """Photos that have been read.

    Attributes:
        photos: a result without values for each.
        pixels: uint8 `[batch_size, H, W, 3]`, or texts, object `[batch_size]`; a row for each item, empty
            where it cannot be read and behind the last one.
    """

    photos: list[Result]
    pixels: np.ndarray


class Backend(ABC):
    """A model ready to run, with everything that a prediction needs.

    Attributes:
        thresholds: float32 `[labels]` for `multilabel`; else None.
        limits: float32 `[labels, rates]`, see `decisions.routing`.
        trained_on: digests of the photos that the weights were trained on.
        trained_sizes: sizes of their files, in bytes, so that only a photo that may be one of them needs a
            digest; None where a checkpoint does not say.
        arithmetic: other conditions for the last digits of scores, as plain JSON.
        reads: what it predicts: `photo`, `text`, or `both`.
        on_gpu: whether forward passes run on a GPU, so that decoding has the CPU to itself.
    """

    task: str
    labels: LabelSpace
    preprocess: Preprocess
    thresholds: np.ndarray | None
    limits: np.ndarray
    trained_on: frozenset[str]
    trained_sizes: frozenset[int] | None
    arithmetic: dict[str, str]
    on_gpu = False
    reads = "photo"

    @property
    def noun(self) -> str:
        """The noun for an item, in messages: photo or text."""
        return "text" if self.reads == "text" else "photo"

    def describe(self, model: Any) -> None:
        """Take the attributes that a model of `load_model` says of itself."""
        self.task, self.labels = model.task, model.labels
        self.thresholds = model.thresholds.cpu().numpy().copy() if self.task == "multilabel" else None
        self.limits = model.limits.cpu().numpy().copy()
        self.trained_on = frozenset(model.provenance.get("train_digests", ()))
        self.trained_sizes = trained_sizes(model.provenance)

    @abstractmethod
    def scores(self, pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        """Return probabilities float32 `[count, labels]` of the first `count` rows; None: of all.

        Of photos in tiles as many columns follow: the number of the view that carried each label, an index of
        `preprocess.views`.

        Args:
            pixels: resized photos uint8 `[B, H, W, 3]`. `B` decides about last digits.
            count: rows that hold photos.
        """

    def maps(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return probabilities float32 `[B, labels]` and class activation maps float32 `[B, labels, h, w]`.

        `pixels` are as for `scores`. None in place of the maps where the heads are not linear on averaged
        features, or a file has none.
        """
        return self.scores(pixels), None

    def check_items(self, images: str | None, texts: str | None, items: Sequence[Photo]) -> None:
        """Refuse photos for a model of texts, and the reverse; `items` are what these name."""
        if self.reads == "text" and (images or not texts):
            raise InputError("this is a model of texts: name a CSV of them with texts=, and no images=")
        if self.reads == "photo" and texts:
            raise InputError("this is a model of photos: name them with images=, and no texts=")

    def report(self) -> None:  # noqa: B027
        """Log what is to be said of the items predicted so far."""

    def one_thread(self) -> AbstractContextManager[None]:
        """Hold forward passes of the calling thread to one core."""
        return nullcontext()

    def loaded(self, read: Callable[[int], Batch], count: int, num_workers: int) -> Iterator[Batch]:
        """Yield `read(0)` to `read(count - 1)`, read in processes; for GPUs only."""
        raise NotImplementedError


def mirrored(backend: Backend) -> Backend:
    """Let a backend give each photo the mean of its scores and those of its mirror image."""
    if backend.reads != "photo":
        raise InputError("tta=true mirrors photos, and this model reads texts: leave it out")
    scores = backend.scores

    def mean(pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        given = isinstance(pixels, np.ndarray)  # else a tensor, of a loader
        turned = np.ascontiguousarray(pixels[:, :, ::-1]) if given else pixels.flip(2)
        plain, other = scores(pixels, count), scores(turned, count)
        part = len(backend.labels)  # the views of the photo as it is
        return np.concatenate([(plain[:, :part] + other[:, :part]) / 2, plain[:, part:]], 1)

    backend.scores, backend.arithmetic = mean, backend.arithmetic | {"tta": "mirrored"}
    return backend


def trained_sizes(provenance: Mapping[str, Any]) -> frozenset[int] | None:
    """Return `Backend.trained_sizes` from a checkpoint's provenance."""
    sizes = provenance.get("train_sizes", None if provenance.get("train_digests") else ())
    return None if sizes is None else frozenset(sizes)


def count_batches(photos: int, size: int) -> int:
    """Return the number of batches for a number of photos."""
    chunks, rest = divmod(photos, CHUNK)
    return chunks * -(-CHUNK // size) + -(-rest // size)


def batch_range(photos: int, size: int, number: int) -> range:
    """Return the places of a batch's photos: at most `size`, counted from the first photo of their chunk."""
    chunk, batch = divmod(number, -(-CHUNK // size))
    begin, end = chunk * CHUNK + batch * size, min((chunk + 1) * CHUNK, photos)
    return range(begin, min(begin + size, end))


def read_batch(
    photos: Sequence[Photo], size: int, preprocess: Preprocess, sizes: frozenset[int] | None, number: int
) -> Batch:
    """Read, decode and resize the photos of `batch_range`.

    Files with one of the `sizes` get a digest; with None, all do. A batch is always full, and a photo's place
    in it does not depend on photos that cannot be read.
    """
    found: list[Result] = []
    pixels = preprocess.empty(size)
    for row, index in enumerate(batch_range(len(photos), size, number)):
        try:
            content = preprocess.content(photos[index])
            pixels[row] = preprocess(content)
        except UnreadableImage as error:
            found.append(Result(index, error=str(error)))
        else:
            asked = sizes is None or len(content) in sizes
            found.append(Result(index, digest=content_digest(content) if asked else ""))
    return Batch(found, pixels)


def run_batches(
    backend: Backend,
    photos: Sequence[Photo],
    batch_size: int,
    num_workers: int | None = None,
    sizes: frozenset[int] | None = None,
) -> Iterator[list[Result]]:
    """Yield the results of each batch, in the order of `photos`.

    On a CPU threads take one batch each, and read, decode and infer it, the forward pass on one thread; on a
    GPU processes decode and this one infers.

    Args:
        backend: runs the model.
        photos: the photos, from the beginning of a chunk on.
        batch_size: rows of each forward pass, `CHUNK` at most; the last batch of a chunk is filled up.
        num_workers: threads (on a GPU: processes); 0: none, all is done here; null: one per core, 16 at most.
        sizes: of files, in bytes, whose results get a digest; null: all.
    """
    count = count_batches(len(photos), batch_size)
    workers = cores() if num_workers is None else num_workers
    read = partial(read_batch, photos, batch_size, backend.preprocess, sizes)

    def infer(batch: Batch) -> list[Result]:
        if all(result.error for result in batch.photos):
            return batch.photos
        values = backend.scores(batch.pixels, len(batch.photos))
        return [
            read if read.error else Result(read.index, row, read.digest)
            for read, row in zip(batch.photos, values, strict=True)
        ]

    def work(number: int) -> list[Result]:
        batch = read(number)
        with backend.one_thread():
            return infer(batch)

    if backend.on_gpu:
        yield from map(infer, backend.loaded(read, count, workers))
    elif workers < 1:
        yield from map(work, range(count))
    else:
        with closing(bounded_map(work, range(count), workers)) as results:
            yield from results
