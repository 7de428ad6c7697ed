"""The datamodule that folders and tables share: records -> splits -> label space -> loaders."""

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader

from src.datamodules import records as rec
from src.datamodules import splits as sp
from src.datamodules import statistics
from src.datamodules.dataset import PhotoDataset, make_loader
from src.datamodules.transforms import EvalTransform, TrainTransform
from src.errors import InputError, did_you_mean, listed
from src.images import Preprocess
from src.labels import LabelSpace

log = logging.getLogger(__name__)
TASKS = ("dual_head", "multiclass", "multilabel")


class PhotoDataModule(L.LightningDataModule):
    """Reads records once, splits them by group, and serves uint8 batches.

    Args:
        task: `dual_head`, `multiclass` or `multilabel`.
        preprocess: arguments of `images.Preprocess`.
        splits: `{train: share, val: share, test: share}`.
        group: a column, or a regular expression on the file name; null: every ID is a group.
        split_file: a run folder or a CSV `ID,split` whose split is used as it is.
        healthy: labels that mean "nothing wrong": a class for heads, all zeros of their kind for `multilabel`.
        multiple: for heads, what to do with several labels of a kind on one photo: `error`, `first`, `drop`.
        skip_unreadable: leave unreadable photos out instead of stopping.
        class_weights: `{sqrt: bool, clip: [low, high] or null}`, or null for an unweighted loss.
        augment: arguments of `TrainTransform`, or null for none.
        batch_size: photos a batch (and device).
        num_workers: processes that decode; null: one per core, 4 at most.
        seed: of the split, the order and the augmentation.

    After `setup`: `labels`, `splits` (`{split: records}`), `root`, `split_hash`, `data_hash`, `unreadable`.
    """

    def __init__(
        self,
        task: str,
        preprocess: Mapping,
        splits: Mapping[str, float],
        group: str | None = None,
        split_file: str | None = None,
        healthy: Sequence[str] = (),
        multiple: str = "error",
        skip_unreadable: bool = False,
        class_weights: Mapping | None = None,
        augment: Mapping | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 42,
    ):
        super().__init__()
        for name, value, choices in (
            ("task", task, TASKS),
            ("data.multiple", multiple, ("error", "first", "drop")),
        ):
            if value not in choices:
                raise InputError(f"{name}={value}: {did_you_mean(value, choices)}")
        if batch_size < 1:
            raise InputError(f"data.batch_size={batch_size}: needs at least 1")
        self.task, self.shares, self.group, self.split_file = task, dict(splits), group, split_file
        self.healthy, self.multiple, self.skip_unreadable = list(healthy), multiple, skip_unreadable
        self.preprocess = Preprocess(**preprocess)
        self.weighting = dict(class_weights) if class_weights is not None else None
        self.transform = TrainTransform(**augment) if augment else EvalTransform()
        self.batch_size, self.seed = batch_size, seed
        self.num_workers = min(4, os.cpu_count() or 1) if num_workers is None else num_workers
        self.splits: dict[str, list[rec.Record]] = {}

    @property
    def multilabel(self) -> bool:
        """Whether a photo may carry any combination of labels."""
        return self.task == "multilabel"

    def read(self) -> rec.Source:
        """Return the records of this kind of source."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read, check and split the photos; later calls do nothing."""
        if self.splits:
            return
        source, self.unreadable = rec.drop_unreadable(self.read(), self.skip_unreadable)
        source = replace(source, records=sorted(source.records, key=lambda record: record.path))
        self._check_ids(source.records)
        records = rec.assign_groups(source, self.group)
        if self.multilabel:
            records = rec.without_healthy(records, self.healthy)
        else:
            records = rec.one_label_per_kind(records, self.multiple)
        given = source.given
        if self.split_file:
            records, given = self._frozen(records)
        self.root = source.root
        self.splits = sp.split_records(records, self.shares, self.seed, given)
        self.labels = self._label_space()
        self.split_hash, self.data_hash = sp.split_hash(self.splits), sp.data_hash(records)

    def _check_ids(self, records: list[rec.Record]) -> None:
        seen: dict[str, str] = {}
        for record in records:
            if record.id in seen:
                raise InputError(f"ID '{record.id}' names two photos: {seen[record.id]} and {record.path}")
            seen[record.id] = record.path

    def _frozen(self, records: list[rec.Record]) -> tuple[list[rec.Record], dict[str, str]]:
        given = sp.read_split_file(Path(self.split_file).expanduser())
        kept = [record for record in records if record.id in given]
        if not kept:
            raise InputError(
                f"data.split_file={self.split_file}: none of its {len(given)} IDs (as {listed(given, 3)}) is among "
                f"the photos (as {listed((r.id for r in records), 3)})"
            )
        if len(kept) < len(records):
            left = [record.id for record in records if record.id not in given]
            log.warning(
                "Left out %d photos that the split file does not name: %s", len(left), listed(left, 5)
            )
        if gone := set(given) - {record.id for record in kept}:
            log.warning("%d IDs of the split file have no photo now: %s", len(gone), listed(sorted(gone), 5))
        return kept, given

    def _label_space(self) -> LabelSpace:
        """Fix the labels from the training split, and hold the other splits to them."""
        kinds = list(dict.fromkeys(kind for record in self.splits["train"] for kind in record.labels))
        found = {k: {n for r in self.splits["train"] for n in r.labels.get(k, ())} for k in kinds}
        labels = LabelSpace.from_labels({kind: names for kind, names in found.items() if names})
        for kind in [kind for kind, names in found.items() if not names]:
            log.warning("No training photo carries a label of kind '%s': the kind is left out", kind)
        strangers: dict[str, list[str]] = {}
        for split in ("val", "test"):
            for record in self.splits[split]:
                for kind, names in record.labels.items():
                    for name in names:
                        if name not in labels.kinds.get(kind, ()):
                            strangers.setdefault(f"'{name}' ({kind})", []).append(f"{split}: {record.path}")
        if strangers:
            shown = "; ".join(
                f"{label} in {listed(where, 2)}" for label, where in list(strangers.items())[:10]
            )
            raise InputError(f"labels that no training photo carries: {shown}")
        if not self.multilabel:
            for kind, names in labels.kinds.items():
                if len(names) < 2:
                    raise InputError(f"only one {kind}, '{names[0]}': a classifier needs two or more")
        return labels

    def class_weights(self) -> dict[str, list[float]] | None:
        """Return the loss weights by kind from the training split, or None for an unweighted loss."""
        if self.weighting is None:
            return None
        return statistics.class_weights(self.splits["train"], self.labels, self.multilabel, **self.weighting)

    def log_tables(self) -> None:
        """Log what the run stands on: photos per label, per pair and per split, weights, labels without a test."""
        sizes = ", ".join(
            f"{name} {len(records)} photos in {len({r.group for r in records})} groups"
            for name, records in self.splits.items()
        )
        table = statistics.label_table(self.splits, self.labels)
        weights = self.class_weights()
        if weights:
            table["weight"] = [weight for values in weights.values() for weight in values]
        log.info("Split: %s\n%s", sizes, table.to_string(index=False))
        if len(self.labels.kinds) > 1:
            pairs = statistics.pair_table(self.splits, self.labels)
            log.info("Pairs:\n%s", pairs.to_string(index=False))
        for split, names in statistics.not_evaluable(self.splits, self.labels).items():
            if names:
                log.warning("Cannot be evaluated, no photo in %s: %s", split, listed(names, 30))

    def write_metadata(self, folder: Path) -> None:
        """Write `<split>_metadata.csv` for each split: `ID, path, group` and a column per kind."""
        for name, records in self.splits.items():
            with open(folder / f"{name}_metadata.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["ID", "path", "group", *self.labels.kinds])
                for r in records:
                    cells = [";".join(r.labels.get(kind, ())) for kind in self.labels.kinds]
                    writer.writerow([r.id, r.path, r.group, *cells])

    def dataset(self, split: str) -> PhotoDataset:
        """Return the dataset of a split, augmented only for `train`."""
        transform = self.transform if split == "train" else EvalTransform()
        records = self.splits[split]
        return PhotoDataset(
            records, self.root, self.labels, self.multilabel, self.preprocess, transform, self.seed
        )

    def _loader(self, split: str) -> DataLoader:
        return make_loader(
            self.dataset(split), self.batch_size, self.num_workers, self.seed, split == "train"
        )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches of the training split."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Return the validation split in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Return the test split in order."""
        return self._loader("test")
