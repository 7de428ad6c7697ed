"""Work on many items: threads with results in order, progress of long work, seeds by an item's position."""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
log = logging.getLogger(__name__)
EVERY = 15.0  # seconds between lines of progress
MOST = 16  # threads or processes that decode where nobody named a number
CGROUP = Path("/sys/fs/cgroup")


def allowed_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> int | None:
    """Return how many cores' worth of time this container may take, rounded up; None: as much as there is.

    A container with four CPUs of 64 may run on all of them, and stands still once its share of each tenth of
    a second is used up (the Linux kernel's documentation, `cpu.max` of cgroup v2).
    """
    try:
        taken, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return max(1, -(-int(taken) // int(period))) if taken.isdecimal() else None


def cores() -> int:
    """Return the number of threads that decode where nobody named one: one for each core, 16 at most."""
    return min(MOST, allowed_cores(), quota() or MOST)


def bounded_map(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int = 2
) -> Iterator[Result]:
    """Yield `work(item)` of each item in order; memory does not grow with the number of items.

    Decoding, resizing and a forward pass release the interpreter's lock, so threads use all cores without
    a copy of anything. An exception of `work` comes out here, and what has not begun by then never does.
    Items are taken one by one as results are; `ahead` of them are begun or done beyond one for each thread.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= workers + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def mixed_seed(*parts: int) -> int:
    """Mix integers into one 63-bit seed (the finaliser of SplitMix64, Steele et al. 2014, over each part)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class ProgressLines:
    """Lines in the log about how far a piece of work is, at most one every `EVERY` seconds.

    Args:
        unit: of a step, in the plural.
        done: steps that were done before.
    """

    def __init__(self, name: str, total: int, unit: str, done: int = 0):
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.begun = self.last = time.monotonic()

    def update(self, count: int = 1) -> None:
        """Count further steps; log how many are done, if the last line is old enough."""
        self.done += count
        now = time.monotonic()
        if now - self.last < EVERY or self.done >= self.total:
            return
        self.last = now
        share = 100 * self.done // max(1, self.total)
        with tqdm.external_write_mode(file=sys.stderr):
            log.info(
                "%s: %d of %d %s (%d %%), %.0f s",
                *(self.name, self.done, self.total, self.unit, share, now - self.begun),
            )


class ProgressBar(ProgressLines):
    """The same with a bar on a terminal; used as a context, which takes the bar away."""

    def __enter__(self) -> "ProgressBar":
        about = {"total": self.total, "initial": self.done, "desc": self.name, "unit": f" {self.unit}"}
        self.bar = tqdm(**about, disable=None, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, count: int = 1) -> None:
        """Count further steps."""
        self.bar.update(count)
        super().update(count)
