"""SIGTERM, by which a job scheduler or a shutdown asks a program to end, as an exception like Ctrl-C's."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a program that a signal ended with this exception, as shells have it."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


@contextmanager
def ending_on_sigterm(answered: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block, unless somebody has answered it by then.

    Python takes signals in the main thread only; in another nothing changes.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        if not answered():
            raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
