"""What a frozen backbone sees in each photo."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.datamodules.dataset import LostPhoto
from src.datamodules.records import Record
from src.inference.batches import run_batches
from src.inference.photos import Photo
from src.inference.torch_backend import TorchBackend
from src.models import PhotoClassifier

log = logging.getLogger(__name__)


def extract_features(
    model: PhotoClassifier,
    root: Path,
    records: Sequence[Record],
    device: str = "auto",
    batch_size: int = 32,
    num_workers: int | None = None,
) -> np.ndarray:
    """Return the features of the model's backbone, float32 `[records, features]`.

    The heads do not matter. The same photos in the same order give the same bytes on a CPU; byte-identical
    photos (equal digests) are read once and have equal rows.

    Args:
        model: of a checkpoint (`load_model`), or newly built; it is set to eval mode and normalises itself.
        root: the folder that the records' paths start from.
        records: the photos.
        device: `auto`, `cpu`, `cuda` or `mps`.
        batch_size: photos per forward pass. The last digits of features can depend on it.
        num_workers: see `run_batches`.

    Raises:
        InputError: for a photo that cannot be read any more.
    """
    contents = [record.digest or f"/{record.path}" for record in records]
    first = {content: i for i, content in reversed(list(enumerate(contents)))}
    unique = sorted(first.values())
    photos = [Photo(records[i].id, records[i].path, root / records[i].path) for i in unique]
    backend, found = TorchBackend(model, device), []
    with tqdm(total=len(photos), desc="Features", unit="photo", disable=None) as bar:
        for batch in run_batches(backend, photos, batch_size, num_workers, backend.features):
            for result in batch:
                if result.error:
                    raise LostPhoto(f"{photos[result.index].file} cannot be read any more: {result.error}")
            found += [result.values for result in batch]
            bar.update(len(batch))
    if not found:
        return np.empty((0, 0), np.float32)
    row = {i: position for position, i in enumerate(unique)}
    return np.stack(found)[[row[first[content]] for content in contents]]
