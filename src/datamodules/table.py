"""Labels in a CSV: one or several rows per photo, several labels per cell."""

import csv
import io
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from src.datamodules.photos import PhotoDataModule
from src.datamodules.records import Record, Source, find_photos
from src.errors import InputError, did_you_mean, listed, nearest

log = logging.getLogger(__name__)
ID_COLUMNS = ("ID", "id", "Id", "file", "filename", "path", "image", "photo")
PLACEHOLDERS = ("", "nan", "component", "defect", "label", "labels")
DELIMITERS = (",", ";", "\t", "|")


def read_csv(
    path: Path, delimiter: str | None = None, encoding: str | None = None, key: str = "data.csv"
) -> pd.DataFrame:
    """Read a CSV of strings: UTF-8 with or without BOM, UTF-16 with one, else Windows-1252; delimiter detected.

    Returns:
        a frame of `str` cells without missing values, its column names trimmed.

    Raises:
        InputError: no such file, empty, not decodable, not a table.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{key}={path}: {(error.strerror or 'cannot be read').lower()}") from error
    if not content.strip():
        raise InputError(f"{key}={path}: the file is empty")
    encodings = (
        [encoding]
        if encoding
        else ["utf-16"]
        if content[:2] in (b"\xff\xfe", b"\xfe\xff")
        else ["utf-8-sig", "cp1252"]
    )
    for name in encodings:
        try:
            text = content.decode(name)
            break
        except (UnicodeDecodeError, LookupError):
            continue
    else:
        raise InputError(
            f"{key}={path}: not text in {' or '.join(encodings)}; name its encoding with data.encoding="
        )
    if "\0" in text:
        raise InputError(f"{key}={path}: not a text file")
    header = text.lstrip("\r\n").splitlines()[0]
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader([header], delimiter=d))))
    try:
        frame = pd.read_csv(
            io.StringIO(text), sep=delimiter, dtype=str, keep_default_na=False, skipinitialspace=True
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{key}={path}: not a table with delimiter {delimiter!r} ({reason})") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    if frame.empty:
        raise InputError(f"{key}={path}: a header and no rows")
    return frame.fillna("")


def pick_column(
    frame: pd.DataFrame, wanted: str | None, candidates: tuple[str, ...], csv_path: Path, key: str
) -> str:
    """Return the column `wanted`, or the first of `candidates` that is there; else say which columns there are."""
    names = [wanted] if wanted else list(candidates)
    for name in names:
        if name in frame.columns:
            return name
    there = listed(nearest(names[0], frame.columns), 20)
    raise InputError(f"{csv_path} has no column '{names[0]}': it has {there}; name the right one with {key}=")


def label_columns(
    frame: pd.DataFrame, task: str, wanted: Mapping[str, str] | None, csv_path: Path
) -> dict[str, str]:
    """Return `{kind: column}`: as configured, else `component` and `defect`, else one of labels."""
    if wanted:
        return {
            kind: pick_column(frame, column, (), csv_path, f"data.columns.{kind}")
            for kind, column in wanted.items()
        }
    if task != "multiclass" and {"component", "defect"} & set(frame.columns):
        pair = ("component", "defect")
        return {kind: pick_column(frame, kind, (), csv_path, f"data.columns.{kind}") for kind in pair}
    column = pick_column(
        frame, None, ("label", "labels", "class", "category"), csv_path, "data.columns.label"
    )
    return {"label": column}


class PhotoIndex:
    """Finds the file that an ID of a table means: by relative path or file name, with or without extension."""

    def __init__(self, root: Path):
        self.paths = find_photos(root)
        self.by_key: dict[str, set[str]] = defaultdict(set)
        for path in self.paths:
            whole, name = Path(path), Path(path).name
            for key in {path, whole.with_suffix("").as_posix(), name, Path(name).stem}:
                self.by_key[key].add(path)

    def find(self, id_: str) -> str | None:
        """Return the path of the one photo that `id_` names, or None where there is none or more than one."""
        key = id_.replace("\\", "/").removeprefix("./")
        if key in self.by_key and key in self.by_key[key]:
            return key
        found = self.by_key.get(key, ())
        return next(iter(found)) if len(found) == 1 else None


class TableReader:
    """Reads rows into labels per ID: splits cells, drops placeholders, routes labels to their kind, unions rows.

    Args:
        columns: `{kind: column}`.
        separator: what stands between labels in a cell.
        vocabulary: `{kind: known labels}`; empty lists where none is given.
        healthy: labels that mean "nothing wrong": they stay in the kind of their column.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        separator: str,
        vocabulary: Mapping[str, list[str]],
        healthy: list[str],
    ):
        self.columns, self.separator, self.healthy = columns, separator, set(healthy)
        self.kind_of = {label: kind for kind, labels in vocabulary.items() for label in labels}
        self.kinds = tuple(vocabulary) if self.kind_of else tuple(columns)
        self.closed = {kind for kind, labels in vocabulary.items() if labels}
        self.routed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def labels(self, row: Mapping[str, str]) -> dict[str, list[str]]:
        """Return the labels of one row by kind."""
        found: dict[str, list[str]] = {kind: [] for kind in self.kinds}
        for column_kind, column in self.columns.items():
            for label in row[column].split(self.separator):
                label = label.strip()
                if label.lower() in PLACEHOLDERS and label not in self.kind_of:
                    continue
                kind = self._kind(label, column_kind)
                if kind is None:
                    self.unknown[label] += 1
                    continue
                if kind != column_kind and column_kind in found:
                    self.routed[f"'{label}' from {column_kind} to {kind}"] += 1
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
    """Read the records of a table whose photos lie below `images`; see `TableDataModule` for the arguments."""
    frame = read_csv(csv_path, delimiter, encoding)
    if not images.is_dir():
        raise InputError(f"data.images={images}: no such folder")
    id_column = pick_column(frame, id_column, ID_COLUMNS, csv_path, "data.id")
    reader = TableReader(label_columns(frame, task, columns, csv_path), separator, vocabulary, healthy)
    index = PhotoIndex(images)
    if not index.paths:
        raise InputError(f"data.images={images}: no photo in it (jpg, jpeg, png, bmp, tif, tiff, webp)")
    labels: dict[str, dict[str, list[str]]] = {}
    ids: dict[str, str] = {}
    missing: dict[str, None] = {}
    values: dict[str, dict[str, str]] = {column: {} for column in frame.columns}
    for row in frame.to_dict("records"):
        id_ = row[id_column].strip()
        path = index.find(id_) if id_ else None
        if path is None:
            missing[id_] = None
            continue
        id_ = ids.setdefault(path, id_)
        union = labels.setdefault(path, {kind: [] for kind in reader.kinds})
        for kind, names in reader.labels(row).items():
            union[kind] += [name for name in names if name not in union[kind]]
        for column, value in row.items():
            if value.strip():
                values[column].setdefault(id_, value.strip())
    _report(csv_path, images, index, reader, labels, missing)
    records = [
        Record(ids[path], path, {kind: tuple(names) for kind, names in found.items()})
        for path, found in labels.items()
        if any(found.values())
    ]
    if not records:
        raise InputError(
            f"{csv_path}: no row carries a label (columns read: {listed(reader.columns.values())})"
        )
    return Source(images, records, columns=values)


def _report(
    csv_path: Path,
    images: Path,
    index: PhotoIndex,
    reader: TableReader,
    labels: dict,
    missing: dict[str, None],
) -> None:
    if not labels:
        raise InputError(
            f"none of the {len(missing)} IDs of {csv_path} (as {listed(missing, 3)}) names a photo below {images} "
            f"(there: {listed(index.paths, 3)}); check data.images and data.id"
        )
    if missing:
        log.warning(
            "Left out %d IDs without one file of theirs below %s: %s",
            len(missing),
            images,
            listed(missing, 10),
        )
    if reader.unknown:
        known = list(reader.kind_of)
        first = next(iter(reader.unknown))
        shown = listed((f"'{label}' ({count} rows)" for label, count in reader.unknown.most_common()), 10)
        raise InputError(
            f"{csv_path}: unknown labels {shown}; '{first}': {did_you_mean(first, known)}; "
            "correct the table or add them to data.components or data.defects"
        )
    if reader.routed:
        log.warning(
            "Labels that stood in the other kind's column: %s",
            listed((f"{what} ({count} rows)" for what, count in reader.routed.most_common()), 20),
        )
    if unlabelled := sum(not any(found.values()) for found in labels.values()):
        log.warning("Left out %d photos whose rows carry placeholders only: they are unlabelled", unlabelled)
    if unnamed := len(index.paths) - len(labels):
        log.info("%d photos below %s stand in no row", unnamed, images)


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
        encoding: of the file; null: UTF-8 (with or without BOM), else Windows-1252.
        components: known components, or null; with `defects` it routes labels that stand in the wrong column,
            and makes any other label an error.
        defects: known defects, or null.
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
        components: list[str] | None = None,
        defects: list[str] | None = None,
        **common,
    ):
        super().__init__(**common)
        if not (csv or root):
            raise InputError(
                "data.csv is not set: name the table and the photos, data.csv=... data.images=..."
            )
        self.csv = Path(csv).expanduser() if csv else Path(root).expanduser() / "image_data.csv"
        if images:
            self.images = Path(images).expanduser()
        else:
            base = Path(root).expanduser() if root else self.csv.parent
            self.images = base / "images" if (base / "images").is_dir() else base
        self.id, self.columns, self.separator = id, columns, separator
        self.delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter) if delimiter else None
        self.encoding = encoding
        known = components or defects
        self.vocabulary = {"component": components or [], "defect": defects or []} if known else {}

    def read(self) -> Source:
        """Read the table; see `read_table`."""
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
