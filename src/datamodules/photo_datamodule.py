"""The datamodule that folders and tables of photos share: inspection, caches and batches of pixels."""

import logging
from collections.abc import Mapping
from typing import Any

from src.config_check import check_arguments, check_number
from src.datamodules import groups
from src.datamodules import records as rec
from src.datamodules.dataset import PhotoDataset, TrainTransform, image_store, store_images
from src.datamodules.findings import report_findings
from src.datamodules.inspection import drop_unreadable
from src.datamodules.record_datamodule import RecordDataModule, check_choice
from src.errors import InputError
from src.preprocess import Preprocess
from src.row_store import checked_folder

log = logging.getLogger(__name__)


class PhotoDataModule(RecordDataModule):
    """Serves photos in uint8 batches.

    `preprocess` and `augment` hold the arguments of `Preprocess` and `TrainTransform`; `common` are the
    arguments of `RecordDataModule`.
    """

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
        check_number("data.views", views)
        check_number("data.near_duplicates", near_duplicates or 0)
        if cache and not cache_dir:
            raise InputError(f"data.cache={cache} needs a folder: data.cache_dir=outputs/cache")
        if cache:
            checked_folder(cache_dir)
        check_arguments(augment or {}, TrainTransform, "data.augment")
        self.near_duplicates, self.skip_unreadable = near_duplicates, skip_unreadable
        self.preprocess = Preprocess.from_dict(preprocess)
        self.transform = TrainTransform(**augment) if augment else None
        self.views, self.cache, self.cache_dir = views, cache, cache_dir

    def _inspected(self, source: rec.Source) -> rec.Source:
        """Return the photos that can be read, with their digests and hashes."""
        told = len(source.findings)
        found, self.unreadable = drop_unreadable(
            source, self.skip_unreadable, self.preprocess, self.cache_dir
        )
        report_findings(source.findings[told:], self.strict)
        groups.report_copies(found.records)
        return found

    def sizes(self) -> set[int]:
        """Return the sizes of the training photos' files in bytes."""
        return {(self.root / record.path).stat().st_size for record in self.splits["train"]}

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
