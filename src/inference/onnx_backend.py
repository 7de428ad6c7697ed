"""An exported model run by ONNX Runtime, described by the metadata in its file. No torch."""

import hashlib
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import InputError, listed
from src.inference.batches import Backend, trained_sizes
from src.labels import TASKS, LabelSpace
from src.preprocess import Preprocess

SCHEMA = 1  # of the metadata
KEYS = ("schema", "task", "labels", "preprocess", "thresholds", "calibration", "provenance", "precision")
FURTHER = ("checkpoint", "exported_with", "int8", "parity")  # information only
PRECISIONS = ("fp32", "int8")
FAST_INT8 = {"AVX2", "X86_V3", "ASIMDDP"}  # instructions by NumPy's names, one of which int8 needs
# the entry `sha256` of the metadata as protobuf writes it: the digest of the file with zeros in its place
NO_DIGEST = "0" * 64
DIGEST = re.compile(rb'sha256\x12\x42"(.{64})"', re.DOTALL)


class OnnxBackend(Backend):
    """An exported model; see `batches.Backend` for the attributes.

    Each forward pass runs on the thread that asks for it, so that any number of threads can ask at once, and
    the scores do not depend on how many do.

    Args:
        path: what `scripts/export.py` wrote.
        device: `auto` and `cpu` are the CPU; `cuda` where ONNX Runtime was built for it.

    Raises:
        InputError: for a missing ONNX Runtime, a file that is broken, of another program or of a newer
            version, a device that is not there, or an int8 model on a CPU that computes it slowly.
    """

    def __init__(self, path: Path, device: str = "auto"):
        self._session = _open(path, device)
        try:
            texts = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise _damaged(path, error) from error
        self.metadata = read_metadata(texts, path)
        if self.metadata["precision"] == "int8" and device != "cuda":
            check_int8(path)
        self.task, thresholds = self.metadata["task"], self.metadata["thresholds"]
        try:
            self.labels = LabelSpace(self.metadata["labels"])
            self.preprocess = Preprocess.from_dict(self.metadata["preprocess"])
            self.thresholds = None if thresholds is None else np.array(thresholds, np.float32)
            self.trained_on = frozenset(self.metadata["provenance"].get("train_digests", ()))
            self.trained_sizes = trained_sizes(self.metadata["provenance"])
        except (TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        self.arithmetic = {"onnxruntime": version("onnxruntime")}
        self._check_graph(path)

    def _check_graph(self, path: Path) -> None:
        """Refuse a graph that does not do what its metadata say."""
        asked = [(node.name, node.type, node.shape[1:]) for node in self._session.get_inputs()]
        given = [(node.name, node.type, node.shape[1:]) for node in self._session.get_outputs()]
        height, width = self.preprocess.size
        if asked != [("pixels", "tensor(uint8)", [height, width, 3])] or given != [
            ("probabilities", "tensor(float)", [len(self.labels)])
        ]:
            raise InputError(f"{path}: its graph takes {asked} and gives {given}, unlike its metadata")
        if self.task == "multilabel" and (
            self.thresholds is None or self.thresholds.shape != (len(self.labels),)
        ):
            raise InputError(f"{path}: it has no threshold for each of its {len(self.labels)} labels")

    def scores(self, pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        """Return probabilities float32 `[count, labels]`; see `Backend`."""
        return self._session.run(["probabilities"], {"pixels": pixels})[0][:count]


def with_digest(content: bytes) -> bytes:
    """Return the content of an exported file with its digest in the metadata; unchanged without an entry."""
    found = DIGEST.search(content)
    if found is None:
        return content
    before, after = content[: found.start(1)], content[found.end(1) :]
    digest = hashlib.sha256(before + NO_DIGEST.encode() + after).hexdigest()
    return before + digest.encode() + after


def _open(path: Path, device: str) -> Any:
    """Return an ONNX Runtime session that computes on the thread that calls it."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise InputError(
            f'{path}: an ONNX file needs ONNX Runtime: python -m pip install -e ".[onnx]" ({error})'
        ) from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if with_digest(content) != content:
        raise InputError(f"{path}: damaged, or changed by another program: export the run again")
    if device == "mps" or (device == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers()):
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
        session = ort.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common type of their own
        raise InputError(f"{path}: not a model that ONNX Runtime can read, or a damaged one") from error
    if not set(providers) <= set(session.get_providers()):  # built in, but its libraries did not load
        raise InputError("device=cuda: ONNX Runtime cannot load CUDA or cuDNN here; use device=cpu")
    return session


def read_metadata(texts: dict[str, str], path: Path) -> dict[str, Any]:
    """Return the metadata of an exported file, checked.

    Args:
        texts: `{key: JSON}`.
        path: the file, for messages.

    Raises:
        InputError: for metadata that are missing, damaged, of a newer version, or that ask for something that
            this version cannot do.
    """
    if "schema" not in texts:
        raise InputError(f"{path}: not exported by Corbel (no metadata in it): use scripts/export.py")
    try:
        found = {key: json.loads(texts[key]) for key in (*KEYS, *FURTHER) if key in texts}
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if type(found["schema"]) is not int or found["schema"] < 1:
        raise _damaged(path, f"schema {found['schema']}")
    if found["schema"] > SCHEMA:
        newer = f"exported by a newer Corbel (schema {found['schema']}, here {SCHEMA})"
        raise InputError(f"{path}: {newer}: upgrade, or export the run again")
    if missing := [key for key in KEYS if key not in found]:
        raise InputError(f"{path}: its metadata lack {listed(missing)}: export the run again")
    for key, choices in (("task", TASKS), ("precision", PRECISIONS), ("calibration", (None,))):
        if found[key] not in choices:
            raise InputError(f"{path}: {key} '{found[key]}' is not known here: upgrade")
    for key in ("labels", "preprocess", "provenance"):
        if not isinstance(found[key], dict):
            raise _damaged(path, f"{key} is no mapping")
    return found


def _damaged(path: Path, why: object) -> InputError:
    """Return the error for damaged metadata."""
    return InputError(f"{path}: its metadata are damaged ({why}): export the run again")


def check_int8(path: Path) -> None:
    """Refuse int8 on a CPU without the instructions that make it fast."""
    found = np.show_config("dicts")["SIMD Extensions"]
    if not FAST_INT8 & {*found.get("found", ()), *found.get("baseline", ())}:  # NumPy leaves empty ones out
        raise InputError(
            f"{path}: this CPU has no instructions for int8 ({listed(sorted(FAST_INT8))}), it would be "
            "slower than model.onnx; name that file"
        )
