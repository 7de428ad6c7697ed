"""Scores -> decisions and the rows of `predictions.csv`.

All values are strings made here, so that the same scores give the same bytes. Confidences have 4 decimals,
probabilities 6; averages are taken before rounding.

Lists are joined by `;`, which no label contains, and a confidence is written `Label:0.1234`. A label may
contain `:`; the number comes after the last one (`text.rpartition(":")`).
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from src.decisions.routing import asked, reason
from src.errors import InputError
from src.labels import NO_PROMISE, LabelSpace, apply_thresholds

RUN = re.compile(r"'*[=+\-@\t\r]")  # the begin of a cell that a spreadsheet runs, or that was kept from it
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
PLACES = {"photo": ("path",), "text": ("text",), "both": ("path", "text")}  # columns, by what is predicted


def columns(
    task: str, labels: LabelSpace, probabilities: bool = False, tiles: bool = False, reads: str = "photo"
) -> list[str]:
    """Return the columns of `predictions.csv` in order.

    Args:
        task: `dual_head`, `multiclass` or `multilabel`.
        labels: The label space; its kinds name columns.
        probabilities: Whether a column `p:<label>` for each label is appended.
        tiles: Whether there is a column `tiles`, the view that carried each label.
        reads: A key of `PLACES`: what the model predicts.

    Raises:
        InputError: for a kind whose name makes two columns alike.
    """
    if task == "multilabel":
        names = [f"{kind}s" for kind in labels.kinds] + [f"{kind}s_confidence" for kind in labels.kinds]
        names += [f"avg_{kind}_confidence" for kind in labels.kinds] + ["overall_avg_confidence"]
    elif task == "dual_head":
        names = [name for kind in labels.kinds for name in (kind, f"{kind}_confidence")]
        names += ["average_confidence", "prediction", "pair_confidence"]
    else:
        names = ["label", "confidence"]
    names = ["ID", *names, *PLACES[reads], "status", "error", "review", "review_reason"]
    names += ["tiles"] if tiles else []
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"two columns of predictions.csv would be named '{twice[0]}': rename that kind of labels"
        )
    return names + [f"p:{label}" for label in labels.names if probabilities]


def number_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return the columns that hold a single number, with their type in Parquet; all others are strings.

    Args:
        columns: from `columns`; their places tell the lists of `multilabel` from its averages.
    """
    end = columns.index("path" if "path" in columns else "text")
    numbers = [name for name in columns[:end] if name.endswith("confidence")]
    if "overall_avg_confidence" in numbers:
        numbers = columns[1 + 2 * ((end - 2) // 3) : end]
    probabilities = [name for name in columns[end:] if name.startswith("p:")]
    return dict.fromkeys(numbers, "double") | dict.fromkeys(probabilities, "float")


def decide(
    task: str, labels: LabelSpace, scores: np.ndarray, thresholds: np.ndarray | None = None
) -> dict[str, list[str]]:
    """Return the predicted labels of each kind for one photo.

    Args:
        task: For `multilabel` every label at or above its threshold, in the order of the label space; for
            heads the most probable label of each kind, the first of equal ones.
        labels: The label space.
        scores: Probabilities of shape `[labels]`.
        thresholds: Shape `[labels]`, for `multilabel`.
    """
    scores = np.asarray(scores, np.float32)
    if task == "multilabel":
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
    views: Sequence[str] = (),
    low: np.ndarray | None = None,
    text: str | None = None,
    reads: str = "photo",
) -> dict[str, str]:
    """Return one row of `predictions.csv`: a string for every name in `columns`.

    Args:
        task: `dual_head`, `multiclass` or `multilabel`.
        labels: The label space.
        id_: ID of the photo.
        path: POSIX path of the photo.
        scores: Probabilities of shape `[labels]`, with `views` followed by the number of the view that
            carried each label; None where the photo could not be read.
        thresholds: Shape `[labels]`, for `multilabel`.
        error: Why the photo could not be read. The row then has `status=error` and no label; so has a photo
            whose scores are NaN or infinite.
        probabilities: Whether to add `p:<label>` for each label.
        views: The names of a photo's views, for a model that sees tiles.
        low: Limits `[labels]` below which labels are absent, from `routing.limits_at`; None, or no
            promise for any label: nobody is asked.
        text: The text that was predicted, or the note that goes with the photo.
        reads: As for `columns`.
    """
    if not error and not np.isfinite(scores).all():
        error = "the model's scores are not finite"
    values = dict.fromkeys(columns(task, labels, probabilities, bool(views), reads), "")
    place = {name: {"path": path, "text": text or ""}[name] for name in PLACES[reads]}
    values |= {"ID": id_, **place, "status": "error" if error else "ok"}
    if error:
        return values | {"error": " ".join(error.split())}
    scores, carriers = np.split(np.asarray(scores, np.float64), [len(labels)])
    chosen = decide(task, labels, scores, thresholds)
    confidence = {
        kind: [float(scores[labels.position(name)]) for name in names] for kind, names in chosen.items()
    }
    fill = {"multilabel": _multilabel, "dual_head": _dual_head, "multiclass": _multiclass}[task]
    values |= fill(chosen, confidence)
    if low is not None and (low < NO_PROMISE).any():
        sent = asked(scores, low, labels, thresholds)
        values |= {"review": "yes" if sent.any() else "no", "review_reason": reason(sent, scores, labels)}
    if views:
        names = [name for found in chosen.values() for name in found]
        values["tiles"] = ";".join(f"{name}:{views[int(carriers[labels.position(name)])]}" for name in names)
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
        "pair_confidence": f"{math.prod(p[0] for p in confidence.values()):.4f}",
    }


def _multiclass(chosen: dict[str, list[str]], confidence: dict[str, list[float]]) -> dict[str, str]:
    """Return the one label and its confidence."""
    (names,), (values,) = chosen.values(), confidence.values()
    return {"label": names[0], "confidence": f"{values[0]:.4f}"}


def kept_from_running(cell: object) -> object:
    """Return a cell of a CSV with `'` before text that a spreadsheet would run; numbers stay numbers."""
    runs = isinstance(cell, str) and RUN.match(cell) and not NUMBER.fullmatch(cell)
    return f"'{cell}" if runs else cell


def as_written(cell: str) -> str:
    """Return the text that `kept_from_running` was given."""
    return cell[1:] if cell.startswith("'") and RUN.match(cell) else cell
