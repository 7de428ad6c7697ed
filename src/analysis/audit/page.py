"""The audit's page: the suspected label errors with their photos, in one file."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from src.analysis.audit.suspects import Suspect
from src.analysis.pages import LISTED, render, thumbnail
from src.datamodules.groups import Linked
from src.errors import listed
from src.labels import LabelSpace

TITLES = {
    "missing_label": "A label may be missing",
    "wrong_label": "A label may be wrong",
    "unseen_pair": "Labels that meet nowhere else",
    "near_duplicates": "Look-alikes with different labels",
    "note_disagrees": "Note and picture disagree",
}


@dataclass
class Audit:
    """The findings of an audit.

    Attributes:
        suspects: the lists, each with the most suspicious first.
        unjudged: `{label: reason why it cannot be judged}`.
        texts: `{path: note}` of the photos with one.
        nearest: positions of the most similar photos of other groups, int `[records, count]`, -1 for none.
        features: the origin of the features, in words.
        notes: cautions for readers of the lists.
        sample_bits: see `open_image`.
    """

    root: Path
    linked: Linked
    labels: LabelSpace
    suspects: Mapping[str, Sequence[Suspect]]
    unjudged: Mapping[str, str]
    nearest: np.ndarray
    features: str = ""
    notes: Sequence[str] = ()
    sample_bits: int | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


def audit_page(audit: Audit, agreements: Sequence[Mapping], top: int, command: str) -> bytes:
    """Return `audit.html`: self-contained, without scripts; the same audit gives the same bytes.

    Each list shows `top` photos; `agreements` are rows of `lists.agreement`, and `command` is the shell
    command that applies the decisions.
    """
    kinds = ", ".join(f"{len(names)} of kind {kind}" for kind, names in audit.labels.kinds.items())
    name = "/".join(audit.root.absolute().parts[-2:])
    reasons = defaultdict(list)
    for label, why in audit.unjudged.items():
        reasons[why].append(label)
    unjudged = [f"Cannot be judged: {listed(names, LISTED)} ({why})." for why, names in reasons.items()]
    return render(
        "audit.html",
        title=f"Label audit of {name}",
        eyebrow=["Corbel", "label audit"],
        name=name,
        about=f"{len(audit.linked.records):,} labelled photos; labels: {kinds}",
        details=audit.features,
        scores=[(TITLES[name], len(found)) for name, found in audit.suspects.items()],
        digits=0,
        notes=[*audit.notes, *unjudged],
        command=command,
        kinds=list(audit.labels.kinds),
        picture=cache(lambda path, *size: thumbnail(audit.root, path, *size, sample_bits=audit.sample_bits)),
        lists=[
            (name, TITLES[name], len(found), [_card(audit, suspect) for suspect in found[:top]])
            for name, found in audit.suspects.items()
        ],
        agreements=[a for a in agreements if a["in_all_rows"] or a["in_some_rows"] or a["cannot_tell"]],
    )


def _card(audit: Audit, suspect: Suspect) -> dict:
    records = audit.linked.records
    return {
        "suspect": suspect,
        "photo": records[suspect.position],
        "other": None if suspect.other is None else records[suspect.other],
        "note": audit.texts.get(records[suspect.position].path, ""),
        "group": _group_votes(audit, suspect),
        "nearest": [records[i] for i in audit.nearest[suspect.position].tolist() if i >= 0],
    }


def _group_votes(audit: Audit, suspect: Suspect) -> str:
    """Return how many other photos of the group carry the label in question; the ranking weighs that too."""
    label, groups = (*suspect.add, *suspect.remove)[0], audit.linked.groups
    others = np.flatnonzero(groups == groups[suspect.position]).tolist()
    others = [audit.linked.records[i] for i in others if i != suspect.position]
    carrying = sum(any(label in names for names in record.labels.values()) for record in others)
    return f"{carrying} of {len(others)} other photos of its group carry {label}" if others else ""
