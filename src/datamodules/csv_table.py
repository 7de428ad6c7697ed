"""Delimited text from spreadsheets and annotation tools: encodings, delimiters, quotes."""

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
        delimiter: between columns; None: the one that gives the header most columns.
        encoding: of the file; None: detected.
        key: the config key that named the file, for messages.
        allow_empty: whether a header without rows is a table too.

    Returns:
        a frame of `str` cells without missing values ("007", "NA" and "" stay as they are); names trimmed,
        columns without a name left out. Its index is the number of the row in a spreadsheet: the header is 1,
        blank rows count.

    Raises:
        InputError: no such file, empty, not decodable, not a table, a row with more cells than the header,
            two columns of one name.
    """
    frame, _ = read_with_delimiter(path, delimiter, encoding, key)
    if frame.empty and not allow_empty:
        raise InputError(f"{key}={path}: a header and no rows")
    return frame.loc[:, frame.columns != ""]


def read_with_delimiter(
    path: Path, delimiter: str | None, encoding: str | None, key: str = "data.csv"
) -> tuple[pd.DataFrame, str]:
    """Return a table with its columns without a name, and its delimiter; see `read_csv`."""
    text = _decode(_content(path, key), encoding, f"{key}={path}")
    try:
        delimiter = delimiter or _detect(text)
        lines = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
        )
        rows = {n: cells for n, cells in enumerate(lines, 1) if any(cell.strip() for cell in cells)}
    except (csv.Error, TypeError, ValueError) as error:
        raise InputError(f"{key}={path}: not a table ({error}); see its quotes and delimiter") from error
    if not rows:
        raise InputError(f"{key}={path}: the file is empty")
    header = [name.strip() for name in rows.pop(next(iter(rows)))]
    width = len(header)
    for number, cells in rows.items():
        if any(cell.strip() for cell in cells[width:]):
            raise InputError(
                f"{key}={path}, row {number}: {len(cells)} cells under a header of {width}: "
                f"a cell that holds {delimiter!r} needs quotes"
            )
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise InputError(f"{key}={path}: several columns are named {listed(twice)}: rename all but one")
    cells = [row[:width] + [""] * (width - len(row)) for row in rows.values()]
    return pd.DataFrame(cells, index=list(rows), columns=header, dtype=object), delimiter


def _content(path: Path, key: str) -> bytes:
    """Read the file that `key` names; an `InputError` where that is not possible."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        tables = [p.name for p in path.parent.glob("*") if p.suffix.lower() in (".csv", ".tsv")]
        hint = f"; tables next to it: {listed(nearest(path.name, sorted(tables)), 5)}" if tables else ""
        raise InputError(f"{key}={path}: no such file{hint}") from error
    except OSError as error:
        raise InputError(f"{key}={path}: {(error.strerror or 'cannot be read').lower()}") from error


def _decode(content: bytes, encoding: str | None, where: str) -> str:
    """Return the text: in the encoding named, else UTF-16 with a mark, UTF-8 or Windows-1252."""
    cure = "save it as UTF-8, or name the encoding of a table of labels with data.encoding="
    utf_16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    candidates = [encoding] if encoding else ["utf-16"] if utf_16 else ["utf-8", "cp1252"]
    for name in candidates:
        try:
            text = content.decode(name).removeprefix("\ufeff")
        except (UnicodeError, LookupError):
            continue
        if "\0" in text:
            raise InputError(f"{where}: not a text file, or UTF-16 without a mark; {cure}")
        if name == "cp1252" and not encoding:
            log.info("%s is not UTF-8: read as Windows-1252", where)
        return text
    raise InputError(f"{where}: not text in {' or '.join(candidates)}; {cure}")


def _detect(text: str) -> str:
    """Return the delimiter that cuts the first line into the most columns."""

    def columns(delimiter: str) -> int:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        return len(next((row for row in reader if any(cell.strip() for cell in row)), ()))

    best = max(DELIMITERS, key=columns)
    return best if columns(best) > 1 else NO_DELIMITER


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
