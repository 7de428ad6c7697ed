"""Whether an exported model still decides like its checkpoint, on photos of the run."""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from src.datamodules.csv_table import read_csv
from src.decisions.thresholds import apply_thresholds
from src.errors import InputError
from src.files import user_path
from src.inference.batches import Backend, count_batches, read_batch
from src.inference.photos import Photo, data_root
from src.labels import LabelSpace
from src.models import PhotoClassifier
from src.parallel import bounded_map, cores
from src.preprocess import Preprocess

log = logging.getLogger(__name__)
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
        targets: multi-hot float32 `[N, labels]`, or class indices int64 `[N, kinds]`; None where there
            are none.
        source: where they come from, in words.
    """

    pixels: np.ndarray
    targets: np.ndarray | None
    source: str


@dataclass(frozen=True)
class Parity:
    """How the scores of an exported model compare with its checkpoint's.

    Attributes:
        photos: how many were compared.
        source: which, in words.
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


def run_of(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in; None for a file by itself."""
    run = checkpoint.parent.parent
    return run if (run / "val_metadata.csv").is_file() else None


def validation_photos(run: Path, root: str | None, model: PhotoClassifier) -> Checked | None:
    """Return the validation split of a run, `CHECKED` photos of it at the most; None for an empty one.

    Args:
        run: the run folder.
        root: the folder of its photos; null: as the run noted it down.
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
    """Return pixels that look like nothing: enough to see that a graph computes the same."""
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
    table = run / f"{split}_metadata.csv"
    base = user_path(root) if root else data_root(run)
    if base is None or not base.is_dir():
        if root:
            raise InputError(f"root={root}: no such folder; name that of the photos of {run}")
        raise InputError(f"the photos of {run} are not where they were: name their folder with root=")
    frame = read_csv(table, delimiter=",", encoding="utf-8", key="ckpt", allow_empty=True)
    lacking = [name for name in ("ID", "path", *labels.kinds) if name not in frame]
    if lacking:
        raise InputError(f"{table}: no column '{lacking[0]}'; it is not as the run wrote it")
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


def scores_of(
    forward: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, backend: Backend
) -> np.ndarray:
    """Return probabilities float32 `[N, labels]` of pixels uint8 `[N, H, W, 3]`, as `predict.py` does.

    Args:
        forward: gives the scores of a batch; may be called from several threads.
        pixels: the photos.
        backend: holds torch to one thread in each.
    """

    def work(start: int) -> np.ndarray:
        part = pixels[start : start + BATCH]
        full = np.zeros((BATCH, *pixels.shape[1:]), np.uint8)
        full[: len(part)] = part
        with backend.one_thread():
            return forward(full)[: len(part)]

    workers = cores()
    with backend.threads_kept(), closing(bounded_map(work, range(0, len(pixels), BATCH), workers)) as found:
        return np.concatenate(list(found))


def compared(model: PhotoClassifier, reference: np.ndarray, scores: np.ndarray, checked: Checked) -> Parity:
    """Compare probabilities `[N, labels]` of an exported model with those of its checkpoint.

    A tuned threshold is set by the score of a validation photo, so rounding may take that photo to the other
    side, where no new photo stands. Decisions at a threshold are taken as the checkpoint's; not so near to 0
    or 1, where the scores of all photos crowd.
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
    """Return None where int8 decides like the checkpoint, else the figures that say that it does not."""
    lost = (parity.reference_f1 or 0) - (parity.f1 or 0)
    if parity.agreement >= MIN_AGREEMENT and lost <= MAX_F1_LOSS:
        return None
    f1s = f", macro-F1 {parity.f1:.4f} for {parity.reference_f1:.4f}" if parity.f1 is not None else ""
    return f"agreement {parity.agreement:.4f}{f1s}"
