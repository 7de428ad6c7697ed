"""Comparison of an exported model's scores and decisions with its checkpoint's, on photos of the run."""

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from src.decisions.thresholds import apply_thresholds
from src.errors import InputError
from src.inference.batches import Backend, count_batches, read_batch
from src.inference.inputs import Photo, photos_root
from src.labels import LabelSpace
from src.models import PhotoClassifier
from src.parallel import bounded_map, cores
from src.preprocess import Preprocess
from src.runs import read_table

TOLERANCE = 1e-4  # of a float32 score
MIN_AGREEMENT = 0.99  # share of int8's decisions
MAX_F1_LOSS = 0.005
BATCH = 16
CHECKED, CALIBRATED = 1000, 256  # photos at the most
MADE_UP = 64


@dataclass(frozen=True)
class Checked:
    """Photos that scores are compared on.

    Attributes:
        pixels: uint8 `[N, H, W, 3]`.
        targets: multi-hot float32 `[N, labels]`, or class indices int64 `[N, kinds]`; None: unknown.
        source: their origin, in words.
    """

    pixels: np.ndarray
    targets: np.ndarray | None
    source: str


@dataclass(frozen=True)
class Parity:
    """Differences between the scores of an exported model and its checkpoint.

    Attributes:
        photos: the number compared.
        source: their origin, in words.
        max_difference: the largest absolute difference of a probability.
        agreement: share of equal decisions, over photos and labels (`multilabel`) or kinds (heads).
        f1: macro-F1 of the exported model; None without targets.
        reference_f1: that of the checkpoint.
    """

    photos: int
    source: str
    max_difference: float
    agreement: float
    f1: float | None
    reference_f1: float | None


def validation_photos(run: Path, root: str | None, model: PhotoClassifier) -> Checked | None:
    """Return the validation split of a run, `CHECKED` photos of it at the most; None for an empty one.

    Args:
        run: the run folder.
        root: the folder of its photos; null: the recorded one.
        model: with the label space and the preprocessing.

    Raises:
        InputError: for photos that are gone or cannot be read.
    """
    photos, labels = _split(run, "val", root, model.labels, model.task == "multilabel")
    if not photos:
        return None
    chosen = _spread(len(photos), CHECKED)
    encode = model.labels.encode if model.task == "multilabel" else model.labels.encode_classes
    targets = np.stack([encode(labels[i]) for i in chosen])
    of = "" if len(chosen) == len(photos) else f" of {len(photos)}"
    pixels = _read([photos[i] for i in chosen], Preprocess.from_dict(model.hparams["preprocess"]))
    return Checked(pixels, targets, f"{len(chosen)}{of} validation photos")


def training_photos(run: Path, root: str | None, model: PhotoClassifier) -> np.ndarray:
    """Return pixels uint8 `[N, H, W, 3]` of training photos, `CALIBRATED` at the most; see above."""
    photos, _ = _split(run, "train", root, model.labels, model.task == "multilabel")
    chosen = [photos[i] for i in _spread(len(photos), CALIBRATED)]
    return _read(chosen, Preprocess.from_dict(model.hparams["preprocess"]))


def made_up_photos(preprocess: Preprocess) -> Checked:
    """Return random pixels, enough to compare a graph's arithmetic."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (MADE_UP, 4, 4, 3), np.uint8)
    height, width = preprocess.size
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    pixels = coarse[:, rows][:, :, columns].astype(np.int16) + rng.integers(-40, 41, (1, height, width, 3))
    return Checked(np.clip(pixels, 0, 255).astype(np.uint8), None, f"{MADE_UP} made-up images")


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` positions, evenly spaced: tables are sorted by folder."""
    return (
        np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []
    )


def _split(
    run: Path, split: str, root: str | None, labels: LabelSpace, multilabel: bool
) -> tuple[list[Photo], list[dict[str, list[str]]]]:
    """Return the photos of a split with their labels by kind."""
    base = photos_root(run, root)
    if base is None:
        raise InputError(f"the photos of {run} are not where they were: name their folder with root=")
    frame = read_table(run / f"{split}_metadata.csv", needs=("ID", "path", *labels.kinds))
    if frame is None:
        raise InputError(f"{run / f'{split}_metadata.csv'} is missing: name a complete run folder")
    photos, found = [], []
    for row in frame.to_dict("records"):
        photos.append(Photo(row["ID"], row["path"], base / row["path"]))
        cells = {kind: row[kind].split(";") if multilabel else [row[kind]] for kind in labels.kinds}
        found.append({k: [n for n in names if n in labels.kinds[k]] for k, names in cells.items()})
    return photos, found


def _read(photos: list[Photo], preprocess: Preprocess) -> np.ndarray:
    """Return the pixels of photos that must all be readable, uint8 `[N, H, W, 3]`."""
    count, parts = count_batches(len(photos), BATCH), []
    read = partial(read_batch, photos, BATCH, preprocess, frozenset())
    with closing(bounded_map(read, range(count), cores())) as batches:
        for batch in batches:
            for result in batch.photos:
                if result.error:
                    file = photos[result.index].file
                    raise InputError(
                        f"{file}: {result.error}; the run's photos are needed: name their folder with root="
                    )
            parts.append(batch.pixels[: len(batch.photos)])
    return np.concatenate(parts) if parts else np.zeros((0, *preprocess.size, 3), np.uint8)


def scores_of(backend: Backend, pixels: np.ndarray) -> np.ndarray:
    """Return probabilities float32 `[N, labels]` of pixels uint8 `[N, H, W, 3]`, on all cores."""

    def work(start: int) -> np.ndarray:
        with backend.one_thread():
            return backend.scores(pixels[start : start + BATCH])

    starts = range(0, len(pixels), BATCH)
    with backend.threads_kept(), closing(bounded_map(work, starts, cores())) as found:
        return np.concatenate(list(found))


def compared(model: PhotoClassifier, reference: np.ndarray, scores: np.ndarray, checked: Checked) -> Parity:
    """Compare probabilities `[N, labels]` of an exported model with those of its checkpoint.

    A tuned threshold is set by the score of a validation photo, so rounding may move that photo to the other
    side. Decisions at a threshold are therefore taken as the checkpoint's; not near 0 or 1, where the scores
    of all photos crowd.
    """
    difference = np.abs(scores - reference).max()
    if model.task == "multilabel":
        thresholds = model.thresholds.cpu().numpy()
        near = np.minimum(TOLERANCE, np.minimum(thresholds, 1 - thresholds) / 2)
        at_threshold = np.abs(reference - thresholds) <= near
        scores = np.where(at_threshold, reference, scores)
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


def check_int8_parity(parity: Parity) -> str | None:
    """Return None where int8 decides like the checkpoint, else the figures against it."""
    lost = (parity.reference_f1 or 0) - (parity.f1 or 0)
    if parity.agreement >= MIN_AGREEMENT and lost <= MAX_F1_LOSS:
        return None
    f1s = f", macro-F1 {parity.f1:.4f} for {parity.reference_f1:.4f}" if parity.f1 is not None else ""
    return f"agreement {parity.agreement:.4f}{f1s}"
