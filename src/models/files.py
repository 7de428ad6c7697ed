"""Where checkpoints lie. No torch."""

import logging
from pathlib import Path

from src.errors import InputError
from src.files import user_path
from src.labels import TASKS

log = logging.getLogger(__name__)


def find_checkpoint(ckpt: str | None, outputs: Path = Path("outputs")) -> Path:
    """Return the checkpoint that `ckpt` means: a file, a run folder's best, or the newest training run's."""
    if ckpt:
        path = user_path(ckpt)
        for candidate in (path, path / "checkpoints" / "best.ckpt", path / "best.ckpt"):
            if candidate.is_file():
                return candidate
        if path.is_dir():
            raise InputError(
                f"ckpt={ckpt}: a folder without checkpoints/best.ckpt, so not a finished training run"
            )
        raise InputError(f"ckpt={ckpt}: no such file or run folder")
    found = [p for task in TASKS for p in (outputs / task).glob("**/checkpoints/best.ckpt")]
    if not found:
        raise InputError(
            f"no training run below {outputs}/: train one, or name a checkpoint with ckpt=RUN_OR_FILE"
        )
    newest = max(found, key=lambda p: (p.stat().st_mtime, p.as_posix()))
    log.info("ckpt= not given: the newest training run, %s", newest.parent.parent)
    return newest
