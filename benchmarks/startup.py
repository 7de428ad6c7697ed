"""What a command costs before it does anything: whole processes, imports included."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.harness import BENCH, REPOSITORY, Work
from benchmarks.photos import drawn
from benchmarks.trained import checkpoint, exported

AT_THE_TOP = "import hydra, torch, torchvision, lightning, argparse; argparse.ArgumentParser().print_help()"


def command(arguments: list[str]) -> str:
    """Run Python; return what it wrote."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def nothing() -> None:
    """No input."""


def imports(_: None) -> str:
    """Show the help of a script that imports all it needs at its top."""
    return command(["-c", AT_THE_TOP])


def show_help(_: None) -> str:
    """Show the help of `train.py`."""
    return command(["scripts/train.py", "--help"])


def as_help(_: None, said: str) -> dict:
    """Return whether there is a help to read."""
    return {"help": "Train a classifier" in said or "usage" in said}


def both_help(naive: dict, other: dict) -> bool:
    """Whether both showed a help."""
    return naive["help"] and other["help"]


def one_photo() -> tuple[Path, Path, Path]:
    """Return a checkpoint, the model to predict with, and a photo."""
    return checkpoint(), exported(), drawn(3000, 2000, 1)[0]


def predicted(given: tuple[Path, Path, Path], exported: bool) -> Path:
    """Predict the photo with `predict.py`; return the CSV."""
    output = BENCH / f"startup_{'exported' if exported else 'checkpoint'}.csv"
    command(["scripts/predict.py", f"ckpt={given[exported]}", f"images={given[2]}", f"output={output}"])
    return output


def as_row(_: tuple[Path, Path, Path], output: Path) -> dict:
    """Return the decided labels of the photo."""
    return {"row": output.read_text(encoding="utf-8").splitlines()[1].split(",")[:3]}


def same(naive: dict, other: dict) -> bool:
    """Whether both say the same of the photo."""
    return naive == other


WORKS = [
    Work(
        "train.py --help, beside a script that imports torch and lightning at its top", "",
        nothing, imports, show_help, as_help, both_help,
        packages=("torch", "lightning", "hydra-core"), most_cpu_s=1,
    ),
    Work(
        "the first prediction of predict.py from an ONNX file, beside the checkpoint in torch",
        "the same labels",
        one_photo, partial(predicted, exported=False), partial(predicted, exported=True), as_row, same,
        packages=("torch", "onnxruntime"), most_cpu_s=2,
    ),
]  # fmt: skip
