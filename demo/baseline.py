"""Defect accuracy of colour histograms alone, on a run's own split: `python -m demo.baseline RUN`."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from src.errors import InputError, leave

BINS = 8  # of each colour channel


def colour_histogram(path: Path) -> np.ndarray:
    """Return the share of a photo's pixels in each of 8 x 8 x 8 colours, [512]."""
    with Image.open(path) as image:
        image.draft("RGB", (160, 160))
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(np.int64) * BINS // 256
    counts = np.bincount(pixels @ np.array([BINS * BINS, BINS, 1]), minlength=BINS**3)
    return counts / len(pixels)


def baseline_accuracy(run: Path) -> float:
    """Return the accuracy on a run's test photos of a logistic regression fitted to its training photos.

    Raises:
        InputError: the run has no kind `defect`.
    """
    root = Path((run / ".hydra" / "data_root.txt").read_text(encoding="utf-8").strip())
    tables = [
        pd.read_csv(run / f"{split}_metadata.csv", dtype=str, keep_default_na=False)
        for split in ("train", "test")
    ]
    if "defect" not in tables[0]:
        raise InputError(f"{run}: labels no defects by themselves; the baseline is for model=dual_head")
    train, test = (np.array([colour_histogram(root / path) for path in table["path"]]) for table in tables)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(train, tables[0]["defect"]).score(test, tables[1]["defect"])


def main() -> None:
    """Print the accuracy for the run folder of the command line."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "test_metadata.csv").is_file():
        leave(2, "python -m demo.baseline RUN: needs a run folder")
    try:
        accuracy = baseline_accuracy(Path(sys.argv[1]))
    except InputError as error:
        leave(2, str(error))
    print(f"for comparison: a logistic regression on colour histograms has defect accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
