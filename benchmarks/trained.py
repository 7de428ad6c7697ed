"""A trained model for the benchmarks of prediction, made once: ResNet18 at 224 px on the demo set's table."""

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import BENCH, REPOSITORY
from src.files import file_digest

RUN = BENCH / "trained"
COMMAND = (
    "scripts/train.py", "experiment=demo", "model=multilabel", "preprocess.image_size=224",
    "trainer.max_epochs=6", "callbacks.figures=null",
)  # fmt: skip


def checkpoint() -> Path:
    """Return the checkpoint of a trained model; the first call takes some six minutes on two cores."""
    if not (RUN / "metrics.json").is_file():
        _python(*COMMAND, f"hydra.run.dir={RUN}")
    return RUN / "checkpoints" / "best.ckpt"


def exported(name: str = "model.onnx") -> Path:
    """Return an exported file of the trained model, `model.onnx` or `model_int8.onnx`."""
    wanted = "int8" if name == "model_int8.onnx" else "onnx"
    folder = BENCH / f"exported_{wanted}"
    file = folder / name
    mark = file_digest(checkpoint()).encode()  # an earlier file may be of another training
    if not file.is_file() or mark not in file.read_bytes():
        _python("scripts/export.py", f"ckpt={checkpoint()}", f"formats=[{wanted}]", f"output={folder}")
    return file


def _python(*command: str) -> None:
    """Run Python, and end with what it said if it fails."""
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: {(done.stderr or done.stdout).strip()}")
