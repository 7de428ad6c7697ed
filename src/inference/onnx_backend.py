"""An exported model run by ONNX Runtime, described by the metadata in its file. No torch."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import InputError, did_you_mean, listed
from src.inference.batches import Backend, trained_sizes
from src.labels import MISSES, NO_PROMISE, LabelSpace
from src.preprocess import Preprocess

SCHEMA = 1  # of the metadata
DEVICES = ("auto", "cpu", "cuda")


class ExportedBackend(Backend):
    """What the backends of exported files share: `metadata`, as `export.metadata_of` has them."""

    def _describe(self, path: Path, metadata: dict[str, Any]) -> None:
        if "schema" not in metadata:
            raise InputError(f"{path}: not exported by Corbel, or damaged: scripts/export.py")
        if metadata["schema"] > SCHEMA:
            newer = f"exported by a newer Corbel (schema {metadata['schema']}, here {SCHEMA})"
            raise InputError(f"{path}: {newer}: upgrade, or export the run again")
        self.metadata, thresholds = metadata, metadata["thresholds"]
        self.task, self.labels = metadata["task"], LabelSpace(metadata["labels"])
        self.preprocess = Preprocess.from_dict(metadata["preprocess"])
        self.thresholds = None if thresholds is None else np.array(thresholds, np.float32)
        none = np.full((len(self.labels), len(MISSES)), NO_PROMISE)  # of an earlier export
        self.limits = np.array(metadata.get("limits", none), np.float32)
        self.trained_on = frozenset(metadata["provenance"].get("train_digests", ()))
        self.trained_sizes = trained_sizes(metadata["provenance"])


class OnnxBackend(ExportedBackend):
    """An exported model; see `batches.Backend` for the attributes.

    Each forward pass runs on the thread that asks for it, so that any number of threads can ask at once, and
    the scores do not depend on how many do.

    Raises:
        InputError: for a missing ONNX Runtime, a file that is broken, of another program or of a newer
            version, or a device that is not there.
    """

    def __init__(self, path: Path, device: str = "auto"):
        self._session = _open(path, device)
        texts = self._session.get_modelmeta().custom_metadata_map
        self._describe(path, {key: json.loads(text) for key, text in texts.items()})
        self.arithmetic = {"onnxruntime": version("onnxruntime")}

    def scores(self, pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        """Return probabilities float32 `[count, labels]`; see `Backend`."""
        return self._session.run(["probabilities"], {"pixels": pixels})[0][:count]

    def maps(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return probabilities `[B, labels]` and class activation maps; see `Backend`."""
        names = [output.name for output in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(names, {"pixels": pixels}), strict=True))
        return found["probabilities"], found.get("maps")


def _open(path: Path, device: str) -> Any:
    """Return an ONNX Runtime session that computes on the thread that calls it."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise InputError(
            f'{path}: an ONNX file needs ONNX Runtime: python -m pip install -e ".[onnx]" ({error})'
        ) from error
    if device not in DEVICES:
        raise InputError(f"device={device}: {did_you_mean(device, DEVICES)}")
    if device == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers():
        there = listed(ort.get_available_providers())
        raise InputError(f"device={device}: this ONNX Runtime has {there} only; use device=cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1")  # int8 must not overflow without VNNI
    options.log_severity_level = 3
    providers = ["CUDAExecutionProvider"] if device == "cuda" else []
    try:
        session = ort.InferenceSession(path, options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common type of their own
        raise InputError(f"{path}: damaged, or of a newer ONNX Runtime than this one") from error
    if not set(providers) <= set(session.get_providers()):  # built in, but its libraries did not load
        raise InputError("device=cuda: ONNX Runtime cannot load CUDA or cuDNN here; use device=cpu")
    return session
