"""The demo set where a training run expects it."""

import logging
from pathlib import Path

from src.datamodules import PhotoDataModule
from src.demo.make import make_demo
from src.demo.sheet import colour_histogram_baseline

log = logging.getLogger(__name__)
DEMO_ROOT = "data/demo"


def draw_when_missing(root: str | None) -> None:
    """Draw the demo set if `root` is where it belongs and it is not there yet."""
    if root != DEMO_ROOT or (Path(root) / "truth.csv").is_file():
        return
    log.info("Drawing the demo set into %s (once)", root)
    make_demo(root)


def say_baseline(datamodule: PhotoDataModule) -> None:
    """Print what colour alone tells of the defect on the run's own split, beside the run's result."""
    photos = {
        split: [(datamodule.root / r.path, r.labels["defect"][0]) for r in datamodule.splits[split]]
        for split in ("train", "test")
    }
    (train, known), (test, truth) = (zip(*photos[split], strict=True) for split in ("train", "test"))
    accuracy = colour_histogram_baseline(train, known, test, truth)
    print(f"beside it: a logistic regression on colour histograms has defect accuracy {accuracy:.4f}")
