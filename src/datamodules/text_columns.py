"""Texts and their IDs in a table. No torch."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from src.datamodules.csv_table import pick_column, read_csv
from src.datamodules.records import PhotoIndex
from src.errors import InputError
from src.runs import find_checkpoint, run_of

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


def reading_of(run: Path | None) -> dict[str, str]:
    """Return how a run of texts, or the one that a fusion rests on, reads its table.

    Those are the settings `text`, `id`, `encoding` and `delimiter` that are not null.
    """
    config = run / ".hydra" / "config.yaml" if run else None
    data = OmegaConf.load(config).data if config and config.is_file() else {}
    if data.get("note"):
        return reading_of(run_of(find_checkpoint(data.note)))
    return {key: data[key] for key in ("text", "id", "encoding", "delimiter") if data.get(key)}


def read_table_of_texts(
    path: Path, key: str, reading: Mapping[str, str]
) -> tuple[list[tuple[str, str]], bool]:
    """Return `(ID, text)` of each row of a table, and whether it has a column of IDs.

    `reading` is from `reading_of`; a column of it that this table lacks does not count.
    """
    text, id_ = reading.get("text"), reading.get("id")
    known = ((text,) if text else ()) + TEXT_COLUMNS
    frame = read_csv(path, reading.get("delimiter"), reading.get("encoding"), key=key, names=known)
    text, id_ = (name if name in frame.columns else None for name in (text, id_))
    column, ids = find_text_columns(frame, path, text, id_, key="")
    return read_texts(frame, column, ids), ids is not None


def read_notes(path: Path, key: str, reading: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return `{ID: text}` of a table with a column of IDs; `key` is the config key that named it."""
    pairs, has_ids = read_table_of_texts(path, key, reading or {})
    if not has_ids:
        raise InputError(f"{key}={path}: no column 'ID', which says whose note each is: add or rename one")
    return texts_by_id(pairs)


def notes_by_path(notes: Iterable[str], id_of: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return `{path: ID of its note}` of the photos, `{path: ID}`, that the IDs of notes mean.

    An ID means the photo of that ID, else the only one whose path or file name it is.
    """
    notes, index = list(notes), PhotoIndex(root, id_of)
    known = set(notes)
    found = {path: id_ for path, id_ in id_of.items() if id_ in known}
    exact = set(found.values())
    for id_ in (id_ for id_ in notes if id_ not in exact):
        paths = index.find(id_)
        if len(paths) == 1:
            found.setdefault(paths[0], id_)
    return found
