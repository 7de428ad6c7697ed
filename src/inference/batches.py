"""Photos in batches of one size, decoded and scored at the same time, results in order. No torch.

Libraries may give a photo other last bits at another place in a batch (oneDNN does on CPUs with AVX2), in a
batch of another size, or on another number of threads. So the same bytes come from the same division: photos
are divided into chunks of `CHUNK`, and each chunk into batches from its first photo on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from src.images import UnreadableImage, content_digest, read_photo
from src.inference.inputs import Photo
from src.labels import LabelSpace
from src.parallel import bounded_map, cores
from src.preprocess import Preprocess

CHUNK = 512  # photos; a batch never crosses from one chunk to the next
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Result:
    """The outcome for one photo.

    Attributes:
        index: its position in the list of photos.
        values: float32 of shape `[values]`; None where the photo cannot be read.
        digest: of the file's content; empty where it cannot be read, or is not asked for.
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
        pixels: uint8 `[batch_size, H, W, 3]`; a row for each photo, zeros where it cannot be read and behind
            the last one.
    """

    photos: list[Result]
    pixels: np.ndarray


class Backend(ABC):
    """A model ready to run, with everything that a prediction needs.

    Attributes:
        task: `dual_head`, `multiclass` or `multilabel`.
        labels: the label space.
        preprocess: from a photo to its pixels.
        thresholds: float32 `[labels]` for `multilabel`; else None.
        trained_on: digests of the photos that the weights were trained on.
        trained_sizes: sizes of their files, in bytes, so that only a photo that may be one of them needs a
            digest; None where a checkpoint does not say.
        arithmetic: other conditions for the last digits of scores, as plain JSON.
        on_gpu: whether forward passes run on a GPU, so that decoding has the CPU to itself.
    """

    task: str
    labels: LabelSpace
    preprocess: Preprocess
    thresholds: np.ndarray | None
    trained_on: frozenset[str]
    trained_sizes: frozenset[int] | None
    arithmetic: dict[str, str]
    on_gpu = False

    @abstractmethod
    def scores(self, pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        """Return probabilities float32 `[count, labels]` of the first `count` rows; None: of all.

        Args:
            pixels: resized photos uint8 `[B, H, W, 3]`. `B` decides about last digits.
            count: rows that hold photos.
        """

    def one_thread(self) -> AbstractContextManager[None]:
        """Hold forward passes of the calling thread to one core."""
        return nullcontext()

    def threads_kept(self) -> AbstractContextManager[None]:
        """Give the process its number of threads back after `one_thread` in other threads."""
        return nullcontext()

    def loaded(self, read: Callable[[int], Batch], count: int, num_workers: int) -> Iterator[Batch]:
        """Yield `read(0)` to `read(count - 1)`, read in processes; for GPUs only."""
        raise NotImplementedError


def trained_sizes(provenance: Mapping[str, Any]) -> frozenset[int] | None:
    """Return `Backend.trained_sizes` from a checkpoint's provenance; `TypeError` for a damaged one."""
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
    pixels = np.zeros((size, *preprocess.size, 3), np.uint8)
    for row, index in enumerate(batch_range(len(photos), size, number)):
        try:
            content = read_photo(photos[index].file)
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
    GPU processes decode and this one infers. On one kind of CPU the photos of a chunk and `batch_size` decide
    about every bit, for any number of threads and in any list where that chunk begins at the same photo. In
    other batches the scores of a photo agree to 1e-6.

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
    if backend.on_gpu:
        for batch in backend.loaded(read, count, workers):
            yield _joined(batch.photos, backend.scores(batch.pixels, len(batch.photos)))
        return

    def work(number: int) -> list[Result]:
        batch = read(number)
        if all(result.error for result in batch.photos):
            return batch.photos
        with backend.one_thread():
            return _joined(batch.photos, backend.scores(batch.pixels, len(batch.photos)))

    if workers < 1:
        yield from map(work, range(count))
    else:
        with backend.threads_kept(), closing(bounded_map(work, range(count), workers)) as results:
            yield from results


def _joined(read: list[Result], values: np.ndarray) -> list[Result]:
    """Return the photos with their values; those that cannot be read have none."""
    return [r if r.error else Result(r.index, row, r.digest) for r, row in zip(read, values, strict=True)]
