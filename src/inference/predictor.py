"""From a checkpoint to predictions, for one photo or an archive."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from src.datamodules.inspection import content_digest
from src.decisions.predictions import columns, decide, row
from src.errors import InputError, did_you_mean
from src.images import UnreadableImage, as_upright_rgb, read_photo
from src.inference.photos import Photo
from src.models import PhotoClassifier, find_checkpoint, load_model
from src.preprocess import Preprocess

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one photo.

    Attributes:
        labels: the decided labels of each kind.
        probabilities: `{kind: {label: probability}}`.
        confidence: the mean probability over kinds of the decided labels' means; None where nothing is
            decided.
        text: the labels joined by `_` with the confidence, as `Circular Connection_Drummy_0.85`.
    """

    labels: dict[str, list[str]]
    probabilities: dict[str, dict[str, float]]
    confidence: float | None
    text: str


class PhotoList(Dataset):
    """Photos as resized pixels with their content's digest, or the reason why they cannot be read."""

    def __init__(self, photos: Sequence[Photo], preprocess: Preprocess):
        self.photos, self.preprocess = photos, preprocess

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | None, str, str]:
        try:
            content = read_photo(self.photos[index].file)
            return index, self.preprocess(content), content_digest(content), ""
        except UnreadableImage as error:
            return index, None, "", str(error)


def decoded(
    photos: Sequence[Photo], preprocess: Preprocess, batch_size: int, num_workers: int | None
) -> DataLoader:
    """Return the photos in order, in batches of `(index, pixels or None, digest, reason)`.

    Args:
        photos: the photos.
        preprocess: opens and resizes, to uint8 `[H, W, 3]`.
        batch_size: photos a batch.
        num_workers: processes that decode; null: one per core, 4 at most. One batch is read in this process.
    """
    if num_workers is None:
        num_workers = min(4, os.cpu_count() or 1)
    return DataLoader(
        PhotoList(photos, preprocess),
        batch_size=batch_size,
        num_workers=num_workers if len(photos) > batch_size else 0,
        collate_fn=list,
    )


class Predictor:
    """A model with its preprocessing and thresholds.

    Args:
        model: from `load_model`.
        device: `auto`, `cpu`, `cuda` or `mps`; one that is not there falls back to the CPU with one line.
        threshold: for `multilabel`, one value for all labels, or `{label: value}` for some.
        batch_size: photos per forward pass. The last digits of scores can depend on it.
        num_workers: processes that decode; null: one per core, 4 at most.
    """

    def __init__(
        self,
        model: PhotoClassifier,
        device: str = "auto",
        threshold: float | Mapping[str, float] | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
    ):
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers or 0, 0)):
            if value < least:
                raise InputError(f"{name}={value}: needs at least {least}")
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.task, self.labels = model.task, model.labels
        self.preprocess = Preprocess.from_dict(model.hparams["preprocess"])
        self.thresholds = self._thresholds(threshold)
        self.batch_size = batch_size
        self.num_workers = num_workers

    @classmethod
    def load(cls, ckpt: str | Path, **options: Any) -> "Predictor":
        """Load a checkpoint file or a run folder's best; see the class for `options`."""
        return cls(load_model(find_checkpoint(str(ckpt))), **options)

    def _thresholds(self, given: float | Mapping[str, float] | None) -> np.ndarray | None:
        """Return the thresholds to apply: those of the checkpoint with the given ones in their place."""
        if self.task != "multilabel":
            if given is not None:
                raise InputError(f"threshold= is for multilabel; {self.task} takes the most probable label")
            return None
        thresholds = self.model.thresholds.cpu().numpy().copy()
        values = (
            given
            if isinstance(given, Mapping)
            else {}
            if given is None
            else dict.fromkeys(self.labels.names, given)
        )
        for label, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"threshold of '{label}' is {value!r}: needs a number from 0 to 1")
            thresholds[self.labels.position(str(label))] = value
        return thresholds

    @torch.inference_mode()
    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Return probabilities float32 `[B, labels]` of resized photos uint8 `[B, H, W, 3]`."""
        image = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).contiguous()
        return self.model.probabilities(self.model(image)).float().cpu().numpy()

    def predict(self, source: str | Path | bytes | Image.Image) -> Prediction:
        """Predict one photo: a path, a file's content, or an opened image.

        Raises:
            UnreadableImage: if it cannot be read.
        """
        if isinstance(source, Image.Image):
            pixels = self.preprocess.resize_image(as_upright_rgb(source))
        else:
            pixels = self.preprocess(source)
        scores = self.scores(pixels[None])[0]
        labels = decide(self.task, self.labels, scores, self.thresholds)
        probabilities = {
            kind: dict(zip(names, scores[self.labels.slices[kind]].tolist(), strict=True))
            for kind, names in self.labels.kinds.items()
        }
        means = [sum(probabilities[k][n] for n in names) / len(names) for k, names in labels.items() if names]
        confidence = sum(means) / len(means) if means else None
        words = ["+".join(names) for names in labels.values() if names]
        text = "_".join([*words, f"{confidence:.2f}"]) if means else "nothing"
        return Prediction(labels, probabilities, confidence, text)

    def columns(self, probabilities: bool = False) -> list[str]:
        """Return the columns of this model's `predictions.csv`."""
        return columns(self.task, self.labels, probabilities)

    def rows(self, photos: Sequence[Photo], probabilities: bool = False) -> Iterator[list[dict[str, str]]]:
        """Yield the rows of `predictions.csv` batch by batch, in the order of `photos`.

        At the end one line says how many of the photos the model was trained on, if any.
        """
        trained_on, seen = set(self.model.provenance.get("train_digests", ())), 0
        for batch in decoded(photos, self.preprocess, self.batch_size, self.num_workers):
            seen += sum(digest in trained_on for _, _, digest, _ in batch)
            readable = [pixels for _, pixels, _, _ in batch if pixels is not None]
            scores = iter(self.scores(np.stack(readable)) if readable else ())
            yield [
                row(
                    self.task,
                    self.labels,
                    photos[index].id,
                    photos[index].path,
                    None if error else next(scores),
                    self.thresholds,
                    error,
                    probabilities,
                )
                for index, _, _, error in batch
            ]
        if seen:
            log.warning(
                "%d of %d photos were in this model's training split: no measure of how it does on new ones",
                seen,
                len(photos),
            )


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes the best one that is there."""
    choices = ("auto", "cpu", "cuda", "mps")
    if name not in choices:
        raise InputError(f"device={name}: {did_you_mean(name, choices)}")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(choice for choice in ("cuda", "mps", "cpu") if there[choice])
    elif not there[name]:
        log.warning("device=%s is not there: the CPU is used", name)
        name = "cpu"
    return torch.device(name)
