"""What all datamodules share, whatever is classified: records -> splits -> label space -> loaders."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import lightning as L
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from src.config_check import check_arguments, check_number
from src.datamodules import groups
from src.datamodules import records as rec
from src.datamodules import splits as sp
from src.datamodules.dataset import EpochSampler, FeatureDataset, balanced_weights, encoded_targets
from src.datamodules.findings import check_labels, renames, report_findings, word
from src.datamodules.split_figures import Weighting, certify, class_weights, label_table, pair_table
from src.datamodules.split_file import split_by_file
from src.errors import InputError, did_you_mean, listed
from src.files import user_path
from src.labels import TASKS, LabelSpace
from src.parallel import MOST, allowed_cores, cores, quota
from src.process import launched
from src.row_store import Rows

log = logging.getLogger(__name__)


class RecordDataModule(L.LightningDataModule):
    """Reads records once, and splits them by group.

    The arguments are the keys of `data` in docs/configuration.md. `splits` is `{split: share}`.

    After `setup`: `labels`, `splits` (`{split: records}`), `root`, `split_hash`, `data_hash`, `unreadable`,
    `certificate`.
    """

    reads = "photo"  # what a batch holds: photos or texts
    near_duplicates: int | None = None
    cache: str | None = None

    def __init__(
        self,
        task: str,
        splits: Mapping[str, float],
        group: str | None = None,
        split_file: str | None = None,
        folds: int | None = None,
        fold: int = 0,
        components: list[str] | None = None,
        defects: list[str] | None = None,
        healthy: Sequence[str] = (),
        missing: Sequence[str] = (),
        rename: Sequence[str] = (),
        strict: bool = False,
        multiple: str = "error",
        class_weights: Mapping | None = None,
        balanced: bool = False,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 42,
    ):
        super().__init__()
        check_choice("task", task, TASKS)
        check_choice("data.multiple", multiple, ("error", "first", "drop"))
        check_number("data.batch_size", batch_size)
        check_number("data.num_workers", num_workers or 0)
        if balanced and class_weights is not None:
            raise InputError("data.balanced=true instead of data.class_weights: set that to null")
        _check_folds(folds, fold, split_file)
        check_arguments(class_weights or {}, Weighting, "data.class_weights")
        self.task, self.shares, self.group, self.split_file = task, dict(splits), group, split_file
        self.folds, self.fold = folds, fold
        self.healthy = list(map(rec.tidy, healthy))
        self.missing, self.renamed, self.strict = {word(str(n)) for n in missing}, renames(rename), strict
        self.met: set[str] = set()  # labels as they were read
        self.multiple = multiple
        self.vocabulary = self._vocabulary(components or (), defects or ())
        self.weighting = Weighting(**class_weights) if class_weights is not None else None
        self.balanced = balanced
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.splits: dict[str, list[rec.Record]] = {}
        self.unreadable: dict[str, str] = {}
        self.first_epoch = 0  # of the fit; a resumed one begins later
        self.partial = False  # whether the loss leaves out labels that nobody has looked for
        self.features: dict[str, list[Rows]] = {}  # by split, where a frozen backbone has seen the records

    def _vocabulary(self, components: Iterable[str], defects: Iterable[str]) -> dict[str, list[str]]:
        known = {"component": [rec.tidy(c) for c in components], "defect": [rec.tidy(d) for d in defects]}
        if self.task == "multiclass" and (known["component"] or known["defect"]):
            raise InputError(
                "data.components and data.defects: model=multiclass has one kind, which takes neither"
            )
        if both := sorted(set(known["component"]) & set(known["defect"])):
            raise InputError(f"both in data.components and in data.defects: {listed(both)}")
        return known

    @property
    def noun(self) -> str:
        """The noun for a record, in messages: photo or text."""
        return "text" if self.reads == "text" else "photo"

    @property
    def multilabel(self) -> bool:
        """Whether a photo may carry any combination of labels."""
        return self.task == "multilabel"

    def read(self) -> rec.Source:
        """Return the records, with the findings in folders, table and labels."""
        source = self._source()
        in_table, known = bool(source.label_columns), {word(name) for name in self.healthy}
        source.findings += check_labels(source.records, self.healthy, self.multilabel, in_table)
        spellings = {name for r in source.records for names in r.labels.values() for name in names}
        self.healthy += sorted(n for n in spellings.difference(self.healthy) if word(n) in known)
        if unmet := [name for name in (*self.renamed, *sorted(self.missing)) if name not in self.met]:
            text = f"data.rename and data.missing name labels that are not there: {listed(unmet, 5)}"
            source.findings.append(rec.Finding("labels_unmet", text, "check their spelling", len(unmet)))
        return source

    def _source(self) -> rec.Source:
        raise NotImplementedError

    def label(self, name: str) -> str:
        """Return a label by its name after `data.rename`; empty for one that `data.missing` names."""
        self.met.update((name, word(name)))
        name = self.renamed.get(name, name)
        return "" if word(name) in self.missing else name

    def collect(self) -> groups.Linked:
        """Read, check and group the records, not yet split; sets `source`, `root` and `unreadable`."""
        source = self.read()
        source.records = groups.assign_groups(source, self.group)
        report_findings(source.findings, self.strict)
        paths: dict[str, str] = {}
        for record in source.records:
            if (other := paths.setdefault(record.id, record.path)) != record.path:
                raise InputError(f"ID '{record.id}' names two {self.noun}s: {other} and {record.path}")
        self.source, self.root = self._inspected(source), source.root
        if self.multilabel:
            records = rec.without_healthy(self.source.records, self.healthy)
        else:
            records = rec.one_label_per_kind(self.source.records, self.multiple)
        linked = groups.link_records(records, self.near_duplicates)
        groups.report_near_duplicates(linked)
        return linked

    def _inspected(self, source: rec.Source) -> rec.Source:
        """Return the records whose content can be read, with its digest."""
        return source

    def setup(self, stage: str | None = None) -> None:
        """Read, check and split the records; later calls do nothing."""
        if self.splits:
            return
        linked, given = self.collect(), self.source.given
        if self.split_file:
            others = [*(r.path for r in self.source.records), *self.source.unlabelled, *self.unreadable]
            records, given = split_by_file(user_path(self.split_file), self.root, linked.records, others)
            linked = groups.link_records(records, self.near_duplicates)
        fold = None if self.folds is None else (self.fold, self.folds)
        if fold and given is not None:
            raise InputError(
                "data.folds draws the splits itself: no data.split_file, no train/ and val/ folders"
            )
        self.splits = sp.split_records(linked, self.shares, self.seed, given, bool(self.split_file), fold)
        self.labels = self._label_space()
        self.split_hash, self.data_hash = sp.split_hash(self.splits), sp.data_hash(linked.records)
        asked = None if given is not None else self.shares
        asked = sp.fold_shares(self.shares, self.folds) if fold else asked
        self.certificate = certify(linked, self.splits, asked, self.near_duplicates, self.noun)
        self.certificate["findings"] = [asdict(finding) for finding in self.source.findings]

    def sizes(self) -> set[int]:
        """Return the sizes in bytes of what the training records hold."""
        raise NotImplementedError

    def _label_space(self) -> LabelSpace:
        train = self.splits["train"]
        labels = rec.label_space(train)
        for kind in sorted({kind for record in train for kind in record.labels} - set(labels.kinds)):
            log.warning("No training %s carries a label of kind '%s': the kind is left out", self.noun, kind)
        strangers: dict[str, list[str]] = {}
        for split in ("val", "test"):
            for record in self.splits[split]:
                for kind, names in record.labels.items():
                    for name in set(names).difference(labels.kinds.get(kind, ())):
                        strangers.setdefault(f"'{name}' ({kind})", []).append(f"{split}: {record.path}")
        if strangers:
            shown = "; ".join(f"{label} in {listed(where, 2)}" for label, where in sorted(strangers.items()))
            raise InputError(f"labels that no training {self.noun} carries: {shown}")
        for kind, names in labels.kinds.items():
            if len(names) < 2 and not self.multilabel:
                raise InputError(f"only one {kind}, '{names[0]}': a classifier needs two or more")
        if all(set(labels.names) == set().union(*r.labels.values()) for r in train):
            raise InputError(f"every training {self.noun} carries the same labels ({listed(labels.names)})")
        return labels

    def class_weights(self) -> dict[str, list[float]] | None:
        """Return the loss weights by kind from the training split, or None for an unweighted loss."""
        if self.weighting is None:
            return None
        return class_weights(self.splits["train"], self.labels, self.multilabel, self.weighting)

    def log_tables(self) -> None:
        """Log photos per label, pair and split, weights, and labels that cannot be evaluated."""
        sizes = ", ".join(
            f"{name} {len(records)} {self.noun}s in {self.certificate['groups'][name]} groups"
            for name, records in self.splits.items()
        )
        table = label_table(self.splits, self.labels)
        weights = self.class_weights()
        if weights:
            table["weight"] = [weight for values in weights.values() for weight in values]
        log.info("Split: %s\n%s", sizes, table.to_string(index=False))
        if len(self.labels.kinds) > 1:
            pairs = pair_table(self.splits, self.labels)
            log.info("Pairs:\n%s", pairs.to_string(index=False))
        if lacking := self.certificate["not_evaluable"]:
            shown = listed((f"{label} ({why})" for label, why in lacking.items()), 30)
            log.warning("Cannot be evaluated: %s", shown)

    def write_metadata(self, folder: Path) -> None:
        """Write `<split>_metadata.csv` for each split: `ID, path, group` and a column per kind."""
        kinds = list(self.labels.kinds)
        for name, records in self.splits.items():
            texts = ["text"] if any(r.text is not None for r in records) else []
            rows = [
                (r.id, r.path, r.group, *(";".join(r.labels.get(kind, ())) for kind in kinds))
                + ((r.text or "",) if texts else ())
                for r in records
            ]
            table = pd.DataFrame(rows, columns=["ID", "path", "group", *kinds, *texts])
            table.to_csv(folder / f"{name}_metadata.csv", index=False, lineterminator="\n")

    def dataset(self, split: str) -> Dataset:
        """Return the items of a split, each asked for by (epoch, index)."""
        raise NotImplementedError

    def targets(self, split: str) -> torch.Tensor:
        """Return the targets of a split; for training and validation those of `partial`."""
        partial = self.partial and split != "test"
        return encoded_targets(self.splits[split], self.labels, self.multilabel, partial)

    def _loader(self, split: str) -> DataLoader:
        train = split == "train"
        if self.features:
            dataset, workers = FeatureDataset(self.features[split], self.targets(split)), 0
        else:
            dataset, workers = self.dataset(split), self._workers()
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        epoch, batch = (self.first_epoch, self.batch_size * world) if train else (0, None)
        weights = balanced_weights(self.splits[split]) if train and self.balanced else None
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(len(dataset), self.seed, train, epoch, batch, rank, world, weights),
            num_workers=workers,
            collate_fn=(lambda batch: batch) if self.features else None,  # its dataset has put it together
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        if self.trainer is None or self.trainer.strategy.root_device.type == "cpu":
            return min(4, cores())
        devices, allowed, paid = self.trainer.num_devices, allowed_cores(), quota()
        by_srun = launched() > 1 and "RANK" not in os.environ  # it shares cores out, torchrun does not
        own = allowed if by_srun and allowed < (os.cpu_count() or 1) else allowed // devices
        return max(1, min(MOST, own, own if paid is None else paid // devices))

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches of the training split."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Return the validation split in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Return the test split in order."""
        return self._loader("test")


def check_choice(name: str, value: str | None, choices: Iterable[str | None]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise InputError(f"{name}={value}: {did_you_mean(str(value), [str(c or 'null') for c in choices])}")


def _check_folds(folds: int | None, fold: int, split_file: str | None) -> None:
    if folds is None and fold:
        raise InputError(f"data.fold={fold} needs data.folds, the number of folds: data.folds=5")
    if folds is not None and not 0 <= fold < folds:
        raise InputError(f"data.fold={fold}: from 0 to {folds - 1}, as data.folds={folds}")
    if folds is not None and split_file:
        raise InputError("data.folds draws the splits itself: leave out data.split_file")
