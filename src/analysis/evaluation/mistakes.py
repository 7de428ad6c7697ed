"""Photos with wrong decisions, worst first: from scores, or from a run's `predictions.csv`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from src.analysis.evaluation.scored import Scored
from src.files import write_csv
from src.runs import RunFolder

SURE = 0.8  # a wrong decision above it is a sure one
COLUMNS = ("file", "true_label", "predicted_label", "confidence", "kind")
TABLES = ("misclassified_samples", "high_confidence_errors", "low_confidence_errors")

Confidences = dict[str, float | None]  # {label: confidence}, None where it is not known
Row = tuple[str, str, str, float | None, str]  # of `COLUMNS`


@dataclass(frozen=True)
class Mistake:
    """One photo with a wrong decision.

    Attributes:
        path: of the photo; of a text by itself that text.
        predicted: `{kind: {label: confidence}}`; None where no confidence is known.
        true: `{kind: (label, ...)}`; a kind without a label is left out in a task with heads.
        wrong: number of wrong labels: falsely predicted or missed (multilabel), or wrong kinds (heads).
        confidence: the highest confidence of a wrong one, 0 where none is known.
        missed: of missed labels (multilabel), the confidence that they are absent.
        tiles: `Label:r1c2;...`, the view that carried each predicted label; empty for a model without tiles.
    """

    photo: str
    path: str
    predicted: Mapping[str, Confidences]
    true: Mapping[str, tuple[str, ...]]
    wrong: int
    confidence: float
    missed: Confidences = field(default_factory=dict)
    tiles: str = ""


def compared(run: RunFolder) -> tuple[list[Mistake], int]:
    """Compare the predictions with the test split.

    Returns photos with a wrong decision, in the order of `ranked`, and the number of compared photos.
    """
    truth = run.splits.get("test")
    if truth is None or "ID" not in truth:
        return [], 0
    known = {row["ID"]: row for row in truth.to_dict("records")}
    rows = run.predictions.to_dict("records")
    rows = [row for row in rows if row["ID"] in known and row.get("status") != "error"]
    judged = [_judged_row(run, row, known[row["ID"]]) for row in rows]
    return ranked(judged, run.task == "multilabel"), len(judged)


def ranked(judged: Sequence[Mistake], multilabel: bool) -> list[Mistake]:
    """Return the photos with a wrong decision, worst first.

    Heads are ordered by the confidence of the wrong label, multilabel by the number of wrong labels and then
    by the highest confidence of a wrong one. Ties are in the order of paths.
    """
    mistakes = [mistake for mistake in judged if mistake.wrong]
    return sorted(mistakes, key=lambda m: (-m.wrong if multilabel else 0, -m.confidence, m.path, m.photo))


def mistakes_of(scored: Scored) -> list[Mistake]:
    """Return the photos with a wrong decision, in the order of `ranked`."""
    labels, found = scored.labels, []
    for i in np.flatnonzero((scored.decided != scored.truth).any(1)):
        rounded = np.round(scored.scores[i].astype(np.float64), 4)  # as in `predictions.csv`
        score = dict(zip(labels.names, rounded.tolist(), strict=True))
        said = labels.decode(scored.decided[i])
        predicted = {kind: {name: score[name] for name in names} for kind, names in said.items()}
        true = {kind: tuple(names) for kind, names in labels.decode(scored.truth[i]).items()}
        absent = {name: 1 - value for name, value in score.items()}
        place = scored.ids[i], scored.paths[i]
        found.append(_judged(*place, predicted, true, absent if scored.multilabel else None))
    return ranked(found, scored.multilabel)


def _judged_row(run: RunFolder, row: dict, known: dict) -> Mistake:
    true = {kind: tuple(run.labels(known, kind)) for kind in run.classes}
    absent = None
    if run.task == "multilabel":
        predicted = {kind: _several_labels(row, kind) for kind in run.classes}
        # a missed label counts with its absence, where the table holds all probabilities
        columns = {name: _number(row.get(f"p:{name}")) for names in run.classes.values() for name in names}
        absent = {name: None if value is None else 1 - value for name, value in columns.items()}
    else:
        confidences = {kind: row.get(f"{kind}_confidence", row.get("confidence")) for kind in run.classes}
        predicted = {k: {row[k]: _number(text)} if row.get(k) else {} for k, text in confidences.items()}
    path = row.get("path") or row.get("text") or known.get("path", "")
    return _judged(row["ID"], path, predicted, true, absent, row.get("tiles") or "")


def _judged(
    photo: str,
    path: str,
    predicted: Mapping[str, Confidences],
    true: Mapping[str, tuple[str, ...]],
    absent: Confidences | None,
    tiles: str = "",
) -> Mistake:
    """Compare a photo's decisions with its labels; `absent`: confidence of each absence (multilabel)."""
    missed: Confidences = {}
    if absent is not None:
        said = {label: value for labels in predicted.values() for label, value in labels.items()}
        wrong = [label for kind in true for label in set(predicted[kind]) ^ set(true[kind])]
        missed = {label: absent.get(label) for label in wrong if label not in said}
        values = [missed[label] if label in missed else said[label] for label in wrong]
    else:
        true = {kind: labels for kind, labels in true.items() if labels}
        wrong = [kind for kind in true if not set(predicted[kind]) & set(true[kind])]
        values = [value for kind in wrong for value in predicted[kind].values()]
    highest = max((value or 0.0 for value in values), default=0.0)
    return Mistake(photo, path, predicted, true, len(wrong), highest, missed, tiles)


def _several_labels(row: dict, kind: str) -> Confidences:
    entries = (entry.rpartition(":") for entry in row.get(f"{kind}s_confidence", "").split(";"))
    found = {name: _number(value) for name, _, value in entries}
    return {name: found.get(name) for name in row.get(f"{kind}s", "").split(";") if name}


def _number(text: str | None) -> float | None:
    """Return a cell's number; empty cells and words have none."""
    try:
        return float(text or "")
    except ValueError:
        return None


def error_rows(mistakes: Sequence[Mistake]) -> dict[str, list[Row]]:
    """Return the rows of each of `TABLES`: all wrong labels, those of a confidence above `SURE`, others.

    In multilabel a missed label has no prediction, and the confidence of its absence; a false alarm has no
    true label. One of each, of one kind, are one row.
    """
    rows = [row for mistake in mistakes for row in _rows(mistake)]
    sure = [row for row in rows if row[3] is not None and row[3] > SURE]
    unsure = [row for row in rows if row[3] is not None and row[3] <= SURE]
    return dict(zip(TABLES, (rows, sure, unsure), strict=True))


def write_errors(mistakes: Sequence[Mistake], folder: Path) -> None:
    """Write the wrong decisions as tables, worst photos first."""
    for name, rows in error_rows(mistakes).items():
        write_csv(folder / f"{name}.csv", pd.DataFrame(rows, columns=list(COLUMNS)), "%.4f")


def _rows(mistake: Mistake) -> Iterator[Row]:
    """Yield a row per wrong label: of a head the true and the predicted one, in multilabel one of them."""
    for kind, true in mistake.true.items():
        false = {name: sure for name, sure in mistake.predicted[kind].items() if name not in true}
        missed = [name for name in true if name not in mistake.predicted[kind]]
        pairs = zip(missed, false, strict=True) if len(missed) == len(false) == 1 else ()
        for name, said in pairs or [*((name, "") for name in missed), *(("", said) for said in false)]:
            yield mistake.path, name, said, false[said] if said else mistake.missed.get(name), kind
