"""Delimited text from spreadsheets and annotation tools: encodings, delimiters, quotes, headers."""

import csv
import io
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd

from src.errors import InputError, listed, nearest
from src.images import EXTENSIONS

log = logging.getLogger(__name__)
ID_COLUMNS = ("ID", "file", "filename", "path", "image", "photo")
DELIMITERS = (",", ";", "\t", "|")
NO_DELIMITER = "\x1f"  # of a table with one column, whose cells may hold any of the above
HEADER_ROWS = 10  # the header is looked for among these
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # and other archives
MARKUP = re.compile(r"\{|\[\s*[\[{\"]|<[?!a-z]", re.IGNORECASE)  # JSON, XML, HTML
SEP_LINE = re.compile(r'"?sep=([^\r\n])"?\1*[^\S\r\n]*(?:\r\n|\r|\n)', re.IGNORECASE)
COMMENT = re.compile(r"^#(?!\S+\.\w+\s*$)[^\r\n]*", re.MULTILINE)  # `#1.jpg` is a photo
FILE_NAME = re.compile(rf"\S({'|'.join(sorted(map(re.escape, EXTENSIONS)))})(?!\w)", re.IGNORECASE)


def read_csv(
    path: Path,
    delimiter: str | None = None,
    encoding: str | None = None,
    key: str = "data.csv",
    allow_empty: bool = False,
    names: Sequence[str] = ID_COLUMNS,
    headless: str = "",
    unnamed: bool = False,
) -> pd.DataFrame:
    """Read a CSV of strings: UTF-8 with or without BOM, UTF-16 with one, else Windows-1252.

    The delimiter is the given one, that of a line `sep=;`, or the one that gives the header most columns. The
    header is the first row that holds one of `names`, after titles and comments; columns without a name are
    kept if `unnamed`, a header without rows if `allow_empty`. A file of one photo's path per line is a table
    with a column named `headless`. `key` is the config key that named the file, for messages.

    Returns:
        a frame of `str` cells without missing values ("007", "NA" and "" stay as they are); names trimmed.
        Its index is the number of the row in a spreadsheet: the header is 1, blank rows count, and a cell
        with line breaks is in one row. `attrs["delimiter"]` is that between its columns.

    Raises:
        InputError: no such file, or no table with a header of unique names.
    """
    where = f"{key}={path}"
    text = _decode(_content(path, key), encoding, where)
    if sep := SEP_LINE.match(text):  # a spreadsheet shows no row for it
        text, delimiter = text[sep.end() :], delimiter or sep[1]
    paths = COMMENT.sub("", text) if path.suffix.lower() == ".txt" else text
    if headless and _is_list(paths):
        rows = dict(_rows(paths, NO_DELIMITER, where))
        return pd.DataFrame([*rows.values()], [*rows], [headless], dtype=object)
    delimiter, begin = _find_header(text, delimiter, names, where)
    rows = {number: cells for number, cells in _rows(text, delimiter, where) if number >= begin}
    if not rows:
        raise InputError(f"{where}: the file is empty")
    header = _names(rows.pop(next(iter(rows))))
    known = {name.casefold() for name in names}
    if known.isdisjoint(map(str.casefold, header)) and _is_data(header, rows.values()):
        columns = "ID,split" if key == "data.split_file" else "ID,label"
        shown = listed(header, 4)
        raise InputError(f"{where}: the first line looks like data ({shown}): add a header, as {columns}")
    if not (rows or allow_empty):
        raise InputError(f"{where}: a header and no rows")
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise InputError(f"{where}: several columns are named {listed(twice)}: rename all but one")
    width = len(header)
    for number, cells in rows.items():
        if any(map(str.strip, cells[width:])):
            cure = f"a cell that holds {delimiter!r} needs quotes"
            raise InputError(f"{where}, row {number}: {len(cells)} cells under a header of {width}: {cure}")
    cells = [row[:width] + [""] * (width - len(row)) for row in rows.values()]
    frame = pd.DataFrame(cells, index=list(rows), columns=header, dtype=object)
    frame.attrs["delimiter"] = delimiter
    return frame if unnamed else frame.loc[:, frame.columns != ""]


def _rows(text: str, delimiter: str, where: str = "") -> Iterator[tuple[int, list[str]]]:
    """Give the rows that are not blank, with their numbers in a spreadsheet; or only those before a fault."""
    number = 0
    try:
        file = io.StringIO(text, newline="")
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may hold a long text
        lines = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=bool(where))
        for number, cells in enumerate(lines, 1):
            if any(cell.strip() for cell in cells):
                yield number, cells
    except (csv.Error, TypeError, ValueError) as error:
        if not where:
            return
        why = "a quote that opens there is not closed, or one within a cell is not doubled"
        raise InputError(f"{where}: not a table from row {number + 1} on: {why} ({error})") from error


def _find_header(text: str, delimiter: str | None, names: Sequence[str], where: str) -> tuple[str, int]:
    """Return the delimiter, and the number of the header's row: the first row with a known name.

    Rows above it are comments, or titles of fewer cells. Without a known name the first row that is no
    comment is the header, and the delimiter the one that cuts it into the most columns.
    """
    known = {name.casefold() for name in names}
    headers, firsts = [], []
    for mark in (delimiter,) if delimiter else DELIMITERS:
        rows = [(n, [*map(str.strip, cells)]) for n, cells in islice(_rows(text, mark), HEADER_ROWS)]
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


def _is_data(header: Sequence[str], rows: Collection[Sequence[str]]) -> bool:
    """Whether a first row is no header: it holds a file's name, a number first, or cells that come again."""
    if header[0].replace(".", "").isdigit() or any(map(FILE_NAME.search, header)):
        return True
    words = {"component", "defect", "label", "labels"}  # placeholders in cells, too
    pairs = {(i, name) for i, name in enumerate(header) if name and name.lower() not in words}
    return any(pair in pairs for row in rows for pair in enumerate(map(str.strip, row)))


def _is_list(text: str) -> bool:
    lines = [line.strip().strip("\"'") for line in text.splitlines() if line.strip()]
    photos = [Path(line).suffix.lower() in EXTENSIONS for line in lines]
    return bool(photos) and photos[0] and 2 * sum(photos) > len(photos)


def _content(path: Path, key: str) -> bytes:
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
    if content.startswith(WORKBOOKS):
        raise InputError(f"{where}: not a table of text, but a workbook or an archive: save it as CSV UTF-8")
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
        if MARKUP.match(begin := text.lstrip()):
            kind = "XML or HTML" if begin[0] == "<" else "JSON"
            raise InputError(f"{where}: not a table: this is {kind}: write a CSV")
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
    if key.startswith("data.columns."):
        kinds = f"name the label columns with data.columns={{{key.rpartition('.')[2]}: COLUMN}}"
        raise InputError(f"{csv_path} has no column '{names[0]}': it has {there}; {kinds}")
    cure = f"name the right one with {key}=" if key else f"rename the right one to '{names[0]}'"
    raise InputError(f"{csv_path} has no column '{names[0]}': it has {there}; {cure}")
