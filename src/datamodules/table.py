"""A table of labels, one or more rows per photo, with a folder of photos."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.datamodules.csv_table import ID_COLUMNS
from src.datamodules.label_table import (
    LabelTable,
    TableReader,
    annotated,
    check_columns,
    refuse_unknown,
    united,
)
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.records import EXAMPLES, Finding, PhotoIndex, Record, Source, find_photos
from src.datamodules.table_checks import find_all, photo_column
from src.errors import InputError, counted, listed
from src.files import refuse_archive, user_path

log = logging.getLogger(__name__)


def _check_ids(
    csv_path: Path,
    index: PhotoIndex,
    lost: Mapping[str, list[str]],
    ids: Sequence[str],
    causes: list[Finding],
) -> list[Finding]:
    rows = Counter(ids)
    if len(lost) == len(rows):
        raise InputError(
            f"none of the {len(lost)} IDs of {csv_path} (as {listed(lost, 3)}) names one photo "
            f"below {index.root} (there: {listed(index.paths, 3)}); "
            f"{'; '.join(map(str, causes)) or 'check data.images and data.id'}"
        )
    missing = {id_ or "(empty)": rows[id_] for id_, found in lost.items() if not found}
    several = {f"{id_} ({listed(found, 2)})": rows[id_] for id_, found in lost.items() if found}
    findings = []
    for name, meaning, shown in (
        ("ids_missing", f"without a file below {index.root}", missing),
        ("ids_ambiguous", "that name several files", several),
    ):
        if count := sum(shown.values()):
            text = f"Left out {len(shown)} IDs {meaning} ({count} rows): {listed(shown, 20)}"
            findings.append(Finding(name, text, "", count))
    return findings + causes


def _check_rows(index: PhotoIndex, reader: TableReader, labels: Mapping) -> list[Finding]:
    findings = []
    if unlabelled := [path for path, found in labels.items() if not any(found.values())]:
        text = f"Left out {len(unlabelled)} photos whose rows carry placeholders only, which are unlabelled"
        shown, paths = f"{text}: {listed(unlabelled, 20)}", tuple(unlabelled[:EXAMPLES])
        findings.append(Finding("photos_unlabelled", shown, "", len(unlabelled), paths))
    if routed := reader.routed:
        shown = counted(dict(routed.most_common()), 20, " rows")
        text = f"Labels that stood in the other kind's column: {shown}"
        findings.append(Finding("labels_routed", text, "", routed.total()))
    if unnamed := len(index.paths) - len(labels):
        log.info("%d photos below %s stand in no row", unnamed, index.root)
    return findings


class TableDataModule(LabelTable, PhotoDataModule):
    """Photos whose labels stand in a CSV; docs/configuration.md describes the arguments."""

    def __init__(
        self, csv: str | None = None, images: str | None = None, root: str | None = None, **common: Any
    ):
        if not (csv or root):
            raise InputError(
                "data.csv is not set: name the table and the photos, data.csv=... data.images=..."
            )
        self.named_by_root = not csv
        super().__init__(csv=csv or str(user_path(root) / "image_data.csv"), **common)
        if images:
            self.images = user_path(images)
        else:
            base = user_path(root) if root else self.csv.parent
            self.images = base / "images" if (base / "images").is_dir() else base

    def _source(self) -> Source:
        for key, path in (("root", self.csv.parent), ("csv", self.csv)):
            refuse_archive(f"data.{key}", path)
        if self.named_by_root and not self.csv.is_file() and self.csv.parent.is_dir():
            raise InputError(
                f"data.root={self.csv.parent}: no {self.csv.name} in it; name the table with data.csv=, "
                "or read folders that are named after labels with data=folders"
            )
        frame = self.frame()
        frame = frame.loc[:, frame.columns != ""]
        cells = {column: frame[column].tolist() for column in frame.columns}
        listing = find_photos(self.images, "data.images")
        index = PhotoIndex(self.images, listing.paths)
        id_column = photo_column(frame, self.id, ID_COLUMNS, self.csv, "data.id", lambda: index)
        ids = frame[id_column].str.strip()
        columns, frame = self.label_columns(frame, [id_column])
        reader = TableReader(columns, self.separator, self)
        found, findings = find_all(ids, index, str(self.csv))
        lost = {id_: paths for id_, paths in found.items() if len(paths) != 1}
        paths = [None if id_ in lost else found[id_][0] for id_ in ids]
        id_of = dict(reversed([(path, id_) for path, id_ in zip(paths, ids, strict=True) if path]))
        annotations = annotated(frame, paths, reader)
        labels = united(annotations)
        findings = _check_ids(self.csv, index, lost, ids, findings)
        refuse_unknown(self.csv, reader)
        findings += _check_rows(index, reader, labels)
        if not self.columns and {*columns.values()} <= {*cells}:  # named by nobody, and not made
            findings += check_columns(frame, reader, labels, {id_column, self.group, *ID_COLUMNS})
        shared: dict[tuple, dict[str, tuple[str, ...]]] = {}  # records of the same labels hold one mapping
        records = [
            Record(id_of[path], path, shared.setdefault(tuple(found.items()), found))
            for path, found in labels.items()
            if any(found.values())
        ]
        if not records:
            raise InputError(f"{self.csv}: no row carries a label (columns read: {listed(columns.values())})")
        labelled = {record.path for record in records}
        return Source(
            self.images,
            records,
            rows=[id_of[path] if path else "" for path in paths],
            columns=cells,
            annotations=annotations,
            lost=lost,
            unlabelled=[path for path in index.paths if path not in labelled],
            label_columns=columns,
            findings=[*listing.findings(), *findings],
        )
