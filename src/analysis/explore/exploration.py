"""A data set before training: labelled photos, their groups, and the measurements of each file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from src.analysis.pages import label_names
from src.datamodules.groups import Linked, link_records
from src.datamodules.inspection import ImageStats
from src.datamodules.records import Record, Source

MEASURED = (
    "reason", "format", "width", "height", "brightness", "bright_end", "contrast", "sharpness", "white",
    "glare", "orientation", "camera", "taken", "located", "digest", "phash",
)  # fmt: skip


@dataclass(frozen=True)
class Exploration:
    """Labelled photos and their measurements.

    Attributes:
        given: the source's records, with their groups.
        looks: measurements, one per given record.
        group: column or expression that names the groups, None where every photo is one.
        near_duplicates: the largest distance of near duplicates; None: not looked for.
    """

    source: Source
    given: Sequence[Record]
    looks: Sequence[ImageStats]
    task: str
    group: str | None
    near_duplicates: int | None
    sample_bits: int | None = None

    @cached_property
    def linked(self) -> Linked:
        """The photos, unreadable ones too, and the links between them, as a split would make them."""
        pairs = zip(self.given, self.looks, strict=True)
        seen = [replace(record, digest=look.digest, phash=look.phash) for record, look in pairs]
        return link_records(seen, self.near_duplicates)

    @property
    def records(self) -> list[Record]:
        """The labelled photos, sorted by path."""
        return self.linked.records

    @cached_property
    def photos(self) -> pd.DataFrame:
        """A row per record: path, ID, group, all labels as text, labels of each kind, measurements."""
        looks = {record.path: look for record, look in zip(self.given, self.looks, strict=True)}
        rows = [
            {"path": record.path, "ID": record.id, "group": record.group}
            | {"all_labels": ";".join(label_names(record.labels))}
            | {kind: ";".join(record.labels.get(kind, ())) for kind in self.kinds}
            | {name: getattr(looks[record.path], name) for name in MEASURED}
            for record in self.records
        ]
        return pd.DataFrame(rows, dtype=object)

    @cached_property
    def readable(self) -> pd.DataFrame:
        """The rows of `photos` that can be decoded; numbers as numbers, a missing sharpness as NaN."""
        found = self.photos[self.photos["reason"] == ""]
        numbers = dict.fromkeys(("brightness", "contrast", "sharpness", "white", "glare"), float)
        return found.astype(numbers | dict.fromkeys(("width", "height", "bright_end"), int))

    @cached_property
    def carried(self) -> pd.DataFrame:
        """A row per photo and label: row number in `photos`, number of its joined group, kind, label."""
        groups = self.linked.groups.tolist()
        rows = [
            (i, groups[i], kind, name)
            for i, record in enumerate(self.records)
            for kind, names in record.labels.items()
            for name in names
        ]
        return pd.DataFrame(rows, columns=["photo", "joined", "kind", "label"])

    @cached_property
    def kinds(self) -> dict[str, dict[str, int]]:
        """`{kind: {label: photos}}`, the commonest label first; kinds without a label are left out."""
        counts = self.carried.groupby(["kind", "label"], sort=False).size().items()
        found: dict[str, dict[str, int]] = {kind: {} for record in self.records for kind in record.labels}
        for (kind, label), count in sorted(counts, key=lambda item: (-item[1], item[0])):
            found[kind][label] = int(count)
        return {kind: labels for kind, labels in found.items() if labels}

    @cached_property
    def brightness(self) -> dict[str, dict[str, list[float]]]:
        """`{kind: {label: mean gray level of each readable photo}}`, in the order of `kinds`."""
        seen = self.carried.join(self.readable["brightness"], on="photo", how="inner")
        levels = {key: rows.tolist() for key, rows in seen.groupby(["kind", "label"])["brightness"]}
        return {
            kind: {name: levels[kind, name] for name in counts if (kind, name) in levels}
            for kind, counts in self.kinds.items()
        }
