"""From a model file to predictions of one photo or an archive. Only `TorchBackend` brings torch."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.config_check import check_number
from src.decisions.predictions import columns, decide, row
from src.decisions.routing import asked, kept_rate, limits_at, needed
from src.errors import InputError, did_you_mean, listed
from src.images import as_upright_rgb
from src.inference.batches import (
    CHUNK,
    Backend,
    Photo,
    Result,
    batch_range,
    count_batches,
    mirrored,
    run_batches,
)
from src.labels import NO_PROMISE
from src.overrides import shown, typed
from src.runs import find_checkpoint

log = logging.getLogger(__name__)
Source = str | Path | bytes | Image.Image
BACKENDS = ("auto", "torch", "onnx")


@dataclass(frozen=True)
class Prediction:
    """The decisions for one photo.

    Attributes:
        probabilities: `{kind: {label: probability}}`.
        confidence: the mean probability over kinds of the decided labels' means; None where nothing is
            decided.
        text: the labels joined by `_` with the confidence, as `Circular Connection_Drummy_0.85`.
        look_at: `{label: probability}` of the labels that a person should look at.
        tiles: `{label: view}` for a model that sees tiles: the one that carried each decided label, `whole`
            or `r1c2` for the second of the first row.
    """

    labels: dict[str, list[str]]
    probabilities: dict[str, dict[str, float]]
    confidence: float | None
    text: str
    look_at: dict[str, float]
    tiles: dict[str, str] | None = None


class Predictor:
    """A model with its preprocessing and thresholds.

    On a GPU it computes with the process's TF32 settings, which `models.base.set_full_precision` sets.

    Args:
        threshold: for `multilabel`, one value for all labels, or `{label: value}` for some.
        batch_size: photos per forward pass, 512 at most. The last digits of scores can depend on it.
        num_workers: threads that decode and infer (on a GPU: processes that decode); 0: none; null: one per
            core, 16 at most.
        miss: the promised rate of missed photos with a label, which decides whom a person looks at; null:
            nobody is asked.
    """

    def __init__(
        self,
        backend: Backend,
        threshold: float | Mapping[str, float] | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        miss: float | None = 0.05,
    ):
        if not 1 <= batch_size <= CHUNK:
            raise InputError(f"batch_size={batch_size}: needs 1 to {CHUNK}, the photos of a chunk")
        if num_workers is not None and num_workers < 0:
            raise InputError(f"num_workers={num_workers}: needs at least 0")
        self.backend = backend
        self.task, self.labels, self.preprocess = backend.task, backend.labels, backend.preprocess
        self.thresholds = self._thresholds(threshold)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.miss, self.low = miss, None if miss is None else limits_at(backend.limits, miss)

    @classmethod
    def load(
        cls,
        ckpt: str | Path | None,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "32",
        compile: bool = False,
        tta: bool = False,
        **options: Any,
    ) -> "Predictor":
        """Load a run folder's best, a `.ckpt`, `.onnx` or `.tflite` file, or an export's folder.

        The arguments are the keys of `predict.py` in docs/configuration.md; the class explains the `options`.
        """
        found = load_backend(ckpt, backend, device, precision, compile)
        loaded = cls(mirrored(found) if tta else found, **options)
        low = [] if loaded.low is None else loaded.low.tolist()
        if none := [n for n, limit in zip(found.labels.names, low, strict=False) if limit >= NO_PROMISE]:
            of = "label" if found.task == "multilabel" else "kind"
            told = "miss=%g: no promise for %s; it takes %d %ss of a %s"
            log.info(told, loaded.miss, listed(none, 20), needed(kept_rate(loaded.miss)), found.noun, of)
        return loaded

    def _thresholds(self, given: float | Mapping[str, float] | None) -> np.ndarray | None:
        """Return the thresholds to apply: those of the checkpoint with the given ones in their place."""
        if self.task != "multilabel":
            if given is not None:
                raise InputError(f"threshold= is for multilabel; {self.task} takes the most probable label")
            return None
        thresholds = self.backend.thresholds.copy()
        if given is not None and not isinstance(given, Mapping):
            given = dict.fromkeys(self.labels.names, given)
        for label, value in (given or {}).items():
            check_number("threshold", value, f"threshold of '{label}' is {value!r}")
            thresholds[self.labels.position(str(label))] = value
        return thresholds

    def predict(self, source: Source | Sequence[Source]) -> Any:
        """Predict one photo, or a list of photos: paths, contents of files, or opened images.

        The answer for a photo is a `Prediction`, the one for a text `as_text_answer` of it.

        A list goes through the same batches as the rows of a CSV of these photos in this order, and one photo
        as a list of one: the scores are equal.

        Raises:
            UnreadableImage: for a photo that cannot be read.
        """
        answer = as_text_answer if self.backend.reads == "text" else lambda prediction: prediction
        if isinstance(source, list | tuple):
            return [answer(self._prediction(scores)) for scores in self._scores(source)]
        return answer(self._prediction(next(self._scores([source]))))

    def _scores(self, sources: Sequence[Source]) -> Iterator[np.ndarray]:
        """Yield the scores `[labels]` of each photo."""
        for number in range(count_batches(len(sources), self.batch_size)):
            pixels = self.preprocess.empty(self.batch_size)
            index = batch_range(len(sources), self.batch_size, number)
            for place, i in enumerate(index):
                if isinstance(source := sources[i], Image.Image) and self.backend.reads == "photo":
                    image = as_upright_rgb(source, self.preprocess.sample_bits)
                    pixels[place] = self.preprocess.resize_image(image)
                else:
                    pixels[place] = self.preprocess(source)
            with self.backend.one_thread():  # as in `run_batches`, for equal last digits
                found = self.backend.scores(pixels, len(index))
            yield from found

    def _prediction(self, scores: np.ndarray) -> Prediction:
        """Return labels and probabilities from the scores of a photo, with the tiles behind them."""
        scores, carriers = scores[: len(self.labels)], scores[len(self.labels) :]
        labels = decide(self.task, self.labels, scores, self.thresholds)
        probabilities = {
            kind: dict(zip(names, scores[self.labels.slices[kind]].tolist(), strict=True))
            for kind, names in self.labels.kinds.items()
        }
        means = [sum(probabilities[k][n] for n in names) / len(names) for k, names in labels.items() if names]
        confidence = sum(means) / len(means) if means else None
        words = ["+".join(names) for names in labels.values() if names]
        text = "_".join([*words, f"{confidence:.2f}"]) if means else "nothing"
        sent = np.zeros(len(scores), bool)
        if self.low is not None:
            sent = asked(scores, self.low, self.labels, self.thresholds)
        look_at = {self.labels.names[i]: float(scores[i]) for i in np.flatnonzero(sent)}
        return Prediction(labels, probabilities, confidence, text, look_at, self._tiles(labels, carriers))

    def _tiles(self, labels: Mapping[str, list[str]], carriers: np.ndarray) -> dict[str, str] | None:
        """Return the view that carried each decided label; None for a model without tiles."""
        if not len(carriers):
            return None
        names = [name for chosen in labels.values() for name in chosen]
        return {name: self.preprocess.views[int(carriers[self.labels.position(name)])] for name in names}

    def columns(self, probabilities: bool = False) -> list[str]:
        """Return the columns of this model's `predictions.csv`."""
        tiles = self.preprocess.tiles is not None
        return columns(self.task, self.labels, probabilities, tiles, self.backend.reads)

    def results(self, photos: Sequence[Photo]) -> Iterator[list[Result]]:
        """Yield the scores of photos, from the beginning of a chunk on, batch by batch in their order."""
        sizes = self.backend.trained_sizes
        return run_batches(self.backend, photos, self.batch_size, self.num_workers, sizes)

    def rows(
        self,
        photos: Sequence[Photo],
        probabilities: bool = False,
        results: Iterable[list[Result]] | None = None,
    ) -> Iterator[list[dict[str, str]]]:
        """Yield the rows of `predictions.csv` batch by batch, in the order of `photos`.

        At the end one line says how many of the photos the model was trained on, if any.

        Args:
            photos: the photos, from the beginning of a chunk on.
            probabilities: whether to add `p:<label>` for each label.
            results: scores of the photos, in batches; None: they are read and scored here.
        """
        seen = 0
        for batch in self.results(photos) if results is None else results:
            seen += sum(result.digest in self.backend.trained_on for result in batch)
            yield [
                row(
                    self.task,
                    self.labels,
                    photos[result.index].id,
                    photos[result.index].path,
                    result.values,
                    self.thresholds,
                    result.error,
                    probabilities,
                    self.preprocess.views if self.preprocess.tiles else (),
                    self.low,
                    photos[result.index].text,
                    self.backend.reads,
                )
                for result in batch
            ]
        self.backend.report()
        if seen:
            log.warning(
                "%d of %d %ss were in this model's training split: the predictions do not measure "
                "generalisation",
                seen,
                len(photos),
                self.backend.noun,
            )


def as_text_answer(found: Prediction) -> dict[str, Any]:
    """Return `{"label", "score", "probs"}` of a text; several labels are joined as in `Prediction.text`."""
    words = ["+".join(names) for names in found.labels.values() if names]
    probs = {name: p for own in found.probabilities.values() for name, p in own.items()}
    return {"label": "_".join(words) or None, "score": found.confidence, "probs": probs}


def load_backend(
    ckpt: str | Path | None,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "32",
    compile: bool = False,
) -> Backend:
    """Return the backend of a checkpoint or an exported model.

    `ckpt` is as for `find_checkpoint`; the options are those of `predict.py` in docs/configuration.md.

    Raises:
        InputError: for a file that is none of these, or options that do not go together.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend={backend}: {did_you_mean(backend, BACKENDS)}")
    path = find_checkpoint(ckpt)
    if path.suffix.lower() == ".tflite":
        if backend != "auto" or device not in ("auto", "cpu") or str(precision) != "32" or compile:
            raise InputError(f"{path}: a TFLite file runs on the CPU, as it was exported: no more options")
        from src.inference.tflite_backend import TfliteBackend

        return TfliteBackend(path)
    if path.suffix.lower() != ".onnx":
        if backend == "onnx":
            raise InputError(
                f"backend=onnx: {path} is a checkpoint; export it first: "
                f"python scripts/export.py {typed('ckpt', shown(path))}"
            )
        from src.models.checkpoint import load_model

        model = load_model(path)
        if model.reads != "photo":
            from src.inference.fusion_backend import FusionBackend, TextBackend

            if str(precision) != "32" or compile:
                raise InputError("precision= and compile= are for models of photos: leave them out")
            return (TextBackend if model.reads == "text" else FusionBackend)(model, device)
        from src.inference.torch_backend import TorchBackend

        return TorchBackend(model, device, str(precision), compile)
    if backend == "torch":
        raise InputError(f"backend=torch: {path} is an ONNX file; name the run folder or its .ckpt file")
    if str(precision) != "32" or compile:
        raise InputError("precision= and compile= are for checkpoints; an ONNX file is as it was exported")
    from src.inference.onnx_backend import OnnxBackend

    return OnnxBackend(path, device)
