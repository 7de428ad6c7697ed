"""The datamodule that folders and tables of photos share: inspection, caches and batches of pixels."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from src.config_check import check_arguments
from src.datamodules import groups
from src.datamodules import records as rec
from src.datamodules.dataset import PhotoDataset, TrainTransform, image_store, store_images
from src.datamodules.findings import report_findings
from src.datamodules.inspection import SETTLED, drop_unreadable, replaced_since
from src.datamodules.record_datamodule import RecordDataModule, check_choice, check_least
from src.errors import InputError
from src.preprocess import Preprocess
from src.row_store import checked_folder

log = logging.getLogger(__name__)


class PhotoDataModule(RecordDataModule):
    """Serves photos in uint8 batches.

    `preprocess` and `augment` hold the arguments of `Preprocess` and `TrainTransform`; `common` are the
    arguments of `RecordDataModule`.

    After `setup`: `begun` (nanoseconds since 1970, before the photos were read), too.
    """

    begun = 0

    def __init__(
        self,
        task: str,
        preprocess: Mapping,
        splits: Mapping[str, float],
        near_duplicates: int | None = 4,
        skip_unreadable: bool = False,
        augment: Mapping | None = None,
        cache: str | None = None,
        views: int = 2,
        cache_dir: str | None = None,
        **common: Any,
    ):
        super().__init__(task, splits, **common)
        check_choice("data.cache", cache, (None, "images", "features"))
        check_least(views=(views, 1))
        if cache and not cache_dir:
            raise InputError(f"data.cache={cache} needs a folder: data.cache_dir=outputs/cache")
        if cache:
            checked_folder(cache_dir)
        _check_distance(near_duplicates)
        check_arguments(preprocess, Preprocess, "preprocess")
        check_arguments(augment or {}, TrainTransform, "data.augment")
        self.near_duplicates, self.skip_unreadable = near_duplicates, skip_unreadable
        self.preprocess = Preprocess(**preprocess)
        self.transform = TrainTransform(**augment) if augment else None
        self.views, self.cache, self.cache_dir = views, cache, cache_dir

    def setup(self, stage: str | None = None) -> None:
        """Read, check and split the photos; later calls do nothing."""
        self.begun = self.begun or time.time_ns() - SETTLED
        super().setup(stage)

    def _inspected(self, source: rec.Source) -> rec.Source:
        """Return the photos that can be read, with their digests and hashes."""
        told = len(source.findings)
        found, self.unreadable = drop_unreadable(
            source, self.skip_unreadable, self.preprocess, self.cache_dir
        )
        report_findings(source.findings[told:], self.strict)
        groups.report_copies(found.records)
        return found

    def replaced_photos(self) -> list[str]:
        """Return the paths of photos of train and val that others have replaced since `setup` began.

        A cache holds none of these: its rows were read by the photos' contents.
        """
        if self.cache:
            return []
        return replaced_since(self.root, self.splits["train"] + self.splits["val"], self.begun)

    def sizes(self) -> set[int] | None:
        """Return the sizes of the training photos' files; None where one is gone or replaced.

        Without them, a prediction compares the digests of all photos.
        """
        train = self.splits["train"]
        if replaced_since(self.root, train, self.begun):
            return None
        try:
            return {(self.root / record.path).stat().st_size for record in train}
        except OSError:
            return None

    def prepare_data(self) -> None:
        """Keep every resized photo, where `cache=images` asks for it; once per machine, before the fit."""
        if self.cache == "images":
            records = [record for split in self.splits.values() for record in split]
            store_images(image_store(self.cache_dir, self.preprocess), self.root, records, self.preprocess)

    def dataset(self, split: str) -> PhotoDataset:
        """Return the photos of a split, augmented only for `train`."""
        records, images = self.splits[split], None
        if self.cache == "images":
            store = image_store(self.cache_dir, self.preprocess)
            images = store.rows([record.digest for record in records])
        transform = self.transform if split == "train" else None
        return PhotoDataset(
            records, self.root, self.targets(split), self.preprocess, transform, self.seed, images
        )


def _check_distance(near_duplicates: int | None) -> None:
    if near_duplicates is not None and not 0 <= near_duplicates <= groups.FAITHFUL:
        raise InputError(
            f"data.near_duplicates={near_duplicates}: 0 to {groups.FAITHFUL} bits, or null; further apart, "
            "most photos of one kind of fixture would count as one"
        )
