"""The backend of a model file: torch for a checkpoint, ONNX Runtime for an exported file. No torch here."""

from pathlib import Path

from src.errors import InputError, did_you_mean
from src.files import user_path
from src.inference.batches import DEVICES, Backend
from src.overrides import shown, typed
from src.runs import find_checkpoint

CHOICES = ("auto", "torch", "onnx")
PRECISIONS = ("32", "bf16", "16")
EXPORTED = "model.onnx"


def load_backend(
    ckpt: str | None,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "32",
    compile: bool = False,
) -> Backend:
    """Return the backend of a checkpoint or an exported model.

    Args:
        ckpt: a run folder, a `.ckpt` or `.onnx` file, or the folder of an export; null: the newest finished
            run.
        backend: `auto` (by the file), `torch` or `onnx`.
        device: `auto`, `cpu`, `cuda` or `mps`; `auto` takes a GPU with torch, and the CPU with ONNX Runtime.
        precision: of torch: `32`, or `bf16` or `16` where the device computes that fast.
        compile: compile the model with torch first.

    Raises:
        InputError: for a file that is none of these, or options that do not go together.
    """
    precision = str(precision)
    given = (("backend", backend, CHOICES), ("device", device, DEVICES), ("precision", precision, PRECISIONS))
    for name, value, choices in given:
        if value not in choices:
            raise InputError(f"{name}={value}: {did_you_mean(value, choices)}")
    path = find_model(ckpt)
    if path.suffix.lower() != ".onnx":
        if backend == "onnx":
            raise InputError(
                f"backend=onnx: {path} is a checkpoint; export it first: "
                f"python scripts/export.py {typed('ckpt', shown(path))}"
            )
        from src.inference.torch_backend import TorchBackend

        return TorchBackend.load(path, device, precision, compile)
    if backend == "torch":
        raise InputError(f"backend=torch: {path} is an ONNX file; name the run folder or its .ckpt file")
    for name, value, plain in (("precision", precision, "32"), ("compile", compile, False)):
        if value != plain:
            raise InputError(f"{name}={value}: only for checkpoints; an ONNX file is as it was exported")
    from src.inference.onnx_backend import OnnxBackend

    return OnnxBackend(path, device)


def find_model(ckpt: str | None) -> Path:
    """Return the file for `ckpt=`: a checkpoint, an exported model, or `model.onnx` in an export's folder."""
    exported = user_path(ckpt) / EXPORTED if ckpt else None
    if exported and exported.is_file() and not (exported.parent / "checkpoints").is_dir():
        return exported
    return find_checkpoint(ckpt)
