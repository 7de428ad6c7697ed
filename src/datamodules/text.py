"""A table of texts with their labels."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from src.datamodules.csv_table import read_csv
from src.datamodules.groups import identical_sets
from src.datamodules.label_table import LabelTable, TableReader, annotated, refuse_unknown, united
from src.datamodules.records import Finding, Record, Source
from src.datamodules.text_columns import TEXT_COLUMNS, find_text_columns, read_texts, texts_by_id
from src.errors import InputError, listed
from src.files import refuse_archive
from src.images import content_digest

log = logging.getLogger(__name__)


class TextDataset(Dataset):
    """Items `{"text", "target", "index"}` of a split, each asked for by (epoch, index)."""

    def __init__(self, texts: Sequence[str], targets: torch.Tensor):
        self.texts, self.targets = texts, targets

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        _, index = key
        return {"text": self.texts[index], "target": self.targets[index], "index": index}


class TextDataModule(LabelTable):
    """Texts whose labels stand in the same CSV; docs/configuration.md describes the arguments.

    The path of a record is its ID, so that records are sorted by it.
    """

    reads = "text"

    def __init__(self, text: str | None = None, **common: Any):
        super().__init__(**{"num_workers": 0, **common})
        if self.csv is None:
            raise InputError("data.csv is not set: name the table of texts, data.csv=notes.csv")
        self.text = text

    def _source(self) -> Source:
        refuse_archive("data.csv", self.csv)
        names = (self.text,) if self.text else TEXT_COLUMNS
        frame = read_csv(self.csv, self.delimiter, self.encoding, names=names)
        column, id_column = find_text_columns(frame, self.csv, self.text, self.id)
        pairs = read_texts(frame, column, id_column)
        texts = texts_by_id(pairs)
        columns, labelled = self.label_columns(frame, [name for name in (column, id_column) if name])
        if column in columns.values():
            raise InputError(f"{self.csv}: '{column}' cannot be the texts and their labels: set data.text=")
        reader = TableReader(columns, self.separator, self)
        annotations = annotated(labelled, [id_ if id_ in texts else None for id_, _ in pairs], reader)
        refuse_unknown(self.csv, reader)
        labels = united(annotations)
        records = [
            Record(id_, id_, found, digest=content_digest(texts[id_].encode()), text=texts[id_])
            for id_, found in labels.items()
            if any(found.values())
        ]
        if not records:
            raise InputError(
                f"{self.csv}: no text carries a label (columns read: {listed(columns.values())})"
            )
        return Source(
            self.csv.parent,
            records,
            rows=[id_ if id_ in texts else "" for id_, _ in pairs],
            columns={name: frame[name].tolist() for name in frame.columns},
            annotations=annotations,
            label_columns=columns,
            unlabelled=[id_ for id_ in texts if not any(labels.get(id_, {}).values())],
            findings=_findings(pairs, texts, records, labels),
        )

    def sizes(self) -> set[int]:
        """Return the lengths of the training texts in bytes."""
        return {len(record.text.encode()) for record in self.splits["train"]}

    def dataset(self, split: str) -> TextDataset:
        """Return the texts of a split."""
        return TextDataset([record.text for record in self.splits[split]], self.targets(split))


def _findings(
    pairs: Sequence[tuple[str, str]],
    texts: Mapping[str, str],
    records: Sequence[Record],
    labels: Mapping[str, Mapping],
) -> list[Finding]:
    """Return findings of texts that are empty, unlabelled, of one ID, or the same."""
    found = []
    if empty := sum(not text for _, text in pairs):
        found.append(Finding("texts_empty", f"Left out {empty} rows without a text", "", empty))
    if unnamed := sum(not id_ for id_, text in pairs if text):
        found.append(Finding("texts_without_id", f"Left out {unnamed} rows without an ID", "", unnamed))
    if unlabelled := [id_ for id_ in texts if not any(labels.get(id_, {}).values())]:
        text = f"Left out {len(unlabelled)} texts without a label: {listed(unlabelled, 5)}"
        found.append(Finding("texts_unlabelled", text, "", len(unlabelled)))
    times = Counter(id_ for id_, text in set(pairs) if id_ and text)
    if several := sorted(id_ for id_, count in times.items() if count > 1):
        text = f"{len(several)} IDs have several texts, which are joined: {listed(several, 5)}"
        found.append(Finding("texts_joined", text, "", len(several)))
    same = identical_sets(records)
    if copies := sum(len(records) - 1 for records in same):
        text = f"{copies} texts are the same as others; they stay in one split"
        found.append(Finding("texts_same", text, "", copies))
    if differing := [rs for rs in same if any(r.labels != rs[0].labels for r in rs)]:
        shown = listed((" = ".join(r.id for r in rs[:3]) for rs in differing), 3)
        count = sum(map(len, differing))
        text = f"{count} texts are the same as others and have other labels: {shown}"
        found.append(Finding("texts_contradict", text, "check their labels", count))
    return found
