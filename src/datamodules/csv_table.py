"""Delimited text from spreadsheets and annotation tools: encodings, delimiters, quotes, headers."""

import csv
import io
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd

from src.datamodules.foreign_files import refuse_binary, refuse_markup
from src.errors import InputError, listed, nearest
from src.images import EXTENSIONS

log = logging.getLogger(__name__)
ID_COLUMNS = ("ID", "file", "filename", "path", "image", "photo")
DELIMITERS = (",", ";", "\t", "|")
NO_DELIMITER = "\x1f"  # of a table with one column, whose cells may hold any of the above
HEADER_ROWS = 10  # the header is looked for among these
SEP_LINE = re.compile(r'"?sep=([^\r\n])"?\1*[^\S\r\n]*(?:\r\n|\r|\n)', re.IGNORECASE)
FILE_NAME = re.compile(rf"\S({'|'.join(sorted(map(re.escape, EXTENSIONS)))})(?!\w)", re.IGNORECASE)


def read_csv(
    path: Path,
    delimiter: str | None = None,
    encoding: str | None = None,
    key: str = "data.csv",
    allow_empty: bool = False,
    names: Sequence[str] = ID_COLUMNS,
    headless: str = "",
) -> pd.DataFrame:
    """Read a CSV of strings: UTF-8 with or without BOM, UTF-16 with one, else Windows-1252.

    Args:
        path: the file.
        delimiter: between columns; None: of a line `sep=;`, else the one that gives the header most columns.
        encoding: of the file; None: detected.
        key: the config key that named the file, for messages.
        allow_empty: whether a header without rows is a table too.
        names: of columns; the first of ten rows that holds one is the header, after titles and comments.
        headless: a file of one photo's path per line is a table with a column of this name.

    Returns:
        a frame of `str` cells without missing values ("007", "NA" and "" stay as they are); names trimmed,
        columns without a name left out. Its index is the number of the row in a spreadsheet: the header is 1,
        blank rows count, and a cell with line breaks is in one row.

    Raises:
        InputError: no such file, empty, not decodable, not a table, no header, a row with more cells than the
            header, two columns of one name.
    """
    frame, _ = read_with_delimiter(path, delimiter, encoding, key, names, headless)
    if frame.empty and not allow_empty:
        raise InputError(f"{key}={path}: a header and no rows")
    return frame.loc[:, frame.columns != ""]


def read_with_delimiter(
    path: Path,
    delimiter: str | None,
    encoding: str | None,
    key: str = "data.csv",
    names: Sequence[str] = ID_COLUMNS,
    headless: str = "",
) -> tuple[pd.DataFrame, str]:
    """Return a table with its columns without a name, and its delimiter; see `read_csv`."""
    where = f"{key}={path}"
    text = _decode(_content(path, key), encoding, where)
    if sep := SEP_LINE.match(text):  # a spreadsheet shows no row for it
        text, delimiter = text[sep.end() :], delimiter or sep[1]
    if headless and _is_list(text):
        rows = dict(_rows(text, NO_DELIMITER, where))
        return pd.DataFrame([*rows.values()], [*rows], [headless], dtype=object), NO_DELIMITER
    delimiter, begin = _find_header(text, delimiter, names, where)
    rows = {number: cells for number, cells in _rows(text, delimiter, where) if number >= begin}
    if not rows:
        raise InputError(f"{where}: the file is empty")
    header = _names(rows.pop(next(iter(rows))))
    _check_header(header, rows.values(), names, where)
    width = len(header)
    for number, cells in rows.items():
        if any(cell.strip() for cell in cells[width:]):
            raise InputError(
                f"{where}, row {number}: {len(cells)} cells under a header of {width}: "
                f"a cell that holds {delimiter!r} needs quotes"
            )
    cells = [row[:width] + [""] * (width - len(row)) for row in rows.values()]
    return pd.DataFrame(cells, index=list(rows), columns=header, dtype=object), delimiter


def _rows(text: str, delimiter: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Give the rows that are not blank, with their numbers in a spreadsheet."""
    number = line = 0
    try:
        file = io.StringIO(text, newline="")
        lines = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        for number, cells in enumerate(lines, 1):
            line = lines.line_num
            if any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error as error:
        why = f"a quote that opens there is not closed, or a quote in a cell is not doubled ({error})"
        if "field limit" in str(error):
            why = f"a quote that opens there is not closed, or a cell holds a whole file ({error})"
        elif "end of data" not in str(error) and lines.line_num == line + 1:
            why = f"a quote in a quoted cell has to be doubled ({error})"
        raise InputError(f"{where}: not a table from row {number + 1} on: {why}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: not a table ({error}); see its quotes and delimiter") from error


def _first_rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Give the first rows that are not blank, with their numbers; wrong quotes are passed over."""
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows = ((number, [cell.strip() for cell in cells]) for number, cells in enumerate(lines, 1))
        yield from islice(((number, cells) for number, cells in rows if any(cells)), HEADER_ROWS)
    except (csv.Error, TypeError, ValueError):  # told when all rows are read
        return


def _find_header(text: str, delimiter: str | None, names: Sequence[str], where: str) -> tuple[str, int]:
    """Return the delimiter, and the number of the header's row: the first row with a known name.

    Rows above it are comments, or titles of fewer cells. Without a known name the first row that is no
    comment is the header, and the delimiter the one that cuts it into the most columns.
    """
    known = {name.casefold() for name in names}
    headers, firsts = [], []
    for mark in (delimiter,) if delimiter else DELIMITERS:
        rows = list(_first_rows(text, mark))
        plain = [row for row in rows if not row[1][0].startswith("#")] or rows
        firsts += [(-len(cells), number, mark) for number, cells in plain[:1]]
        for i, (number, cells) in enumerate(rows):
            if _is_header(cells, known) and all(_is_title(row, cells) for _, row in rows[:i]):
                headers.append((number, -len(cells), mark, rows[0][0]))
                break
    if headers:
        number, width, mark, first = min(headers, key=lambda header: header[:2])
        if number > first:
            log.info("%s: the header is row %d; the rows above it are left out", where, number)
    else:
        width, number, mark = min(firsts, key=lambda first: first[0], default=(-2, 1, delimiter or ","))
    return (mark if delimiter or width < -1 else NO_DELIMITER), number


def _is_header(cells: Sequence[str], known: Collection[str]) -> bool:
    """Whether a row names columns: one of them is known, and none is a file's name."""
    return not known.isdisjoint(_names(cells, str.casefold)) and not any(map(FILE_NAME.search, cells))


def _is_title(row: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a row above a header is a title or a comment, and no header or data itself."""
    alone = len(header) == 1 and not FILE_NAME.search(row[0])
    return alone or row[0].startswith("#") or sum(map(bool, row)) < sum(map(bool, header))


def _names(cells: Sequence[str], change: Callable[[str], str] = str) -> list[str]:
    """Return the names of columns, without outer blanks and the mark of a comment."""
    first, *others = (cell.strip() for cell in cells)
    return [change(name) for name in (first.lstrip("# ") or first, *others)]


def _check_header(
    header: Sequence[str], rows: Collection[Sequence[str]], names: Sequence[str], where: str
) -> None:
    """Refuse a header that is data, or that names two columns alike."""
    known = {name.casefold() for name in names}
    if known.isdisjoint(map(str.casefold, header)) and _is_data(header, rows):
        columns = "ID,split" if where.startswith("data.split_file") else "ID,label"
        shown = listed(header, 4)
        raise InputError(f"{where}: the first line looks like data ({shown}): add a header, as {columns}")
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise InputError(f"{where}: several columns are named {listed(twice)}: rename all but one")


def _is_data(header: Sequence[str], rows: Collection[Sequence[str]]) -> bool:
    """Whether a first row is no header: it holds a file's name, a number first, or cells that come again."""
    if header[0].replace(".", "").isdigit() or any(map(FILE_NAME.search, header)):
        return True
    pairs = {(i, name) for i, name in enumerate(header) if name}
    return any(pair in pairs for row in rows for pair in enumerate(map(str.strip, row)))


def _is_list(text: str) -> bool:
    """Whether most lines, and the first one, end with a photo's name."""
    lines = [line.strip().strip("\"'") for line in text.splitlines() if line.strip()]
    photos = [Path(line).suffix.lower() in EXTENSIONS for line in lines]
    return bool(photos) and photos[0] and 2 * sum(photos) > len(photos)


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
    refuse_binary(content, where)
    cure = "save it as UTF-8, or name the encoding of a table of labels with data.encoding="
    utf_16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    candidates = [encoding] if encoding else ["utf-16"] if utf_16 else ["utf-8", "cp1252"]
    for name in candidates:
        try:
            text = content.decode(name).removeprefix("\ufeff")
        except (UnicodeError, LookupError):
            continue
        if "\0" in text:
            row = text[: text.index("\0")].count("\n") + 1
            raise InputError(
                f"{where}: not a text file (a zero byte in row {row}), or UTF-16 without a mark; {cure}"
            )
        if name == "cp1252" and not encoding:
            log.info("%s is not UTF-8: read as Windows-1252", where)
        refuse_markup(text, where)
        return text
    raise InputError(f"{where}: not text in {' or '.join(candidates)}; {cure}")


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
