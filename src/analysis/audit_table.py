"""The audit's CSV: one row per suspected label error, and the decisions that a person wrote into it."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.analysis.label_errors import Suspect
from src.datamodules.delimited import read_csv
from src.datamodules.records import Record, label_space, tidy
from src.errors import InputError, did_you_mean, listed
from src.labels import LabelSpace

CONTENT = "content "  # before a digest, which a spreadsheet would else take for a number
GIVEN = "given_"  # before a kind's name: the column of the labels that were judged
WORDS = ("accept", "keep", "exclude", "set A;B")
DONE = re.compile(r"(add|remove) (.+)", re.DOTALL)


@dataclass(frozen=True)
class Decision:
    """What a person decided in one row.

    Attributes:
        row: its number as a spreadsheet shows it; the header is 1.
        path: of the photo, relative to the data root.
        list: the list that the row stands in.
        word: `accept`, `keep`, `exclude` or `set`.
        add: labels that the suggestion adds.
        remove: labels that it removes.
        labels: those after `set`, as they were typed.
        given: `{kind: labels}` of the photo when the audit was made.
        other: of a near duplicate, the photo that it is compared with, as `described` has it.
        comment: the person's.
    """

    row: int
    path: str
    list: str
    word: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    given: Mapping[str, tuple[str, ...]] | None = None
    other: str = ""
    comment: str = ""

    def __str__(self) -> str:
        suggested = f" ({suggestion(self.add, self.remove)})" if self.add or self.remove else ""
        labels = f" {';'.join(self.labels)}" if self.labels else suggested
        return f"row {self.row} says '{self.word}'{labels}"


def judged_labels(records: Sequence[Record], multilabel: bool) -> LabelSpace:
    """Return the label space of all photos.

    Raises:
        InputError: where there is nothing to confuse: one label only, or the same on every photo.
    """
    labels = label_space(records)
    for kind, names in labels.kinds.items():
        if len(names) < 2 and not multilabel:
            raise InputError(f"only one {kind}, '{names[0]}': there is no other to take it for")
    if all(set(labels.names) == set().union(*r.labels.values()) for r in records):
        raise InputError(f"every photo carries the same labels ({listed(labels.names)}): nothing to compare")
    return labels


def encoded(records: Sequence[Record], labels: LabelSpace, multilabel: bool) -> np.ndarray:
    """Return multi-hot targets `[records, labels]`, for heads class indices `[records, kinds]`."""
    encode = labels.encode if multilabel else labels.encode_classes
    return np.stack([encode(record.labels) for record in records])


def suggestion(add: Sequence[str], remove: Sequence[str]) -> str:
    """Return the change as text, such as `remove Drummy; add Leaks`; labels hold no semicolon."""
    return "; ".join([f"remove {label}" for label in remove] + [f"add {label}" for label in add])


def audit_csv(
    records: Sequence[Record],
    labels: LabelSpace,
    suspects: Mapping[str, Sequence[Suspect]],
    nearest: np.ndarray,
) -> bytes:
    """Return the content of `audit.csv`: every list whole, in order, with an empty `decision`.

    Args:
        records: the photos that the suspects' positions name.
        labels: all labels.
        suspects: the lists, each with the most suspicious first.
        nearest: positions of the most similar photos, int `[records, count]`, -1 for none.

    Returns:
        UTF-8 with a mark, by which spreadsheets know it.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    given = [f"{GIVEN}{kind}" for kind in labels.kinds]
    writer.writerow(
        ["list", "rank", "ID", "path", *given, "suggestion", "probability", "other", "nearest", "decision",
         "comment", "photo"]
    )  # fmt: skip
    for name, found in suspects.items():
        for rank, suspect in enumerate(found, 1):
            record = records[suspect.position]
            near = [described(records[i]) for i in nearest[suspect.position].tolist() if i >= 0]
            writer.writerow(
                [
                    name,
                    rank,
                    record.id,
                    record.path,
                    *(";".join(record.labels.get(kind, ())) for kind in labels.kinds),
                    suggestion(suspect.add, suspect.remove),
                    f"{suspect.probability:.4f}",
                    "" if suspect.other is None else described(records[suspect.other]),
                    " | ".join(near),
                    "",
                    "",
                    f"{CONTENT}{record.digest}",
                ]
            )
    return buffer.getvalue().encode("utf-8-sig")


def described(record: Record) -> str:
    """Return a photo's ID and labels in one cell."""
    names = [name for names in record.labels.values() for name in names]
    return f"{record.id} ({', '.join(names) or 'no label'})"


def read_decisions(
    path: Path, records: Sequence[Record], labels: LabelSpace, gone: Mapping[str, str] | None = None
) -> tuple[list[Decision], int]:
    """Read the rows that carry a decision.

    Args:
        path: an `audit.csv`, also one that a spreadsheet saved: sorted, cut, with other columns beside.
        records: the photos, as they are now.
        labels: all labels, as they are now.
        gone: `{path: why}` of photos that are there but are no record.

    Returns:
        the decisions in the order of rows, and how many rows carry none.

    Raises:
        InputError: for a file that is no audit of these photos, an unknown decision, or none at all.
    """
    frame = read_csv(path, key="apply")
    named = {column.casefold(): column for column in frame.columns}
    wanted = ["path", "suggestion", "decision", *(f"{GIVEN}{kind}" for kind in labels.kinds)]
    if lacking := [name for name in wanted if name.casefold() not in named]:
        raise InputError(
            f"apply={path}: not an audit of these photos, as scripts/audit.py writes it with this model=: "
            f"it has no column {listed(lacking)}"
        )
    frame = frame.rename(columns={old: new for new, old in named.items()})
    _check_photos(path, frame, records, gone or {})
    decisions, wrong = [], []
    for row, cells in zip(frame.index.tolist(), frame.to_dict("records"), strict=True):
        if not (text := cells["decision"].strip()):
            continue
        word, *rest = text.split(None, 1)
        if word.casefold() not in ("accept", "keep", "exclude", "set") or (rest and word.casefold() != "set"):
            wrong.append((row, text))
        else:
            decisions.append(_decision(row, cells, list(labels.kinds), f"apply={path}, row {row}"))
    if wrong:
        (row, text), others = wrong[0], [f"row {row} '{text}'" for row, text in wrong[1:]]
        more = f"; likewise {listed(others, 5)}" if others else ""
        raise InputError(f"apply={path}, row {row}: '{text}': {did_you_mean(text, WORDS)}{more}")
    if not decisions:
        raise InputError(
            f"apply={path}: no row has a decision, so there is nothing to apply: write accept, keep, exclude "
            "or set A;B into the column 'decision'"
        )
    return decisions, len(frame) - len(decisions)


def _decision(row: int, cells: Mapping[str, str], kinds: Sequence[str], where: str) -> Decision:
    """Return the decision of a row whose first word is known."""
    word, *rest = cells["decision"].split(None, 1)
    word = word.casefold()
    names = _names("".join(rest))
    add, remove = _parsed_suggestion(cells["suggestion"], where)
    if word == "set" and not names:
        raise InputError(f"{where}: 'set' names no label: write set A;B, or exclude")
    if word == "accept" and not (add or remove):
        raise InputError(f"{where}: there is no suggestion to accept: keep, exclude or set A;B")
    given = {kind: _names(cells[f"{GIVEN}{kind}".casefold()]) for kind in kinds}
    name, other, comment = (cells.get(key, "").strip() for key in ("list", "other", "comment"))
    return Decision(row, cells["path"].strip(), name, word, add, remove, names, given, other, comment)


def _names(cell: str) -> tuple[str, ...]:
    """Return the labels in a cell."""
    return tuple(tidy(name) for name in cell.split(";") if name.strip())


def _check_photos(
    path: Path, frame: pd.DataFrame, records: Sequence[Record], gone: Mapping[str, str]
) -> None:
    """Refuse an audit of other photos, of photos that are gone, and one whose columns slid apart."""
    here = {record.path: record.id for record in records}
    path_of = {id_: path for path, id_ in here.items()}
    paths = [cell.strip() for cell in frame["path"].tolist()]
    decided = [bool(cell.strip()) for cell in frame["decision"].tolist()]
    if not any(name in here or name in gone for name in paths):
        raise InputError(
            f"apply={path}: an audit of other photos: none of its {len(set(paths))} paths (as "
            f"{listed(paths, 2)}) is among these (as {listed(here, 2)})"
        )
    lost = {
        row: f"row {row} {name or '(no path)'} ({gone.get(name, 'no such photo')})"
        for row, name, decision in zip(frame.index.tolist(), paths, decided, strict=True)
        if decision and name not in here
    }
    if lost:
        raise InputError(
            f"apply={path}: {len(lost)} rows decide on photos that are not there now: "
            f"{listed(lost.values(), 20)}; put them back, or empty their decisions"
        )
    digests = {record.path: f"{CONTENT}{record.digest}" for record in records}
    contents = frame["photo"].tolist() if "photo" in frame else [""] * len(frame)
    replaced = [
        f"row {row} {name}"
        for row, name, content, decision in zip(frame.index.tolist(), paths, contents, decided, strict=True)
        if decision and content.strip() and content.strip() != digests[name]
    ]
    if replaced:
        raise InputError(
            f"apply={path}: {len(replaced)} rows decide on photos whose files have changed since the audit: "
            f"{listed(replaced, 20)}; audit again, or empty their decisions"
        )
    ids = frame["id"].tolist() if "id" in frame else [""] * len(frame)
    for row, name, id_, decision in zip(frame.index.tolist(), paths, ids, decided, strict=True):
        other = path_of.get(id_.strip(), name)
        if decision and other != name and not _same(id_.strip(), here[name]):
            raise InputError(
                f"apply={path}, row {row}: ID '{id_.strip()}' is {other}, not {name}: were some columns "
                "sorted without the others?"
            )


def _parsed_suggestion(text: str, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a suggestion adds and removes."""
    found: dict[str, list[str]] = {"add": [], "remove": []}
    for part in (part.strip() for part in text.split(";") if part.strip()):
        match = DONE.fullmatch(part)
        if not match:
            raise InputError(f"{where}: the suggestion '{text.strip()}' has been changed: use set A;B")
        found[match[1]].append(tidy(match[2]))
    return tuple(found["add"]), tuple(found["remove"])


def same_labels(then: Sequence[str], now: Sequence[str]) -> bool:
    """Whether a cell still says the same labels; a spreadsheet may have turned 01 into 1."""
    return len(set(then)) == len(set(now)) and all(any(_same(a, b) for b in now) for a in then)


def _same(cell: str, value: str) -> bool:
    """Whether a cell says a value, be it as a number."""
    if cell == value:
        return True
    try:
        return float(cell) == float(value)
    except ValueError:
        return False
