"""Which photos look wrong: each rule a fixed limit, or a limit that also has to be unusual in this set.

A share of the set is never listed by construction: of a clean set every list is empty. The limits were set
with inspection photos at hand, sharp ones and the same ones blurred by a Gaussian.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from src.datamodules.inspection import SHORT_SIDE, TILE, TILE_CONTRAST, WHITE, ImageStats
from src.datamodules.records import Record

UNUSUAL = 3.5  # robust z-score (Iglewicz and Hoaglin, 1993)
ENOUGH = 20  # photos that a median and its spread can be taken from
ENOUGH_OF_LABEL = 10
BLURRED, SOFT = 0.05, 0.09  # sharpness: always listed, listed where it is unusual
BLACK, DIM = 40, 65  # gray level that 95 % of the pixels do not exceed, likewise
FLAT, PALE = 1.5, 4.0  # standard deviation of the gray levels, likewise
WHITE_SHARE, GLARE_SHARE = 0.5, 0.08
TINY, LONG = 32, 4.0  # pixels of the shorter side; longer over shorter side
OTHER_AREA, OTHER_SHAPE = 4.0, 1.5  # times the median
OTHER_BRIGHTNESS = 90  # gray levels from the label's median


@dataclass(frozen=True)
class Flagged:
    """A list of photos that break a rule; rows hold `path` and the `columns`."""

    name: str
    title: str
    rule: str
    columns: tuple[str, ...]
    rows: list[dict]


def robust_z(values: Sequence[float], least_spread: float) -> np.ndarray:
    """Return how many robust standard deviations each value lies from the median; 0 for too few values.

    Args:
        values: `[photos]`.
        least_spread: the standard deviation to reckon with at least; where nearly all values are the same,
            the smallest difference would be extreme.
    """
    values = np.asarray(values, float)
    if len(values) < ENOUGH:
        return np.zeros(len(values))
    median = np.median(values)
    return (values - median) / max(1.4826 * np.median(np.abs(values - median)), least_spread)


def _low(
    paths: Sequence[str], values: np.ndarray, z: np.ndarray, always: float, unusual: float, name: str
) -> list[dict]:
    """Return the rows of values that are too low, lowest first."""
    rows = []
    for path, value, score in zip(paths, values.tolist(), z.tolist(), strict=True):
        if value < always:
            reason = f"below {always:g}"
        elif value < unusual and score < -UNUSUAL:
            reason = f"below {unusual:g} and unusual here (z = {score:.1f})"
        else:
            continue
        rows.append({"path": path, name: round(value, 4), "reason": reason})
    return sorted(rows, key=lambda row: (row[name], row["path"]))


def blurred(paths: Sequence[str], looks: Sequence[ImageStats], listed: Collection[str]) -> Flagged:
    """Return the photos without a sharp edge, but for those that are `listed` for another reason."""
    judged = [
        (path, look.sharpness)
        for path, look in zip(paths, looks, strict=True)
        if look.sharpness is not None and path not in listed
    ]
    names, values = [path for path, _ in judged], np.array([value for _, value in judged], float)
    z = robust_z(np.log(np.maximum(values, 1e-6)), 0.1)
    rule = (
        f"Sharpness below {BLURRED}; or below {SOFT} and {UNUSUAL} robust standard deviations below the "
        f"median of this set (of logarithms). Sharpness: at {SHORT_SIDE} pixels of the shorter side, the "
        "variance of the Laplacian over the variance of the gray levels, in the sharpest tenth of the "
        f"{TILE} x {TILE} tiles with contrast (standard deviation above {TILE_CONTRAST:g}). Smooth surfaces "
        "are not judged, nor are photos that are listed as dark, overexposed or of low information."
    )
    rows = _low(names, values, z, BLURRED, SOFT, "sharpness")
    return Flagged("blurred", "Blurred", rule, ("sharpness", "reason"), rows)


def dark(paths: Sequence[str], looks: Sequence[ImageStats]) -> Flagged:
    """Return the photos in which nothing is bright."""
    values = np.array([look.bright_end for look in looks], float)
    rule = (
        f"95% of the pixels are darker than gray level {BLACK} of 255; or than {DIM}, where that lies "
        f"{UNUSUAL} robust standard deviations below the median of this set."
    )
    rows = _low(paths, values, robust_z(values, 5.0), BLACK, DIM, "bright_end")
    return Flagged("dark", "Dark", rule, ("bright_end", "reason"), rows)


def low_information(paths: Sequence[str], looks: Sequence[ImageStats], listed: Collection[str]) -> Flagged:
    """Return the photos that show hardly anything, but for those that are `listed` for another reason."""
    values = np.array([look.contrast for look in looks], float)
    rule = (
        f"The gray levels have a standard deviation below {FLAT}: one plain area. Or below {PALE:g}, where "
        f"its logarithm lies {UNUSUAL} robust standard deviations below the median of this set. Photos that "
        "are listed as dark or overexposed are not listed again."
    )
    rows = _low(paths, values, robust_z(np.log(np.maximum(values, 1e-6)), 0.1), FLAT, PALE, "contrast")
    rows = [row for row in rows if row["path"] not in listed]
    return Flagged("low_information", "Low information", rule, ("contrast", "reason"), rows)


def overexposed(paths: Sequence[str], looks: Sequence[ImageStats]) -> Flagged:
    """Return the photos that are blown out, as a whole or in a large spot."""
    rows = []
    for path, look in zip(paths, looks, strict=True):
        reasons = [f"{look.white:.0%} of the photo is white"] if look.white > WHITE_SHARE else []
        reasons += [f"a white spot of {look.glare:.0%}"] if look.glare > GLARE_SHARE else []
        if reasons:
            values = {"white": round(look.white, 4), "glare": round(look.glare, 4)}
            rows.append({"path": path, **values, "reason": ", ".join(reasons)})
    rows.sort(key=lambda row: (-max(row["white"], row["glare"]), row["path"]))
    rule = (
        f"More than {WHITE_SHARE:.0%} of the pixels are blown out (gray level {WHITE} or more); or one "
        "connected blown-out spot that does not reach the edge of the photo, as the sky would, covers more "
        f"than {GLARE_SHARE:.0%}."
    )
    return Flagged("overexposed", "Overexposed or glaring", rule, ("white", "glare", "reason"), rows)


def odd_size(paths: Sequence[str], looks: Sequence[ImageStats]) -> Flagged:
    """Return the photos whose size or shape is unlike the others', or of no use."""
    sides = np.array([(look.width, look.height) for look in looks], float).reshape(-1, 2)
    area, shape = sides.prod(axis=1), sides.max(axis=1, initial=1) / sides.min(axis=1, initial=np.inf)
    area_z, shape_z = robust_z(np.log(area), 0.1), robust_z(np.log(shape), 0.05)
    middle = (np.median(area), np.median(shape)) if len(area) else (1.0, 1.0)
    rows = []
    for i, (path, look) in enumerate(zip(paths, looks, strict=True)):
        times, ratio = area[i] / middle[0], shape[i] / middle[1]
        reasons = [f"shorter side below {TINY} pixels"] if min(look.width, look.height) < TINY else []
        reasons += [f"one side {shape[i]:.1f} times the other"] if shape[i] > LONG else []
        if abs(area_z[i]) > UNUSUAL and max(times, 1 / times) > OTHER_AREA:
            reasons.append(
                f"{times:.1f} times the usual pixels" if times > 1 else f"{1 / times:.1f} times fewer pixels"
            )
        if abs(shape_z[i]) > UNUSUAL and max(ratio, 1 / ratio) > OTHER_SHAPE and shape[i] <= LONG:
            reasons.append(f"sides {shape[i]:.2f} : 1, usual is {middle[1]:.2f} : 1")
        if reasons:
            rows.append(
                {"path": path, "width": look.width, "height": look.height, "reason": ", ".join(reasons)}
            )
    rule = (
        f"The shorter side has fewer than {TINY} pixels; or the longer one is more than {LONG:g} times as "
        f"long; or the number of pixels is more than {OTHER_AREA:g} times the median or less than "
        f"1/{OTHER_AREA:g} of it, or the ratio of the sides more than {OTHER_SHAPE:g} times off its median, "
        f"and {UNUSUAL} robust standard deviations from it (of logarithms)."
    )
    return Flagged("odd_size", "Odd size or shape", rule, ("width", "height", "reason"), rows)


def brightness_outliers(readable: Sequence[tuple[Record, ImageStats]]) -> Flagged:
    """Return the photos whose brightness is unlike that of all labels they carry."""
    carrying: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, (record, _) in enumerate(readable):
        for kind, names in record.labels.items():
            for name in names:
                carrying[kind, name].append(i)
    brightness = np.array([look.brightness for _, look in readable], float)
    judged, unlike = np.zeros(len(readable), int), np.zeros(len(readable), int)
    for photos in carrying.values():
        values = brightness[photos]
        if len(photos) < ENOUGH_OF_LABEL:
            continue
        away = np.abs(values - np.median(values))
        spread = max(1.4826 * np.median(away), 8.0)
        judged[photos] += 1
        unlike[photos] += (away / spread > UNUSUAL) & (away > OTHER_BRIGHTNESS)
    rows = [
        {"path": readable[i][0].path, "brightness": round(float(brightness[i]), 1)}
        for i in np.flatnonzero((judged > 0) & (unlike == judged))
    ]
    rows.sort(key=lambda row: (row["brightness"], row["path"]))
    rule = (
        "The mean gray level differs from the median of every label that the photo carries (of those on "
        f"{ENOUGH_OF_LABEL} photos or more) by more than {OTHER_BRIGHTNESS} of 255 levels and by {UNUSUAL} "
        "robust standard deviations."
    )
    return Flagged("brightness_outliers", "Brightness unlike the label's", rule, ("brightness",), rows)
