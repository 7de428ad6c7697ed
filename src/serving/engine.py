"""The model behind the service: bounded work in threads, one reference that can be swapped."""

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np

from src.errors import InputError
from src.files import file_digest, file_lock
from src.images import open_image
from src.inference.predictor import Prediction, Predictor
from src.parallel import cores
from src.runs import find_checkpoint

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and its identity.

    Attributes:
        id: the first 16 hex digits of the checkpoint's SHA-256, also for an exported file of it.
        preprocessing: 16 hex digits that stand for the preprocessing.
        run: the run folder; None for a file by itself.
        path: the file that was loaded.
    """

    id: str
    preprocessing: str
    predictor: Predictor
    run: Path | None
    path: Path

    @property
    def origin(self) -> dict[str, str]:
        """Model id and preprocessing digest, which every answer carries."""
        return {"model_id": self.id, "preprocessing": self.preprocessing}


class Busy(Exception):
    """The queue is full, or the service is ending.

    Args:
        seconds: after which a client may try again.
    """

    def __init__(self, seconds: int):
        super().__init__(f"busy for {seconds} s")
        self.seconds = seconds


def load_served(ckpt: str | Path | None, backend: str, runs: Path = Path("outputs")) -> ServedModel:
    """Load and warm a model: with ONNX Runtime, which a checkpoint is exported for once, or with torch.

    Args:
        ckpt: a run folder, a checkpoint or an exported file; None: the newest finished run below `runs`.
        backend: `auto`, `onnx` or `torch`; `auto` takes ONNX Runtime where it is installed.
        runs: the folder of all runs.
    """
    if backend not in ("auto", "onnx", "torch"):
        raise InputError(f"backend={backend}: choices: auto, onnx, torch")
    path = find_checkpoint(ckpt, runs)
    run = path.parent.parent if (path.parent.parent / "metrics.json").is_file() else None
    if path.suffix not in (".onnx", ".tflite") and backend != "torch":
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
        if not missing:
            path = _exported(path)
        elif backend == "onnx":
            raise InputError(
                f'backend=onnx: {missing[0]} is not installed: python -m pip install -e ".[onnx]"'
            )
        else:
            log.warning("ONNX Runtime is not installed: the model runs with torch, which is slower")
    predictor = Predictor.load(path, device="cpu", batch_size=1, num_workers=0)
    recorded = getattr(predictor.backend, "metadata", {}).get("checkpoint", {}).get("sha256")
    digest = recorded or file_digest(path)
    text = json.dumps(asdict(predictor.preprocess), sort_keys=True)
    served = ServedModel(digest[:16], hashlib.sha256(text.encode()).hexdigest()[:16], predictor, run, path)
    predictor.predict(open_image(_gray()))
    return served


def _gray() -> bytes:
    """Return a small photo to warm a model with."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 64), "gray").save(file, "PNG")
    return file.getvalue()


def _exported(checkpoint: Path) -> Path:
    """Return the ONNX file of a checkpoint, next to it in `onnx/`; it is made and compared once."""
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
    """Runs work on the model in a bounded number of threads.

    Args:
        model: the model to begin with.
        threads: that decode and infer; None: one per core.
        queue: requests that may wait or run; further ones are `Busy`.
        timeout: seconds that a request may take.
    """

    def __init__(self, model: ServedModel, threads: int | None, queue: int, timeout: float):
        self.model, self.queue, self.timeout = model, queue, timeout
        self.threads = threads or cores()
        self._pool = ThreadPoolExecutor(self.threads, "engine")
        self._lock, self._waiting, self._closing = threading.Lock(), 0, False
        self._seconds = 0.1  # of one piece of work, a running mean

    @property
    def waiting(self) -> int:
        """Requests that wait or run."""
        return self._waiting

    def refuse_if_full(self) -> None:
        """Raise `Busy` if no further request can be taken."""
        if self._closing or self._waiting >= self.queue:
            raise Busy(max(1, round(self._waiting * self._seconds / self.threads)))

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return the result of work done in a thread.

        Raises:
            Busy: the queue is full.
            TimeoutError: it took too long; the thread goes on until the work is done.
        """
        with self._lock:
            self.refuse_if_full()
            self._waiting += 1
        future = self._pool.submit(self._timed, work)
        future.add_done_callback(self._ended)  # also of one that was cancelled before it began
        return await asyncio.wait_for(asyncio.wrap_future(future), self.timeout)

    def _timed(self, work: Callable[[], Result]) -> Result:
        begun = time.perf_counter()
        try:
            return work()
        finally:
            with self._lock:
                self._seconds += 0.1 * (time.perf_counter() - begun - self._seconds)

    def _ended(self, _: Future) -> None:
        with self._lock:
            self._waiting -= 1

    def predict(self, content: bytes, model: ServedModel | None = None) -> tuple[ServedModel, Prediction]:
        """Return the prediction for a photo, with the model that made it; call it in a thread.

        Raises:
            UnreadableImage: for a photo that cannot be read.
            ValueError: if the scores are not finite.
        """
        model = model or self.model  # one reference: it may be swapped meanwhile
        found = model.predictor.predict(content)
        if not all(np.isfinite(list(scores.values())).all() for scores in found.probabilities.values()):
            raise ValueError("the model's scores are not finite")
        return model, found

    def close(self, seconds: float) -> None:
        """Take no more work, and wait for what is there."""
        self._closing = True
        until = time.monotonic() + seconds
        while self._waiting and time.monotonic() < until:
            time.sleep(0.02)
        self._pool.shutdown(wait=False, cancel_futures=True)
