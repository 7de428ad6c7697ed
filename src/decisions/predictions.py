"""Scores -> the rows of `predictions.csv`, and the file itself.

All values are strings made here, so that the same scores give the same bytes. Confidences have 4 decimals,
probabilities 6; averages are taken before rounding.

Lists are joined by `;`, which no label contains, and a confidence is written `Label:0.1234`. A label may
contain `:`; the number stands behind the last one (`text.rpartition(":")`).
"""

import csv
import errno
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.decisions.thresholds import apply_thresholds
from src.errors import InputError, did_you_mean, reason
from src.labels import TASKS, LabelSpace

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def columns(task: str, labels: LabelSpace, probabilities: bool = False) -> list[str]:
    """Return the columns of `predictions.csv` in order.

    Args:
        task: `dual_head`, `multiclass` or `multilabel`.
        labels: The label space; its kinds name columns.
        probabilities: Whether a column `p:<label>` for each label is appended.

    Raises:
        InputError: for an unknown task, several kinds in `multiclass`, or a kind whose name makes two columns
            alike.
    """
    _check(task, labels)
    if task == "multilabel":
        names = [f"{kind}s" for kind in labels.kinds] + [f"{kind}s_confidence" for kind in labels.kinds]
        names += [f"avg_{kind}_confidence" for kind in labels.kinds] + ["overall_avg_confidence"]
    elif task == "dual_head":
        names = [name for kind in labels.kinds for name in (kind, f"{kind}_confidence")]
        names += ["average_confidence", "prediction"]
    else:
        names = ["label", "confidence"]
    names = ["ID", *names, "path", "status", "error"]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            f"two columns of predictions.csv would be named '{twice[0]}': rename that kind of labels"
        )
    return names + [f"p:{label}" for label in labels.names if probabilities]


def decide(
    task: str, labels: LabelSpace, scores: np.ndarray, thresholds: np.ndarray | None = None
) -> dict[str, list[str]]:
    """Return the predicted labels of each kind for one photo.

    Args:
        task: For `multilabel` every label at or above its threshold, in the order of the label space; for
            heads the most probable label of each kind, the first of equal ones.
        labels: The label space.
        scores: Probabilities of shape `[labels]`.
        thresholds: Shape `[labels]`; needed for `multilabel` and not used elsewhere.

    Raises:
        InputError: for an unknown task.
        ValueError: for shapes that do not fit, or `multilabel` without thresholds.
    """
    _check(task, labels)
    scores = np.asarray(scores, np.float32)
    if scores.shape != (len(labels),):
        raise ValueError(f"scores {scores.shape} of a photo must be [{len(labels)}], one for each label")
    if task == "multilabel":
        if thresholds is None:
            raise ValueError("multilabel decisions need a threshold for each label")
        return labels.decode(apply_thresholds(scores, thresholds))
    return {kind: [names[scores[labels.slices[kind]].argmax()]] for kind, names in labels.kinds.items()}


def row(
    task: str,
    labels: LabelSpace,
    id_: str,
    path: str,
    scores: np.ndarray | None,
    thresholds: np.ndarray | None = None,
    error: str = "",
    probabilities: bool = False,
) -> dict[str, str]:
    """Return one row of `predictions.csv`: a string for every name in `columns`.

    Args:
        task: `dual_head`, `multiclass` or `multilabel`.
        labels: The label space.
        id_: ID of the photo.
        path: POSIX path of the photo.
        scores: Probabilities of shape `[labels]`; None where the photo could not be read.
        thresholds: Shape `[labels]`; needed for `multilabel`.
        error: Why the photo could not be read. The row then has `status=error` and no label, whatever the
            scores; so has a photo whose scores are NaN or infinite.
        probabilities: Whether to add `p:<label>` for each label.

    Raises:
        InputError: as `columns`.
        ValueError: as `decide`, or for neither scores nor an error.
    """
    if scores is None and not error:
        raise ValueError(f"photo {id_} has neither scores nor an error")
    if not error and not np.isfinite(scores).all():
        error = "the model's scores are not finite"
    values = dict.fromkeys(columns(task, labels, probabilities), "")
    values |= {
        "ID": id_,
        "path": path,
        "status": "error" if error else "ok",
        "error": " ".join(error.split()),
    }
    if error:
        return values
    scores = np.asarray(scores, np.float64)
    chosen = decide(task, labels, scores, thresholds)
    confidence = {
        kind: [float(scores[labels.position(name)]) for name in names] for kind, names in chosen.items()
    }
    fill = {"multilabel": _multilabel, "dual_head": _dual_head, "multiclass": _multiclass}[task]
    values |= fill(chosen, confidence)
    if probabilities:
        values |= {f"p:{name}": f"{p:.6f}" for name, p in zip(labels.names, scores, strict=True)}
    return values


def _multilabel(chosen: dict[str, list[str]], confidence: dict[str, list[float]]) -> dict[str, str]:
    """Return lists of labels and confidences, and their averages, empty where nothing is predicted."""
    values, averages = {}, []
    for kind, names in chosen.items():
        pairs = zip(names, confidence[kind], strict=True)
        values[f"{kind}s"] = ";".join(names)
        values[f"{kind}s_confidence"] = ";".join(f"{name}:{p:.4f}" for name, p in pairs)
        if names:
            averages.append(sum(confidence[kind]) / len(names))
            values[f"avg_{kind}_confidence"] = f"{averages[-1]:.4f}"
    values["overall_avg_confidence"] = f"{sum(averages) / len(averages):.4f}" if averages else ""
    return values


def _dual_head(chosen: dict[str, list[str]], confidence: dict[str, list[float]]) -> dict[str, str]:
    """Return the label and confidence of each kind, and both in one word."""
    values = {}
    for kind, names in chosen.items():
        values |= {kind: names[0], f"{kind}_confidence": f"{confidence[kind][0]:.4f}"}
    average = sum(p[0] for p in confidence.values()) / len(confidence)
    words = [names[0] for names in chosen.values()]
    return values | {
        "average_confidence": f"{average:.4f}",
        "prediction": "_".join([*words, f"{average:.2f}"]),
    }


def _multiclass(chosen: dict[str, list[str]], confidence: dict[str, list[float]]) -> dict[str, str]:
    """Return the one label and its confidence."""
    (names,), (values,) = chosen.values(), confidence.values()
    return {"label": names[0], "confidence": f"{values[0]:.4f}"}


def _check(task: str, labels: LabelSpace) -> None:
    """Refuse an unknown task, and `multiclass` with several kinds."""
    if task not in TASKS:
        raise InputError(f"unknown task '{task}': {did_you_mean(str(task), TASKS)}")
    if task == "multiclass" and len(labels.kinds) != 1:
        raise InputError(f"multiclass has one kind of labels, not {len(labels.kinds)}: use dual_head")


@dataclass(frozen=True)
class Kept:
    """What an earlier call left in a file: its first rows and, behind them, the offset in bytes."""

    rows: int
    end: int


class PredictionWriter:
    """Write rows to a CSV file as they come; what is in the file is always whole rows.

    UTF-8, LF at line ends, quotes only where needed; a file name that is not valid Unicode is written with
    backslash escapes. On a full disk the file is cut after the last whole row and stays usable.

    Args:
        path: The file, replaced if it exists; missing folders are made.
        columns: The header, from `columns`.
        kept: Rows of an earlier call to go on behind; what follows them in the file is cut.
        cure: What to do when the disk refuses, for the message.

    Raises:
        InputError: if the file cannot be opened or written; the message says how many rows it holds.
    """

    def __init__(
        self, path: str | Path, columns: Iterable[str], kept: Kept | None = None, cure: str | None = None
    ):
        self.path, self.cure = Path(path), cure
        self.columns = list(columns)
        self.kept = kept
        self.rows = kept.rows if kept else 0  # whole rows in the file, without the header
        self._file = None
        self._end = kept.end if kept else 0  # bytes of the header and of all whole rows

    def __enter__(self) -> "PredictionWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "r+b" if self.kept else "wb", buffering=0)
            if self.kept:
                self._file.truncate(self._end)
                self._file.seek(self._end)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {reason(error)}") from None
        if not self.kept:
            self._append(self.columns)
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            if exception == (None, None, None):
                raise self._failure(error) from None

    def write(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Append rows, each of them in the file when this returns.

        Raises:
            InputError: if the disk is full or writing fails otherwise.
            KeyError: if a row lacks a column.
        """
        for values in rows:
            self._append([values[column] for column in self.columns])
            self.rows += 1

    def _append(self, values: list[str]) -> None:
        """Write one line; on failure cut the file to the last whole one and close it."""
        line = memoryview(csv_line(values))
        size = len(line)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):  # a device cannot be cut
                os.ftruncate(self._file.fileno(), self._end)
            with suppress(OSError):
                self._file.close()
            raise self._failure(error) from None
        self._end += size

    def _failure(self, error: OSError) -> InputError:
        """Return the one line that says what stopped the writing and what the file holds."""
        cure = f"; {self.cure}" if self.cure else ""
        return InputError(f"{write_failure(error)}: {self.rows} rows kept in {self.path}{cure}")


def write_failure(error: OSError) -> str:
    """Return why something could not be written, in a few words: a full disk is named as that."""
    cause = "disk full" if error.errno in _FULL else "cannot write"
    return f"{cause} ({error.strerror or error})"


def csv_line(values: Iterable[str]) -> bytes:
    """Return one line of `predictions.csv`, with its line end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "backslashreplace")


def read_lines(file: BinaryIO) -> Iterator[tuple[list[str], int]]:
    """Yield the values of each whole line of a `predictions.csv`, the header too, and the offset behind it.

    A torn last line, as a kill leaves it, is left out. Memory does not grow with the file.

    Raises:
        csv.Error: for lines that are no CSV.
    """
    end, exhausted = 0, False

    def texts() -> Iterator[str]:
        nonlocal end, exhausted
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            yield line.decode("utf-8", "backslashreplace")
        exhausted = True

    reader = csv.reader(texts(), strict=True)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error:
            if exhausted:  # torn behind a line end within quotes
                return
            raise
        yield values, end
