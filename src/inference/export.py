"""A checkpoint as files that run without this code: ONNX, ONNX in int8, and torch's exported program."""

import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src.errors import InputError, did_you_mean, listed
from src.files import file_digest
from src.inference.int8 import quantized
from src.inference.onnx_backend import SCHEMA, OnnxBackend
from src.inference.parity import (
    TOLERANCE,
    Parity,
    check_int8_parity,
    compared,
    made_up_photos,
    run_of,
    scores_of,
    training_photos,
    validation_photos,
)
from src.inference.seal import seal
from src.inference.torch_backend import TorchBackend
from src.models import PhotoClassifier, load_model
from src.overrides import shown

log = logging.getLogger(__name__)
FILES = {"onnx": "model.onnx", "int8": "model_int8.onnx", "torch": "model.pt2"}
EXTRA_FILE = "corbel.json"  # in the torch program: the metadata


@dataclass(frozen=True)
class Export:
    """A file that was written.

    Attributes:
        format: a key of `FILES`.
        file: where it lies.
        parity: how its scores compare with the checkpoint's.
    """

    format: str
    file: Path
    parity: Parity


class Unlike(InputError):
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
        model = self.model
        features = model.backbone(model.normalised(pixels.permute(0, 3, 1, 2).contiguous()))
        kinds = model.labels.kinds
        return model.probabilities({kind: model.get_submodule(f"head_{kind}")(features) for kind in kinds})


class Exporter:
    """Writes the formats of one checkpoint into one folder, each checked before it gets its name.

    Args:
        checkpoint: the file.
        folder: where to write; it exists.
        root: the folder of the run's photos; null: as the run noted it down.

    Attributes:
        checked: the photos that scores are compared on: the run's validation split, made-up ones for a
            checkpoint by itself.
    """

    def __init__(self, checkpoint: Path, folder: Path, root: str | None = None):
        self.checkpoint, self.folder, self.root = checkpoint, folder, root
        model = load_model(checkpoint)
        self.backend = TorchBackend(model, "cpu")
        self.run = run_of(checkpoint)
        found = validation_photos(self.run, root, self.backend.model) if self.run else None
        self.checked = found or made_up_photos(self.backend.preprocess)
        self.reference = scores_of(self.backend.scores, self.checked.pixels, self.backend)
        self.metadata = metadata_of(self.backend, checkpoint)
        with _quiet(), torch.no_grad():
            pixels = torch.zeros(2, *self.backend.preprocess.size, 3, dtype=torch.uint8)
            self.program = torch.export.export(
                Deployed(model).eval(),
                (pixels,),
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            )

    def write(self, name: str) -> Export:
        """Write one format, a key of `FILES`.

        Raises:
            Unlike: if the scores are not those of the checkpoint; no file of that format is left.
            InputError: if photos are missing, and no file of another checkpoint is left; or if the disk
                refuses, and an earlier one stays.
        """
        final = self.folder / FILES[name]
        try:
            with tempfile.TemporaryDirectory(prefix=".export-", dir=self.folder) as folder:
                file = Path(folder) / FILES[name]
                parity = {"onnx": self._onnx, "int8": self._int8, "torch": self._torch}[name](file)
                os.replace(file, final)
        except InputError as error:
            if isinstance(error, Unlike) or (final.is_file() and not self._made(final)):
                final.unlink(missing_ok=True)  # an earlier one would be taken for this checkpoint's
            raise
        except OSError as error:
            kept = ""
            if final.is_file():
                whose = "the earlier file" if self._made(final) else "that of another checkpoint"
                kept = f"; {whose} is still there"
            raise InputError(f"{final} could not be written ({error.strerror or error}){kept}") from error
        return Export(name, final, parity)

    def _made(self, file: Path) -> bool:
        """Whether an earlier export of this checkpoint has written a file."""
        return _holds(file, self.metadata["checkpoint"]["sha256"])

    def _onnx(self, file: Path) -> Parity:
        """Write and check the ONNX file."""
        self._write_onnx(file)
        parity = self._compared(OnnxBackend(file).scores)
        self._hold_to_tolerance("onnx", parity)
        _add_metadata(file, {**self.metadata, "precision": "fp32", "parity": asdict(parity)})
        return parity

    def _write_onnx(self, file: Path) -> None:
        """Write the graph with its metadata, unchecked."""
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                self.program,
                dynamo=True,
                input_names=["pixels"],
                output_names=["probabilities"],
                external_data=False,
                verbose=False,
            ).save(file)
        _add_metadata(file, {**self.metadata, "precision": "fp32"})

    def _int8(self, file: Path) -> Parity:
        """Write the first int8 file that decides like the checkpoint."""
        if self.checked.targets is None and self.run:
            raise InputError(
                f"int8 is checked on the run's validation photos, and the validation split of {self.run} is "
                "empty: export onnx, or a run that has some"
            )
        if self.checked.targets is None:
            raise InputError(
                "int8 is calibrated on the run's training photos and checked on its validation photos, which "
                f"{self.checkpoint} by itself does not name: give the run folder, ckpt=RUN"
            )
        calibration = training_photos(self.run, self.root, self.backend.model)
        exact = file.with_name("exact.onnx")
        self._write_onnx(exact)
        tried: list[tuple[str, Parity]] = []
        for method in quantized(exact, file, calibration):
            about = {**self.metadata, "precision": "int8", "int8": {"method": method}}
            _add_metadata(file, about)
            parity = self._compared(OnnxBackend(file).scores)
            tried.append((method, parity))
            if check_int8_parity(parity) is None:
                _add_metadata(file, {**about, "parity": asdict(parity)})
                log.info("int8: calibrated with %s on %d training photos", method, len(calibration))
                return parity
        said = "; ".join(f"{method}: {check_int8_parity(parity)}" for method, parity in tried)
        raise Unlike(f"int8 does not decide like the checkpoint and was not kept ({said})")

    def _torch(self, file: Path) -> Parity:
        """Write and check the exported program."""
        self._save_program(file, {**self.metadata, "precision": "fp32"})
        with _quiet():
            program = torch.export.load(file).module()

        @torch.inference_mode()
        def scores(pixels: np.ndarray) -> np.ndarray:
            return program(torch.from_numpy(pixels)).numpy()

        parity = self._compared(scores)
        self._hold_to_tolerance("torch", parity)
        self._save_program(file, {**self.metadata, "precision": "fp32", "parity": asdict(parity)})
        return parity

    def _save_program(self, file: Path, metadata: Mapping[str, Any]) -> None:
        """Save torch's program with the metadata beside it."""
        made = io.BytesIO()  # torch's own writer meets a full disk with a RuntimeError
        with _quiet():
            torch.export.save(self.program, made, extra_files={EXTRA_FILE: json.dumps(metadata)})
        file.write_bytes(made.getbuffer())

    def _compared(self, scores: Callable[[np.ndarray], np.ndarray]) -> Parity:
        """Compare what computes scores with the checkpoint."""
        found = scores_of(scores, self.checked.pixels, self.backend)
        return compared(self.backend.model, self.reference, found, self.checked)

    def _hold_to_tolerance(self, name: str, parity: Parity) -> None:
        """Refuse a file whose scores are not the checkpoint's: a fault of the export."""
        if not parity.max_difference <= TOLERANCE:
            raise Unlike(
                f"{name}: scores differ from the checkpoint's by up to {parity.max_difference:.2g} (allowed: "
                f"{TOLERANCE:g}); the file was not kept"
            )


def exports_table(exports: list[Export]) -> str:
    """Return the exported files and how they compare with the checkpoint, as lines of text."""
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
    """Refuse formats that do not exist, or none."""
    if not formats:
        raise InputError(f"formats=[] exports nothing: choose from {', '.join(FILES)}")
    if unknown := [str(name) for name in formats if name not in FILES]:
        raise InputError(f"formats: {listed(unknown)}: {did_you_mean(unknown[0], FILES)}")
    if {"onnx", "int8"} & {*formats}:
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise InputError(
                f'formats: onnx and int8 need more packages: python -m pip install -e ".[onnx]" ({error})'
            ) from error


def check_folder(folder: Path, formats: list[str], checkpoint: Path) -> None:
    """Refuse a folder in which formats that are not asked for would stay, of another checkpoint.

    Args:
        folder: where to write; it exists.
        formats: keys of `FILES`.
        checkpoint: the file to export.

    Raises:
        InputError: with the files, which `ckpt=FOLDER` could take for this checkpoint's.
    """
    others = [folder / file for name, file in FILES.items() if name not in formats]
    others = [file for file in others if file.is_file()]
    if not others:
        return
    digest = file_digest(checkpoint)
    if strange := [file.name for file in others if not _holds(file, digest)]:
        raise InputError(
            f"output={folder}: {listed(strange)} in it would stay, of another checkpoint: remove it, export "
            "it too (formats=), or name another folder"
        )


def _holds(file: Path, digest: str) -> bool:
    """Whether an exported file, of any format, is that of the checkpoint with this digest."""
    return f'"sha256": "{digest}"'.encode() in file.read_bytes()  # as `metadata_of` has it


def metadata_of(backend: TorchBackend, checkpoint: Path) -> dict[str, Any]:
    """Return what a prediction needs beside the graph, and where the weights come from; as JSON has it."""
    preprocess = asdict(backend.preprocess)
    thresholds = None if backend.thresholds is None else backend.thresholds.astype(float).tolist()
    return {
        "schema": SCHEMA,
        "task": backend.task,
        "labels": backend.labels.as_dict(),
        "preprocess": preprocess,
        "thresholds": thresholds,
        "calibration": None,
        "provenance": backend.model.provenance,
        "checkpoint": {"sha256": file_digest(checkpoint), "backbone": backend.model.hparams["backbone"]},
        "exported_with": {name: version(name) for name in ("torch", "torchvision")},
    }


def _add_metadata(file: Path, metadata: Mapping[str, Any]) -> None:
    """Write metadata into an ONNX file, in the place of what it has, and seal it."""
    import onnx

    model = onnx.load(file)
    del model.metadata_props[:]
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, file)
    seal(file)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporters: what matters is checked on their files."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
