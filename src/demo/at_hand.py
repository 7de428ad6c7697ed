"""The demo set where a training run expects it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.demo.make import make_demo
from src.demo.sheet import colour_histogram_baseline
from src.errors import InputError
from src.process import is_main, launched

log = logging.getLogger(__name__)
DEMO_ROOT = "data/demo"


def draw_when_missing(root: str | None) -> None:
    """Draw the demo set if `root` is where it belongs and it is not there yet."""
    if root != DEMO_ROOT or (Path(root) / "truth.csv").is_file():
        return
    if launched() > 1:
        raise InputError(f"{root} is not there yet: draw it first, python scripts/make_demo_data.py")
    log.info("Drawing the demo set into %s (once)", root)
    make_demo(root)


def say_baseline(drawn: str | None, root: Path, splits: Mapping[str, Sequence]) -> None:
    """Print what colour alone tells of the defect on a run's own split of the demo set, beside its result.

    Args:
        drawn: `data.root` as it was given; nothing is said of other photos than the demo set's.
        root: the folder that the records' paths start from.
        splits: `{split: records}`, each with a `path` and `labels["defect"]`.
    """
    if drawn != DEMO_ROOT or not splits["test"] or not is_main():
        return
    photos = {
        split: [(root / record.path, record.labels["defect"][0]) for record in splits[split]]
        for split in ("train", "test")
    }
    (train, known), (test, truth) = (zip(*photos[split], strict=True) for split in ("train", "test"))
    accuracy = colour_histogram_baseline(train, known, test, truth)
    print(f"beside it: a logistic regression on colour histograms has defect accuracy {accuracy:.4f}")
