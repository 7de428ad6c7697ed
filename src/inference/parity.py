"""Comparison of an exported model's scores and decisions with its checkpoint's, on photos of the run."""

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from src.errors import InputError
from src.inference.batches import Backend, Photo, count_batches, photos_root, read_batch
from src.labels import apply_thresholds
from src.models.classifiers import PhotoClassifier
from src.parallel import bounded_map, cores
from src.preprocess import Preprocess
from src.runs import read_table

TOLERANCE = 1e-4  # of a float32 score
MIN_AGREEMENT = 0.99  # share of int8's decisions
MAX_F1_LOSS = 0.005
BATCH = 16
MADE_UP = 64


@dataclass(frozen=True)
class CheckedPhotos:
    """Photos that scores are compared on.

    Attributes:
        pixels: uint8 `[N, H, W, 3]`.
        targets: multi-hot float32 `[N, labels]`, or class indices int64 `[N, kinds]`; None: unknown.
    """

    pixels: np.ndarray
    targets: np.ndarray | None
    source: str


@dataclass(frozen=True)
class Parity:
    """Differences between the scores of an exported model and its checkpoint.

    Attributes:
        source: the photos' origin, in words; without a comparison: the reason.
        max_difference: the largest absolute difference of a probability; None without a comparison.
        agreement: share of equal decisions, over photos and labels (`multilabel`) or kinds (heads);
            None without a comparison.
        f1: macro-F1 of the exported model; None without targets.
    """

    photos: int
    source: str
    max_difference: float | None
    agreement: float | None
    f1: float | None
    reference_f1: float | None


def split_photos(run: Path, split: str, most: int, root: str | None, model: PhotoClassifier) -> CheckedPhotos:
    """Return photos of a run's split with their labels, `most` of them at the most, evenly spaced.

    `root` is the folder of the run's photos, null the recorded one.
    """
    base = photos_root(run, root)
    if base is None:
        raise InputError(f"the photos of {run} are not where they were: name their folder with root=")
    kinds, several = model.labels.kinds, model.task == "multilabel"
    frame = read_table(run / f"{split}_metadata.csv", needs=("ID", "path", *kinds))
    if frame is None:
        raise InputError(f"{run / f'{split}_metadata.csv'} is missing: name a complete run folder")
    places = np.linspace(0, len(frame) - 1, min(len(frame), most)).round().astype(int)
    encode = model.labels.encode if several else model.labels.encode_classes
    photos, targets = [], []
    for row in frame.iloc[places].to_dict("records"):
        photos.append(Photo(row["ID"], row["path"], base))
        cells = {kind: row[kind].split(";") if several else [row[kind]] for kind in kinds}
        targets.append(encode({k: [n for n in names if n in kinds[k]] for k, names in cells.items()}))
    of = "" if len(photos) == len(frame) else f" of {len(frame)}"
    source = f"{len(photos)}{of} photos of the {split} split"
    pixels = _read(photos, Preprocess.from_dict(model.hparams["preprocess"]))
    return CheckedPhotos(pixels, np.array(targets), source)


def made_up_photos(preprocess: Preprocess) -> CheckedPhotos:
    """Return random pixels around random colours, enough to compare a graph's arithmetic."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (MADE_UP, 1, 1, 3), np.int16)
    pixels = colours + rng.integers(-40, 41, (MADE_UP, *preprocess.shape), np.int16)
    return CheckedPhotos(np.clip(pixels, 0, 255).astype(np.uint8), None, f"{MADE_UP} made-up images")


def _read(photos: list[Photo], preprocess: Preprocess) -> np.ndarray:
    read = partial(read_batch, photos, BATCH, preprocess, frozenset())
    parts = [np.zeros((0, *preprocess.shape), np.uint8)]
    with closing(bounded_map(read, range(count_batches(len(photos), BATCH)), cores())) as batches:
        for batch in batches:
            for result in batch.photos:
                if result.error:
                    cure = "the run's photos are needed: name their folder with root="
                    raise InputError(f"{photos[result.index].file}: {result.error}; {cure}")
            parts.append(batch.pixels[: len(batch.photos)])
    return np.concatenate(parts)


def scores_of(backend: Backend, pixels: np.ndarray) -> np.ndarray:
    """Return probabilities float32 `[N, labels]` of pixels uint8 `[N, H, W, 3]`, on all cores."""

    def work(start: int) -> np.ndarray:
        with backend.one_thread():
            return backend.scores(pixels[start : start + BATCH])

    starts = range(0, len(pixels), BATCH)
    with closing(bounded_map(work, starts, cores())) as found:
        return np.concatenate(list(found))[:, : len(backend.labels)]


def compare_scores(
    model: PhotoClassifier, reference: np.ndarray, scores: np.ndarray, checked: CheckedPhotos
) -> Parity:
    """Compare probabilities `[N, labels]` of an exported model with those of its checkpoint.

    A tuned threshold is set by the score of a validation photo, so rounding may move that photo to the other
    side. Decisions at a threshold are therefore taken as the checkpoint's; not near 0 or 1, where the scores
    of all photos crowd.
    """
    difference = np.abs(scores - reference).max()
    if model.task == "multilabel":
        thresholds = model.thresholds.cpu().numpy()
        near = np.minimum(TOLERANCE, np.minimum(thresholds, 1 - thresholds) / 2)
        scores = np.where(np.abs(reference - thresholds) <= near, reference, scores)
    f1 = reference_f1 = None
    if checked.targets is not None:
        f1, reference_f1 = (
            model.evaluate(torch.from_numpy(values), torch.from_numpy(checked.targets))["f1_macro"]
            for values in (scores, reference)
        )
    agreement = (_decisions(model, scores) == _decisions(model, reference)).mean()
    return Parity(len(reference), checked.source, float(difference), float(agreement), f1, reference_f1)


def _decisions(model: PhotoClassifier, scores: np.ndarray) -> np.ndarray:
    """Return the decisions: booleans `[N, labels]`, or the class of each kind, `[N, kinds]`."""
    if model.task == "multilabel":
        return apply_thresholds(scores, model.thresholds.cpu().numpy())
    return np.stack([scores[:, part].argmax(1) for part in model.labels.slices.values()], 1)


def int8_fault(parity: Parity) -> str | None:
    """Return None where int8 decides like the checkpoint, else the figures against it."""
    lost = (parity.reference_f1 or 0) - (parity.f1 or 0)
    if parity.agreement >= MIN_AGREEMENT and lost <= MAX_F1_LOSS:
        return None
    f1s = f", macro-F1 {parity.f1:.4f} for {parity.reference_f1:.4f}" if parity.f1 is not None else ""
    return f"agreement {parity.agreement:.4f}{f1s}"
