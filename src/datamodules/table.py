"""A table of labels, one or more rows per photo, beside a folder of photos."""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from src.datamodules.base import PhotoDataModule
from src.datamodules.csv_table import ID_COLUMNS, pick_column, read_csv
from src.datamodules.records import PhotoIndex, Record, Source, tidy
from src.errors import InputError, did_you_mean, listed
from src.files import user_path

log = logging.getLogger(__name__)


def label_columns(
    names: Collection[str], task: str, wanted: Mapping[str, str] | None
) -> dict[str, tuple[str, ...]]:
    """Return `{kind: names its column may have}`: as configured, else component and defect, else label."""
    if wanted:
        if task == "multiclass" and list(wanted) != ["label"]:
            raise InputError(
                f"data.columns names {listed(wanted)}: model=multiclass has the one kind 'label', as "
                "data.columns={label: COLUMN}"
            )
        return {kind: (column or kind,) for kind, column in wanted.items()}
    if task != "multiclass" and {"component", "defect"} & {name.casefold() for name in names}:
        return {"component": ("component",), "defect": ("defect",)}
    return {"label": ("label", "labels", "class", "category")}


class TableReader:
    """Reads rows into labels by kind: splits cells, drops placeholders, routes labels to their kind.

    Args:
        columns: `{kind: column}`.
        separator: what stands between labels in a cell.
        vocabulary: `{kind: known labels}`; empty lists where none is given.
        healthy: labels that mean "nothing wrong": they stay in the kind of their column.
        task: in `multiclass` a label may be called component or defect; else a cell that says so has none.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        separator: str,
        vocabulary: Mapping[str, list[str]],
        healthy: Collection[str],
        task: str,
    ):
        self.columns, self.separator, self.healthy = columns, separator, set(healthy)
        self.kind_of = {label: kind for kind, labels in vocabulary.items() for label in labels}
        self.kinds = tuple(vocabulary) if self.kind_of else tuple(columns)
        self.closed = {kind for kind, labels in vocabulary.items() if labels}
        words = () if task == "multiclass" else ("component", "defect")
        self.placeholders = {"", "nan", *words, *(name.lower() for pair in columns.items() for name in pair)}
        self.routed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def labels(self, cells: Mapping[str, str], times: int = 1) -> dict[str, list[str]]:
        """Return the labels of a row by kind, from its cells by kind of column; `times` rows have these."""
        found: dict[str, list[str]] = {kind: [] for kind in self.kinds}
        for column_kind, cell in cells.items():
            for label in map(tidy, cell.split(self.separator)):
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
        """The kind of a label; None for one that a closed vocabulary does not know."""
        if label in self.kind_of:
            return self.kind_of[label]
        healthy = label in self.healthy
        if column_kind not in self.kinds:
            open_kinds = [kind for kind in self.kinds if kind not in self.closed]
            column_kind = self.kinds[-1] if healthy else open_kinds[0] if open_kinds else ""
        return column_kind if column_kind and (healthy or column_kind not in self.closed) else None


def read_table(
    csv_path: Path,
    images: Path,
    task: str,
    id_column: str | None,
    columns: Mapping[str, str] | None,
    separator: str,
    delimiter: str | None,
    encoding: str | None,
    vocabulary: Mapping[str, list[str]],
    healthy: list[str],
) -> Source:
    """Read the records of a table whose photos lie below `images`; see `TableDataModule`."""
    frame = read_csv(csv_path, delimiter, encoding)
    if not images.is_dir():
        raise InputError(f"data.images={images}: no such folder")
    id_column = pick_column(frame, id_column, ID_COLUMNS, csv_path, "data.id")
    names = {
        kind: pick_column(frame, None, candidates, csv_path, f"data.columns.{kind}")
        for kind, candidates in label_columns(frame.columns, task, columns).items()
    }
    reader = TableReader(names, separator, vocabulary, healthy, task)
    index = PhotoIndex(images)
    if not index.paths:
        raise InputError(f"data.images={images}: no photo in it (jpg, jpeg, png, bmp, tif, tiff, webp)")
    rows, ids, lost, annotations = _matched(frame, id_column, names, reader, index)
    labels = {path: _union(found, reader.kinds) for path, found in annotations.items()}
    shared: dict[tuple, dict[str, tuple[str, ...]]] = {}  # records of the same labels hold one mapping
    _report(csv_path, index, reader, labels, lost)
    records = [
        Record(ids[path], path, shared.setdefault(tuple(found.items()), found))
        for path, found in labels.items()
        if any(found.values())
    ]
    if not records:
        raise InputError(f"{csv_path}: no row carries a label (columns read: {listed(names.values())})")
    labelled = {record.path for record in records}
    return Source(
        images,
        records,
        rows,
        {column: frame[column].tolist() for column in frame.columns},
        annotations=annotations,
        lost=lost,
        unlabelled=[path for path in index.paths if path not in labelled],
        label_columns=names,
    )


def _matched(
    frame: pd.DataFrame, id_column: str, names: Mapping[str, str], reader: TableReader, index: PhotoIndex
) -> tuple[list[str], dict[str, str], dict[str, list[str]], dict[str, list[dict[str, list[str]]]]]:
    """Match the rows with photos.

    Returns:
        the ID of each row, empty for one without a photo; `{path: ID}`; `{ID: paths}` of IDs that name none,
        or several; `{path: labels by kind of each of its rows}`.
    """
    rows: list[str] = []
    ids: dict[str, str] = {}
    lost: dict[str, list[str]] = {}
    matched: list[tuple[str, tuple[str, ...]]] = []
    for id_, *cells in zip(*(frame[name].tolist() for name in (id_column, *names.values())), strict=True):
        id_ = id_.strip()
        found = index.find(id_) if id_ else []
        if len(found) != 1:
            lost[id_] = found
            rows.append("")
            continue
        (path,) = found
        rows.append(ids.setdefault(path, id_))
        matched.append((path, tuple(cells)))
    times = Counter(cells for _, cells in matched)
    said = {cells: reader.labels(dict(zip(names, cells, strict=True)), n) for cells, n in times.items()}
    annotations: dict[str, list[dict[str, list[str]]]] = defaultdict(list)
    for path, cells in matched:  # rows of the same cells share what they say: a million rows say few things
        annotations[path].append(said[cells])
    return rows, ids, lost, annotations


def _union(rows: Sequence[Mapping[str, list[str]]], kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the labels of all rows of a photo by kind, each once, in their order."""
    return {kind: tuple(dict.fromkeys(name for row in rows for name in row[kind])) for kind in kinds}


def _report(
    csv_path: Path, index: PhotoIndex, reader: TableReader, labels: dict, lost: Mapping[str, list[str]]
) -> None:
    """Say what of the table is not used; stop where nothing can be."""
    missing = [id_ or "(empty)" for id_, found in lost.items() if not found]
    ambiguous = [f"{id_} ({listed(found, 2)})" for id_, found in lost.items() if found]
    if not labels:
        raise InputError(
            f"none of the {len(lost)} IDs of {csv_path} (as {listed(lost, 3)}) names one photo "
            f"below {index.root} (there: {listed(index.paths, 3)}); check data.images and data.id"
        )
    if missing:
        log.warning(
            "Left out %d IDs without a file below %s: %s", len(missing), index.root, listed(missing, 30)
        )
    if ambiguous:
        log.warning("Left out %d IDs that name several files: %s", len(ambiguous), listed(ambiguous, 10))
    if reader.unknown:
        first = next(iter(reader.unknown))
        shown = listed((f"'{label}' ({count} rows)" for label, count in reader.unknown.most_common()), 10)
        raise InputError(
            f"{csv_path}: unknown labels {shown}; '{first}': {did_you_mean(first, reader.kind_of)}; "
            "correct the table or add them to data.components or data.defects"
        )
    if reader.routed:
        log.warning(
            "Labels that stood in the other kind's column: %s",
            listed((f"{what} ({count} rows)" for what, count in reader.routed.most_common()), 20),
        )
    if unlabelled := [path for path, found in labels.items() if not any(found.values())]:
        log.warning(
            "Left out %d photos whose rows carry placeholders only, which are unlabelled: %s",
            len(unlabelled),
            listed(unlabelled, 5),
        )
    if unnamed := len(index.paths) - len(labels):
        log.info("%d photos below %s stand in no row", unnamed, index.root)


class TableDataModule(PhotoDataModule):
    """Photos whose labels stand in a CSV.

    Args:
        csv: the table; null: `image_data.csv` in `root`.
        images: the folder of the photos; null: `images/` in `root`, or `root` itself.
        root: a folder that holds both.
        id: the column that names the photo, with or without extension; null: the first of ID, file, path, ...
        columns: `{kind: column}` of the labels; null: component and defect, else label or labels.
        separator: what stands between labels in a cell.
        delimiter: what stands between columns; null: detected.
        encoding: of the file; null: UTF-8 (with or without BOM), UTF-16 with one, else Windows-1252.
        **common: see `PhotoDataModule`.
    """

    def __init__(
        self,
        csv: str | None = None,
        images: str | None = None,
        root: str | None = None,
        id: str | None = None,
        columns: dict[str, str] | None = None,
        separator: str = ";",
        delimiter: str | None = None,
        encoding: str | None = None,
        **common,
    ):
        super().__init__(**common)
        if not (csv or root):
            raise InputError(
                "data.csv is not set: name the table and the photos, data.csv=... data.images=..."
            )
        if not separator:
            raise InputError("data.separator is empty: name what stands between labels in a cell")
        self.named_by_root = not csv
        self.csv = user_path(csv) if csv else user_path(root) / "image_data.csv"
        if images:
            self.images = user_path(images)
        else:
            base = user_path(root) if root else self.csv.parent
            self.images = base / "images" if (base / "images").is_dir() else base
        self.id, self.columns, self.separator = id, columns, separator
        self.delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter) if delimiter else None
        self.encoding = encoding

    def read(self) -> Source:
        """Read the table; see `read_table`."""
        if self.named_by_root and not self.csv.is_file() and self.csv.parent.is_dir():
            raise InputError(
                f"data.root={self.csv.parent}: no {self.csv.name} in it; name the table with data.csv=, "
                "or read folders that are named after labels with data=folders"
            )
        return read_table(
            self.csv,
            self.images,
            self.task,
            self.id,
            self.columns,
            self.separator,
            self.delimiter,
            self.encoding,
            self.vocabulary,
            self.healthy,
        )
