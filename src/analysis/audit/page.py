"""The audit's page: the suspected label errors with their photos, in one file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from src.analysis.agreement import Agreement
from src.analysis.audit.suspects import Suspect, suggestion
from src.analysis.pages import THUMBNAIL, Thumbnail, render, thumbnail
from src.datamodules.records import Record
from src.labels import LabelSpace

SMALL = 104  # pixels, the longer side of a neighbour's thumbnail
Picture = Callable[[str, int], Thumbnail]  # path, size
TITLES = {
    "missing_label": (
        "A label may be missing",
        "The photo does not carry the label, but heads that were trained on other groups say that it should.",
    ),
    "wrong_label": (
        "A label may be wrong",
        "The photo carries a label that heads trained on other groups doubt; where another one of the kind "
        "fits better, it is suggested in its place.",
    ),
    "unseen_pair": (
        "Labels that meet nowhere else",
        "Labels of two kinds that stand together on no photo of another group: a rare find, or a slip.",
    ),
    "near_duplicates": (
        "Look-alikes with different labels",
        "Two photos are nearly the same picture but are not labelled alike. Both rows of a pair "
        "make towards the same labels: accept both, or neither.",
    ),
}


@dataclass
class Audit:
    """The findings of an audit.

    Attributes:
        name: of the data.
        root: the folder that the records' paths start from.
        records: the photos.
        groups: the number of each photo's group, int `[records]`.
        labels: all labels.
        suspects: the lists, each with the most suspicious first.
        unjudged: `{label: reason why it cannot be judged}`.
        nearest: positions of the most similar photos of other groups, int `[records, count]`, -1 for none.
        agreements: of photos with several rows, one per label; empty where there are none.
        features: the origin of the features, in words.
        notes: cautions for readers of the lists.
    """

    name: str
    root: Path
    records: Sequence[Record]
    groups: np.ndarray
    labels: LabelSpace
    suspects: Mapping[str, Sequence[Suspect]]
    unjudged: Mapping[str, str]
    nearest: np.ndarray
    agreements: Sequence[Agreement] = ()
    features: str = ""
    notes: Sequence[str] = ()


def audit_page(audit: Audit, top: int, command: str) -> bytes:
    """Return `audit.html`: self-contained, without scripts; the same audit gives the same bytes.

    Args:
        audit: the findings.
        top: number of photos that each list shows.
        command: the shell command that applies the decisions.
    """
    kinds = ", ".join(f"{len(names)} of kind {kind}" for kind, names in audit.labels.kinds.items())
    picture = cache(lambda path, size: thumbnail(audit.root, path, size))
    return render(
        "audit.html",
        title=f"Label audit of {audit.name}",
        eyebrow=["Corbel", "label audit"],
        name=audit.name,
        about=f"{len(audit.records):,} labelled photos; labels: {kinds}",
        details=audit.features,
        scores=[(TITLES[name][0], len(found)) for name, found in audit.suspects.items()],
        digits=0,
        notes=_notes(audit),
        command=command,
        lists=[
            {
                "name": name,
                "title": TITLES[name][0],
                "meaning": TITLES[name][1],
                "count": len(found),
                "cards": [_card(audit, suspect, picture) for suspect in found[:top]],
            }
            for name, found in audit.suspects.items()
        ],
        agreements=[a for a in audit.agreements if a.every or a.some or a.unclear],
    )


def _notes(audit: Audit) -> list[str]:
    """Return the cautions, and the labels that cannot be judged by their reasons."""
    reasons: dict[str, list[str]] = {}
    for label, why in audit.unjudged.items():
        reasons.setdefault(why, []).append(label)
    unjudged = [f"Cannot be judged: {', '.join(names)} ({why})." for why, names in reasons.items()]
    return [*audit.notes, *unjudged]


def _card(audit: Audit, suspect: Suspect, picture: Picture) -> dict:
    """Return one suspect, with the photos to compare it with."""
    record = audit.records[suspect.position]
    card = {
        "photo": _photo(record, picture),
        "given": _given(audit, record, suspect.remove),
        "suggestion": suggestion(suspect.add, suspect.remove),
        "probability": float(suspect.probability),
        "other": None,
    }
    if suspect.other is not None:
        other = audit.records[suspect.other]
        return card | {"other": _photo(other, picture), "other_given": _given(audit, other, ())}
    near = [audit.records[i] for i in audit.nearest[suspect.position].tolist() if i >= 0]
    return card | {
        "group": _group_says(audit, suspect),
        "nearest": [
            (_photo(record, picture, SMALL), [(name, name in suspect.add) for name in _names(record)])
            for record in near
        ],
    }


def _photo(record: Record, picture: Picture, size: int = THUMBNAIL) -> dict:
    """Return a photo's names and its thumbnail."""
    return {"id": record.id, "path": record.path, "thumbnail": picture(record.path, size)}


def _names(record: Record) -> list[str]:
    """Return all labels of a photo."""
    return [name for names in record.labels.values() for name in names]


def _given(audit: Audit, record: Record, doubted: Sequence[str]) -> dict[str, list[tuple[str, bool]]]:
    """Return a photo's labels by kind, each with whether it is doubted."""
    return {
        kind: [(name, name in doubted) for name in record.labels.get(kind, ())] for kind in audit.labels.kinds
    }


def _group_says(audit: Audit, suspect: Suspect) -> str:
    """Return how many other photos of the group carry the label in question; the ranking weighs that too."""
    label = (*suspect.add, *suspect.remove)[0]
    others = np.flatnonzero(audit.groups == audit.groups[suspect.position])
    others = [audit.records[i] for i in others.tolist() if i != suspect.position]
    carrying = sum(label in _names(record) for record in others)
    return f"{carrying} of {len(others)} other photos of its group carry {label}" if others else ""
