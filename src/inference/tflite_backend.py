"""An exported model run by LiteRT, described by the ZIP entry behind its graph. No torch."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import InputError, reason
from src.inference.onnx_backend import ExportedBackend

ENTRY = "corbel.json"  # of the ZIP archive behind the graph, as TFLite's associated files have it


class TfliteBackend(ExportedBackend):
    """An exported model, one photo at a time; see `batches.Backend` for the attributes.

    An interpreter belongs to one thread, so each thread has its own.
    """

    def __init__(self, path: Path):
        try:
            from ai_edge_litert.interpreter import Interpreter

            content = path.read_bytes()
        except ImportError as error:
            cure = 'a TFLite file needs LiteRT: python -m pip install -e ".[tflite]"'
            raise InputError(f"{path}: {cure} ({error})") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {reason(error)}") from error
        graph, metadata = parted(content)
        if metadata.get("sha256") != hashlib.sha256(graph).hexdigest():
            why = "not exported by Corbel, damaged, or changed by another program"
            raise InputError(f"{path}: {why}: export the run again, scripts/export.py")
        self._describe(path, metadata)
        self.arithmetic = {"ai-edge-litert": version("ai-edge-litert")}
        self._interpreter, self._graph, self._own = Interpreter, graph, threading.local()

    def scores(self, pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        """Return probabilities float32 `[count, labels]`; see `Backend`."""
        if not hasattr(self._own, "model"):
            self._own.model = self._interpreter(model_content=self._graph, num_threads=1)
            self._own.model.allocate_tensors()
        model, found = self._own.model, []
        (taken,), (given,) = model.get_input_details(), model.get_output_details()
        for photo in pixels[:count]:
            model.set_tensor(taken["index"], photo[None])
            model.invoke()
            found.append(model.get_tensor(given["index"])[0])
        return np.array(found, np.float32).reshape(-1, given["shape"][-1])


def parted(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the graph of a TFLite file and the metadata behind it; `{}` where there are none, or damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return content[: archive.getinfo(ENTRY).header_offset], json.loads(archive.read(ENTRY))
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError):
        return content, {}


def write_tflite_metadata(file: Path, metadata: Mapping[str, Any]) -> None:
    """Write metadata and a digest behind the graph of a TFLite file, in the place of earlier ones."""
    graph, _ = parted(file.read_bytes())
    file.write_bytes(graph)
    text = json.dumps(dict(metadata) | {"sha256": hashlib.sha256(graph).hexdigest()}, ensure_ascii=False)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(ENTRY), text)  # ZipInfo: a date that does not change
