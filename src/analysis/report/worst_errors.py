"""The test photos with wrong decisions, worst first."""

from collections.abc import Mapping
from dataclasses import dataclass

from src.runs import RunFolder

Confidences = dict[str, float | None]  # {label: confidence}, None where it is not known


@dataclass(frozen=True)
class Mistake:
    """One photo with a wrong decision.

    Attributes:
        photo: its ID.
        path: its path, relative to the data root.
        predicted: `{kind: {label: confidence}}`; None where no confidence is known.
        true: `{kind: (label, ...)}`; a kind without a label is left out in a task with heads.
        wrong: number of wrong labels: falsely predicted or missed (multilabel), or wrong kinds (heads).
        confidence: the highest confidence of a wrong one, 0 where none is known.
    """

    photo: str
    path: str
    predicted: Mapping[str, Confidences]
    true: Mapping[str, tuple[str, ...]]
    wrong: int
    confidence: float


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
    """Compare one photo's prediction with its labels."""
    true = {kind: tuple(run.labels(known, kind)) for kind in run.kinds}
    if run.task == "multilabel":
        predicted = {kind: _several_labels(row, kind) for kind in run.kinds}
        wrong = [label for kind in run.kinds for label in set(predicted[kind]) ^ set(true[kind])]
        given = {label: value for labels in predicted.values() for label, value in labels.items()}
        # a missed label counts with its absence, where the table holds all probabilities
        values = [given.get(label, 1 - _number(row.get(f"p:{label}"), 1.0)) for label in wrong]
    else:
        true = {kind: labels for kind, labels in true.items() if labels}
        confidences = {kind: row.get(f"{kind}_confidence", row.get("confidence")) for kind in run.kinds}
        predicted = {k: {row[k]: _number(text)} if row.get(k) else {} for k, text in confidences.items()}
        wrong = [kind for kind in true if not set(predicted[kind]) & set(true[kind])]
        values = [value for kind in wrong for value in predicted[kind].values()]
    path = row.get("path") or known.get("path", "")
    highest = max((value or 0.0 for value in values), default=0.0)
    return Mistake(row["ID"], path, predicted, true, len(wrong), highest)


def _several_labels(row: dict, kind: str) -> Confidences:
    """Return the labels of one kind of a multilabel prediction."""
    entries = (entry.rpartition(":") for entry in row.get(f"{kind}s_confidence", "").split(";"))
    found = {name: _number(value) for name, _, value in entries}
    return {name: found.get(name) for name in row.get(f"{kind}s", "").split(";") if name}


def _number(text: str | None, otherwise: float | None = None) -> float | None:
    """Return a cell's number; empty cells and words have none."""
    try:
        return float(text or "")
    except ValueError:
        return otherwise
