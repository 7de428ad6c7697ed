"""Peak memory of predicting an archive, and whether it grows with the number of photos."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import BENCH, CORES, Work, threads
from benchmarks.photos import copies
from benchmarks.processes import resident_mb
from src.inference import Photo, Predictor, find_images
from src.inference.output import write_rows
from src.models import MultiLabelClassifier

SIZE, DISTINCT = 32, 2000
MARKS = (1_000, 10_000, 100_000)
MOST_MB = 1500
GROWTH_MB = 64  # between marks, of a process that keeps nothing but what a photo's path needs


@dataclass(frozen=True)
class Given:
    """Photos and a small model."""

    photos: list[Photo]
    predictor: Predictor


def small_photos() -> list[Path]:
    """Return small photos, all different."""
    folder = BENCH / "small"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.jpg" for seed in range(DISTINCT)]
    for seed, path in enumerate(paths):
        if not path.is_file():
            pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path, "JPEG", quality=80)
    return paths


def given(count: int) -> Given:
    """Return so many photos, and a random SqueezeNet at 32 px in a checkpoint of ours."""
    folder = copies(small_photos(), BENCH / f"archive_{count}", count)
    return Given(find_images(str(folder)), Predictor.load(model(), batch_size=64, num_workers=threads()))


def model() -> Path:
    """Return the checkpoint of an untrained model."""
    path = BENCH / "small.ckpt"
    if not path.is_file():
        torch.manual_seed(0)
        made = MultiLabelClassifier(
            task="multilabel", labels={"component": ["a", "b"], "defect": ["c", "d"]},
            preprocess={"image_size": SIZE}, backbone="squeezenet1_1",
        )  # fmt: skip
        content = {"hyper_parameters": dict(made.hparams), "state_dict": made.state_dict()}
        made.on_save_checkpoint(content)
        torch.save(content, path)
    return path


def all_in_memory(given: Given) -> dict[int, float]:
    """Predict as a script does that reads all photos, then computes, then writes: for a hundredth of them."""
    few = given.photos[: len(given.photos) // 100]
    pixels = np.stack([given.predictor.preprocess(photo.file) for photo in few])
    scores = np.concatenate(
        [given.predictor.backend.scores(part) for part in np.array_split(pixels, len(few) // 64 + 1)]
    )
    np.savetxt(BENCH / "memory_naive.csv", scores, delimiter=",")
    return {}


def streamed(given: Given) -> dict[int, float]:
    """Predict with Corbel; return the memory of all processes in MB at 1,000, 10,000 and 100,000 photos."""
    found, marks = {}, [mark for mark in MARKS if mark <= len(given.photos)]

    def measured() -> Iterator[list[dict[str, str]]]:
        done = 0
        for rows in given.predictor.rows(given.photos):
            yield rows
            done += len(rows)
            while marks and done >= marks[0]:
                found[marks.pop(0)] = round(resident_mb(os.getsid(0)), 1)

    write_rows(BENCH / "memory_ours.csv", given.predictor.columns(), measured())
    return found


def as_marks(given: Given, found: dict[int, float]) -> dict:
    """Return the memory at each mark, and how many rows were written."""
    rows = len((BENCH / "memory_ours.csv").read_bytes().splitlines()) - 1 if found else 0
    return {"mb": {str(mark): mb for mark, mb in found.items()}, "rows": rows, "photos": len(given.photos)}


def flat(_: dict, other: dict) -> bool:
    """Whether each photo has its row, and memory does not grow after the first thousand."""
    memory = list(other["mb"].values())
    return other["rows"] == other["photos"] and max(memory) - memory[0] <= GROWTH_MB


WORKS = [
    Work(
        f"{count:,} photos to a CSV at {SIZE} px (naive: a hundredth of them, all in memory)",
        f"no more than {GROWTH_MB} MB of growth after the first 1,000",
        partial(given, count), all_in_memory, streamed, as_marks, flat, rounds=1, threads=(CORES,),
        packages=("torch", "pillow"), most_mb=MOST_MB,
    )
    for count in (10_000, 100_000)
]  # fmt: skip


def remarks(rows: list[dict]) -> list[str]:
    """Return the memory at each mark."""
    return [
        f"{row['work'].split(' (')[0]}: "
        + ", ".join(f"{mb} MB at {int(mark):,}" for mark, mb in row["ours"]["result"]["mb"].items())
        for row in rows
    ]
