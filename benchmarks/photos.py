"""Textured photos of the sizes that cameras make, drawn once and kept in `outputs/bench/`."""

from pathlib import Path

from benchmarks.harness import BENCH
from src.demo.render import render_photo


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
