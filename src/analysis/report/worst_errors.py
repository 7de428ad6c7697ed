"""The test photos with wrong decisions, worst first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from src.files import write_whole
from src.runs import RunFolder

SURE = 0.8  # a wrong decision above it is a sure one
COLUMNS = ("file", "true_label", "predicted_label", "confidence", "kind")

Confidences = dict[str, float | None]  # {label: confidence}, None where it is not known


@dataclass(frozen=True)
class Mistake:
    """One photo with a wrong decision.

    Attributes:
        predicted: `{kind: {label: confidence}}`; None where no confidence is known.
        true: `{kind: (label, ...)}`; a kind without a label is left out in a task with heads.
        wrong: number of wrong labels: falsely predicted or missed (multilabel), or wrong kinds (heads).
        confidence: the highest confidence of a wrong one, 0 where none is known.
        tiles: `Label:r1c2;...`, the view that carried each predicted label; empty for a model without tiles.
    """

    photo: str
    path: str
    predicted: Mapping[str, Confidences]
    true: Mapping[str, tuple[str, ...]]
    wrong: int
    confidence: float
    tiles: str = ""


def compared(run: RunFolder) -> tuple[list[Mistake], int]:
    """Compare the predictions with the test split.

    Returns photos with a wrong decision, worst first, and the number of compared photos. Heads are ordered by
    the confidence of the wrong label, multilabel by the number of wrong labels and then by the highest
    confidence of a wrong one. Ties are in the order of paths.
    """
    truth = run.splits.get("test")
    if truth is None or "ID" not in truth:
        return [], 0
    known = {row["ID"]: row for row in truth.to_dict("records")}
    rows = run.predictions.to_dict("records")
    rows = [row for row in rows if row["ID"] in known and row.get("status") != "error"]
    judged = [_judge(run, row, known[row["ID"]]) for row in rows]
    several = run.task == "multilabel"
    mistakes = [mistake for mistake in judged if mistake.wrong]
    mistakes.sort(key=lambda m: (-m.wrong if several else 0, -m.confidence, m.path, m.photo))
    return mistakes, len(judged)


def _judge(run: RunFolder, row: dict, known: dict) -> Mistake:
    true = {kind: tuple(run.labels(known, kind)) for kind in run.classes}
    if run.task == "multilabel":
        predicted = {kind: _several_labels(row, kind) for kind in run.classes}
        wrong = [label for kind in run.classes for label in set(predicted[kind]) ^ set(true[kind])]
        given = {label: value for labels in predicted.values() for label, value in labels.items()}
        # a missed label counts with its absence, where the table holds all probabilities
        values = [given.get(label, 1 - _number(row.get(f"p:{label}"), 1.0)) for label in wrong]
    else:
        true = {kind: labels for kind, labels in true.items() if labels}
        confidences = {kind: row.get(f"{kind}_confidence", row.get("confidence")) for kind in run.classes}
        predicted = {k: {row[k]: _number(text)} if row.get(k) else {} for k, text in confidences.items()}
        wrong = [kind for kind in true if not set(predicted[kind]) & set(true[kind])]
        values = [value for kind in wrong for value in predicted[kind].values()]
    path = row.get("path") or known.get("path", "")
    highest = max((value or 0.0 for value in values), default=0.0)
    return Mistake(row["ID"], path, predicted, true, len(wrong), highest, row.get("tiles") or "")


def _several_labels(row: dict, kind: str) -> Confidences:
    entries = (entry.rpartition(":") for entry in row.get(f"{kind}s_confidence", "").split(";"))
    found = {name: _number(value) for name, _, value in entries}
    return {name: found.get(name) for name in row.get(f"{kind}s", "").split(";") if name}


def _number(text: str | None, otherwise: float | None = None) -> float | None:
    """Return a cell's number; empty cells and words have none."""
    try:
        return float(text or "")
    except ValueError:
        return otherwise


def write_errors(run: RunFolder, folder: Path) -> dict[str, int]:
    """Write the wrong decisions on the test split as tables, worst photos first; return their lengths.

    `suspected_noisy_labels.csv` has the sure ones: there the label of the table may be the wrong one. In
    multilabel a missed label has no prediction and no confidence, a false alarm no true label.
    """
    rows = [row for mistake in compared(run)[0] for row in _rows(mistake)]
    sure = [row for row in rows if row[3] is not None and row[3] > SURE]
    unsure = [row for row in rows if row[3] is not None and row[3] <= SURE]
    tables = {"misclassified_samples": rows, "high_confidence_errors": sure, "low_confidence_errors": unsure,
              "suspected_noisy_labels": sure}  # fmt: skip
    for name, some in tables.items():
        table = pd.DataFrame(some, columns=list(COLUMNS))
        write_whole(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    return {name: len(some) for name, some in tables.items()}


def _rows(mistake: Mistake) -> Iterator[tuple[str, str, str, float | None, str]]:
    """Yield a row per wrong label: of a head the true and the predicted one, in multilabel one of them."""
    for kind, true in mistake.true.items():
        false = {name: sure for name, sure in mistake.predicted[kind].items() if name not in true}
        missed = [name for name in true if name not in mistake.predicted[kind]]
        pairs = zip(missed, false, strict=True) if len(missed) == len(false) == 1 else ()
        for name, said in pairs or [*((name, "") for name in missed), *(("", said) for said in false)]:
            yield mistake.path, name, said, false.get(said), kind
