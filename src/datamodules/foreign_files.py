"""Files that are no CSV although one was meant: workbooks, databases, archives, JSON, pages."""

import re

from src.errors import InputError

SAVE = "save it as CSV UTF-8"
EXPORT = "export a CSV from it"
BINARIES = (  # first bytes, bytes further on, kind, cure
    (b"PK\x03\x04", b"opendocument", "an OpenDocument spreadsheet", SAVE),
    (b"PK\x03\x04", b"Index/Document.iwa", "a Numbers spreadsheet", EXPORT),
    (b"PK\x03\x04", b"[Content_Types].xml", "an Excel workbook", SAVE),
    (b"PK\x03\x04", b"xl/", "an Excel workbook", SAVE),
    (b"PK\x03\x04", b"", "a ZIP archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0", b"", "an Excel workbook of the old format", SAVE),
    (b"PAR1", b"", "a Parquet file", EXPORT),
    (b"ARROW1", b"", "a Feather file", EXPORT),
    (b"SQLite format 3\0", b"", "an SQLite database", EXPORT),
    (b"\x89HDF", b"", "an HDF5 file", EXPORT),
    (b"\x1f\x8b", b"", "a gzip file", "unpack it"),
    (b"7z\xbc\xaf", b"", "a 7z archive", "unpack it"),
    (b"%PDF", b"", "a PDF", f"copy its table into a spreadsheet and {SAVE}"),
    (b"\xff\xd8\xff", b"", "a photo", "name the table"),
    (b"\x89PNG", b"", "a photo", "name the table"),
    (b"version https://git-lfs", b"", "a pointer of Git LFS and not the file", "run git lfs pull"),
)


def refuse_binary(content: bytes, where: str) -> None:
    """Refuse the content of another kind of file, told by its first bytes."""
    for begin, within, kind, cure in BINARIES:
        if content.startswith(begin) and within in content:
            raise InputError(f"{where}: not a table of text: this is {kind}: {cure}")


def refuse_markup(text: str, where: str) -> None:
    """Refuse JSON, HTML and XML."""
    begin = text.lstrip()[:5000].lower()
    write = "write a CSV with the columns ID and label"
    if begin.startswith("{") or re.match(r"\[\s*[\[{\"]", begin):
        coco = '"images"' in text and '"annotations"' in text
        kind, cure = "JSON (COCO)" if coco else "JSON", write
    elif re.match(r"<(!doctype html|html|head|body|table|meta|div)\b", begin):
        kind, cure = "a web page (HTML)", f"download the table itself, or open it in a spreadsheet and {SAVE}"
    elif "schemas-microsoft-com:office:spreadsheet" in begin:
        kind, cure = "an Excel workbook as XML", SAVE
    elif re.match(r"<[?!a-z]", begin):
        kind, cure = "XML", write
    else:
        return
    raise InputError(f"{where}: not a table: this is {kind}: {cure}")
