"""The test photos with wrong decisions, worst first."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from src.runs import RunFolder

Sure = dict[str, float | None]  # {label: confidence}, None where it is not known


@dataclass(frozen=True)
class Mistake:
    """One photo with a wrong decision.

    Attributes:
        photo: its ID.
        path: its path, relative to the data root.
        said: `{kind: {label: confidence}}`, the prediction; None where no confidence is known.
        true: `{kind: (label, ...)}`; a kind without a label is left out in a task with heads.
        wrong: number of wrong labels: falsely said or missed (multilabel), or wrong kinds (heads).
        confidence: the highest confidence of a wrong one, 0 where none is known.
    """

    photo: str
    path: str
    said: Mapping[str, Sure]
    true: Mapping[str, tuple[str, ...]]
    wrong: int
    confidence: float


def compared(run: RunFolder) -> tuple[list[Mistake], int]:
    """Compare the predictions with the test split.

    Returns:
        the photos with a wrong decision, worst first, and the number of compared photos. Heads are ordered
        by the confidence of the wrong label, multilabel by the number of wrong labels and then by the
        highest confidence of a wrong one. Ties are in the order of paths.
    """
    truth = run.splits.get("test")
    if truth is None or "ID" not in truth:
        return [], 0
    known = {row["ID"]: row for row in truth.to_dict("records")}
    rows = [row for row in run.predictions.to_dict("records") if row["ID"] in known]
    rows = [row for row in rows if row.get("status") != "error"]
    judged = [_judge(run, row, known[row["ID"]]) for row in rows]
    several = run.task == "multilabel"
    mistakes = [mistake for mistake in judged if mistake.wrong]
    mistakes.sort(key=lambda m: (-m.wrong if several else 0, -m.confidence, m.path, m.photo))
    return mistakes, len(judged)


def _judge(run: RunFolder, row: dict, known: dict) -> Mistake:
    """Compare one photo's prediction with its labels."""
    true = {kind: tuple(run.labels(known, kind)) for kind in run.kinds}
    if run.task == "multilabel":
        said = {kind: _several_labels(row, kind) for kind in run.kinds}
        wrong = [label for kind in run.kinds for label in set(said[kind]) ^ set(true[kind])]
        every = {label: sure for labels in said.values() for label, sure in labels.items()}
        sure = [every[label] if label in every else _missed(row, label) for label in wrong]
    else:
        true = {kind: labels for kind, labels in true.items() if labels}
        said = {kind: _one_label(row, kind) for kind in run.kinds}
        wrong = [kind for kind in true if not set(said[kind]) & set(true[kind])]
        sure = [value for kind in wrong for value in said[kind].values()]
    path = row.get("path") or known.get("path", "")
    surest = max((value or 0.0 for value in sure), default=0.0)
    return Mistake(row["ID"], path, said, true, len(wrong), surest)


def _one_label(row: dict, kind: str) -> Sure:
    """Return the label of one head."""
    confidence = row.get(f"{kind}_confidence", row.get("confidence", ""))
    return {row[kind]: _float(confidence)} if row.get(kind) else {}


def _several_labels(row: dict, kind: str) -> Sure:
    """Return the labels of one kind of a multilabel prediction."""
    names = [name for name in row.get(f"{kind}s", "").split(";") if name]
    entries = (entry.rpartition(":") for entry in row.get(f"{kind}s_confidence", "").split(";"))
    sure = {name: _float(value) for name, _, value in entries}
    return {name: sure.get(name) for name in names}


def _missed(row: dict, label: str) -> float | None:
    """Return the confidence that a label is absent, where the table holds all probabilities."""
    score = _float(row.get(f"p:{label}", ""))
    return None if score is None else 1 - score


def _float(text: str) -> float | None:
    """Return a finite number, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
