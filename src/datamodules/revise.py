"""A new version of the labels: a table with some photos' labels changed and everything else as it stood."""

import csv
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.datamodules.delimited import read_raw
from src.datamodules.folders import FolderDataModule
from src.datamodules.groups import Linked
from src.datamodules.photos import PhotoDataModule
from src.datamodules.records import Record, Source
from src.datamodules.splits import split_records
from src.datamodules.table import PhotoIndex, TableDataModule, read_table
from src.errors import InputError, listed

Labels = Mapping[str, tuple[str, ...]]
EMPTY = ("", "nan")


@dataclass(frozen=True)
class Revision:
    """A new version of the labels.

    Attributes:
        table: the content of the CSV.
        split: the content of a CSV `ID,split` for photos in train/, val/ and test/, with what training
            takes for a split that is not there; else None.
        before: `{path: labels by kind}` of the changed photos, as they stand in the old version.
        after: likewise in the new one; None for a photo that is left out.
    """

    table: bytes
    split: bytes | None
    before: Mapping[str, Labels]
    after: Mapping[str, Labels | None]


def revise(datamodule: PhotoDataModule, linked: Linked, wanted: Mapping[str, Labels | None]) -> Revision:
    """Return the table with the labels that some photos are to have.

    Photos that are not named keep their rows byte by byte; so do rows without a photo, and unlabelled photos.
    A named photo has one row: its labels, and of each other column the first cell that says something. If its
    rows name several groups, a row without labels follows for each other one, so that they stay joined.
    Folders become a table whose IDs are the photos' own.

    Args:
        datamodule: after `collect()`.
        linked: what it returned.
        wanted: `{path: labels}` as the records have them; None: the photo is left out.

    Raises:
        InputError: where the table would not be read back as meant.
    """
    source = datamodule.source
    raw = {record.path: record.labels for record in source.records}
    usual = usual_healthy(source.records, datamodule.healthy) if datamodule.multilabel else {}
    after: dict[str, Labels | None] = {}
    for path, labels in wanted.items():
        names = labels
        if names is not None and datamodule.multilabel:
            names = _with_healthy(raw[path], names, datamodule.healthy, usual)
        if names is None or _sets(names) != _sets(raw[path]):
            after[path] = names
    if all(path in after and after[path] is None for path in raw):
        raise InputError("every photo is left out: nothing would be left to train on")
    ids = {} if source.columns else _ids_of_folders(datamodule)
    table = _table(datamodule, after) if source.columns else _table_of_folders(datamodule, after, ids)
    _check(datamodule, table, {path: after.get(path, labels) for path, labels in raw.items()})
    split = None
    if source.given:
        splits = split_records(linked, datamodule.shares, datamodule.seed, source.given)
        lines = [
            [ids.get(r.path, r.id), name]
            for name, found in splits.items()
            for r in found
            if after.get(r.path, {}) is not None
        ]
        split = _csv([["ID", "split"], *lines]).encode()
    return Revision(table, split, {path: raw[path] for path in after}, after)


def usual_healthy(records: Sequence[Record], healthy: Sequence[str]) -> dict[str, str]:
    """Return `{kind: label}`: how the labels say "nothing wrong", where they do."""
    count = Counter(
        (kind, name) for r in records for kind, names in r.labels.items() for name in names if name in healthy
    )
    found: dict[str, str] = {}
    for (kind, name), _ in sorted(count.items(), key=lambda item: (-item[1], item[0])):
        found.setdefault(kind, name)
    return found


def _with_healthy(raw: Labels, wanted: Labels, healthy: Sequence[str], usual: Mapping[str, str]) -> Labels:
    """Return labels as they are written: a photo that loses its last label of a kind has "nothing wrong".

    That is said only where the labels say it of other photos, or where the photo would count as unlabelled.
    """
    written: dict[str, tuple[str, ...]] = {}
    for kind in dict.fromkeys([*raw, *wanted]):
        names, old = wanted.get(kind, ()), raw.get(kind, ())
        said = tuple(name for name in old if name in healthy)
        lost = (usual[kind],) if old and kind in usual else ()
        written[kind] = names or said or lost
    if not any(written.values()):
        kind = next(iter(usual), list(written)[-1])
        written[kind] = (usual.get(kind) or healthy[0],)
    return written


def _table(datamodule: TableDataModule, after: Mapping[str, Labels | None]) -> bytes:
    """Return the old table with the rows of some photos replaced; all else is as it stands, byte by byte."""
    source = datamodule.source
    old = read_raw(datamodule.csv, datamodule.delimiter, datamodule.encoding)
    if len(old.cells) != len(source.rows):
        raise InputError(f"{datamodule.csv} has changed while it was read: try again")
    path_of = {record.id: record.path for record in source.records}
    paths = [path_of.get(id_) for id_ in source.rows]
    of_photo: dict[str, list[list[str]]] = {}
    for path, cells in zip(paths, old.cells, strict=True):
        if path in after:
            of_photo.setdefault(path, []).append(cells)
    line_end = next((end for end in ("\r\n", "\n", "\r") if end in old.head), "\n")
    parts = [old.head]
    for path, text in zip(paths, old.texts, strict=True):
        if path not in after:
            parts.append(text)
        elif path in of_photo:
            rows, labels = of_photo.pop(path), after[path]
            if labels is not None:
                parts.append(_csv(_joined(datamodule, old.header, rows, labels), old.delimiter, line_end))
    parts[:-1] = [part if part.endswith(("\r", "\n")) else part + line_end for part in parts[:-1]]
    try:
        return "".join(parts).encode(old.encoding)
    except UnicodeEncodeError as error:
        if datamodule.encoding:
            wrong = error.object[error.start : error.end]
            raise InputError(f"'{wrong}' cannot be written as data.encoding={datamodule.encoding}") from error
        return "".join(parts).encode("utf-8-sig")


def _joined(
    datamodule: TableDataModule, columns: list[str], rows: list[list[str]], labels: Labels
) -> list[list[str]]:
    """Return one row for a photo's rows, and one more for each further group that they name."""
    source = datamodule.source
    first = []
    for cells in zip(*rows, strict=True):
        saying = [cell for cell in cells if cell.strip().lower() not in EMPTY]
        first.append(saying[0] if saying else cells[0])
    in_column: dict[str, list[str]] = {column: [] for column in source.label_columns.values()}
    for kind, names in labels.items():
        column = source.label_columns.get(kind) or next(iter(in_column))
        in_column[column] += [name for name in names if name not in in_column[column]]
    for column, names in in_column.items():
        first[columns.index(column)] = datamodule.separator.join(names)
    if datamodule.group not in columns or datamodule.group in in_column:
        return [first]
    at = columns.index(datamodule.group)
    values = dict.fromkeys(row[at].strip() for row in rows if row[at].strip().lower() not in EMPTY)
    blank = {columns.index(column): "" for column in in_column}
    others = [value for value in values if value != first[at].strip()]
    return [first] + [
        [blank.get(i, value if i == at else cell) for i, cell in enumerate(first)] for value in others
    ]


def _ids_of_folders(datamodule: FolderDataModule) -> dict[str, str]:
    """Return `{path: ID}` by which a table names each photo alone: the record's own, else its path."""
    index, ids = PhotoIndex(datamodule.root), {}
    for record in datamodule.source.records:
        names = (record.id, record.path, f"{datamodule.root.as_posix()}/{record.path}")
        id_ = next((name for name in names if index.find(name) == [record.path]), None)
        if id_ is None:
            raise InputError(f"no ID in a table can name {record.path} alone: rename the file")
        ids[record.path] = id_
    return ids


def _table_of_folders(
    datamodule: FolderDataModule, after: Mapping[str, Labels | None], ids: Mapping[str, str]
) -> bytes:
    """Return a table of photos in folders."""
    kinds = list(dict.fromkeys(kind for record in datamodule.source.records for kind in record.labels))
    rows = []
    for record in datamodule.source.records:
        labels = after.get(record.path, record.labels)
        if labels is None:
            continue
        rows.append([ids[record.path], *(";".join(labels.get(kind, ())) for kind in kinds)])
    return _csv([["ID", *kinds], *rows]).encode("utf-8")


def _csv(rows: Sequence[Sequence[str]], delimiter: str = ",", line_end: str = "\n") -> str:
    """Return rows as text."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    return buffer.getvalue()


def _check(datamodule: PhotoDataModule, table: bytes, meant: Mapping[str, Labels | None]) -> None:
    """Read the new table as training will, and refuse one that says anything else than is meant."""
    given = {"id_column": None, "columns": None, "separator": ";", "delimiter": None, "encoding": None}
    images = datamodule.root
    if isinstance(datamodule, TableDataModule):
        given = {
            "id_column": datamodule.id,
            "columns": datamodule.columns,
            "separator": datamodule.separator,
            "delimiter": datamodule.delimiter,
            "encoding": datamodule.encoding,
        }
        images = datamodule.images
    silent_before = logging.root.manager.disable
    logging.disable(max(silent_before, logging.WARNING))  # it would say again what the old labels made it say
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image_data.csv"
            path.write_bytes(table)
            again = read_table(
                path,
                images,
                datamodule.task,
                vocabulary=datamodule.vocabulary,
                healthy=datamodule.healthy,
                **given,
            )
    finally:
        logging.disable(silent_before)
    _compare(again, meant)


def _compare(again: Source, meant: Mapping[str, Labels | None]) -> None:
    """Refuse photos whose labels are read back as others."""
    found = {record.path: _sets(record.labels) for record in again.records}
    wrong = []
    for path, labels in meant.items():
        if found.get(path, {}) != (_sets(labels) if labels is not None else {}):
            said = "; ".join(name for names in (labels or {}).values() for name in names) or "left out"
            read = (
                "; ".join(sorted(name for names in found.get(path, {}).values() for name in names)) or "none"
            )
            wrong.append(f"{path} ({said}, read as {read})")
    if wrong:
        raise InputError(
            f"a table cannot say the labels of {len(wrong)} photos: {listed(wrong, 3)}; words such as nan, "
            "component, defect and label stand for no label there: rename them, or name them in "
            "data.components or data.defects"
        )


def _sets(labels: Labels) -> dict[str, set[str]]:
    """Return the kinds that have labels, without their order."""
    return {kind: set(names) for kind, names in labels.items() if names}
