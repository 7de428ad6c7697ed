"""A checkpoint as files that run without this code: ONNX in float32 or int8, Core ML, TFLite."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src.errors import InputError, did_you_mean, listed, reason
from src.files import file_digest
from src.inference.graphs import quantize, with_maps
from src.inference.onnx_backend import SCHEMA, ExportedBackend, OnnxBackend
from src.inference.parity import (
    TOLERANCE,
    Parity,
    compare_scores,
    int8_fault,
    made_up_photos,
    scores_of,
    split_photos,
)
from src.inference.phones import CONVERTER, convert_to_tflite, coreml_package, coreml_scores
from src.inference.tflite_backend import TfliteBackend, write_tflite_metadata
from src.inference.torch_backend import TorchBackend
from src.models.checkpoint import load_model
from src.models.classifiers import PhotoClassifier
from src.overrides import shown
from src.runs import PHOTOS_ALONE, run_of

log = logging.getLogger(__name__)
FILES = {"onnx": "model.onnx", "int8": "model_int8.onnx"}
FILES |= {"coreml": "model.mlpackage", "tflite": "model.tflite"}
NOT_COMPARED = Parity(0, "not compared here: Core ML runs on a Mac only", None, None, None, None)
MLMODEL = "Data/com.apple.CoreML/model.mlmodel"  # holds a package's metadata
PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "coreml": ("coremltools",)}  # of each extra
PACKAGES |= {"tflite": ("onnx", "onnxscript", "ai_edge_litert")}
CHECKED, CALIBRATED = 1000, 256  # photos at the most


class ParityError(InputError):
    """An exported file does not score or decide like its checkpoint."""


class Deployed(nn.Module):
    """A classifier from resized pixels to probabilities, as it is exported.

    Args:
        model: from `load_model`; its memory format is changed in place.
    """

    def __init__(self, model: PhotoClassifier):
        super().__init__()
        # a file's graph has no memory format, and exporting one would add a gather for every reshape
        self.model = model.to(memory_format=torch.contiguous_format)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return `Backend.scores` of photos uint8 `[B, H, W, 3]`, or float32 `[B, 3, H, W]`."""
        if pixels.dtype == torch.uint8:
            pixels = pixels.permute(0, 3, 1, 2).contiguous()
        return self.model.scored_views(self.model.seen(self.model.normalised(pixels)))


class Exporter:
    """Writes the formats of one checkpoint into one folder, each checked before it gets its name.

    Attributes:
        checked: the photos that scores are compared on: the run's validation split, made-up ones for a
            checkpoint by itself.
        compared: whether the scores of a file have been compared on them.
    """

    def __init__(self, checkpoint: Path, folder: Path, root: str | None = None):
        self.checkpoint, self.folder, self.root = checkpoint, folder, root
        self.model = load_model(checkpoint)
        if self.model.reads != "photo":
            raise InputError(f"{checkpoint}: {PHOTOS_ALONE}")
        self.backend = TorchBackend(self.model, "cpu")
        self.run = run_of(checkpoint)
        found = split_photos(self.run, "val", CHECKED, root, self.model) if self.run else None
        self.checked = found if found and len(found.pixels) else made_up_photos(self.backend.preprocess)
        self.reference = scores_of(self.backend, self.checked.pixels)
        self.metadata, self.compared = metadata_of(self.backend, checkpoint), False

    def write(self, name: str) -> str:
        """Write one format, a key of `FILES`; return a line with its size, comparison and path.

        Raises:
            ParityError: if the scores are not those of the checkpoint.
            InputError: if photos are missing. After both errors no file of that format is left, as an
                earlier one would be taken for this checkpoint's. If the disk refuses, an earlier one stays.
        """
        final = self.folder / FILES[name]
        try:
            with tempfile.TemporaryDirectory(prefix=".export-", dir=self.folder) as folder:
                file = Path(folder) / FILES[name]
                parity = getattr(self, f"_{name}")(file)
                if final.is_dir():
                    os.replace(final, Path(folder) / "earlier")
                os.replace(file, final)
        except InputError:
            shutil.rmtree(final) if final.is_dir() else final.unlink(missing_ok=True)
            raise
        except OSError as error:
            kept = "; an earlier file, maybe of another checkpoint, is still there" if final.exists() else ""
            raise InputError(f"{final} could not be written ({reason(error)}){kept}") from error
        size = sum(path.stat().st_size for path in (final, *final.rglob("*")) if path.is_file()) / 1e6
        found = parity.source
        if parity.max_difference is not None:
            self.compared = True
            f1 = "" if parity.f1 is None else f"  macro-F1 {parity.f1:.4f} ({parity.reference_f1:.4f})"
            found = f"max difference {parity.max_difference:.1e}  agreement {parity.agreement:.4f}{f1}"
        return f"{name:6} {size:.1f} MB  {found}  {shown(final.absolute())}"

    def _onnx(self, file: Path) -> Parity:
        tiles = self.backend.preprocess.tiles  # maps of several views would have no place on the photo
        file.write_bytes(self.graph if tiles else with_maps(self.graph))
        return _exact("onnx", self._finished(file, precision="fp32"))

    def _tflite(self, file: Path) -> Parity:
        source = file.with_name("one_photo.onnx")
        source.write_bytes(self._graph(1))
        convert_to_tflite(source, file)
        return _exact("tflite", self._finished(file, TfliteBackend, precision="fp32"))

    def _coreml(self, file: Path) -> Parity:
        if self.backend.preprocess.tiles:
            raise InputError("coreml takes one photo as an image: not for preprocess.tiles; formats=[tflite]")
        package = coreml_package(Deployed(self.model).eval(), self.backend.preprocess.size)
        package.save(str(file))
        found = coreml_scores(file, self.checked.pixels)
        parity = NOT_COMPARED if found is None else _exact("coreml", self._compared(found))
        metadata = self.metadata | {"precision": "fp32", "parity": asdict(parity)}
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
        package.user_defined_metadata.update(texts)
        package.save(str(file))
        return parity

    @cached_property
    def graph(self) -> bytes:
        """The ONNX file in float32, without metadata, for any number of photos."""
        return self._graph(None)

    def _graph(self, photos: int | None) -> bytes:
        """Return an ONNX file in float32, without metadata, for a number of photos; None: for any."""
        pixels = torch.zeros(photos or 2, *self.backend.preprocess.shape, dtype=torch.uint8)
        with torch.no_grad():
            program = torch.onnx.export(
                Deployed(self.model).eval(),
                (pixels,),
                dynamo=True,
                input_names=["pixels"],
                output_names=["probabilities"],
                dynamic_shapes=None if photos else {"pixels": {0: torch.export.Dim("batch")}},
                external_data=False,
                verbose=False,
            )
        return program.model_proto.SerializeToString()

    def _int8(self, file: Path) -> Parity:
        if self.checked.targets is None:
            raise InputError(
                "int8 is calibrated on the run's training photos and checked on its validation photos, and "
                f"{self.checkpoint} has none: give the folder of a run with some, ckpt=RUN, or export onnx"
            )
        calibration = split_photos(self.run, "train", CALIBRATED, self.root, self.model).pixels
        exact = file.with_name("exact.onnx")
        exact.write_bytes(self.graph)
        quantize(exact, file, calibration)
        parity = self._finished(file, precision="int8")
        if fault := int8_fault(parity):
            raise ParityError(f"int8 does not decide like the checkpoint and was not kept ({fault})")
        log.info("int8: calibrated on %d training photos", len(calibration))
        return parity

    def _finished(self, file: Path, backend: type[ExportedBackend] = OnnxBackend, **more: object) -> Parity:
        write = write_metadata if backend is OnnxBackend else write_tflite_metadata
        write(file, self.metadata | more)
        parity = self._compared(scores_of(backend(file), self.checked.pixels))
        write(file, self.metadata | more | {"parity": asdict(parity)})
        return parity

    def _compared(self, found: np.ndarray) -> Parity:
        return compare_scores(self.backend.model, self.reference, found, self.checked)


def _exact(name: str, parity: Parity) -> Parity:
    if not parity.max_difference <= TOLERANCE:
        raise ParityError(
            f"{name}: scores differ from the checkpoint's by up to {parity.max_difference:.2g} (allowed: "
            f"{TOLERANCE:g}); the file was not kept"
        )
    return parity


def check_formats(formats: list[str]) -> None:
    """Refuse formats that do not exist, or none, and a missing package."""
    if not formats:
        raise InputError(f"formats=[] exports nothing: choose from {', '.join(FILES)}")
    if unknown := [str(name) for name in formats if name not in FILES]:
        raise InputError(f"formats: {listed(unknown)}: {did_you_mean(unknown[0], FILES)}")
    for name in formats:
        extra = "onnx" if name == "int8" else name
        try:
            for package in PACKAGES[extra]:
                __import__(package)
        except ImportError as error:
            raise InputError(
                f'formats: {name} needs more packages: python -m pip install -e ".[{extra}]" ({error})'
            ) from error
    if "tflite" in formats and not CONVERTER.is_file():
        raise InputError("formats: tflite needs a converter in an environment of its own: make tflite-env")


def check_folder(folder: Path, formats: list[str], checkpoint: Path) -> None:
    """Refuse a folder with files of another checkpoint in formats that are not exported, and so would stay.

    `ckpt=FOLDER` could take them for this checkpoint's.
    """
    mark = f'"sha256": "{file_digest(checkpoint)}"'.encode()  # as `metadata_of` has it
    others = {file: folder / file for name, file in FILES.items() if name not in formats}
    others = {file: path / MLMODEL if path.is_dir() else path for file, path in others.items()}
    if strange := [file for file, path in others.items() if path.is_file() and mark not in path.read_bytes()]:
        raise InputError(
            f"output={folder}: {listed(strange)} in it would stay, of another checkpoint: remove it, export "
            "it too (formats=), or name another folder"
        )


def metadata_of(backend: TorchBackend, checkpoint: Path) -> dict[str, Any]:
    """Return everything that a prediction needs next to the graph, and the origin of the weights, as JSON."""
    thresholds = None if backend.thresholds is None else backend.thresholds.astype(float).tolist()
    return {
        "schema": SCHEMA,
        "task": backend.task,
        "labels": backend.labels.as_dict(),
        "preprocess": asdict(backend.preprocess),
        "thresholds": thresholds,
        "calibration": backend.model.calibration.cpu().double().tolist(),
        "limits": backend.limits.astype(float).tolist(),
        "provenance": backend.model.provenance,
        "checkpoint": {"sha256": file_digest(checkpoint), "backbone": backend.model.hparams["backbone"]},
        "exported_with": {name: version(name) for name in ("torch", "torchvision")},
    }


def write_metadata(file: Path, metadata: Mapping[str, Any]) -> None:
    """Write metadata into an ONNX file, in the place of earlier ones."""
    import onnx

    model = onnx.load(file)
    del model.metadata_props[:]
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    onnx.helper.set_model_props(model, texts)
    file.write_bytes(model.SerializeToString())
