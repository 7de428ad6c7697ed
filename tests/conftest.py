"""Made photos, and what has to be set before torch is imported."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Path]:
    """Return a function that writes a small noisy photo; another seed gives other bytes."""

    def make(path: Path, seed: int = 0, size: tuple[int, int] = (16, 12), colour=(120, 120, 120)) -> Path:
        noise = np.random.default_rng(seed).integers(-40, 40, (size[1], size[0], 3))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)).save(path)
        return path

    return make


@pytest.fixture(scope="session")
def make_tree(make_photo) -> Callable[..., Path]:
    """Return a function that writes photos of the given paths below a root, no two alike."""

    def make(root: Path, *paths: str) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        for seed, path in enumerate(paths):
            make_photo(root / path, seed)
        return root

    return make
