"""A checkpoint as ONNX files, in float32 or int8, that run without this code."""

import json
import logging
import os
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
from src.inference.onnx_backend import NO_DIGEST, SCHEMA, OnnxBackend, with_digest
from src.inference.parity import (
    TOLERANCE,
    Parity,
    compare_scores,
    int8_fault,
    made_up_photos,
    scores_of,
    split_photos,
)
from src.inference.torch_backend import TorchBackend
from src.models.checkpoint import load_model
from src.models.classifiers import PhotoClassifier
from src.overrides import shown
from src.runs import run_of

log = logging.getLogger(__name__)
FILES = {"onnx": "model.onnx", "int8": "model_int8.onnx"}
CHECKED, CALIBRATED = 1000, 256  # photos at the most
CALIBRATION_BATCH = 8  # photos whose activations are in memory at once
# The backbone's convolutions and the operations between them. Normalisation and heads keep float32: they cost
# next to nothing, and probabilities near a threshold depend on them.
QUANTIZED = ("Conv", "Add", "MaxPool", "Concat", "GlobalAveragePool", "Clip", "Relu", "Pad")
ENTRY = 6  # first convolutions of a network of depthwise ones: in int8 they lose most and are no faster


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
        """Return what `Backend.scores` does for resized photos uint8 `[B, H, W, 3]`."""
        image = self.model.normalised(pixels.permute(0, 3, 1, 2).contiguous())
        return self.model.scored_views(self.model.seen(image))


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
        found = split_photos(self.run, "val", CHECKED, root, self.model) if self.run else None
        self.checked = found if found and len(found.pixels) else made_up_photos(self.backend.preprocess)
        self.reference = scores_of(self.backend, self.checked.pixels)
        self.metadata = metadata_of(self.backend, checkpoint)

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
                parity = self._int8(file) if name == "int8" else self._onnx(file)
                os.replace(file, final)
        except InputError:
            final.unlink(missing_ok=True)
            raise
        except OSError as error:
            kept = "; an earlier file, maybe of another checkpoint, is still there" if final.is_file() else ""
            raise InputError(f"{final} could not be written ({reason(error)}){kept}") from error
        f1 = "" if parity.f1 is None else f"macro-F1 {parity.f1:.4f} ({parity.reference_f1:.4f})  "
        return (
            f"{name:5} {final.stat().st_size / 1e6:.1f} MB  max difference {parity.max_difference:.1e}  "
            f"agreement {parity.agreement:.4f}  {f1}{shown(final.absolute())}"
        )

    def _onnx(self, file: Path) -> Parity:
        """Write and check the ONNX file in float32."""
        tiles = self.backend.preprocess.tiles  # maps of several views would have no place on the photo
        file.write_bytes(self.graph if tiles else with_maps(self.graph))
        parity = self._finished(file, precision="fp32")
        if not parity.max_difference <= TOLERANCE:
            raise ParityError(
                f"onnx: scores differ from the checkpoint's by up to {parity.max_difference:.2g} (allowed: "
                f"{TOLERANCE:g}); the file was not kept"
            )
        return parity

    @cached_property
    def graph(self) -> bytes:
        """The ONNX file in float32, without metadata."""
        pixels = torch.zeros(2, *self.backend.preprocess.shape, dtype=torch.uint8)
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
        """Write and check the int8 file, calibrated on training photos."""
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

    def _finished(self, file: Path, **more: object) -> Parity:
        """Write the metadata into a file, with the comparison of its scores with the checkpoint's."""
        write_metadata(file, self.metadata | more)
        found = scores_of(OnnxBackend(file), self.checked.pixels)
        parity = compare_scores(self.backend.model, self.reference, found, self.checked)
        write_metadata(file, self.metadata | more | {"parity": asdict(parity)})
        return parity


def with_maps(content: bytes) -> bytes:
    """Return an ONNX file with a second output `maps`, class activation maps `[B, labels, h, w]`.

    Where the heads are linear on averaged features, the maps are the heads applied at each place. Any other
    file comes back as it is.
    """
    import onnx

    model = onnx.load_from_string(content)
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    parts = []
    for node in [node for node in graph.node if node.op_type == "Gemm" and node.input[1] in weights]:
        source = made_by.get(node.input[0])
        while source is not None and source.op_type in ("Reshape", "Flatten", "Squeeze"):
            source = made_by.get(source.input[0])
        if source is None or source.op_type not in ("ReduceMean", "GlobalAveragePool"):
            return content
        kernel = onnx.numpy_helper.from_array(weights[node.input[1]][..., None, None], f"{node.name}_kernel")
        graph.initializer.append(kernel)
        parts.append(f"{node.name}_map")
        graph.node.append(onnx.helper.make_node("Conv", [source.input[0], kernel.name], parts[-1:]))
    if not parts:
        return content
    graph.node.append(onnx.helper.make_node("Concat", parts, ["maps"], axis=1))
    shape = ["batch", None, None, None]
    graph.output.append(onnx.helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, shape))
    return model.SerializeToString()


def quantize(source: Path, target: Path, calibration: np.ndarray) -> None:
    """Write an ONNX file with its convolutions in int8, calibrated on the extremes of each tensor.

    Weights have a scale per channel. On a CPU without VNNI their products overflow, unless a session has the
    option that `OnnxBackend` sets (`session.x64quantprecision`).

    Args:
        source: an ONNX file in float32.
        target: the file to write.
        calibration: photos like those to come, uint8 `[N, H, W, 3]`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Batches of photos."""

        def __init__(self):
            starts = range(0, len(calibration), CALIBRATION_BATCH)
            self.batches = ({"pixels": calibration[i : i + CALIBRATION_BATCH]} for i in starts)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    convolutions = [node for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
    depthwise = any(a.name == "group" and a.i > 1 for node in convolutions for a in node.attribute)
    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTIZED),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[node.name for node in convolutions[:ENTRY]] if depthwise else [],
    )


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
    """Refuse a folder with files of another checkpoint in formats that are not exported, and so would stay.

    Raises:
        InputError: with the files, which `ckpt=FOLDER` could take for this checkpoint's.
    """
    mark = f'"sha256": "{file_digest(checkpoint)}"'.encode()  # as `metadata_of` has it
    others = [folder / file for name, file in FILES.items() if name not in formats]
    if strange := [file.name for file in others if file.is_file() and mark not in file.read_bytes()]:
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
