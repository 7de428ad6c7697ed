"""Columns of labels in a table, one or several rows for each item."""

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from src.datamodules.csv_table import ID_COLUMNS, pick_column, read_csv
from src.datamodules.findings import listed_labels, word
from src.datamodules.record_datamodule import RecordDataModule
from src.datamodules.records import Finding, tidy
from src.datamodules.wide_table import labels_of_columns
from src.errors import InputError, counted, did_you_mean, listed
from src.files import user_path

log = logging.getLogger(__name__)
TAKEN = ("ID", "path", "group", "text", "loss", "exact_match", "f1_macro", "per_class", "labels_evaluated",
         "labels_total")  # fmt: skip
LETTER = re.compile(r"[^\W\d_]")
LABEL_COLUMNS = ("label", "labels", "class", "category")


class TableReader:
    """Reads rows into labels by kind: splits cells, drops placeholders, routes labels to their kind.

    Args:
        columns: `{kind: column}`.
        separator: between labels in a cell.
        datamodule: whose vocabulary, names and healthy labels count, which stay in the kind of their column;
            in `multiclass` a label may be called component or defect, else a cell that says so has none.
    """

    def __init__(self, columns: Mapping[str, str], separator: str, datamodule: RecordDataModule):
        vocabulary = datamodule.vocabulary
        self.columns, self.separator, self.label = columns, separator, datamodule.label
        self.healthy = {word(name) for name in datamodule.healthy}
        self.kind_of = {label: kind for kind, labels in vocabulary.items() for label in labels}
        self.kinds = tuple(vocabulary) if self.kind_of else tuple(columns)
        self.closed = {kind for kind, labels in vocabulary.items() if labels}
        kinds = () if datamodule.task == "multiclass" else ("component", "defect")
        named = (name.lower() for pair in columns.items() for name in pair)
        self.placeholders = {"", "nan", "label", "labels", *kinds, *named}
        self.routed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def labels(self, cells: Mapping[str, str], times: int = 1) -> dict[str, list[str]]:
        """Return the labels of a row by kind, from its cells by kind of column; `times` rows have these."""
        found: dict[str, list[str]] = {kind: [] for kind in self.kinds}
        for column_kind, cell in cells.items():
            names = listed_labels(cell)
            if names is None:
                lines = re.split(r"[\r\n]+", cell.strip())  # in spreadsheets they separate labels, too
                names = [name for line in lines for name in line.split(self.separator)]
            for label in (self.label(tidy(name)) for name in names):
                if label.lower() in self.placeholders and label not in self.kind_of:
                    continue
                kind = self._kind(label, column_kind)
                if kind is None:
                    self.unknown[label] += times
                    continue
                if kind != column_kind and column_kind in found:
                    self.routed[f"'{label}' from {column_kind} to {kind}"] += times
                if label not in found[kind]:
                    found[kind].append(label)
        return found

    def _kind(self, label: str, column_kind: str) -> str | None:
        """Return the kind of a label; None for one that a closed vocabulary does not know."""
        if label in self.kind_of:
            return self.kind_of[label]
        healthy = word(label) in self.healthy
        if column_kind not in self.kinds:
            open_kinds = [kind for kind in self.kinds if kind not in self.closed]
            column_kind = self.kinds[-1] if healthy else open_kinds[0] if open_kinds else ""
        return column_kind if column_kind and (healthy or column_kind not in self.closed) else None


def annotated(
    frame: pd.DataFrame, paths: Sequence[str | None], reader: TableReader
) -> dict[str, list[dict[str, list[str]]]]:
    """Return `{path: labels by kind of each of its rows}`; a row without a path is left out."""
    cells = zip(*(frame[column] for column in reader.columns.values()), strict=True)
    rows = [(path, row) for path, row in zip(paths, cells, strict=True) if path]
    times = Counter(row for _, row in rows)
    labels = {row: reader.labels(dict(zip(reader.columns, row, strict=True)), n) for row, n in times.items()}
    annotations: dict[str, list[dict[str, list[str]]]] = defaultdict(list)
    for path, row in rows:
        annotations[path].append(labels[row])
    return annotations


def refuse_unknown(csv_path: Path, reader: TableReader) -> None:
    """Refuse labels that a closed vocabulary does not know."""
    if reader.unknown:
        first = next(iter(reader.unknown))
        shown = {f"'{label}'": count for label, count in reader.unknown.most_common()}
        raise InputError(
            f"{csv_path}: unknown labels {counted(shown, 10, ' rows')}; "
            f"'{first}': {did_you_mean(first, reader.kind_of)}; "
            "correct the table or add them to data.components or data.defects"
        )


def check_columns(frame: pd.DataFrame, reader: TableReader, labels: Mapping, others: set) -> list[Finding]:
    """Return a finding of columns that are not read and look like labels."""
    known = {name.casefold() for found in labels.values() for names in found.values() for name in names}
    read, mark, unread = {*reader.columns.values()}, reader.separator, []
    for column in (name for name in frame.columns if name not in read | others):
        parts = {tidy(part).casefold() for cell in frame[column].unique() for part in cell.split(mark)}
        words, name = {*filter(LETTER.search, parts - reader.placeholders)}, column.casefold()
        ends = [name.removeprefix(start) for start in map(str.casefold, read) if name.startswith(start)]
        named = any(words & known or not LETTER.search(end) for end in ends)
        named |= name in LABEL_COLUMNS and not any(map(LETTER.search, known))  # next to its numbers
        if words and (named or words <= known):
            unread.append(f"'{column}'")
    if not unread:
        return []
    text = f"Columns that are not read look like labels: {listed(unread)}"
    cure = f"join their cells with '{mark}' in one column, or name those to read with data.columns"
    return [Finding("columns_unread", text, cure, len(unread))]


class LabelTable(RecordDataModule):
    """Records whose labels stand in a CSV; docs/configuration.md describes the arguments."""

    def __init__(
        self,
        csv: str | None = None,
        id: str | None = None,
        columns: dict[str, str] | None = None,
        separator: str = ";",
        delimiter: str | None = None,
        encoding: str | None = None,
        **common: Any,
    ):
        super().__init__(**common)
        if not separator:
            raise InputError("data.separator is empty: name the text between labels in a cell")
        self.csv = user_path(csv) if csv else None
        self.id, self.columns, self.separator = id, columns, separator
        self.delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter) if delimiter else None
        self.encoding = encoding

    def frame(self) -> pd.DataFrame:
        """Return the cells of the table, columns without a name included."""
        names = (self.id,) if self.id else ID_COLUMNS
        return read_csv(self.csv, self.delimiter, self.encoding, names=names, unnamed=True)

    def label_columns(
        self, frame: pd.DataFrame, others: Sequence[str]
    ) -> tuple[dict[str, str], pd.DataFrame]:
        """Return `{kind: column}` of the labels, and the table, with one made of a column per label.

        `others` are columns that hold no labels.
        """
        names = self._column_names(frame)
        if names == {"label": LABEL_COLUMNS} and not {n.casefold() for n in frame.columns} & {*LABEL_COLUMNS}:
            others = [*others, *ID_COLUMNS, *([self.group] if self.group else [])]
            known = {word(name) for name in self.healthy}
            given = any(word(name) in known for name in frame.columns)
            nothing = "" if given else next(iter(self.healthy), "")
            found = labels_of_columns(frame, others, nothing, f"data.csv={self.csv}")
            if found is not None:
                cells = [json.dumps(labels, ensure_ascii=False) if labels else "" for labels in found]
                return {"label": "label"}, frame.assign(label=cells)
        return {
            kind: pick_column(frame, None, choices, self.csv, f"data.columns.{kind}")
            for kind, choices in names.items()
        }, frame

    def _column_names(self, frame: pd.DataFrame) -> dict[str, tuple[str, ...]]:
        if self.columns:
            if taken := [kind for kind in self.columns if kind in TAKEN]:
                raise InputError(
                    f"data.columns.{taken[0]}: metrics.json or the tables of a run have that name already; "
                    f"call the kind of labels otherwise, as data.columns={{{taken[0]}_kind: COLUMN}}"
                )
            if self.task == "multiclass" and list(self.columns) != ["label"]:
                raise InputError(
                    f"data.columns names {listed(self.columns)}: multiclass has the one kind 'label', "
                    "as data.columns={label: COLUMN}"
                )
            return {kind: (column or kind,) for kind, column in self.columns.items()}
        if self.task != "multiclass" and {"component", "defect"} & {
            name.casefold() for name in frame.columns
        }:
            return {"component": ("component",), "defect": ("defect",)}
        return {"label": LABEL_COLUMNS}
