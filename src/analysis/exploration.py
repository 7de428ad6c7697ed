"""A data set as it lies there, with what reading its photos told; the lists and figures are drawn from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from src.datamodules.groups import Linked, link_records
from src.datamodules.inspection import ImageStats
from src.datamodules.records import Record, Source


@dataclass(frozen=True)
class Exploration:
    """Labelled photos, sorted by path, and what is known of them.

    Attributes:
        source: what the reader found.
        linked: all labelled photos, unreadable ones too, and what holds them together.
        looks: one per record of `linked`.
        task: `dual_head`, `multiclass` or `multilabel`.
        group: what names the groups, None where every photo is one.
        near_duplicates: the largest distance of near duplicates; None: not looked for.
    """

    source: Source
    linked: Linked
    looks: list[ImageStats]
    task: str
    group: str | None
    near_duplicates: int | None

    @property
    def root(self) -> Path:
        """The folder that the photos' paths start from."""
        return self.source.root

    @property
    def records(self) -> list[Record]:
        """The labelled photos."""
        return self.linked.records

    @cached_property
    def readable(self) -> list[tuple[Record, ImageStats]]:
        """The photos that can be decoded."""
        return [
            (record, look) for record, look in zip(self.records, self.looks, strict=True) if not look.reason
        ]

    @cached_property
    def kinds(self) -> dict[str, dict[str, int]]:
        """`{kind: {label: photos}}`, the commonest label first; kinds without a label are left out."""
        found: dict[str, dict[str, int]] = {}
        for record in self.records:
            for kind, names in record.labels.items():
                counts = found.setdefault(kind, {})
                for name in names:
                    counts[name] = counts.get(name, 0) + 1
        return {
            kind: dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
            for kind, counts in found.items()
            if counts
        }


def explored(
    source: Source,
    records: Sequence[Record],
    looks: Sequence[ImageStats],
    task: str,
    group: str | None,
    near_duplicates: int | None,
) -> Exploration:
    """Join records with what was seen of them, and link those that share a photo, as a split would.

    Args:
        source: what the reader found.
        records: its records, with their groups.
        looks: one per record, in the same order.
        task: `dual_head`, `multiclass` or `multilabel`.
        group: what names the groups, None where every photo is one.
        near_duplicates: the largest distance of near duplicates; None: not looked for.
    """
    seen = sorted(zip(records, looks, strict=True), key=lambda pair: pair[0].path)
    records = [replace(record, digest=look.digest, phash=look.phash) for record, look in seen]
    linked = link_records(records, near_duplicates)
    return Exploration(source, linked, [look for _, look in seen], task, group, near_duplicates)


def label_text(record: Record) -> str:
    """Return all labels of a photo in one cell."""
    return ";".join(name for names in record.labels.values() for name in names)
