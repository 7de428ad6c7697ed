"""Rules for photos that look wrong: each a fixed limit, or a limit that also has to be unusual in this set.

A share of the set is never listed by construction: of a clean set every list is empty. The limits were set
with inspection photos at hand, sharp ones and the same ones blurred by a Gaussian.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from src.analysis.explore.exploration import Exploration
from src.datamodules.inspection import WHITE

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
LISTS = {  # name: (title, columns, rule)
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


def photo_rows(data: Exploration) -> dict[str, list[dict]]:
    """Return the rows of the lists of photos that look wrong.

    A photo that is dark or overexposed is not listed again for low information, and none of these for blur.
    """
    photos = data.readable.assign(labels=data.readable["all_labels"])
    night = _low(photos, "bright_end", robust_z(photos["bright_end"], 5.0), BLACK, DIM)
    glaring = _overexposed(photos)
    faint = _low(photos, "contrast", robust_z(_log(photos["contrast"]), 0.1), FLAT, PALE)
    faint = faint.drop(night.index.union(glaring.index), errors="ignore")
    judged = photos.drop(night.index.union(glaring.index).union(faint.index)).dropna(subset="sharpness")
    found = {
        "blurred": _low(judged, "sharpness", robust_z(_log(judged["sharpness"]), 0.1), BLURRED, SOFT),
        "dark": night,
        "overexposed": glaring,
        "low_information": faint,
        "odd_size": _odd_size(photos),
        "brightness_outliers": _brightness_outliers(data),
    }
    return {name: rows[list(LISTS[name][1])].to_dict("records") for name, rows in found.items()}


def robust_z(values: Sequence[float], least_spread: float) -> np.ndarray:
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
    measures["area_z"] = np.abs(robust_z(np.log(area), 0.1))
    measures["shape_z"] = np.abs(robust_z(np.log(shape), 0.05))
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
