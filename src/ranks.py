"""Which of a training's processes this one is, from what its launcher set, before torch is imported."""

import logging
import os
import signal
import sys
import threading
import time
import warnings
from typing import NoReturn

from src.errors import InputError, leave

FIRST = "CORBEL_FIRST_PROCESS"
RUNS = ("hydra.run.dir=", "resume=")
ASKS = {"--help", "-h", "--hydra-help", "--version", "--info", "--cfg", "-c"}


def _number(name: str, otherwise: int) -> int:
    """Return a variable that a launcher sets."""
    value = os.environ.get(name, str(otherwise))
    if not value.isdecimal():
        leave(2, f"{name}='{value}' in the environment: torchrun or srun would set a number; unset it")
    return int(value)


def launched() -> int:
    """Return how many processes torchrun or srun started, each from the shell; 1 where neither did."""
    if "RANK" in os.environ:
        return _number("WORLD_SIZE", 1)
    if "SLURM_PROCID" in os.environ and "LOCAL_RANK" not in os.environ:
        return _number("SLURM_STEP_NUM_TASKS", 1)
    return 1


def is_main() -> bool:
    """Whether this is the process that writes and speaks: rank zero, or the only one."""
    if "RANK" in os.environ:
        return _number("RANK", 0) == 0
    own = "SLURM_PROCID" if "LOCAL_RANK" not in os.environ and launched() > 1 else "LOCAL_RANK"
    return _number(own, 0) == _number("NODE_RANK", 0) == 0


def check_node(nodes: int) -> None:
    """Refuse a number of this machine that another job has left in the environment.

    Args:
        nodes: machines that the run is for.

    Raises:
        InputError: if this one would never be the one that writes the run's files.
    """
    if nodes == 1 == launched() and _number("NODE_RANK", 0):
        raise InputError(
            f"NODE_RANK={os.environ['NODE_RANK']} is set for a run on one machine: unset NODE_RANK, or give "
            "trainer.num_nodes="
        )


def share_a_folder(argv: list[str]) -> list[str]:
    """Return `argv` so that processes started from the shell work in one folder, its config saved once.

    Each would name a folder after its own clock; so it has to be given.
    """
    node = "NODE_RANK" in os.environ and "LOCAL_RANK" not in os.environ
    if (launched() == 1 and not node) or any(arg.partition("=")[0] in ASKS for arg in argv[1:]):
        return argv
    if not any(arg.lstrip("+").startswith(RUNS) for arg in argv[1:]):
        fault = "processes that torchrun, srun or NODE_RANK starts need one folder: add hydra.run.dir=FOLDER"
        refuse(f"{fault}, or unset NODE_RANK to train on this machine alone" if node else fault)
    return argv if is_main() else [*argv, "hydra.output_subdir=null"]


def refuse(message: str) -> NoReturn:
    """End this process with exit code 2, and with a line of the main process or of one that met it alone."""
    further = _number("LOCAL_RANK", _number("SLURM_LOCALID", 0))
    if further and not is_main() and launched() > 1 and not joined():
        raise SystemExit(2)  # the first process of this machine has met the same
    leave(2, message)


def joined() -> bool:
    """Whether this process works with others by now."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def take_part() -> None:
    """Watch the process that started this one, and say nothing but errors in any but the main one."""
    end_with_first()
    if not is_main():
        only_errors()


def end_with_first() -> None:
    """End this process when the first of its machine, which started it, is gone; it would wait for minutes.

    It keeps nothing: the main process writes all files. Windows does not tell, and there it waits. A launcher
    looks after its processes itself, and a first process may outlive the shell that started it.
    """
    if launched() > 1 or os.name == "nt":
        return
    if _number("LOCAL_RANK", 0) == 0:
        os.environ[FIRST] = str(os.getpid())  # for those that it may start
        return
    first, parent = _first(), os.getppid()
    if first is None:
        return

    def watch() -> None:
        while os.getppid() == parent and _exists(first):  # between them may stand a wrapper
            time.sleep(0.5)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def wait_for_first(seconds: float = 15.0) -> None:
    """Let the first process, which started this one, end before it, where both are asked to.

    Until they have joined, the first one waits in C for this one, and needs a while to end; Lightning kills
    it as soon as this one is gone.
    """
    first, until = _first(), time.monotonic() + seconds
    while first is not None and not joined() and _exists(first) and time.monotonic() < until:
        time.sleep(0.1)


def _first() -> int | None:
    """Return the process that started this further one; None in a first one, and below a launcher."""
    pid = os.environ.get(FIRST, "")
    further = launched() == 1 and _number("LOCAL_RANK", 0) > 0
    return int(pid) if further and pid.isdecimal() else None


def _exists(pid: int) -> bool:
    """Whether a process of this user's is there."""
    try:
        os.kill(pid, 0)
    except OSError:  # none, or another user's by now
        return False
    return True


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
