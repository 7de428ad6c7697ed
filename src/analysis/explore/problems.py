"""Problems of a data set as such: one list each of files, rows, IDs, copies, and photos that look wrong.

The rules for photos that look wrong are fixed limits, or limits that also have to be unusual in this set. A
share of the set is never listed by construction: of a clean set every list is empty. The limits were set with
inspection photos at hand, sharp ones and the same ones blurred by a Gaussian.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from src.analysis.explore.exploration import Exploration
from src.analysis.pages import label_names
from src.datamodules.groups import identical_sets
from src.datamodules.inspection import WHITE
from src.datamodules.records import Record

UNUSUAL = 3.5  # robust z-score (Iglewicz and Hoaglin, 1993)
ENOUGH = 20  # photos that a median and its spread can be taken from
ENOUGH_OF_LABEL = 10
BLURRED, SOFT = 0.05, 0.09  # sharpness: always listed, listed where it is unusual
BLACK, DIM = 40, 65  # gray level that 95 % of the pixels do not exceed: always listed, where unusual
FLAT, PALE = 1.5, 4.0  # standard deviation of the gray levels: always listed, where unusual
WHITE_SHARE, GLARE_SHARE = 0.5, 0.08
TINY, LONG = 32, 4.0  # pixels of the shorter side; longer over shorter side
OTHER_AREA, OTHER_SHAPE = 4.0, 1.5  # times the median
OTHER_BRIGHTNESS = 90  # gray levels from the label's median
FAULTY = ("path", "labels", "reason")
PAIR = ("path", "other", "distance", "labels", "other_labels", "group", "other_group")
LISTS = {  # name: (title, columns, rule)
    "corrupt": ("Corrupt", FAULTY, "Labelled photos that cannot be decoded: broken, too large, no image."),
    "truncated": ("Truncated", FAULTY, "Labelled photos whose file ends too early."),
    "missing": ("Missing on disk", ("id", "reason"), "IDs of the table without a file."),
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
    "blurred": (
        "Blurred", ("path", "labels", "sharpness", "reason"),
        f"Sharpness below {BLURRED}; or below {SOFT} and unusually low. Smooth surfaces are not judged, nor "
        "are photos that are listed as dark, overexposed or of low information."),
    "dark": (
        "Dark", ("path", "labels", "bright_end", "reason"),
        f"95% of the pixels are darker than gray level {BLACK} of 255; or than {DIM}, and that is unusual."),
    "overexposed": (
        "Overexposed or glaring", ("path", "labels", "white", "glare", "reason"),
        f"More than {WHITE_SHARE:.0%} of the pixels are blown out (gray level {WHITE} or more); or one spot "
        f"of them that does not reach the edge, as the sky would, covers more than {GLARE_SHARE:.0%}."),
    "low_information": (
        "Low information", ("path", "labels", "contrast", "reason"),
        f"The gray levels have a standard deviation below {FLAT}: one plain area; or below {PALE:g}, and "
        "that is unusual. Photos that are listed as dark or overexposed are not listed again."),
    "odd_size": (
        "Odd size or shape", ("path", "labels", "width", "height", "reason"),
        f"The shorter side has fewer than {TINY} pixels; or the longer one is more than {LONG:g} times as "
        f"long; or pixels ({OTHER_AREA:g} times) or ratio ({OTHER_SHAPE:g} times) are off the median, and "
        "unusual."),
    "brightness_outliers": (
        "Brightness unlike the label's", ("file", "label", "brightness"),
        "The mean gray level is unusual for every label that the photo carries, of those on "
        f"{ENOUGH_OF_LABEL} photos or more, by more than {OTHER_BRIGHTNESS} of 255 levels."),
}  # fmt: skip
Row = Mapping[str, str | int | float]
Pair = tuple[Record, Record, int]  # the last is the distance of their perceptual hashes, in bits


def find_problems(data: Exploration) -> dict[str, list[Row]]:
    """Return the rows of every list, also the empty ones, in the order of the page.

    Rows are sorted, the worst first or by path; `path` and `other` (`file`) in them are photos.
    """
    rows = _file_rows(data) | _copy_rows(data) | _photo_rows(data)
    return {name: rows[name] for name in LISTS}


def rule_of(name: str, near_duplicates: int | None) -> str:
    """Return the condition for a row of a list, in words."""
    if name == "near_duplicates" and near_duplicates is None:
        return "Not looked for: data.near_duplicates=null."
    return LISTS[name][2].format(near=near_duplicates)


def _file_rows(data: Exploration) -> dict[str, list[Row]]:
    photos = data.photos.rename(columns={"all_labels": "labels"})
    cut, lost = photos["reason"] == "truncated", sorted(data.source.lost.items())
    missing = [{"id": id_ or "(empty)", "reason": "no file of this name"} for id_, found in lost if not found]
    corrupt = photos[~cut & (photos["reason"] != "")]
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


def _photo_rows(data: Exploration) -> dict[str, list[dict]]:
    """Return the rows of the lists of photos that look wrong.

    A photo that is dark or overexposed is not listed again for low information, and none of these for blur.
    """
    photos = data.readable.assign(labels=data.readable["all_labels"])
    night = _low(photos, "bright_end", _robust_z(photos["bright_end"], 5.0), BLACK, DIM)
    glaring = _overexposed(photos)
    faint = _low(photos, "contrast", _robust_z(_log(photos["contrast"]), 0.1), FLAT, PALE)
    faint = faint.drop(night.index.union(glaring.index), errors="ignore")
    judged = photos.drop(night.index.union(glaring.index).union(faint.index)).dropna(subset="sharpness")
    found = {
        "blurred": _low(judged, "sharpness", _robust_z(_log(judged["sharpness"]), 0.1), BLURRED, SOFT),
        "dark": night,
        "overexposed": glaring,
        "low_information": faint,
        "odd_size": _odd_size(photos),
        "brightness_outliers": _brightness_outliers(data),
    }
    return {name: rows[list(LISTS[name][1])].to_dict("records") for name, rows in found.items()}


def _robust_z(values: Sequence[float], least_spread: float) -> np.ndarray:
    """Return by how many robust standard deviations each value differs from the median; 0 for too few values.

    The deviation is at least `least_spread`: where nearly all values are the same, the smallest difference
    would be extreme.
    """
    values = np.asarray(values, float)
    if len(values) < ENOUGH:
        return np.zeros(len(values))
    median = np.median(values)
    return (values - median) / max(1.4826 * np.median(np.abs(values - median)), least_spread)


def _log(values: pd.Series) -> pd.Series:
    return np.log(values.clip(lower=1e-6))


def _low(photos: pd.DataFrame, column: str, z: np.ndarray, always: float, unusual: float) -> pd.DataFrame:
    """Return the photos whose value is too low, lowest first, with the reason."""
    below = photos[column] < always
    odd = (photos[column] < unusual) & (z < -UNUSUAL)
    reasons = [
        f"below {always:g}" if low else f"below {unusual:g} and unusual here (z = {score:.1f})"
        for low, score in zip(below, z, strict=True)
    ]
    found = photos.assign(reason=reasons, **{column: photos[column].round(4)})[below | odd]
    return found.sort_values([column, "path"])


def _overexposed(photos: pd.DataFrame) -> pd.DataFrame:
    found = photos[(photos["white"] > WHITE_SHARE) | (photos["glare"] > GLARE_SHARE)]
    reasons = [
        ", ".join(
            [f"{white:.0%} of the photo is white"] * (white > WHITE_SHARE)
            + [f"a white spot of {glare:.0%}"] * (glare > GLARE_SHARE)
        )
        for white, glare in zip(found["white"], found["glare"], strict=True)
    ]
    found = found.assign(reason=reasons, worst=-found[["white", "glare"]].max(axis=1))
    return found.sort_values(["worst", "path"]).round({"white": 4, "glare": 4})


def _odd_size(photos: pd.DataFrame) -> pd.DataFrame:
    sides = photos[["width", "height"]]
    area, shape = sides.prod(axis=1), sides.max(axis=1) / sides.min(axis=1)
    measures = sides.assign(short=sides.min(axis=1), shape=shape, usual=shape.median())
    measures["times"] = area / area.median()
    measures["area_z"] = np.abs(_robust_z(np.log(area), 0.1))
    measures["shape_z"] = np.abs(_robust_z(np.log(shape), 0.05))
    found = photos.assign(reason=[", ".join(_odd_sides(row)) for row in measures.itertuples()])
    return found[found["reason"] != ""]


def _odd_sides(row: tuple) -> list[str]:
    reasons = [f"shorter side below {TINY} pixels"] * (row.short < TINY)
    reasons += [f"one side {row.shape:.1f} times the other"] * (row.shape > LONG)
    if row.area_z > UNUSUAL and not 1 / OTHER_AREA <= row.times <= OTHER_AREA:
        more, fewer = f"{row.times:.1f} times the usual pixels", f"{1 / row.times:.1f} times fewer pixels"
        reasons.append(more if row.times > 1 else fewer)
    similar = 1 / OTHER_SHAPE <= row.shape / row.usual <= OTHER_SHAPE
    if row.shape_z > UNUSUAL and not similar and row.shape <= LONG:
        reasons.append(f"sides {row.shape:.2f} : 1, usual is {row.usual:.2f} : 1")
    return reasons


def _brightness_outliers(data: Exploration) -> pd.DataFrame:
    seen = data.carried.join(data.readable["brightness"], on="photo", how="inner")
    label = seen.groupby(["kind", "label"])["brightness"]
    away = (seen["brightness"] - label.transform("median")).abs()
    spread = away.groupby([seen["kind"], seen["label"]]).transform("median") * 1.4826
    unlike = (away > UNUSUAL * spread.clip(lower=8.0)) & (away > OTHER_BRIGHTNESS)
    judged = label.transform("size") >= ENOUGH_OF_LABEL
    photos = unlike[judged].groupby(seen["photo"][judged]).all()
    found = data.readable.loc[photos.index[photos]].round({"brightness": 1})
    return found.assign(file=found["path"], label=found["all_labels"]).sort_values(["brightness", "path"])
