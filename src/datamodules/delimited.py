"""Delimited text as spreadsheets and annotation tools write it: encodings, delimiters, quoting."""

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
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
        a frame of `str` cells without missing values; names trimmed, columns without a name left out. Its
        index is the number of the row as a spreadsheet shows it: the header is 1, blank rows count.

    Raises:
        InputError: no such file, empty, not decodable, not a table, a row with more cells than the header,
            two columns of one name.
    """
    raw = read_raw(path, delimiter, encoding, key)
    header, rows, numbers = raw.header, raw.cells, raw.numbers
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InputError(f"{key}={path}: several columns are named {listed(twice)}: rename all but one")
    if not rows and not allow_empty:
        raise InputError(f"{key}={path}: a header and no rows")
    frame = pd.DataFrame(rows, columns=header, dtype=object, index=numbers)
    return frame[[name for name in header if name]]


@dataclass(frozen=True)
class RawTable:
    """A delimited file, row by row as it stands.

    Attributes:
        encoding: that writes it again, with its mark.
        delimiter: between columns.
        head: its text up to the end of the header.
        header: the columns' names, trimmed; some may be empty.
        texts: the text of each row, with its line end and the blank lines after it.
        cells: the cells of each row, as many as the header has.
        numbers: of each row, as a spreadsheet shows it: the header is 1, blank rows count.
    """

    encoding: str
    delimiter: str
    head: str
    header: list[str]
    texts: list[str]
    cells: list[list[str]]
    numbers: list[int]


def read_raw(path: Path, delimiter: str | None, encoding: str | None, key: str = "data.csv") -> RawTable:
    """Read a delimited file so that its rows can be written again as they stand; see `read_csv`."""
    content = _content(path, key)
    text, found = _decode(content, encoding, f"{key}={path}", to_choose=key == "data.csv")
    if found == "utf-8" and content.startswith(b"\xef\xbb\xbf"):
        found = "utf-8-sig"
    delimiter = delimiter or _detect(text)
    try:
        return RawTable(found, delimiter, *_rows(text, delimiter, f"{key}={path}"))
    except (csv.Error, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        cure = " and data.delimiter" if key == "data.csv" else ""
        raise InputError(f"{key}={path}: not a table ({error}); see its quotes{cure}") from error


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


def _decode(content: bytes, encoding: str | None, where: str, to_choose: bool) -> tuple[str, str]:
    """Return text and its encoding: the one named, else UTF-16 by its mark, UTF-8 or Windows-1252."""
    cure = "name its encoding with data.encoding=" if to_choose else "save it as UTF-8"
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
            raise InputError(f"{where}: not a text file, or UTF-16 without a mark; {cure}")
        if name == "cp1252" and not encoding:
            log.info("%s is not UTF-8: read as Windows-1252", where)
        return text, name
    raise InputError(f"{where}: not text in {' or '.join(candidates)}; {cure}")


def _detect(text: str) -> str:
    """Return the delimiter that cuts the first line into the most columns."""

    def columns(delimiter: str) -> int:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        return len(next(row for row in reader if any(cell.strip() for cell in row)))

    best = max(DELIMITERS, key=columns)
    return best if columns(best) > 1 else NO_DELIMITER


def _rows(
    text: str, delimiter: str, where: str
) -> tuple[str, list[str], list[str], list[list[str]], list[int]]:
    """Return what `RawTable` has from `head` on; blank lines are no rows."""
    lines: list[str] = []

    def noted() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(noted(), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    texts, cells, numbers = [""], [], []  # the first text is the header's
    for number, row in enumerate(reader, 1):
        raw = "".join(lines)
        lines.clear()
        if not any(cell.strip() for cell in row):
            texts[-1] += raw
            continue
        if not header:
            header = [cell.strip() for cell in row]
            texts[0] += raw
            continue
        if any(cell.strip() for cell in row[len(header) :]):
            raise InputError(
                f"{where}, line {reader.line_num}: {len(row)} cells under a header of {len(header)}: "
                f"a cell that holds {delimiter!r} needs quotes"
            )
        texts.append(raw)
        cells.append(row[: len(header)] + [""] * (len(header) - len(row)))
        numbers.append(number)
    return texts[0], header, texts[1:], cells, numbers


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
