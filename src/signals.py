"""Ctrl-C, and SIGTERM, by which a job scheduler or a shutdown asks a program to end: exceptions both."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 5.0  # seconds in which a further SIGTERM does not count
BLOCKED = 10.0  # seconds in one call of C, after which Python is taken to wait for something that never comes
_taken: dict[int, float] = {}  # when a signal was taken last, by the monotonic clock


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a program that a signal ended with this exception, as shells have it."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def said(code: int) -> str:
    """Return what a program says that ends with such an exit code."""
    return "ended by SIGTERM" if code == 128 + signal.SIGTERM else "interrupted"


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

    def __init__(self, answered: Callable[[], bool]):
        self.answered, self.raised = answered, -math.inf

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        _taken[signum] = time.monotonic()
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
    """End the program on a signal that Python cannot take, as it waits in C, say for another process.

    For the main thread; not on Windows. Ctrl-C counts where Python's own handler answers it.
    """
    if threading.current_thread() is not threading.main_thread() or os.name == "nt":
        yield
        return
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interrupts:
        signal.signal(signal.SIGINT, _interrupt)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watched = {signal.SIGTERM, *([signal.SIGINT] * interrupts)}
    threading.Thread(target=_watch, args=(reader, watched), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        if interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Answer Ctrl-C as Python does, and note it."""
    _taken[signum] = time.monotonic()
    signal.default_int_handler(signum, frame)


def _watch(reader: int, watched: Collection[int]) -> None:
    """End the program where such a signal is not taken; until the other end of the pipe is closed."""
    with open(reader, "rb", buffering=0) as signals:
        while came := signals.read(1):
            number = came[0]
            if number in watched:
                since, where = time.monotonic(), _place()
                time.sleep(BLOCKED)
                if _taken.get(number, -math.inf) < since - 1 and _place() == where:
                    os.write(2, f"error: {said(128 + number)}\n".encode())
                    os._exit(128 + number)


def _place() -> tuple[int, int] | None:
    """Return where the main thread stands: its frame and the instruction in it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return frame and (id(frame), frame.f_lasti)
