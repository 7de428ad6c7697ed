"""Textured photos of the sizes that cameras make, drawn once and kept in `outputs/bench/`."""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.harness import BENCH
from demo.render import render_photo

COMPONENTS = ("Channel Bracket", "Circular Connection", "Grout Hole", "Radial Joint")
DEFECTS = ("Corrosion-Heavy", "Drummy", "Intact")


def drawn(width: int, height: int, count: int, different: int | None = None) -> list[Path]:
    """Return photos of `width` x `height` pixels, JPEG of quality 90.

    With `different`, only that many are drawn; the others are files of other content with the same pixels.
    """
    folder = BENCH / f"photos_{width}x{height}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.jpg" for seed in range(different or count)]
    absent = [path for path in paths if not path.is_file()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw, absent, [width] * len(absent), [height] * len(absent)))
    for number in range(len(paths), count):
        path = folder / f"copy_{different}_{number}.jpg"
        if not path.is_file():
            path.write_bytes(paths[number % different].read_bytes() + number.to_bytes(8, "big"))
        paths.append(path)
    return paths


def _draw(path: Path, width: int, height: int) -> None:
    part = path.with_suffix(".part")
    render_photo(int(path.stem), width, height).save(part, "JPEG", quality=90)
    part.replace(path)


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
