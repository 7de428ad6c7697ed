"""Conversion for phones: a Core ML package, and a TFLite file by a converter in its own environment."""

import io
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src.config import REPOSITORY
from src.errors import InputError

CONVERTER = REPOSITORY / ".venv-tflite" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
SECONDS = 1800  # that a conversion may take


def coreml_package(model: nn.Module, size: tuple[int, int]) -> Any:
    """Return a Core ML model of an RGB image of a `size` (height, width).

    `model` leads from float32 `[1, 3, H, W]`, 0 to 255, to probabilities `[1, labels]`.
    """
    import coremltools as ct

    image = torch.zeros(1, 3, *size)
    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):  # progress bars
            package = ct.convert(
                torch.export.export(model, (image,)).run_decompositions({}),
                inputs=[ct.ImageType("pixels", image.shape, color_layout=ct.colorlayout.RGB)],
                outputs=[ct.TensorType("probabilities")],
                convert_to="mlprogram",
                minimum_deployment_target=ct.target.iOS16,
                compute_precision=ct.precision.FLOAT32,  # the loss by float16 cannot be measured here
                skip_model_load=True,
            )
    except Exception as error:  # coremltools' errors have no common type
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"coreml: coremltools cannot convert this model ({text})") from error
    return package


def coreml_scores(file: Path, pixels: np.ndarray) -> np.ndarray | None:
    """Return probabilities `[N, labels]` of photos uint8 `[N, H, W, 3]` on a Mac's CPU; None elsewhere."""
    if sys.platform != "darwin":
        return None
    import coremltools as ct
    from PIL import Image

    model = ct.models.MLModel(str(file), compute_units=ct.ComputeUnit.CPU_ONLY)
    found = [model.predict({"pixels": Image.fromarray(photo)})["probabilities"][0] for photo in pixels]
    return np.array(found, np.float32)


def convert_to_tflite(source: Path, target: Path) -> None:
    """Convert an ONNX file of one photo to a TFLite file in float32, in the converter's environment."""
    folder = target.with_name("converted")
    command = [CONVERTER, "-m", "onnx2tf", "-i", source, "-o", folder, "-kat", "pixels", "-nuo", "-n"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"tflite: the converter failed ({error}): make tflite-env") from error
    found = folder / f"{source.stem}_float32.tflite"
    if done.returncode or not found.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1][:300]
        raise InputError(f"tflite: onnx2tf cannot convert this model ({last})")
    found.replace(target)
