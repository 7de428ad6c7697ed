"""Textured photos of the sizes that cameras make, drawn once and kept in `outputs/bench/`."""

import os
from pathlib import Path

from benchmarks.harness import BENCH
from src.demo.render import render_photo

COMPONENTS = ("Channel Bracket", "Circular Connection", "Grout Hole", "Radial Joint")
DEFECTS = ("Corrosion-Heavy", "Drummy", "Intact")


def drawn(width: int, height: int, count: int = 6) -> list[Path]:
    """Return so many different photos of `width` x `height` pixels, JPEG of quality 90."""
    folder = BENCH / f"photos_{width}x{height}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.jpg" for seed in range(count)]
    for seed, path in enumerate(paths):
        if not path.is_file():
            part = path.with_suffix(".part")
            render_photo(seed, width, height).save(part, "JPEG", quality=90)
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


def tree(width: int, height: int, train: int, val: int) -> Path:
    """Return a folder with `train/` and `val/`, and folders `Component_Defect` in them."""
    root = BENCH / f"tree_{width}x{height}_{train}_{val}"
    for number, photo in enumerate(drawn(width, height, train + val)):
        labels = f"{COMPONENTS[number % 4]}_{DEFECTS[number % 3]}"
        path = root / ("train" if number < train else "val") / labels / f"{number:04d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(photo, path)
    return root
