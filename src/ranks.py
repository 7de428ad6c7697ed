"""Which of a training's processes this one is, from what its launcher set, before torch is imported."""

import logging
import os
import sys
import warnings
from typing import NoReturn

from src.errors import leave

RUNS = ("hydra.run.dir=", "resume=")
ASKS = {"--help", "-h", "--hydra-help", "--version", "--info", "--cfg", "-c"}


def launched() -> int:
    """Return how many processes torchrun or srun started, each from the shell; 1 where neither did."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1))
    if "SLURM_PROCID" in os.environ and "LOCAL_RANK" not in os.environ:
        return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    return 1


def is_main() -> bool:
    """Whether this is the process that writes and speaks: rank zero, or the only one."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"]) == 0
    here = os.environ.get("LOCAL_RANK") or (os.environ.get("SLURM_PROCID", "0") if launched() > 1 else "0")
    return int(here) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0


def share_a_folder(argv: list[str]) -> list[str]:
    """Return `argv` so that processes started from the shell work in one folder, its config saved once.

    Each would name a folder after its own clock; so it has to be given.
    """
    node = "NODE_RANK" in os.environ and "LOCAL_RANK" not in os.environ
    if (launched() == 1 and not node) or any(arg.partition("=")[0] in ASKS for arg in argv[1:]):
        return argv
    if not any(arg.lstrip("+").startswith(RUNS) for arg in argv[1:]):
        refuse("processes that torchrun, srun or NODE_RANK starts need one folder: add hydra.run.dir=FOLDER")
    return argv if is_main() else [*argv, "hydra.output_subdir=null"]


def refuse(message: str) -> NoReturn:
    """End this process with exit code 2, and with a line of the main process or of one that met it alone."""
    if not is_main() and launched() > 1 and not joined():
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        if int(local):  # the first process of this machine has met the same
            raise SystemExit(2)
    leave(2, message)


def joined() -> bool:
    """Whether this process works with others by now."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def only_errors() -> None:
    """Let a process that is not the main one write no log and say nothing but errors."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
        else:
            handler.setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
