"""Problems of a data set as such: one list each of files, rows, IDs, copies, and photos that look wrong."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from src.analysis.explore import photo_rules
from src.analysis.explore.exploration import Exploration, label_text
from src.datamodules.near_duplicates import MANY
from src.datamodules.records import Record

GONE = "no such file"  # the reason that `open_image` gives
FAULTY = ("path", "labels", "reason")
PAIR = ("path", "other", "distance", "labels", "other_labels", "group", "other_group")
LISTS = {
    "corrupt": (
        "Corrupt",
        FAULTY,
        "Labelled photos that cannot be decoded: broken, empty, too large, or no image of a known format.",
    ),
    "truncated": (
        "Truncated",
        FAULTY,
        "Labelled photos whose file ends too early, as after a copy that was broken off.",
    ),
    "missing": (
        "Missing on disk",
        ("id", "reason"),
        "IDs of the table without a file, and photos that vanished between listing and reading.",
    ),
    "ambiguous": (
        "Ambiguous IDs",
        ("id", "files"),
        "IDs of the table that name several files, so that nobody knows which one is meant.",
    ),
    "repeated_ids": (
        "Repeated IDs",
        ("path", "other", "id"),
        "Two photos with one ID. A training refuses them.",
    ),
    "unlabelled": (
        "On disk without a label",
        ("path",),
        "Photos on disk that stand in no row and in no label's folder, or whose rows hold placeholders only. "
        "They are left out of all other figures of this page.",
    ),
    "several_labels": (
        "Several labels of a kind",
        ("path", "kind", "labels"),
        "More than one label of a kind on a photo, which model={task} cannot learn.",
    ),
    "identical": (
        "Exact duplicates",
        PAIR,
        "Files of the same bytes, each copy beside the first one. A split keeps them together.",
    ),
    "near_duplicates": (
        "Near duplicates",
        PAIR,
        "Pairs whose 64-bit perceptual hashes differ in {near} bits or fewer (data.near_duplicates) and "
        "whose files differ. A split keeps them together. Of photos with the same hash each is paired with "
        f"the first one; past {MANY:,} pairs (or four per photo) only those are listed that hold each set "
        "together.",
    ),
    "conflicting_labels": (
        "Duplicates with different labels",
        PAIR,
        "Pairs of the two lists above whose labels differ: exact duplicates first, where a label is wrong or "
        "missing, then near duplicates, where one may be.",
    ),
} | photo_rules.LISTS
Row = Mapping[str, str | int | float]
Pair = tuple[Record, Record, int]  # the last is the distance of their perceptual hashes, in bits


@dataclass(frozen=True)
class Problem:
    """One list.

    Attributes:
        name: of its CSV, without `.csv`, and of its section on the page.
        title: in words.
        rule: condition for a row, in words.
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
    rows = _file_rows(data) | _copy_rows(data) | photo_rules.photo_rows(data)
    rules = {name: rule for name, (_, _, rule) in LISTS.items()}
    rules["several_labels"] = rules["several_labels"].format(task=data.task)
    rules["near_duplicates"] = rules["near_duplicates"].format(near=data.near_duplicates)
    if data.task == "multilabel":
        text = "Does not apply: with model=multilabel a photo may carry any number of labels."
        rules["several_labels"] = text
    if data.near_duplicates is None:
        rules["near_duplicates"] = "Not looked for: data.near_duplicates=null."
    return [
        Problem(name, title, rules[name], columns, rows[name]) for name, (title, columns, _) in LISTS.items()
    ]


def _file_rows(data: Exploration) -> dict[str, list[Row]]:
    """Return the rows of the lists of files, table rows and IDs."""
    unreadable = [
        {"path": row.path, "labels": row.all_labels, "reason": row.reason}
        for row in data.photos.itertuples()
        if row.reason not in ("", GONE)
    ]
    lost = sorted(data.source.lost.items())
    gone = [
        {"id": row.ID, "reason": f"{row.path} was there when the photos were listed and is gone"}
        for row in data.photos.itertuples()
        if row.reason == GONE
    ]
    first: dict[str, str] = {}
    return {
        "corrupt": [row for row in unreadable if row["reason"] != "truncated"],
        "truncated": [row for row in unreadable if row["reason"] == "truncated"],
        "missing": [{"id": id_ or "(empty)", "reason": "no file of this name"} for id_, f in lost if not f]
        + gone,
        "ambiguous": [{"id": id_, "files": ";".join(found)} for id_, found in lost if found],
        "repeated_ids": [
            {"path": record.path, "other": first[record.id], "id": record.id}
            for record in data.records
            if first.setdefault(record.id, record.path) != record.path
        ],
        "unlabelled": [{"path": path} for path in sorted(data.source.unlabelled)],
        "several_labels": [
            {"path": record.path, "kind": kind, "labels": ";".join(names)}
            for record in data.records
            for kind, names in record.labels.items()
            if data.task != "multilabel" and len(names) > 1
        ],
    }


def _copy_rows(data: Exploration) -> dict[str, list[Row]]:
    """Return the rows of the lists of copies and near duplicates."""
    copies = [(same[0], copy, 0) for same in identical_sets(data) for copy in same[1:]]
    near = near_pairs_of(data)
    differing = [pair for pair in copies + near if _label_set(pair[0]) != _label_set(pair[1])]
    found = {"identical": copies, "near_duplicates": near, "conflicting_labels": differing}
    return {name: _pair_rows(pairs) for name, pairs in found.items()}


def identical_sets(data: Exploration) -> list[list[Record]]:
    """Return the sets of byte-identical photos, each sorted by path."""
    sets: dict[str, list[Record]] = defaultdict(list)
    for record in data.records:
        if record.digest:
            sets[record.digest].append(record)
    return [same for same in sets.values() if len(same) > 1]


def near_pairs_of(data: Exploration) -> list[Pair]:
    """Return the near duplicates that are not byte-identical, as the splits see them, the closest first."""
    found = [
        (data.records[i], data.records[j], int(distance))
        for (i, j), distance in zip(data.linked.pairs.tolist(), data.linked.distances, strict=True)
        if data.records[i].digest != data.records[j].digest
    ]
    return sorted(found, key=lambda pair: (pair[2], pair[0].path, pair[1].path))


def _pair_rows(pairs: Iterable[Pair]) -> list[Row]:
    """Return the rows of pairs of photos."""
    return [
        {
            "path": record.path,
            "other": other.path,
            "distance": distance,
            "labels": label_text(record),
            "other_labels": label_text(other),
            "group": record.group,
            "other_group": other.group,
        }
        for record, other, distance in pairs
    ]


def _label_set(record: Record) -> set[tuple[str, str]]:
    """Return the labels without regard to their order."""
    return {(kind, name) for kind, names in record.labels.items() for name in names}
