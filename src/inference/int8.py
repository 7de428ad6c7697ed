"""An ONNX file with its convolutions in int8, calibrated on photos."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BATCH = 8  # photos whose activations are in memory at once while histograms are filled
# The backbone's convolutions and the operations between them. Normalisation and heads keep float32: they cost
# next to nothing, and probabilities near a threshold depend on them.
QUANTIZED = ("Conv", "Add", "MaxPool", "Concat", "GlobalAveragePool", "Clip", "Relu", "Pad")
ENTRY = 6  # first convolutions of a network of depthwise ones: in int8 they lose most and are no faster


def quantized(source: Path, target: Path, calibration: np.ndarray) -> Iterator[str]:
    """Write `target` with one method of calibration after the other, and yield the method's name each time.

    Weights have a scale per channel. On a CPU without VNNI their products overflow, unless a session has the
    option that `OnnxBackend` sets (`session.x64quantprecision`).

    Args:
        source: an ONNX file in float32.
        target: the file to write.
        calibration: photos like those to come, uint8 `[N, H, W, 3]`.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    methods = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"CalibPercentile": 99.99}),
        "entropy": (CalibrationMethod.Entropy, {}),
    }
    for name, (method, options) in methods.items():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                _reader(calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=method,
                nodes_to_exclude=_sensitive(prepared),
                extra_options={"CalibStridedMinMax": 1, **options},
            )
        yield name


def _sensitive(file: Path) -> list[str]:
    """Return the names of the convolutions that keep float32."""
    import onnx

    found = [node for node in onnx.load(file).graph.node if node.op_type == "Conv"]
    depthwise = any(a.name == "group" and a.i > 1 for node in found for a in node.attribute)
    return [node.name for node in found[:ENTRY]] if depthwise else []


def _reader(photos: np.ndarray):
    """Return the feed of the calibration."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Batches of photos, of which the library asks for a range at a time."""

        def __init__(self):
            self.batches = [photos[start : start + BATCH] for start in range(0, len(photos), BATCH)]
            self.left = iter(self.batches)

        def __len__(self) -> int:
            return len(self.batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(self.batches[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {"pixels": batch}

    return Reader()
