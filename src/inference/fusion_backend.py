"""Photos with notes, run by the two models of a fusion."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from src.datamodules.dataset import HeldRows
from src.datamodules.record_datamodule import RecordDataModule
from src.errors import InputError, UnreadableImage, listed
from src.inference.batches import Backend, Photo, run_batches
from src.inference.text_backend import TextBackend, TextReader
from src.inference.torch_backend import TorchBackend
from src.models.photo_and_note import PhotoAndNote
from src.preprocess import Preprocess

log = logging.getLogger(__name__)
BATCH = 16


class Content(bytes):
    """The bytes of a photo, empty without one, with its `note`."""

    note: bytes = b""


class BothReader:
    """What `Preprocess` is for photos: pairs of resized pixels and a note, None for what is not there."""

    tiles, sample_bits, views, shape = None, None, ("whole",), ()

    def __init__(self, preprocess: Preprocess):
        self.pixels, self.text = preprocess, TextReader()

    def empty(self, count: int) -> np.ndarray:
        """Return places for pairs, object `[count]`."""
        return np.full(count, None, object)

    def content(self, photo: Photo) -> Content:
        """Return the bytes of an item."""
        found = Content(self.pixels.content(photo) if photo.path else b"")
        found.note = self.text.content(photo)
        return found

    def __call__(self, content: Content | dict[str, Any]) -> tuple[np.ndarray | None, str | None]:
        """Return the pair of an item, given as `Content` or as `{"photo": ..., "note": ...}`."""
        if isinstance(content, Content):
            content = {"photo": bytes(content) or None, "note": content.note}
        if not isinstance(content, dict) or not {*content} <= {"photo", "note"}:
            raise InputError('a model of photos and notes takes {"photo": ..., "note": ...}')
        photo, note = content.get("photo"), content.get("note")
        if photo is None and not note:
            raise UnreadableImage("neither a photo nor a note")
        return None if photo is None else self.pixels(photo), self.text(note) if note else None


class FusionBackend(Backend):
    """A fusion; see `batches.Backend` for the attributes.

    Args:
        model: from `load_model`; its two models are copied.
        device: one of `torch_backend.DEVICES`.
        raw: give the features of the fusion in place of its scores.
    """

    reads = "both"

    def __init__(self, model: PhotoAndNote, device: str = "auto", raw: bool = False):
        self.photo, self.note = TorchBackend(model.photo, device), TextBackend(model.note, device)
        self.model, self.raw = model.eval(), raw
        self.describe(model)
        self.preprocess = BothReader(self.photo.preprocess)
        self.arithmetic = self.photo.arithmetic | self.note.arithmetic
        self.report, self.one_thread = self.note.report, self.note.one_thread

    def scores(self, pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        """Return probabilities float32 `[count, labels]` of pairs, object `[B]`; see `Backend`."""
        features = self._features(pixels, len(pixels) if count is None else count)
        if self.raw:
            return features
        with torch.inference_mode():
            logits = self.model.classify(torch.from_numpy(features).to(self.model.mix.device))
            return self.model.probabilities(logits).float().cpu().numpy()

    def _features(self, pairs: np.ndarray, count: int) -> np.ndarray:
        """Return the features of the fusion, float32 `[count, 2 * labels + 2]`."""
        labels = len(self.labels)
        found = np.zeros((count, 2 * labels + 2), np.float32)
        photos = [i for i in range(count) if pairs[i] and pairs[i][0] is not None]
        notes = [i for i in range(count) if pairs[i] and pairs[i][1] is not None]
        if photos:
            pixels = self.photo.preprocess.empty(len(pairs))
            for i in photos:
                pixels[i] = pairs[i][0]
            found[photos, :labels] = self.photo.scores(pixels, count)[photos, :labels]
        if notes:
            texts = np.array([pairs[i][1] for i in notes], object)
            found[notes, labels:-2] = self.model.with_prior(self.note.scores(texts))
        found[photos, -2], found[notes, -1] = 1, 1
        return found

    def check_items(self, images: str | None, texts: str | None, items: Sequence[Photo]) -> None:
        """Say how many items have a photo, a note, or both."""
        there = Counter((bool(item.path), bool(item.text)) for item in items)
        both, photos, notes = there[True, True], there[True, False], there[False, True]
        told = "%d with photo and note, %d with the photo alone, %d with the note alone"
        log.log(logging.WARNING if photos or notes else logging.INFO, told, both, photos, notes)


def fusion_features(
    model: PhotoAndNote, datamodule: RecordDataModule, device: str = "auto"
) -> dict[str, list[HeldRows]]:
    """Return the features of each split, and give the model the labels' shares of the training photos.

    Raises:
        InputError: for photos that cannot be read.
    """
    hot = np.array([datamodule.labels.encode(record.labels) for record in datamodule.splits["train"]])
    model.prior.copy_(torch.from_numpy((hot.sum(0) + 0.5) / (len(hot) + 1)))
    backend, found = FusionBackend(model, device, raw=True), {}
    for split, records in datamodule.splits.items():
        items = [Photo(r.id, r.path, datamodule.root, r.text) for r in records]
        results = [one for batch in run_batches(backend, items, BATCH) for one in batch]
        if broken := [f"{items[one.index].path} ({one.error})" for one in results if one.error]:
            raise InputError(f"{len(broken)} photos cannot be read: {listed(broken, 5)}")
        if results:
            found[split] = [HeldRows(np.stack([one.values for one in results]))]
    model.train()
    return found
