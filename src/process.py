"""Process rank from launcher variables, and SIGTERM as an exception. No torch."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def launched() -> int:
    """Return the number of processes that torchrun or srun started; 1 without them."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1))
    if "SLURM_PROCID" in os.environ and "LOCAL_RANK" not in os.environ:
        return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    return 1


def is_main() -> bool:
    """Return whether this process has rank zero: it writes the files and the messages."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"]) == 0
    local = "SLURM_PROCID" if launched() > 1 else "LOCAL_RANK"
    return int(os.environ.get(local, 0)) == int(os.environ.get("NODE_RANK", 0)) == 0


def errors_only() -> None:
    """Silence a process that is not the main one: no log file, no warnings, errors alone on the console."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
        else:
            handler.setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


class Terminated(KeyboardInterrupt):
    """SIGTERM, the request of a job scheduler or a shutdown to end."""


def exit_code(error: BaseException) -> int:
    """Return the shell's exit code for a process that Ctrl-C or SIGTERM ended."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def interruption(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interruption in the chain of causes of an exception, if there is one.

    A signal to the whole process group also ends torch's loader workers, and torch reports their loss.
    """
    found, seen = error, set()  # a chain can lead back to its start
    while found is not None and id(found) not in seen:
        if isinstance(found, KeyboardInterrupt):
            return found
        if "is killed by signal: Terminated" in str(found):
            return Terminated()
        seen.add(id(found))
        found = found.__cause__ or found.__context__
    return None


@contextmanager
def sigterm_raises(answered: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise `Terminated` on the first SIGTERM in the block, unless `answered` says that it is dealt with.

    Python takes signals in the main thread only: in another one the block changes nothing.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return

    def answer(signum: int, frame: FrameType | None) -> None:
        if not answered():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would disturb the cleaning up
            raise Terminated

    signal.signal(signal.SIGTERM, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
