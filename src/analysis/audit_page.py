"""The audit's page: what somebody should look at, with the photos, in one file."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from src.analysis import markup
from src.analysis.agreement import Agreement
from src.analysis.audit.suspects import Suspect, suggestion
from src.analysis.markup import NONE, Html, element, image, integer, join, section, table
from src.analysis.worst_errors import thumbnail
from src.datamodules.records import Record
from src.errors import listed
from src.labels import LabelSpace

SMALL = 104  # pixels, the longer side of a neighbour's thumbnail
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
HOW = (
    "Open <b>audit.csv</b>, which lies beside this page, in a spreadsheet. Its rows are the photos below, in "
    "the same order, and those that do not fit on this page.",
    "Look at the photo, then write into the column <b>decision</b>: <b>accept</b> (do as suggested), "
    "<b>keep</b> (the labels are right), <b>exclude</b> (leave the photo out), or <b>set A;B</b> (its labels "
    "become exactly these). A row left empty changes nothing.",
    "Save it as CSV (in Excel: CSV UTF-8). Take it back with the command below. It writes a new table and "
    "changes neither the old one nor the photos.",
)
STYLE = """
ol.steps { margin: 6px 0 12px; padding-left: 22px; max-width: 76ch; }
ol.steps li { margin: 4px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(460px, 1fr)); gap: 18px;
  margin-top: 14px; }
.card { display: grid; grid-template-columns: 200px minmax(0, 1fr); gap: 4px 16px; padding: 12px;
  border: 1px solid var(--line); font-size: 13px; break-inside: avoid; min-width: 0; align-content: start; }
.card p { margin: 0 0 3px; overflow-wrap: anywhere; }
.card .frame { display: flex; align-items: center; justify-content: center; height: 165px;
  background: var(--soft); overflow: hidden; text-align: center; color: var(--muted); }
.card .frame img { max-width: 200px; max-height: 165px; display: block; }
.card .name { font-weight: 600; }
.card .rank { color: var(--muted); font-weight: 400; }
.card .do { font-size: 15px; font-weight: 650; color: var(--blue); margin: 6px 0; }
.card .in { color: var(--blue); font-weight: 600; }
.card .out { color: var(--red); text-decoration: line-through; font-weight: 600; }
.near { grid-column: 1 / -1; display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 10px;
  border-top: 1px solid var(--line); margin-top: 8px; padding-top: 8px; font-size: 12px; }
.near > .what { grid-column: 1 / -1; color: var(--muted); margin: 0; }
.near .frame { height: 84px; } .near .frame img { max-width: 104px; max-height: 84px; }
.near p { line-height: 1.35; margin-top: 3px; }
.pair { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.pair .both { grid-column: 1 / -1; }
@media (max-width: 560px) { .cards { grid-template-columns: minmax(0, 1fr); }
  .card { grid-template-columns: minmax(0, 1fr); }
  .card.pair { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media print { .cards { grid-template-columns: repeat(2, 1fr); } .card { grid-template-columns: 130px 1fr; }
  .card .frame img { max-width: 130px; } }
"""


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        name: of the data.
        root: the folder that the records' paths start from.
        records: the photos.
        groups: the number of each one's group, int `[records]`.
        labels: all labels.
        suspects: the lists, each with the most suspicious first.
        unjudged: `{label: why it cannot be judged}`.
        nearest: positions of the most similar photos of other groups, int `[records, count]`, -1 for none.
        agreements: of photos with several rows, one per label; empty where there are none.
        features: what the features came from, in words.
        notes: what a reader has to know before trusting the lists.
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
    thumbnails: dict[tuple[str, bool], Html] = field(default_factory=dict)


def audit_page(audit: Audit, top: int, command: str) -> bytes:
    """Return `audit.html`: self-contained, without scripts; the same audit gives the same bytes.

    Args:
        audit: what was found.
        top: how many photos each list shows.
        command: what takes the decisions back, as one types it.
    """
    steps = element("ol", *(element("li", Html(step)) for step in HOW), css="steps")
    body = [
        _header(audit),
        _notice(audit),
        section("How to use this", steps, element("pre", command)),
        *(_list(audit, name, found, top) for name, found in audit.suspects.items()),
        _agreement(audit),
    ]
    title = f"Label audit of {audit.name}"
    return markup.page(title, *(part for part in body if part), style=STYLE).encode("utf-8")


def _header(audit: Audit) -> Html:
    """What was audited, and how many suspects each list has, in large figures."""
    kinds = ", ".join(f"{len(names)} of kind {kind}" for kind, names in audit.labels.kinds.items())
    about = f"{len(audit.records):,} labelled photos; labels: {kinds}"
    scores = [
        element("div", element("b", integer(len(found))), element("span", TITLES[name][0]), css="score")
        for name, found in audit.suspects.items()
    ]
    return element(
        "header",
        element("p", join(("Corbel", "label audit"), Html(" &middot; ")), css="eyebrow"),
        element("h1", audit.name),
        element("p", about, css="muted"),
        element("p", audit.features, css="muted small") if audit.features else "",
        element("div", *scores, css="scores"),
    )


def _notice(audit: Audit) -> Html:
    """What a reader has to know: features that saw the labels, labels that cannot be judged."""
    notes = list(audit.notes)
    reasons: dict[str, list[str]] = {}
    for label, why in audit.unjudged.items():
        reasons.setdefault(why, []).append(label)
    notes += [f"Cannot be judged: {', '.join(names)} ({why})." for why, names in reasons.items()]
    if not notes:
        return Html("")
    items = element("ul", *(element("li", note) for note in notes))
    return element("div", element("p", "Know before you trust the lists"), items, css="notice")


def _list(audit: Audit, name: str, found: Sequence[Suspect], top: int) -> Html:
    """Show one list: what it means, its first photos, how many more there are."""
    title, meaning = TITLES[name]
    if not found:
        return section(title, element("p", f"{meaning} None found.", css="muted small"))
    more = len(found) - top
    rest = f" and {more:,} more in audit.csv" if more > 0 else ""
    said = f"{meaning} {min(len(found), top):,} here{rest}, the most suspicious first (list {name})."
    cards = [_card(audit, rank, suspect) for rank, suspect in enumerate(found[:top], 1)]
    return section(title, element("p", said, css="muted small"), element("div", *cards, css="cards"))


def _card(audit: Audit, rank: int, suspect: Suspect) -> Html:
    """Show one suspect, and what it is to be compared with."""
    record = audit.records[suspect.position]
    number = element("span", f"{rank} \u00b7 ", css="rank")
    name = element("p", number, record.id, css="name", title=record.path)
    given = _given(audit, record, suspect.remove)
    sure = f"probability {suspect.probability:.2f}"
    do = element("p", suggestion(suspect.add, suspect.remove), css="do")
    if suspect.other is not None:
        other = audit.records[suspect.other]
        sides = [
            element("div", _picture(audit, record), name, given),
            element(
                "div", _picture(audit, other), element("p", other.id, css="name"), _given(audit, other, ())
            ),
        ]
        said = element("p", f"the left one; {sure}", css="said")
        return element("div", *sides, element("div", do, said, css="both"), css="card pair")
    near = [
        _neighbour(audit, audit.records[i], suspect.add)
        for i in audit.nearest[suspect.position].tolist()
        if i >= 0
    ]
    beside = element("p", "Nearest labelled photos of other groups", css="what")
    return element(
        "div",
        _picture(audit, record),
        element("div", name, given, do, element("p", f"{sure}{_group_says(audit, suspect)}", css="said")),
        element("div", beside, *near, css="near") if near else "",
        css="card",
    )


def _group_says(audit: Audit, suspect: Suspect) -> str:
    """Say how many other photos of the group carry the label in question; the ranking weighs that too."""
    label = (*suspect.add, *suspect.remove)[0]
    others = np.flatnonzero(audit.groups == audit.groups[suspect.position])
    others = [audit.records[i] for i in others.tolist() if i != suspect.position]
    carrying = sum(label in names for record in others for names in record.labels.values())
    return f"; {carrying} of {len(others)} other photos of its group carry {label}" if others else ""


def _given(audit: Audit, record: Record, doubted: Sequence[str]) -> Html:
    """Show a photo's labels, kind by kind; those that are doubted are struck out."""
    lines = []
    for kind in audit.labels.kinds:
        names = [
            element("span", label, css="out" if label in doubted else "right")
            for label in record.labels.get(kind, ())
        ]
        prefix = f"{kind}: " if len(audit.labels.kinds) > 1 else "given: "
        lines.append(element("p", element("span", prefix, css="said"), join(names or [NONE], ", ")))
    return join(lines)


def _neighbour(audit: Audit, record: Record, suggested: Sequence[str]) -> Html:
    """Show one similar photo and its labels; those that are suggested stand out."""
    names = [
        element("span", name, css="in") if name in suggested else name
        for names in record.labels.values()
        for name in names
    ]
    words = element("p", join(names, ", ") if names else NONE, title=record.id)
    return element("div", _picture(audit, record, small=True), words)


def _picture(audit: Audit, record: Record, small: bool = False) -> Html:
    """Return a photo's thumbnail, made once."""
    key = (record.path, small)
    if key not in audit.thumbnails:
        content, reason = thumbnail(audit.root, record.path)
        content = _shrunk(content) if small and content is not None else content
        shown = (
            element("span", reason) if content is None else image(content, "image/jpeg", record.id)
        )  # alt text names the photo
        audit.thumbnails[key] = element("div", shown, css="frame")
    return audit.thumbnails[key]


def _shrunk(content: bytes) -> bytes:
    """Return a thumbnail as a smaller one."""
    picture = Image.open(io.BytesIO(content))
    picture.thumbnail((SMALL, SMALL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75, optimize=True)
    return buffer.getvalue()


def _agreement(audit: Audit) -> Html:
    """Show where several rows of one photo say the same, label by label."""
    rows = [a for a in audit.agreements if a.every or a.some or a.unclear]
    if not rows:
        return Html("")
    title, compared = "Do the rows of a photo agree?", max(a.photos for a in rows)
    caption = (
        "Only rows that say anything of the label's kind are compared; identical rows count as agreement, "
        "even where an export wrote one row twice. An export with one row per label looks like disagreement: "
        "photos whose rows have no label in common are therefore not compared, but counted as 'cannot tell'."
    )
    if not compared:
        none = "Several rows stand for one photo, but no two of them can be compared. "
        return section(title, element("p", none + caption, css="muted small"))
    head = ("label", "kind", "in all rows", "in some rows", "agreement", "cannot tell", "photos to look at")
    body = []
    for item in rows:
        share = NONE if item.share is None else f"{item.share:.0%}"
        counts = (integer(item.every), integer(item.some), share, integer(item.unclear))
        body.append((item.label, item.kind, *counts, listed(item.differing, 3) or NONE))
    said = (
        f"{compared:,} photos have several rows that can be compared. The columns count photos; agreement is "
        "the share of those with the label where all rows carry it. The photos that differ are all in "
        "agreement.csv."
    )
    return section(
        title,
        element("p", said, css="muted small"),
        table(head, body, words=2),
        element("p", caption, css="muted small"),
    )
