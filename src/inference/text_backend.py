"""Texts to predict, and models of texts run by torch."""

import copy
import logging
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from src.datamodules.dataset import HeldRows
from src.datamodules.record_datamodule import RecordDataModule
from src.datamodules.text_columns import clean_text
from src.errors import InputError, UnreadableImage
from src.inference.batches import Backend, Photo
from src.inference.torch_backend import choose_device, threads
from src.models.text_classifier import TextClassifier, TfidfClassifier

log = logging.getLogger(__name__)
BATCH = 32  # texts whose features are computed at once


class TextReader:
    """What `Preprocess` is for photos: a text as it is, in one line, without control characters."""

    tiles, sample_bits, views, shape = None, None, ("whole",), ()

    def empty(self, count: int) -> np.ndarray:
        """Return places for texts, object `[count]`."""
        return np.full(count, "", object)

    def content(self, photo: Photo) -> bytes:
        """Return the text of an item as bytes."""
        return clean_text(photo.text or "").encode()

    def __call__(self, content: Any) -> str:
        """Return a text, from a string or bytes."""
        if isinstance(content, bytes):
            content = content.decode("utf-8", "replace")
        if not isinstance(content, str):
            raise InputError(f"a model of texts takes a string, not {type(content).__name__}")
        if not (text := clean_text(content)):
            raise UnreadableImage("no text")
        return text


class TextBackend(Backend):
    """A model of texts with its device; see `batches.Backend` for the attributes.

    Args:
        model: from `load_model`; copied.
        device: one of `torch_backend.DEVICES`.
    """

    reads = "text"

    def __init__(self, model: TextClassifier, device: str = "auto"):
        sparse = isinstance(model, TfidfClassifier)
        self.device = torch.device("cpu") if sparse else choose_device(device)
        self.model = copy.deepcopy(model).eval().to(self.device)
        self.describe(model)
        self.preprocess = TextReader()
        library = "scikit-learn" if sparse else "transformers"
        self.arithmetic = {"torch": torch.__version__, library: version(library)}

    @torch.inference_mode()
    def scores(self, pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        """Return probabilities float32 `[count, labels]` of texts, object `[B]`."""
        texts = list(pixels[:count])
        return self.model.probabilities(self.model(texts)).float().cpu().numpy()

    def report(self) -> None:
        """Say how many texts were longer than the model reads."""
        if self.model.truncated:
            length = self.model.hparams["length"]
            log.warning(
                "%d texts are longer than %d tokens: the rest is not read", self.model.truncated, length
            )
            self.model.truncated = 0

    def one_thread(self) -> AbstractContextManager[None]:
        """Hold forward passes of the calling thread to one core."""
        return threads(1)


def text_features(model: TextClassifier, datamodule: RecordDataModule) -> dict[str, list[HeldRows]]:
    """Return the features of each split's texts in memory, from a model whose encoder does not learn."""
    found = {}
    for split, records in datamodule.splits.items():
        texts = [record.text for record in records]
        if not texts:
            continue
        if isinstance(model, TfidfClassifier):
            found[split] = [HeldRows(model.matrix(texts))]
            continue
        with torch.inference_mode():
            parts = [model.eval().features(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        found[split] = [HeldRows(torch.cat(parts).float().cpu().numpy())]
    model.train()
    return found
