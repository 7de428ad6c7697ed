"""Delimited text as spreadsheets and annotation tools write it: encodings, delimiters, quoting."""

import csv
import io
import logging
from pathlib import Path

import pandas as pd

from src.errors import InputError, listed, nearest

log = logging.getLogger(__name__)
ID_COLUMNS = ("ID", "file", "filename", "path", "image", "photo")
DELIMITERS = (",", ";", "\t", "|")
NO_DELIMITER = "\x1f"  # of a table with one column, whose cells may hold any of the above


def read_csv(
    path: Path,
    delimiter: str | None = None,
    encoding: str | None = None,
    key: str = "data.csv",
    allow_empty: bool = False,
) -> pd.DataFrame:
    """Read a CSV of strings: UTF-8 with or without BOM, UTF-16 with one, else Windows-1252.

    Args:
        path: the file.
        delimiter: what stands between columns; None: what gives the header most columns.
        encoding: of the file; None: detected.
        key: the config key that named the file, for messages.
        allow_empty: whether a header without rows is a table too.

    Returns:
        a frame of `str` cells without missing values; names trimmed, columns without a name left out.

    Raises:
        InputError: no such file, empty, not decodable, not a table, a row with more cells than the header,
            two columns of one name.
    """
    text = _decode(_content(path, key), encoding, f"{key}={path}")
    try:
        header, rows = _rows(text, delimiter or _detect(text), f"{key}={path}")
    except (csv.Error, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{key}={path}: not a table ({error}); see its quotes and data.delimiter") from error
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InputError(f"{key}={path}: several columns are named {listed(twice)}: rename all but one")
    if not rows and not allow_empty:
        raise InputError(f"{key}={path}: a header and no rows")
    frame = pd.DataFrame(rows, columns=header, dtype=object)
    return frame[[name for name in header if name]]


def _content(path: Path, key: str) -> bytes:
    """Read the file that `key` names, or say what is wrong with it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        beside = [p.name for p in path.parent.iterdir() if p.suffix.lower() in (".csv", ".tsv")] \
            if path.parent.is_dir() else []  # fmt: skip
        hint = f"; tables beside it: {listed(nearest(path.name, sorted(beside)), 5)}" if beside else ""
        raise InputError(f"{key}={path}: no such file{hint}") from error
    except OSError as error:
        raise InputError(f"{key}={path}: {(error.strerror or 'cannot be read').lower()}") from error
    if not content.strip():
        raise InputError(f"{key}={path}: the file is empty")
    return content


def _decode(content: bytes, encoding: str | None, where: str) -> str:
    """Return text in the encoding named, else UTF-16 where a mark says so, UTF-8 or Windows-1252."""
    if encoding:
        candidates = [encoding]
    elif content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        candidates = ["utf-16"]
    else:
        candidates = ["utf-8", "cp1252"]
    for name in candidates:
        try:
            text = content.decode(name).removeprefix("\ufeff")
        except (UnicodeError, LookupError):
            continue
        if "\0" in text:
            raise InputError(f"{where}: not a text file, or UTF-16 without a mark (data.encoding=utf-16-le)")
        if name == "cp1252" and not encoding:
            log.info("%s is not UTF-8: read as Windows-1252", where)
        return text
    raise InputError(f"{where}: not text in {' or '.join(candidates)}; name its encoding with data.encoding=")


def _detect(text: str) -> str:
    """Return the delimiter that cuts the first line into the most columns."""

    def columns(delimiter: str) -> int:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        return len(next(row for row in reader if any(cell.strip() for cell in row)))

    best = max(DELIMITERS, key=columns)
    return best if columns(best) > 1 else NO_DELIMITER


def _rows(text: str, delimiter: str, where: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows, all as long as the header; blank lines are passed over."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    header: list[str] = []
    rows = []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        if not header:
            header = [cell.strip() for cell in row]
            continue
        if any(cell.strip() for cell in row[len(header) :]):
            raise InputError(
                f"{where}, line {reader.line_num}: {len(row)} cells under a header of {len(header)}: "
                f"a cell that holds {delimiter!r} needs quotes"
            )
        rows.append(row[: len(header)] + [""] * (len(header) - len(row)))
    return header, rows


def pick_column(
    frame: pd.DataFrame, wanted: str | None, candidates: tuple[str, ...], csv_path: Path, key: str
) -> str:
    """Return the column `wanted`, or the first of `candidates` that is there; else say which there are.

    Letter case counts only where several columns differ in nothing else.
    """
    names = [wanted] if wanted else list(candidates)
    for name in names:
        if name in frame.columns:
            return name
    for name in names:
        alike = [column for column in frame.columns if column.casefold() == name.casefold()]
        if len(alike) == 1:
            return alike[0]
    there = listed(nearest(names[0], frame.columns), 20)
    cure = f"; name the right one with {key}=" if key else ""
    raise InputError(f"{csv_path} has no column '{names[0]}': it has {there}{cure}")
