"""Resized photos on disk: decoded once, whatever number of epochs and runs looks at them."""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from src.datamodules.cache import RowStore, decoder, gigabytes
from src.datamodules.dataset import LostPhoto
from src.datamodules.records import Record
from src.images import UnreadableImage, content_digest, read_photo
from src.parallel import bounded_map, cores
from src.preprocess import Preprocess
from src.progress_bar import ProgressBar

log = logging.getLogger(__name__)


def image_store(cache_dir: str | Path, preprocess: Preprocess) -> RowStore:
    """Return the store of photos resized like this, uint8 `[H, W, 3]` each."""
    about = {"resize": preprocess.resize, "decoder": decoder()}
    return RowStore(cache_dir, "images", about, (*preprocess.size, 3), "uint8")


def store_images(store: RowStore, root: Path, records: Sequence[Record], preprocess: Preprocess) -> None:
    """Decode and resize the photos that the store does not hold yet.

    Args:
        store: from `image_store`.
        root: the folder that the records' paths start from.
        records: the photos, with their digests.
        preprocess: opens and resizes.

    Raises:
        LostPhoto: for a photo that cannot be read any more, or that another one has replaced.
        InputError: if the disk is too small or refuses; what was written stays and is used next time.
    """
    absent = set(store.missing(record.digest for record in records))
    by_digest = {record.digest: record for record in records if record.digest in absent}
    store.check_room(len(absent))
    if absent:
        size = gigabytes(len(absent) * store.row_bytes)
        log.info("Image cache: %d photos to decode once, %s in %s", len(absent), size, store.folder)
    try:
        found = bounded_map(lambda r: (r, read_unchanged(root, r, preprocess)), by_digest.values(), cores())
        with closing(found), ProgressBar("Decoding", len(absent), "photos") as bar:
            for record, pixels in found:
                store.add(record.digest, pixels)
                bar.update()
    finally:
        store.flush()


def read_unchanged(root: Path, record: Record, preprocess: Preprocess) -> np.ndarray:
    """Return a resized photo; refuse one whose content is not that of its record any more."""
    try:
        content = read_photo(root / record.path)
        pixels = preprocess(content)
    except UnreadableImage as error:
        raise LostPhoto(f"{root / record.path} cannot be read any more: {error}") from error
    if record.digest and content_digest(content) != record.digest:
        raise LostPhoto(
            f"{root / record.path} has been replaced since this run began: start again "
            "(for good, if nobody did: delete inspected/ in data.cache_dir)"
        )
    return pixels
