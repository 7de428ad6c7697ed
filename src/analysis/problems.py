"""What is wrong with a data set as such: files, rows, IDs, copies. Each list comes with its rule in words."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from src.analysis.exploration import Exploration, label_text
from src.analysis.photo_rules import (
    blurred,
    brightness_outliers,
    dark,
    low_information,
    odd_size,
    overexposed,
)
from src.datamodules.near_duplicates import MANY
from src.datamodules.records import Record

GONE = "no such file"  # the reason that `open_image` gives
Row = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Problem:
    """One list.

    Attributes:
        name: of its CSV, without `.csv`, and of its place on the page.
        title: as a person reads it.
        rule: what stands in the list, in words.
        columns: of its CSV.
        rows: worst first, or in the order of paths; `path` and `other` (`file`) are photos.
    """

    name: str
    title: str
    rule: str
    columns: tuple[str, ...]
    rows: list[Row]


def find_problems(data: Exploration) -> list[Problem]:
    """Return every list, also the empty ones, in the order of the page."""
    return [
        _corrupt(data),
        _truncated(data),
        _missing(data),
        _ambiguous(data),
        _repeated_ids(data),
        _unlabelled(data),
        _several_labels(data),
        _identical(data),
        _near_duplicates(data),
        _conflicting(data),
        *_looks(data),
    ]


def _unreadable(data: Exploration) -> list[Row]:
    """Return a row per photo that cannot be decoded, but for those that are gone."""
    return [
        {"path": record.path, "labels": label_text(record), "reason": look.reason}
        for record, look in zip(data.records, data.looks, strict=True)
        if look.reason not in ("", GONE)
    ]


def _corrupt(data: Exploration) -> Problem:
    rows = [row for row in _unreadable(data) if row["reason"] != "truncated"]
    rule = "Labelled photos that cannot be decoded: broken, empty, too large, or no image of a known format."
    return Problem("corrupt", "Corrupt", rule, ("path", "labels", "reason"), rows)


def _truncated(data: Exploration) -> Problem:
    rows = [row for row in _unreadable(data) if row["reason"] == "truncated"]
    rule = "Labelled photos whose file ends too early, as after a copy that was broken off."
    return Problem("truncated", "Truncated", rule, ("path", "labels", "reason"), rows)


def _missing(data: Exploration) -> Problem:
    rows: list[Row] = [
        {"id": id_ or "(empty)", "reason": "no file of this name"}
        for id_, found in sorted(data.source.lost.items())
        if not found
    ]
    rows += [
        {"id": record.id, "reason": f"{record.path} was there when the photos were listed and is gone"}
        for record, look in zip(data.records, data.looks, strict=True)
        if look.reason == GONE
    ]
    rule = "IDs of the table without a file, and photos that vanished between listing and reading."
    return Problem("missing", "Missing on disk", rule, ("id", "reason"), rows)


def _ambiguous(data: Exploration) -> Problem:
    rows = [{"id": id_, "files": ";".join(found)} for id_, found in sorted(data.source.lost.items()) if found]
    rule = "IDs of the table that name several files, so that nobody knows which one is meant."
    return Problem("ambiguous", "Ambiguous IDs", rule, ("id", "files"), rows)


def _repeated_ids(data: Exploration) -> Problem:
    first: dict[str, str] = {}
    rows = [
        {"path": record.path, "other": first[record.id], "id": record.id}
        for record in data.records
        if first.setdefault(record.id, record.path) != record.path
    ]
    rule = "Two photos with one ID. A training refuses them."
    return Problem("repeated_ids", "Repeated IDs", rule, ("path", "other", "id"), rows)


def _unlabelled(data: Exploration) -> Problem:
    rows = [{"path": path} for path in sorted(data.source.unlabelled)]
    rule = (
        "Photos on disk that stand in no row and in no label's folder, or whose rows hold placeholders only. "
        "They are left out of all other figures of this page."
    )
    return Problem("unlabelled", "On disk without a label", rule, ("path",), rows)


def _several_labels(data: Exploration) -> Problem:
    rows = [
        {"path": record.path, "kind": kind, "labels": ";".join(names)}
        for record in data.records
        for kind, names in record.labels.items()
        if data.task != "multilabel" and len(names) > 1
    ]
    rule = f"More than one label of a kind on a photo, which model={data.task} cannot learn."
    if data.task == "multilabel":
        rule = "Does not apply: with model=multilabel a photo may carry any number of labels."
    return Problem("several_labels", "Several labels of a kind", rule, ("path", "kind", "labels"), rows)


def identical_sets(data: Exploration) -> list[list[Record]]:
    """Return the sets of byte-identical photos, each sorted by path."""
    sets: dict[str, list[Record]] = defaultdict(list)
    for record in data.records:
        if record.digest:
            sets[record.digest].append(record)
    return sorted((same for same in sets.values() if len(same) > 1), key=lambda same: same[0].path)


PAIR_COLUMNS = ("path", "other", "distance", "labels", "other_labels", "group", "other_group")


def _pair(record: Record, other: Record, distance: int) -> Row:
    """Return the row of two photos side by side."""
    return {
        "path": record.path,
        "other": other.path,
        "distance": distance,
        "labels": label_text(record),
        "other_labels": label_text(other),
        "group": record.group,
        "other_group": other.group,
    }


def _identical_pairs(data: Exploration) -> list[tuple[Record, Record, int]]:
    """Return each copy with the first photo of its set."""
    return [(same[0], copy, 0) for same in identical_sets(data) for copy in same[1:]]


def near_pairs_of(data: Exploration) -> list[tuple[Record, Record, int]]:
    """Return the near duplicates that are not byte-identical, as the splits see them, the closest first."""
    found = [
        (int(distance), data.records[i], data.records[j])
        for (i, j), distance in zip(data.linked.pairs.tolist(), data.linked.distances, strict=True)
        if data.records[i].digest != data.records[j].digest
    ]
    found.sort(key=lambda pair: (pair[0], pair[1].path, pair[2].path))
    return [(record, other, distance) for distance, record, other in found]


def _identical(data: Exploration) -> Problem:
    rows = [_pair(*pair) for pair in _identical_pairs(data)]
    rule = "Files of the same bytes, each copy beside the first one. A split keeps them together."
    return Problem("identical", "Exact duplicates", rule, PAIR_COLUMNS, rows)


def _near_duplicates(data: Exploration) -> Problem:
    rows = [_pair(*pair) for pair in near_pairs_of(data)]
    rule = (
        f"Pairs whose 64-bit perceptual hashes differ in {data.near_duplicates} bits or fewer "
        "(data.near_duplicates) and whose files differ. A split keeps them together. Of photos with the same "
        f"hash each is paired with the first one; past {MANY:,} pairs (or four per photo) only those are "
        "listed that hold each set together."
    )
    if data.near_duplicates is None:
        rule = "Not looked for: data.near_duplicates=null."
    return Problem("near_duplicates", "Near duplicates", rule, PAIR_COLUMNS, rows)


def _conflicting(data: Exploration) -> Problem:
    pairs = _identical_pairs(data) + near_pairs_of(data)
    rows = [
        _pair(record, other, distance)
        for record, other, distance in pairs
        if _labels(record) != _labels(other)
    ]
    rule = (
        "Pairs of the two lists above whose labels differ: exact duplicates first, where a label is wrong "
        "or missing, then near duplicates, where one may be."
    )
    return Problem("conflicting_labels", "Duplicates with different labels", rule, PAIR_COLUMNS, rows)


def _labels(record: Record) -> set[tuple[str, str]]:
    """Return the labels without regard to their order."""
    return {(kind, name) for kind, names in record.labels.items() for name in names}


def _looks(data: Exploration) -> list[Problem]:
    """Return the lists of photos that look wrong."""
    paths, looks = [r.path for r, _ in data.readable], [look for _, look in data.readable]
    labels = {record.path: label_text(record) for record, _ in data.readable}
    night, glaring = dark(paths, looks), overexposed(paths, looks)
    listed = {row["path"] for row in night.rows + glaring.rows}
    faint = low_information(paths, looks, listed)
    listed |= {row["path"] for row in faint.rows}
    found = [blurred(paths, looks, listed), night, glaring, faint, odd_size(paths, looks)]
    problems = [
        Problem(
            flagged.name,
            flagged.title,
            flagged.rule,
            ("path", "labels", *flagged.columns),
            [{"path": row["path"], "labels": labels[row["path"]], **row} for row in flagged.rows],
        )
        for flagged in found
    ]
    outliers = brightness_outliers(data.readable)
    rows = [{"file": row["path"], "label": labels[row["path"]], **row} for row in outliers.rows]
    rows = [{name: value for name, value in row.items() if name != "path"} for row in rows]
    columns = ("file", "label", "brightness")
    return [*problems, Problem(outliers.name, outliers.title, outliers.rule, columns, rows)]
