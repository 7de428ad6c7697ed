"""Looks at a demo set: a contact sheet for people, and the baseline that sees nothing but colours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from src.demo.tables import read_truth
from src.errors import InputError

_CAPTION = 22


def contact_sheet(
    root: str | Path, path: str | Path, rows: int = 4, columns: int = 4, thumb: tuple[int, int] = (320, 240)
) -> list[str]:
    """Write a labelled grid of a demo set's photos as a PNG: as many different labels as fit.

    Args:
        root: of the demo set.
        path: of the PNG.
        rows: photos down.
        columns: photos across.
        thumb: width and height of each, pixels.

    Returns:
        The IDs of the photos shown.

    Raises:
        InputError: there is no complete demo set, or the grid has no cells.
    """
    if rows < 1 or columns < 1:
        raise InputError(f"demo: a contact sheet of {rows}x{columns} has no cells; use 1 or more of each")
    chosen = _varied(read_truth(root), rows * columns)
    width, height = thumb
    sheet = Image.new("RGB", (columns * (width + 6) + 6, rows * (height + _CAPTION + 4) + 4), (250, 250, 248))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, row in enumerate(chosen):
        x, y = 6 + (place % columns) * (width + 6), 6 + (place // columns) * (height + _CAPTION + 4)
        with Image.open(Path(root) / row["path"]) as image:
            image.draft("RGB", (2 * width, 2 * height))
            photo = ImageOps.fit(
                ImageOps.exif_transpose(image).convert("RGB"), thumb, Image.Resampling.LANCZOS
            )
        sheet.paste(photo, (x, y))
        caption = f"{row['main_component']} · {row['main_defect']}"
        while font.getlength(caption) > width - 4:
            caption = caption[:-2].rstrip(" ·-") + "…"
        draw.text((x + 2, y + height + 3), caption, fill=(40, 40, 40), font=font)
    sheet.save(path)
    return [row["ID"] for row in chosen]


def _varied(rows: list[dict[str, str]], number: int) -> list[dict[str, str]]:
    """Choose photos so that every label is shown about as often as every other."""
    rows = [row for row in rows if not row["duplicate_of"]]
    shown: dict[str, int] = {}
    chosen: list[dict[str, str]] = []
    while rows and len(chosen) < number:
        best = min(rows, key=lambda row: _worn(row, shown))
        rows = [row for row in rows if row["asset"] != best["asset"]] or [
            row for row in rows if row is not best
        ]
        chosen.append(best)
        for label in (best["main_component"], best["main_defect"]):
            shown[label] = shown.get(label, 0) + 1
    return chosen


def _worn(row: dict[str, str], shown: dict[str, int]) -> int:
    """Return how often the labels of a photo have been shown."""
    return shown.get(row["main_component"], 0) ** 2 + shown.get(row["main_defect"], 0) ** 2


def colour_histogram(path: Path, bins: int = 8) -> np.ndarray:
    """Return the share of a photo's pixels in each of bins x bins x bins colours, [bins ** 3]."""
    with Image.open(path) as image:
        image.draft("RGB", (160, 160))
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(np.int64) * bins // 256
    counts = np.bincount(pixels @ np.array([bins * bins, bins, 1]), minlength=bins**3)
    return counts / len(pixels)


def colour_histogram_baseline(
    train: Sequence[Path], train_labels: Sequence[str], test: Sequence[Path], test_labels: Sequence[str]
) -> float:
    """Return the test accuracy of a logistic regression that sees only how much of each colour a photo has.

    Args:
        train: photos to learn from.
        train_labels: one label each.
        test: other photos, of other assets.
        test_labels: one label each.

    Raises:
        InputError: lists of different lengths, or fewer than two labels to learn.
    """
    if len(train) != len(train_labels) or len(test) != len(test_labels) or not len(test):
        raise InputError("demo: give one label per photo, and at least one test photo")
    if len(set(train_labels)) < 2:
        raise InputError("demo: the baseline needs at least two different labels to learn from")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.array([colour_histogram(path) for path in train]), list(train_labels))
    return float(model.score(np.array([colour_histogram(path) for path in test]), list(test_labels)))
