"""The photos that a model got most wrong, worst first."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from src.images import UnreadableImage, open_image
from src.runs import RunFolder

THUMBNAIL = 220  # pixels, the longer side


@dataclass(frozen=True)
class Mistake:
    """One photo with a wrong decision.

    Attributes:
        photo: its ID.
        path: its path, relative to the data root.
        said: `{kind: {label: confidence}}`, what was predicted; None where no confidence is known.
        true: `{kind: (label, ...)}`; a kind that the photo has no label for is left out in a task with heads.
        wrong: how many labels are wrong: falsely said or missed (multilabel), or the wrong kinds (heads).
        confidence: the highest confidence of a wrong one, 0 where none is known.
    """

    photo: str
    path: str
    said: Mapping[str, Mapping[str, float | None]]
    true: Mapping[str, tuple[str, ...]]
    wrong: int
    confidence: float


def compared(run: RunFolder) -> tuple[list[Mistake], int]:
    """Compare the predictions with the test split.

    Returns:
        the photos with a wrong decision, worst first, and how many photos could be compared. For heads the
        worst is the wrong one with the highest confidence; for multilabel the photo with the most wrong
        labels and then the highest confidence of a wrong one. Ties are in the order of paths.
    """
    truth = run.splits.get("test")
    if truth is None or "ID" not in truth:
        return [], 0
    rows = {row["ID"]: row for row in truth.to_dict("records")}
    judge = _judge_labels if run.task == "multilabel" else _judge_heads
    mistakes, count = [], 0
    for row in run.predictions.to_dict("records"):
        if row.get("status") == "error" or row["ID"] not in rows:
            continue
        known = rows[row["ID"]]
        true = {kind: tuple(run.labels(known, kind)) for kind in run.kinds}
        mistake = judge(run, row, true, row.get("path") or known.get("path", ""))
        count += 1
        if mistake.wrong:
            mistakes.append(mistake)
    if run.task == "multilabel":
        mistakes.sort(key=lambda m: (-m.wrong, -m.confidence, m.path, m.photo))
    else:
        mistakes.sort(key=lambda m: (-m.confidence, m.path, m.photo))
    return mistakes, count


def thumbnail(root: Path | None, path: str) -> tuple[bytes | None, str]:
    """Return a small JPEG of a photo, or None and the reason why there is none."""
    if root is None:
        return None, "the photos are not at hand"
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or Path(path).is_absolute():
        return None, "its path does not lead into the data root"
    try:
        photo = open_image(root / parts, min_size=(THUMBNAIL, THUMBNAIL))
    except UnreadableImage as error:
        return None, f"cannot be read now: {error}"
    photo.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue(), ""


def _judge_heads(run: RunFolder, row: dict, true: dict, path: str) -> Mistake:
    """Compare one label per kind."""
    said, wrong, confidence = {}, 0, 0.0
    true = {kind: labels for kind, labels in true.items() if labels}
    for kind in run.kinds:
        label = row.get(kind, "")
        sure = _float(row.get(f"{kind}_confidence", row.get("confidence", "")))
        said[kind] = {label: sure} if label else {}
        if kind in true and label not in true[kind]:
            wrong += 1
            confidence = max(confidence, sure or 0.0)
    return Mistake(row["ID"], path, said, true, wrong, confidence)


def _judge_labels(run: RunFolder, row: dict, true: dict, path: str) -> Mistake:
    """Compare any number of labels per kind."""
    said, wrong, confidence = {}, 0, 0.0
    for kind in run.kinds:
        names = [name for name in row.get(f"{kind}s", "").split(";") if name]
        pairs = (entry.rpartition(":") for entry in row.get(f"{kind}s_confidence", "").split(";") if entry)
        sure = {name: _float(value) for name, _, value in pairs}
        said[kind] = {name: sure.get(name) for name in names}
        for label in set(names) ^ set(true[kind]):
            wrong += 1
            score = sure.get(label) if label in said[kind] else _missed_confidence(row, label)
            confidence = max(confidence, score or 0.0)
    return Mistake(row["ID"], path, said, true, wrong, confidence)


def _missed_confidence(row: dict, label: str) -> float | None:
    """Return how sure the model was that a label is absent, where the table holds all probabilities."""
    score = _float(row.get(f"p:{label}", ""))
    return None if score is None else 1 - score


def _float(value: object) -> float | None:
    """Return a number, or None for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number else None
