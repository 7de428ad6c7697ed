"""Problems of a data set as such: one list each of files, rows, IDs, copies, and photos that look wrong."""

from collections.abc import Mapping

from src.analysis.explore import photo_rules
from src.analysis.explore.exploration import Exploration
from src.analysis.pages import label_names
from src.datamodules.groups import identical_sets
from src.datamodules.records import Record

GONE = "no such file"  # the reason that `open_image` gives
FAULTY = ("path", "labels", "reason")
PAIR = ("path", "other", "distance", "labels", "other_labels", "group", "other_group")
LISTS = {  # name: (title, columns, rule)
    "corrupt": ("Corrupt", FAULTY, "Labelled photos that cannot be decoded: broken, too large, no image."),
    "truncated": ("Truncated", FAULTY, "Labelled photos whose file ends too early."),
    "missing": ("Missing on disk", ("id", "reason"), "IDs without a file, and photos that vanished."),
    "ambiguous": ("Ambiguous IDs", ("id", "files"), "IDs of the table that name several files."),
    "repeated_ids": ("Repeated IDs", ("path", "other", "id"), "Two photos with one ID: training refuses it."),
    "unlabelled": ("On disk without a label", ("path",), "Photos in no row and no label's folder, or with "
                   "placeholders only. They are left out of all other figures of this page."),
    "several_labels": ("Several labels of a kind", ("path", "kind", "labels"), "For multilabel alone."),
    "identical": ("Exact duplicates", PAIR, "Files of the same bytes, each copy with the first one."),
    "near_duplicates": (
        "Near duplicates", PAIR, "Pairs whose 64-bit perceptual hashes differ in {near} bits or fewer "
        "(data.near_duplicates) and whose files differ. A split keeps them together."),
    "conflicting_labels": (
        "Duplicates with different labels", PAIR, "Pairs of the two lists above whose labels differ."),
} | photo_rules.LISTS  # fmt: skip
Row = Mapping[str, str | int | float]
Pair = tuple[Record, Record, int]  # the last is the distance of their perceptual hashes, in bits


def find_problems(data: Exploration) -> dict[str, list[Row]]:
    """Return the rows of every list, also the empty ones, in the order of the page.

    Rows are sorted, the worst first or by path; `path` and `other` (`file`) in them are photos.
    """
    rows = _file_rows(data) | _copy_rows(data) | photo_rules.photo_rows(data)
    return {name: rows[name] for name in LISTS}


def rule_of(name: str, near_duplicates: int | None) -> str:
    """Return the condition for a row of a list, in words."""
    if name == "near_duplicates" and near_duplicates is None:
        return "Not looked for: data.near_duplicates=null."
    return LISTS[name][2].format(near=near_duplicates)


def _file_rows(data: Exploration) -> dict[str, list[Row]]:
    photos = data.photos.rename(columns={"all_labels": "labels"})
    gone, cut = photos[photos["reason"] == GONE], photos["reason"] == "truncated"
    lost = sorted(data.source.lost.items())
    missing = [{"id": id_ or "(empty)", "reason": "no file of this name"} for id_, found in lost if not found]
    missing += [
        {"id": row.ID, "reason": f"{row.path} was there when the photos were listed and is gone"}
        for row in gone.itertuples()
    ]
    corrupt = photos[~cut & ~photos["reason"].isin(["", GONE])]
    first: dict[str, str] = {}
    return {
        "corrupt": corrupt[list(FAULTY)].to_dict("records"),
        "truncated": photos.loc[cut, list(FAULTY)].to_dict("records"),
        "missing": missing,
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
    copies = [(same[0], copy, 0) for same in identical_sets(data.records) for copy in same[1:]]
    near = near_pairs_of(data)
    differing = [pair for pair in copies + near if _label_sets(pair[0]) != _label_sets(pair[1])]
    found: dict[str, list[Row]] = {"identical": [], "near_duplicates": [], "conflicting_labels": []}
    for rows, pairs in zip(found.values(), (copies, near, differing), strict=True):
        for one, other, distance in pairs:
            labels = [";".join(label_names(record.labels)) for record in (one, other)]
            row = (one.path, other.path, distance, *labels, one.group, other.group)
            rows.append(dict(zip(PAIR, row, strict=True)))
    return found


def near_pairs_of(data: Exploration) -> list[Pair]:
    """Return the near duplicates that are not byte-identical, as the splits see them, the closest first."""
    found = [
        (data.records[i], data.records[j], int(distance))
        for (i, j), distance in zip(data.linked.pairs.tolist(), data.linked.distances, strict=True)
        if data.records[i].digest != data.records[j].digest
    ]
    return sorted(found, key=lambda pair: (pair[2], pair[0].path, pair[1].path))


def _label_sets(record: Record) -> dict[str, set[str]]:
    return {kind: set(names) for kind, names in record.labels.items() if names}
