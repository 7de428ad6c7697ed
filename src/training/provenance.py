"""Provenance of a run: versions of libraries, commit of the code."""

import platform
import subprocess
from importlib.metadata import version

from src.config import REPOSITORY

PACKAGES = ("torch", "torchvision", "timm", "lightning", "hydra-core", "torchmetrics", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the versions that figures can depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """Return the commit of this code, with `-dirty` where files have changed; None outside a repository."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
