"""The cost of a model on a CPU: seconds of a photo, size, memory."""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np


def cost_of(checkpoint: Path, rounds: int) -> dict[str, float | None]:
    """Return what the predictions of a checkpoint cost, measured in a fresh process.

    `latency_ms` is the median time of one photo on one thread, without reading and resizing it; `size_mb` the
    size of the weights; `memory_mb` the most that loading and predicting add to the process, None where the
    system does not tell.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        return alone.submit(_measured, checkpoint, rounds).result()


def _measured(checkpoint: Path, rounds: int) -> dict[str, float | None]:
    from src.inference.torch_backend import TorchBackend
    from src.models.checkpoint import load_model

    before = _most_memory()
    model = load_model(checkpoint)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    backend = TorchBackend(model, "cpu")
    pixels, times = np.zeros((1, *backend.preprocess.shape), np.uint8), []
    with backend.one_thread():
        backend.scores(pixels)
        for _ in range(rounds):
            begun = time.perf_counter()
            backend.scores(pixels)
            times.append(1e3 * (time.perf_counter() - begun))
    added = None if before is None else _most_memory() - before
    return {"latency_ms": median(times), "size_mb": size / 1e6, "memory_mb": added}


def _most_memory() -> float | None:
    """Return the most memory that this process has held, in MB."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e6
