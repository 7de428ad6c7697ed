"""A checkpoint as ONNX files, in float32 or int8, that run without this code."""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.errors import InputError, did_you_mean, listed
from src.files import file_digest
from src.inference.int8 import quantized
from src.inference.onnx_backend import NO_DIGEST, SCHEMA, OnnxBackend, with_digest
from src.inference.parity import (
    TOLERANCE,
    Parity,
    check_int8_parity,
    compared,
    made_up_photos,
    scores_of,
    training_photos,
    validation_photos,
)
from src.inference.torch_backend import TorchBackend
from src.models import PhotoClassifier, load_model
from src.overrides import shown
from src.runs import run_of

log = logging.getLogger(__name__)
FILES = {"onnx": "model.onnx", "int8": "model_int8.onnx"}


@dataclass(frozen=True)
class Export:
    """An exported file.

    Attributes:
        format: a key of `FILES`.
        file: its path.
        parity: the comparison of its scores with the checkpoint's.
    """

    format: str
    file: Path
    parity: Parity


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
        """Return probabilities float32 `[B, labels]` of resized photos uint8 `[B, H, W, 3]`."""
        image = self.model.normalised(pixels.permute(0, 3, 1, 2).contiguous())
        return self.model.probabilities(self.model.classify(self.model.backbone(image)))


class Exporter:
    """Writes the formats of one checkpoint into one folder, each checked before it gets its name.

    Args:
        checkpoint: the file.
        folder: an existing folder to write to.
        root: the folder of the run's photos; null: the recorded one.

    Attributes:
        checked: the photos that scores are compared on: the run's validation split, made-up ones for a
            checkpoint by itself.
    """

    def __init__(self, checkpoint: Path, folder: Path, root: str | None = None):
        self.checkpoint, self.folder, self.root = checkpoint, folder, root
        self.model = load_model(checkpoint)
        self.backend = TorchBackend(self.model, "cpu")
        self.run = run_of(checkpoint)
        found = validation_photos(self.run, root, self.backend.model) if self.run else None
        self.checked = found or made_up_photos(self.backend.preprocess)
        self.reference = scores_of(self.backend, self.checked.pixels)
        self.metadata = metadata_of(self.backend, checkpoint)

    def write(self, name: str) -> Export:
        """Write one format, a key of `FILES`.

        Raises:
            ParityError: if the scores are not those of the checkpoint; no file of that format is left.
            InputError: if photos are missing, and no file of another checkpoint is left; or if the disk
                refuses, and an earlier one stays.
        """
        final = self.folder / FILES[name]
        try:
            with tempfile.TemporaryDirectory(prefix=".export-", dir=self.folder) as folder:
                file = Path(folder) / FILES[name]
                parity = self._int8(file) if name == "int8" else self._onnx(file)
                os.replace(file, final)
        except InputError as error:
            if isinstance(error, ParityError) or not _holds(final, self.metadata["checkpoint"]["sha256"]):
                final.unlink(missing_ok=True)  # an earlier one would be taken for this checkpoint's
            raise
        except OSError as error:
            kept = "; an earlier file, maybe of another checkpoint, is still there" if final.is_file() else ""
            raise InputError(f"{final} could not be written ({error.strerror or error}){kept}") from error
        return Export(name, final, parity)

    def _onnx(self, file: Path) -> Parity:
        """Write and check the ONNX file in float32."""
        about = {**self.metadata, "precision": "fp32"}
        file.write_bytes(self.graph)
        write_metadata(file, about)
        parity = self._compared(file)
        if not parity.max_difference <= TOLERANCE:
            raise ParityError(
                f"onnx: scores differ from the checkpoint's by up to {parity.max_difference:.2g} (allowed: "
                f"{TOLERANCE:g}); the file was not kept"
            )
        write_metadata(file, {**about, "parity": asdict(parity)})
        return parity

    @cached_property
    def graph(self) -> bytes:
        """The ONNX file in float32, without metadata."""
        pixels = torch.zeros(2, *self.backend.preprocess.size, 3, dtype=torch.uint8)
        with torch.no_grad():
            program = torch.onnx.export(
                Deployed(self.model).eval(),
                (pixels,),
                dynamo=True,
                input_names=["pixels"],
                output_names=["probabilities"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
                external_data=False,
                verbose=False,
            )
        return program.model_proto.SerializeToString()

    def _int8(self, file: Path) -> Parity:
        """Write the first int8 file that decides like the checkpoint."""
        if self.run is None:
            raise InputError(
                "int8 is calibrated on the run's training photos and checked on its validation photos, which "
                f"{self.checkpoint} by itself does not name: give the run folder, ckpt=RUN"
            )
        if self.checked.targets is None:
            raise InputError(
                f"int8 is checked on the run's validation photos, and the validation split of {self.run} is "
                "empty: export onnx, or a run that has some"
            )
        calibration = training_photos(self.run, self.root, self.backend.model)
        exact = file.with_name("exact.onnx")
        exact.write_bytes(self.graph)
        tried = []
        for method in quantized(exact, file, calibration):
            about = {**self.metadata, "precision": "int8", "int8": {"method": method}}
            write_metadata(file, about)
            parity = self._compared(file)
            fault = check_int8_parity(parity)
            if fault is None:
                write_metadata(file, {**about, "parity": asdict(parity)})
                log.info("int8: calibrated with %s on %d training photos", method, len(calibration))
                return parity
            tried.append(f"{method}: {fault}")
        raise ParityError(f"int8 does not decide like the checkpoint and was not kept ({'; '.join(tried)})")

    def _compared(self, file: Path) -> Parity:
        """Compare an exported file with the checkpoint."""
        found = scores_of(OnnxBackend(file), self.checked.pixels)
        return compared(self.backend.model, self.reference, found, self.checked)


def exports_table(exports: list[Export]) -> str:
    """Return the exported files and their comparison with the checkpoint, as lines of text."""
    rows = [("format", "size", "max difference", "agreement", "macro-F1", "file")]
    for export in exports:
        parity = export.parity
        rows.append(
            (
                export.format,
                f"{export.file.stat().st_size / 1e6:.1f} MB",
                f"{parity.max_difference:.1e}",
                f"{parity.agreement:.4f}",
                "" if parity.f1 is None else f"{parity.f1:.4f} ({parity.reference_f1:.4f})",
                str(shown(export.file.absolute())),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def check_formats(formats: list[str]) -> None:
    """Refuse formats that do not exist, or none, and a missing package."""
    if not formats:
        raise InputError(f"formats=[] exports nothing: choose from {', '.join(FILES)}")
    if unknown := [str(name) for name in formats if name not in FILES]:
        raise InputError(f"formats: {listed(unknown)}: {did_you_mean(unknown[0], FILES)}")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'formats: onnx and int8 need more packages: python -m pip install -e ".[onnx]" ({error})'
        ) from error


def check_folder(folder: Path, formats: list[str], checkpoint: Path) -> None:
    """Refuse a folder with files of another checkpoint in other formats, which would stay.

    Args:
        folder: an existing folder to write to.
        formats: keys of `FILES`.
        checkpoint: the file to export.

    Raises:
        InputError: with the files, which `ckpt=FOLDER` could take for this checkpoint's.
    """
    others = [folder / file for name, file in FILES.items() if name not in formats]
    digest = file_digest(checkpoint)
    if strange := [file.name for file in others if file.is_file() and not _holds(file, digest)]:
        raise InputError(
            f"output={folder}: {listed(strange)} in it would stay, of another checkpoint: remove it, export "
            "it too (formats=), or name another folder"
        )


def _holds(file: Path, digest: str) -> bool:
    """Whether a file is an export of the checkpoint with this digest."""
    # as `metadata_of` has it
    return file.is_file() and f'"sha256": "{digest}"'.encode() in file.read_bytes()


def metadata_of(backend: TorchBackend, checkpoint: Path) -> dict[str, Any]:
    """Return everything that a prediction needs beside the graph, and the origin of the weights, as JSON."""
    thresholds = None if backend.thresholds is None else backend.thresholds.astype(float).tolist()
    return {
        "schema": SCHEMA,
        "task": backend.task,
        "labels": backend.labels.as_dict(),
        "preprocess": asdict(backend.preprocess),
        "thresholds": thresholds,
        "calibration": None,
        "provenance": backend.model.provenance,
        "checkpoint": {"sha256": file_digest(checkpoint), "backbone": backend.model.hparams["backbone"]},
        "exported_with": {name: version(name) for name in ("torch", "torchvision")},
    }


def write_metadata(file: Path, metadata: Mapping[str, Any]) -> None:
    """Write metadata into an ONNX file, in the place of earlier ones, with a digest of the whole."""
    import onnx

    model = onnx.load(file)
    del model.metadata_props[:]
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    onnx.helper.set_model_props(model, texts | {"sha256": json.dumps(NO_DIGEST)})
    file.write_bytes(with_digest(model.SerializeToString()))
