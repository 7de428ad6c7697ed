"""Trained models for the benchmarks of prediction, each made once, on the demo set's table."""

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import BENCH, REPOSITORY
from src.files import file_digest

RESNET18, LITE0 = "resnet18", "efficientnet_lite0"
COMMON = ("scripts/train.py", "model=multilabel", "callbacks.figures=null")
COMMANDS = {
    # all layers from random weights: its ImageNet weights would be a download
    RESNET18: (
        *COMMON, "experiment=demo_scratch", "preprocess.image_size=224", "trainer.max_epochs=6",
    ),
    LITE0: (*COMMON, "experiment=demo", f"model.backbone={LITE0}"),
}  # fmt: skip


def run_of(backbone: str = RESNET18) -> Path:
    """Return the run folder of a trained model."""
    return BENCH / _named("trained", backbone)


def checkpoint(backbone: str = RESNET18) -> Path:
    """Return the checkpoint of a trained model; the first call trains it.

    On two cores ResNet18 takes some six minutes, EfficientNet-Lite0 (its heads) about one.
    """
    run = run_of(backbone)
    if not (run / "metrics.json").is_file():
        _python(*COMMANDS[backbone], f"hydra.run.dir={run}")
    return run / "checkpoints" / "best.ckpt"


def exported(name: str = "model.onnx", backbone: str = RESNET18) -> Path:
    """Return an exported file of a trained model, `model.onnx` or `model_int8.onnx`.

    An int8 file that the export refuses, as it decides otherwise than its checkpoint, is made without it:
    `forward` measures it all the same, and says so.
    """
    wanted = "int8" if name == "model_int8.onnx" else "onnx"
    folder = BENCH / _named(f"exported_{wanted}", backbone)
    file = folder / name
    trained = checkpoint(backbone)
    mark = file_digest(trained)  # an earlier file may be of another training
    refused = folder / f"refused_{mark[:16]}.onnx"
    if file.is_file() and mark.encode() in file.read_bytes():
        return file
    if not refused.is_file():
        try:
            _python("scripts/export.py", f"ckpt={trained}", f"formats=[{wanted}]", f"output={folder}")
            return file
        except SystemExit as error:
            if "int8 does not decide like the checkpoint" not in str(error):
                raise
        _quantise(backbone, refused)
    return refused


def _quantise(backbone: str, file: Path) -> None:
    """Write an int8 file by the first method of calibration, whatever it decides."""
    from src.inference.int8 import quantized
    from src.inference.parity import training_photos
    from src.models import load_model

    photos = training_photos(run_of(backbone), None, load_model(checkpoint(backbone)))
    part = file.with_suffix(".part")
    next(quantized(exported(backbone=backbone), part, photos))
    part.replace(file)


def _named(folder: str, backbone: str) -> str:
    """Return the name of a folder that holds what is made of a backbone; ResNet18's has none."""
    return folder if backbone == RESNET18 else f"{folder}_{backbone}"


def _python(*command: str) -> None:
    """Run Python, and end with what it said if it fails."""
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: {(done.stderr or done.stdout).strip()}")
