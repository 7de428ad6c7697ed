"""Texts and their IDs in a table. No torch."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from src.datamodules.csv_table import pick_column, read_csv
from src.datamodules.records import PhotoIndex

TEXT_COLUMNS = ("text", "note", "notes", "comment", "remark", "description", "sentence")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Return a text in composed letters, in one line: control characters and runs of blanks are one blank."""
    return " ".join(CONTROL.sub(" ", unicodedata.normalize("NFC", text)).split())


def read_texts(frame: pd.DataFrame, text: str, id_: str | None) -> list[tuple[str, str]]:
    """Return `(ID, text)` of each row of a table; without a column of IDs that is the row's number."""
    width = len(str(max(frame.index, default=0)))
    ids = frame[id_].str.strip() if id_ else [f"{row:0{width}}" for row in frame.index]
    return list(zip(ids, map(clean_text, frame[text]), strict=True))


def texts_by_id(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return `{ID: text}` without empty texts; several texts of one ID are joined."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for id_, text in pairs:
        if id_ and text:
            found[id_][text] = None
    return {id_: " / ".join(texts) for id_, texts in found.items()}


def find_text_columns(
    frame: pd.DataFrame, path: Path, text: str | None = None, id_: str | None = None, key: str = "data.text"
) -> tuple[str, str | None]:
    """Return the names of the columns of texts and, if there is one, of IDs."""
    column = pick_column(frame, text, TEXT_COLUMNS, path, key)
    there = any(name.casefold() == "id" for name in frame.columns)
    ids = pick_column(frame, id_, ("ID",), path, "data.id") if id_ or there else None
    return column, ids


def read_notes(path: Path, key: str, column: str | None = None) -> dict[str, str]:
    """Return `{ID: text}` of a table with a column of IDs; `key` is the config key that named it."""
    frame = read_csv(path, key=key, names=(column,) if column else TEXT_COLUMNS)
    text, _ = find_text_columns(frame, path, column, key="")
    return texts_by_id(read_texts(frame, text, pick_column(frame, None, ("ID",), path, "")))


def notes_by_path(notes: Iterable[str], id_of: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return `{path: ID of its note}` of the photos, `{path: ID}`, that the IDs of notes mean.

    An ID means the photo of that ID, else the only one whose path or file name it is.
    """
    path_of, index = {id_: path for path, id_ in id_of.items()}, PhotoIndex(root, id_of)
    found: dict[str, str] = {}
    for id_ in notes:
        paths = [path_of[id_]] if id_ in path_of else index.find(id_)
        if len(paths) == 1:
            found.setdefault(paths[0], id_)
    return found
