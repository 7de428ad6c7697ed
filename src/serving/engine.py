"""The model behind the service: bounded work in threads, one reference that can be swapped."""

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from src.errors import InputError
from src.files import file_digest, file_lock
from src.inference.predictor import Prediction, Predictor
from src.parallel import cores
from src.runs import PHOTOS_ALONE, find_checkpoint

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and its identity."""

    id: str  # the first 16 hex digits of the checkpoint's SHA-256, also for an exported file of it
    preprocessing: str  # 16 hex digits that stand for it
    predictor: Predictor
    run: Path | None  # its folder; None for a file by itself
    path: Path  # the file that was loaded

    @property
    def origin(self) -> dict[str, str]:
        """Model id and preprocessing digest, which every answer carries."""
        return {"model_id": self.id, "preprocessing": self.preprocessing}

    def predict(self, content: bytes) -> Prediction:
        """Return the prediction for a photo; call it in a thread. A `ValueError` if scores are not finite."""
        found = self.predictor.predict(content)
        if not all(np.isfinite(list(scores.values())).all() for scores in found.probabilities.values()):
            raise ValueError("the model's scores are not finite")
        return found

    def record(self, found: Prediction) -> dict[str, Any]:
        """Return S1's inference record of a prediction for the log: what was answered, never the photo."""
        of = found.probabilities
        sure = {name: round(of[kind][name], 4) for kind, names in found.labels.items() for name in names}
        return {"model_id": self.id, "prediction": found.text, "probabilities": sure}


class Busy(Exception):
    """The queue is full, or the service is ending."""

    seconds = 2  # after which a client may try again


def load_served(
    ckpt: str | Path | None,
    backend: str,
    runs: Path = Path("outputs"),
    miss: float = 0.05,
    device: str = "cpu",
) -> ServedModel:
    """Load and warm a model: with ONNX Runtime, which a checkpoint is exported for once, or with torch.

    `ckpt` is as in `find_checkpoint`. The `backend` is `auto`, `onnx` or `torch`; `auto` takes ONNX Runtime
    where it is installed. `miss` and `device` are as in `Predictor`.
    """
    path = find_checkpoint(ckpt, runs)
    run = path.parent.parent if (path.parent.parent / "metrics.json").is_file() else None
    if path.suffix not in (".onnx", ".tflite") and backend != "torch":
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
        if not missing:
            path = _exported(path)
        elif backend == "onnx":
            cure = 'python -m pip install -e ".[onnx]"'
            raise InputError(f"backend=onnx: {missing[0]} is not installed: {cure}")
        else:
            log.warning("ONNX Runtime is not installed: the model runs with torch, which is slower")
    predictor = Predictor.load(path, device=device, batch_size=1, num_workers=0, miss=miss)
    if predictor.backend.reads != "photo":
        raise InputError(f"{path}: {PHOTOS_ALONE}")
    predictor.predict(Image.new("RGB", (64, 64), "gray"))
    recorded = getattr(predictor.backend, "metadata", {}).get("checkpoint", {}).get("sha256")
    digest = recorded or file_digest(path)
    # without what is not set: an option that is added later does not change it
    pixels = predictor.preprocess
    given = {name: getattr(pixels, name) for name in ("image_size", "resize", "mean", "std")} | pixels.further
    preprocessing = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    return ServedModel(digest[:16], preprocessing[:16], predictor, run, path)


def _exported(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "onnx"
    file = folder / "model.onnx"
    folder.mkdir(exist_ok=True)
    with file_lock(folder / ".lock", patience=600.0):
        if not (file.is_file() and file_digest(checkpoint).encode() in file.read_bytes()):
            from src.inference.export import Exporter

            log.info("Exporting %s for ONNX Runtime, once", checkpoint)
            log.info("%s", Exporter(checkpoint, folder).write("onnx"))
    return file


class Engine:
    """Runs work on the model, which may be swapped at any time, in a bounded number of threads."""

    def __init__(self, model: ServedModel, threads: int | None, queue: int, timeout: float):
        self.model, self.queue, self.timeout = model, queue, timeout
        self.threads = threads or cores()
        self.waiting = 0  # requests that wait or run
        self._pool = ThreadPoolExecutor(self.threads, "engine")
        self._lock, self._closing = threading.Lock(), False

    def refuse_if_full(self) -> None:
        """Raise `Busy` if no further request can be taken."""
        if self._closing or self.waiting >= self.queue:
            raise Busy

    async def run(self, work: Callable[[], Result], begun: bool = False) -> Result:
        """Return the result of work done in a thread.

        Raises:
            Busy: the queue is full; work of a request that has `begun` waits all the same.
            TimeoutError: it took too long; the thread goes on until the work is done.
        """
        with self._lock:
            if not begun:
                self.refuse_if_full()
            self.waiting += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._ended)  # also of one that was cancelled before it began
        return await asyncio.wait_for(asyncio.wrap_future(future), self.timeout)

    def _ended(self, _: Future) -> None:
        with self._lock:
            self.waiting -= 1

    def close(self) -> None:
        """Take no more work, and end with what is running: the requests have ended, or their time has."""
        self._closing = True
        self._pool.shutdown(cancel_futures=True)
