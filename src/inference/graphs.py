"""Changes to ONNX graphs: class activation maps as a second output, convolutions in int8."""

from pathlib import Path

import numpy as np

CALIBRATION_BATCH = 8  # photos whose activations are in memory at once
# The backbone's convolutions and the operations between them. Normalisation and heads keep float32: they cost
# next to nothing, and probabilities near a threshold depend on them.
QUANTIZED = ("Conv", "Add", "MaxPool", "Concat", "GlobalAveragePool", "Clip", "Relu", "Pad")
ENTRY = 6  # first convolutions of a network of depthwise ones: in int8 they lose most and are no faster


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
    option that `OnnxBackend` sets (`session.x64quantprecision`). `calibration` holds photos, uint8
    `[N, H, W, 3]`.
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
