"""Photos in batches of one size, decoded and inferred at the same time, results in order. No torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from src.images import UnreadableImage, content_digest, read_photo
from src.inference.photos import Photo
from src.labels import LabelSpace
from src.overlap import cores, in_order
from src.preprocess import Preprocess

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Result:
    """What became of one photo.

    Attributes:
        index: its position in the list of photos.
        values: float32 of shape `[values]`; None where the photo cannot be read.
        digest: of the file's content; empty where it cannot be read, or where nobody asks for it.
        error: why it cannot be read, else empty.
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
        pixels: uint8 `[batch_size, H, W, 3]`; a row for each photo that can be read, then zeros.
    """

    photos: list[Result]
    pixels: np.ndarray


class Backend(Protocol):
    """A model ready to run, with everything that a prediction needs.

    Attributes:
        task: `dual_head`, `multiclass` or `multilabel`.
        labels: the label space.
        preprocess: from a photo to its pixels.
        thresholds: float32 `[labels]` for `multilabel`; else None.
        trained_on: digests of the photos that the weights were trained on.
        trained_sizes: sizes of their files, in bytes, so that only a photo that may be one of them needs a
            digest; None where a checkpoint does not say.
        arithmetic: what the last digits of scores depend on beside the model, as plain JSON.
        on_gpu: whether forward passes run on a GPU, so that decoding has the CPU to itself.
    """

    task: str
    labels: LabelSpace
    preprocess: Preprocess
    thresholds: np.ndarray | None
    trained_on: frozenset[str]
    trained_sizes: frozenset[int] | None
    arithmetic: dict[str, str]
    on_gpu: bool

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Return probabilities float32 `[B, labels]` of resized photos uint8 `[B, H, W, 3]`."""

    def one_thread(self) -> AbstractContextManager[None]:
        """Hold forward passes of the calling thread to one core."""

    def threads_kept(self) -> AbstractContextManager[None]:
        """Give the process its number of threads back, whatever `one_thread` did in other threads."""

    def loaded(self, read: Callable[[int], Batch], count: int, num_workers: int) -> Iterator[Batch]:
        """Yield `read(0)` to `read(count - 1)`, read in so many processes; for GPUs only."""


def trained_sizes(provenance: Mapping[str, Any]) -> frozenset[int] | None:
    """Return `Backend.trained_sizes` from a checkpoint's provenance; `TypeError` for a damaged one."""
    sizes = provenance.get("train_sizes", None if provenance.get("train_digests") else ())
    return None if sizes is None else frozenset(sizes)


def read_batch(
    photos: Sequence[Photo], size: int, preprocess: Preprocess, sizes: frozenset[int] | None, number: int
) -> Batch:
    """Read, decode and resize the photos of a batch: `photos[number * size:(number + 1) * size]`.

    Files of so many bytes get a digest; with no `sizes`, all do. A batch is always full: matrix products sum
    in another order for another number of rows, so a photo's last digits would depend on how many photos
    stand beside it.
    """
    found: list[Result] = []
    pixels = np.zeros((size, *preprocess.size, 3), np.uint8)
    rows = 0
    for index in range(number * size, min((number + 1) * size, len(photos))):
        try:
            content = read_photo(photos[index].file)
            pixels[rows] = preprocess(content)
        except UnreadableImage as error:
            found.append(Result(index, error=str(error)))
        else:
            asked = sizes is None or len(content) in sizes
            found.append(Result(index, digest=content_digest(content) if asked else ""))
            rows += 1
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
    GPU processes decode and this one infers. On a CPU the values of a photo depend on the photo and
    `batch_size` alone: not on the photos beside it, the number of threads or where a list begins.

    Args:
        backend: runs the model.
        photos: the photos.
        batch_size: rows of each forward pass; the last batch is filled up.
        num_workers: threads (on a GPU: processes); 0: none, all is done here; null: one per core, 16 at most.
        sizes: of files, in bytes, whose results get a digest; null: all.
    """
    count = -(-len(photos) // batch_size)
    workers = cores() if num_workers is None else num_workers
    read = partial(read_batch, photos, batch_size, backend.preprocess, sizes)
    if backend.on_gpu:
        for batch in backend.loaded(read, count, workers):
            yield _joined(batch.photos, backend.scores(batch.pixels))
        return

    def work(number: int) -> list[Result]:
        batch = read(number)
        if all(result.error for result in batch.photos):
            return batch.photos
        with backend.one_thread():
            return _joined(batch.photos, backend.scores(batch.pixels))

    if workers < 1:
        yield from map(work, range(count))
    else:
        with backend.threads_kept(), closing(in_order(work, range(count), workers)) as results:
            yield from results


def _joined(read: list[Result], values: np.ndarray) -> list[Result]:
    """Return the photos with their values; rows stand for those that could be read."""
    rows = iter(values)
    return [r if r.error else Result(r.index, next(rows), r.digest) for r in read]
