"""From a JPEG to 224 x 224 pixels: ours beside a full decode, and another wheel beside ours."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from simplejpeg import decode_jpeg

from benchmarks.harness import Work
from benchmarks.photos import drawn
from src.images import OVERSAMPLING
from src.preprocess import Preprocess

SIZE, PHOTOS = 224, 6
SIZES = ((1600, 1200), (3000, 2000), (4000, 3000))
LEVELS = 1.0  # of 255, the mean difference that a scaled decode may make


def in_full(paths: list[Path]) -> list[np.ndarray]:
    """Decode in full, and resize."""
    resized = (
        Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR) for path in paths
    )
    return [np.asarray(image) for image in resized]


def ours(paths: list[Path]) -> list[np.ndarray]:
    """Decode and resize as Corbel does."""
    preprocess = Preprocess(SIZE)
    return [preprocess(path) for path in paths]


def other_wheel(paths: list[Path]) -> list[np.ndarray]:
    """Decode at the same scale with simplejpeg, and resize with Pillow."""
    least = SIZE * OVERSAMPLING
    found = []
    for path in paths:
        pixels = decode_jpeg(
            path.read_bytes(), fastdct=False, min_height=least, min_width=least, min_factor=1
        )
        found.append(np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    return found


def as_means(_: list[Path], images: list[np.ndarray]) -> dict:
    """Return the pixels, and their mean."""
    return {"mean": float(np.mean(images)), "_pixels": [image.tolist() for image in images]}


def difference(one: dict, other: dict) -> float:
    """Return the mean absolute difference of the pixels, in grey levels of 255."""
    return float(np.abs(np.array(one["_pixels"], float) - np.array(other["_pixels"], float)).mean())


def close(naive: dict, other: dict) -> bool:
    """Whether the pixels differ by a grey level at the most, in the mean."""
    return difference(naive, other) <= LEVELS


WORKS = [
    Work(
        f"{PHOTOS} photos {width} x {height} to {SIZE} px, beside {beside}",
        f"mean difference within {LEVELS:g} of 255 levels",
        partial(drawn, width, height, PHOTOS), naive, ours, as_means, close, packages=packages,
    )
    for width, height in SIZES
    for beside, naive, packages in (
        ("a full decode", in_full, ("pillow", "numpy")),
        ("simplejpeg's scaled decode", other_wheel, ("pillow", "simplejpeg")),
    )
]  # fmt: skip


def remarks(rows: list[dict]) -> list[str]:
    """Return how far the pixels of a scaled decode are from a full one's, and what the other wheel gains."""
    said = []
    for number, (width, height) in enumerate(SIZES):
        paths = drawn(width, height, PHOTOS)
        full, mine, other = (as_means(paths, way(paths)) for way in (in_full, ours, other_wheel))
        gain = rows[2 * number + 1]["ratio_cpu"]
        said.append(
            f"{width} x {height}: of 255 levels {difference(full, mine):.2f} from a full decode "
            f"(simplejpeg {difference(full, other):.2f}); simplejpeg takes {gain:.2f} of our CPU time"
        )
    return said
