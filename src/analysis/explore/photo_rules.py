"""Rules for photos that look wrong: each a fixed limit, or a limit that also has to be unusual in this set.

A share of the set is never listed by construction: of a clean set every list is empty. The limits were set
with inspection photos at hand, sharp ones and the same ones blurred by a Gaussian.
"""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from src.analysis.explore.exploration import Exploration
from src.analysis.explore.problems import Problem
from src.analysis.survey import SHORT_SIDE, TILE, TILE_CONTRAST, WHITE

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


def photo_problems(data: Exploration) -> list[Problem]:
    """Return the lists of photos that look wrong, also the empty ones."""
    photos = data.readable.assign(labels=data.readable["all_labels"])
    night, glaring = dark(photos), overexposed(photos)
    faint = low_information(photos, _paths(night, glaring))
    soft = blurred(photos, _paths(night, glaring, faint))
    return [soft, night, glaring, faint, odd_size(photos), brightness_outliers(data)]


def _paths(*problems: Problem) -> set[str]:
    """Return the photos of some lists."""
    return {row["path"] for problem in problems for row in problem.rows}


def _problem(name: str, title: str, rule: str, columns: Sequence[str], found: pd.DataFrame) -> Problem:
    """Return the list of the photos that were found."""
    columns = ("path", "labels", *columns)
    return Problem(name, title, rule, columns, found[list(columns)].to_dict("records"))


def robust_z(values: Sequence[float], least_spread: float) -> np.ndarray:
    """Return by how many robust standard deviations each value differs from the median; 0 for too few values.

    Args:
        values: `[photos]`.
        least_spread: lower bound of the standard deviation; where nearly all values are the same, the
            smallest difference would be extreme.
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
    odd = ~below & (photos[column] < unusual) & (z < -UNUSUAL)
    reasons = [
        f"below {always:g}" if low else f"below {unusual:g} and unusual here (z = {score:.1f})"
        for low, score in zip(below, z, strict=True)
    ]
    found = photos.assign(reason=reasons, **{column: photos[column].round(4)})[below | odd]
    return found.sort_values([column, "path"])


def blurred(photos: pd.DataFrame, listed: Collection[str]) -> Problem:
    """Return the photos without a sharp edge, but for those that are `listed` for another reason."""
    judged = photos[photos["sharpness"].notna() & ~photos["path"].isin(listed)]
    rule = (
        f"Sharpness below {BLURRED}; or below {SOFT} and {UNUSUAL} robust standard deviations below the "
        f"median of this set (of logarithms). Sharpness: at {SHORT_SIDE} pixels of the shorter side, the "
        "variance of the Laplacian over the variance of the gray levels, in the sharpest tenth of the "
        f"{TILE} x {TILE} tiles with contrast (standard deviation above {TILE_CONTRAST:g}). Smooth surfaces "
        "are not judged, nor are photos that are listed as dark, overexposed or of low information."
    )
    found = _low(judged, "sharpness", robust_z(_log(judged["sharpness"]), 0.1), BLURRED, SOFT)
    return _problem("blurred", "Blurred", rule, ("sharpness", "reason"), found)


def dark(photos: pd.DataFrame) -> Problem:
    """Return the photos in which nothing is bright."""
    rule = (
        f"95% of the pixels are darker than gray level {BLACK} of 255; or than {DIM}, where that lies "
        f"{UNUSUAL} robust standard deviations below the median of this set."
    )
    found = _low(photos, "bright_end", robust_z(photos["bright_end"], 5.0), BLACK, DIM)
    return _problem("dark", "Dark", rule, ("bright_end", "reason"), found)


def low_information(photos: pd.DataFrame, listed: Collection[str]) -> Problem:
    """Return the photos that show hardly anything, but for those that are `listed` for another reason."""
    rule = (
        f"The gray levels have a standard deviation below {FLAT}: one plain area. Or below {PALE:g}, where "
        f"its logarithm lies {UNUSUAL} robust standard deviations below the median of this set. Photos that "
        "are listed as dark or overexposed are not listed again."
    )
    found = _low(photos, "contrast", robust_z(_log(photos["contrast"]), 0.1), FLAT, PALE)
    found = found[~found["path"].isin(listed)]
    return _problem("low_information", "Low information", rule, ("contrast", "reason"), found)


def overexposed(photos: pd.DataFrame) -> Problem:
    """Return the photos that are blown out, as a whole or in a large spot."""
    found = photos[(photos["white"] > WHITE_SHARE) | (photos["glare"] > GLARE_SHARE)]
    reasons = [
        ", ".join(
            [f"{white:.0%} of the photo is white"] * (white > WHITE_SHARE)
            + [f"a white spot of {glare:.0%}"] * (glare > GLARE_SHARE)
        )
        for white, glare in zip(found["white"], found["glare"], strict=True)
    ]
    found = found.assign(reason=reasons, worst=-found[["white", "glare"]].max(axis=1))
    found = found.sort_values(["worst", "path"]).round({"white": 4, "glare": 4})
    rule = (
        f"More than {WHITE_SHARE:.0%} of the pixels are blown out (gray level {WHITE} or more); or one "
        "connected blown-out spot that does not reach the edge of the photo, as the sky would, covers more "
        f"than {GLARE_SHARE:.0%}."
    )
    return _problem("overexposed", "Overexposed or glaring", rule, ("white", "glare", "reason"), found)


def odd_size(photos: pd.DataFrame) -> Problem:
    """Return the photos whose size or shape is unlike the others', or of no use."""
    sides = photos[["width", "height"]]
    area, shape = sides.prod(axis=1), sides.max(axis=1) / sides.min(axis=1)
    odd = pd.DataFrame(
        {
            "short": sides.min(axis=1),
            "shape": shape,
            "times": area / area.median(),
            "ratio": shape / shape.median(),
            "area_z": np.abs(robust_z(np.log(area), 0.1)),
            "shape_z": np.abs(robust_z(np.log(shape), 0.05)),
        }
    )
    reasons = [", ".join(_odd_sides(row, shape.median())) for row in odd.itertuples()]
    rule = (
        f"The shorter side has fewer than {TINY} pixels; or the longer one is more than {LONG:g} times as "
        f"long; or the number of pixels is more than {OTHER_AREA:g} times the median or less than "
        f"1/{OTHER_AREA:g} of it, or the ratio of the sides more than {OTHER_SHAPE:g} times off its median, "
        f"and {UNUSUAL} robust standard deviations from it (of logarithms)."
    )
    found = photos.assign(reason=reasons)
    columns = ("width", "height", "reason")
    return _problem("odd_size", "Odd size or shape", rule, columns, found[found["reason"] != ""])


def _odd_sides(row: tuple, usual: float) -> list[str]:
    """Return the reasons why a photo's size or shape is odd; `usual` is the median ratio of the sides."""
    reasons = [f"shorter side below {TINY} pixels"] * (row.short < TINY)
    reasons += [f"one side {row.shape:.1f} times the other"] * (row.shape > LONG)
    if row.area_z > UNUSUAL and max(row.times, 1 / row.times) > OTHER_AREA:
        more = row.times > 1
        reasons.append(
            f"{row.times:.1f} times the usual pixels" if more else f"{1 / row.times:.1f} times fewer pixels"
        )
    if row.shape_z > UNUSUAL and max(row.ratio, 1 / row.ratio) > OTHER_SHAPE and row.shape <= LONG:
        reasons.append(f"sides {row.shape:.2f} : 1, usual is {usual:.2f} : 1")
    return reasons


def brightness_outliers(data: Exploration) -> Problem:
    """Return the photos whose brightness is unlike that of all labels they carry."""
    seen = data.carried[data.carried["photo"].isin(data.readable.index)]
    seen = seen.assign(brightness=data.readable["brightness"].reindex(seen["photo"]).to_numpy())
    label = seen.groupby(["kind", "label"])["brightness"]
    away = (seen["brightness"] - label.transform("median")).abs()
    spread = away.groupby([seen["kind"], seen["label"]]).transform("median") * 1.4826
    unlike = (away > UNUSUAL * spread.clip(lower=8.0)) & (away > OTHER_BRIGHTNESS)
    judged = label.transform("size") >= ENOUGH_OF_LABEL
    photos = unlike[judged].groupby(seen["photo"][judged]).all()
    found = data.readable.loc[photos.index[photos]].round({"brightness": 1})
    found = found.assign(file=found["path"], label=found["all_labels"]).sort_values(["brightness", "path"])
    rule = (
        "The mean gray level differs from the median of every label that the photo carries (of those on "
        f"{ENOUGH_OF_LABEL} photos or more) by more than {OTHER_BRIGHTNESS} of 255 levels and by {UNUSUAL} "
        "robust standard deviations."
    )
    columns = ("file", "label", "brightness")
    title = "Brightness unlike the label's"
    return Problem("brightness_outliers", title, rule, columns, found[list(columns)].to_dict("records"))
