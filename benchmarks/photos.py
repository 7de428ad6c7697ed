"""Textured photos of the sizes that cameras make, drawn once and kept in `outputs/bench/`."""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.harness import BENCH
from demo.render import render_photo

COMPONENTS = ("Channel Bracket", "Circular Connection", "Grout Hole", "Radial Joint")
DEFECTS = ("Corrosion-Heavy", "Drummy", "Intact")


def drawn(width: int, height: int, count: int = 6) -> list[Path]:
    """Return so many different photos of `width` x `height` pixels, JPEG of quality 90."""
    folder = BENCH / f"photos_{width}x{height}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.jpg" for seed in range(count)]
    absent = [path for path in paths if not path.is_file()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw, absent, [width] * len(absent), [height] * len(absent)))
    return paths


def _draw(path: Path, width: int, height: int) -> None:
    """Draw the photo of the seed that the file is named after."""
    part = path.with_suffix(".part")
    render_photo(int(path.stem), width, height).save(part, "JPEG", quality=90)
    part.replace(path)


def told_apart(photos: list[Path], folder: Path, count: int) -> list[Path]:
    """Return `count` files of different contents that hold the pixels of the photos, in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.is_file():
            part = path.with_suffix(".part")
            part.write_bytes(photos[number % len(photos)].read_bytes() + number.to_bytes(8, "big"))
            part.replace(path)
    return paths


def copies(photos: list[Path], folder: Path, count: int) -> Path:
    """Return a folder with `count` files that are hard links to the photos, in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            os.link(photos[number % len(photos)], path)
    return folder


def tree(width: int, height: int, train: int, val: int, different: int | None = None) -> Path:
    """Return a folder with `train/` and `val/`, and folders `Component_Defect` in them.

    If a number is given, so many photos are drawn, and each of them is there several times.
    """
    root = BENCH / f"tree_{width}x{height}_{train}_{val}{f'_of_{different}' if different else ''}"
    photos = drawn(width, height, different or train + val)
    if different:
        photos = told_apart(photos, BENCH / f"archive_{width}x{height}", train + val)
    for number, photo in enumerate(photos):
        labels = f"{COMPONENTS[number % 4]}_{DEFECTS[number % 3]}"
        path = root / ("train" if number < train else "val") / labels / f"{number:04d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(photo, path)
    return root
