"""SIGTERM, by which a job scheduler or a shutdown asks a program to end, as an exception like Ctrl-C's."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 5.0  # seconds in which a further SIGTERM does not count
BLOCKED = 10.0  # seconds in one call of C, after which Python is taken to wait for something that never comes


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a program that a signal ended with this exception, as shells have it."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def beginning(error: BaseException) -> BaseException:
    """Return the interruption that an exception comes from, or the exception.

    What cleans up after an interruption may fail, too; and a signal to a whole process group reaches torch's
    loader workers first, whose loss torch reports.
    """
    found, seen = error, set()
    while found is not None and id(found) not in seen:  # a chain may be a ring
        if isinstance(found, KeyboardInterrupt):
            return found
        if "is killed by signal: Terminated" in str(found):
            return Terminated()
        seen.add(id(found))
        found = found.__cause__ or found.__context__
    return error


class _Handler:
    """Raises `Terminated`; not again at once, which would disturb what ends."""

    taken = -math.inf  # when any of them was called last, by the monotonic clock

    def __init__(self, answered: Callable[[], bool]):
        self.answered, self.raised = answered, -math.inf

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        _Handler.taken = time.monotonic()
        if not self.answered() and time.monotonic() - self.raised >= PATIENCE:
            self.raised = time.monotonic()
            raise Terminated


@contextmanager
def ending_on_sigterm(answered: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block, unless somebody has answered it by then.

    A program that was started to ignore it does. Python takes signals in the main thread only; in another
    nothing changes.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return
    handler = _Handler(answered)
    if isinstance(before, _Handler):
        handler.raised = before.raised
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        if isinstance(before, _Handler):
            before.raised = handler.raised
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def ending_though_blocked() -> Iterator[None]:
    """End the program on a SIGTERM that Python cannot take, as it waits in C, say for another process.

    For the main thread; not on Windows.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or os.name == "nt" or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _watch(reader: int) -> None:
    """End the program where a SIGTERM is not taken; until the other end of the pipe is closed."""
    with open(reader, "rb", buffering=0) as signals:
        while came := signals.read(1):
            if came[0] == signal.SIGTERM:
                since, where = time.monotonic(), _place()
                time.sleep(BLOCKED)
                if _Handler.taken < since - 1 and _place() == where:
                    os.write(2, b"error: ended by SIGTERM\n")
                    os._exit(128 + signal.SIGTERM)


def _place() -> tuple[int, int] | None:
    """Return where the main thread stands: its frame and the instruction in it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return frame and (id(frame), frame.f_lasti)
