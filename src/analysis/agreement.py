"""Agreement between several rows of a table that describe one photo, label by label."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from src.datamodules.records import Record
from src.labels import LabelSpace

Rows = Sequence[Mapping[str, Sequence[str]]]


@dataclass
class Agreement:
    """Counts of one label, over the photos with two or more comparable rows.

    Attributes:
        kind: of the label.
        label: its name.
        photos: with two or more rows that say anything of the kind and can be compared.
        every: those of them where every such row carries the label.
        some: those where some rows carry it and some do not.
        rows_with: such rows that carry it.
        rows_without: such rows that do not.
        unclear: photos that carry it, but whose rows read like a list.
        differing: IDs of the photos counted in `some`.
    """

    kind: str
    label: str
    photos: int = 0
    every: int = 0
    some: int = 0
    rows_with: int = 0
    rows_without: int = 0
    unclear: int = 0
    differing: list[str] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """The share of photos with the label on which all rows agree; None without such photos."""
        return self.every / (self.every + self.some) if self.every + self.some else None

    def count(self, photo: str, carrying: int, rows: int) -> None:
        """Count a photo: its ID, the rows that carry the label, and all its rows of the kind."""
        self.photos += 1
        self.rows_with += carrying
        self.rows_without += rows - carrying
        self.every += carrying == rows
        if 0 < carrying < rows:
            self.some += 1
            self.differing.append(photo)


def agreement(
    records: Sequence[Record],
    annotations: Mapping[str, Rows],
    labels: LabelSpace,
    healthy: Collection[str],
    one_per_kind: bool,
) -> list[Agreement]:
    """Compare the rows of each photo, label by label.

    A row without any label of a kind says nothing of it, so an export with a row per kind has nothing to
    compare. Rows whose labels have nothing in common are as likely one list in several rows (a row per label,
    or per component with its defects) as two opinions, so such a photo is `unclear`. Where a photo has one
    label of a kind, two rows with different ones do disagree.

    Args:
        records: the photos.
        annotations: `{path: labels by kind of each row}`.
        labels: all labels, in whose order the result comes.
        healthy: names that mean "nothing wrong" and are no labels: a row with one says something of the kind.
        one_per_kind: whether a photo has one label of each kind.
    """
    found = {name: Agreement(kind, name) for kind, names in labels.kinds.items() for name in names}
    for record in records:
        rows = annotations.get(record.path, ())
        is_list = not one_per_kind and any(_reads_like_a_list(rows, kind, healthy) for kind in labels.kinds)
        for kind, names in labels.kinds.items():
            said = [set(row[kind]) for row in rows if row.get(kind)]
            for name in names if len(said) > 1 else ():
                carrying = sum(name in row for row in said)
                if is_list:
                    found[name].unclear += carrying > 0
                else:
                    found[name].count(record.id, carrying, len(said))
    return list(found.values())


def _reads_like_a_list(rows: Rows, kind: str, healthy: Collection[str]) -> bool:
    """Whether the rows name different labels of a kind and no two different ones share any."""
    sets = {frozenset(name for name in row.get(kind, ()) if name not in healthy) for row in rows}
    sets.discard(frozenset())
    return len(sets) > 1 and sum(map(len, sets)) == len(frozenset().union(*sets))


def agreement_csv(agreements: Sequence[Agreement]) -> bytes:
    """Return the content of `agreement.csv`: a row per label, with the photos whose rows differ."""
    rows = [
        {
            "kind": a.kind,
            "label": a.label,
            "photos": a.photos,
            "in_all_rows": a.every,
            "in_some_rows": a.some,
            "rows_with": a.rows_with,
            "rows_without": a.rows_without,
            "agreement": "" if a.share is None else f"{a.share:.4f}",
            "cannot_tell": a.unclear,
            "differing": " | ".join(a.differing),
        }
        for a in agreements
    ]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n").encode("utf-8-sig")
