"""Work on many items in threads, results in order, never more than a few of them waiting."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


MOST = 16  # threads or processes that decode where nobody named a number
CGROUP = Path("/sys/fs/cgroup")


def allowed_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> int | None:
    """Return how many cores' worth of time this container may take, rounded up; None: as much as there is.

    One that is given four CPUs of 64 may run on all of them, and stands still once its share of each tenth of
    a second is used up. Source: the Linux kernel's documentation, `cpu.max` of cgroup v2, "CFS Bandwidth
    Control" of v1.
    """
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            taken, period = " ".join((CGROUP / name).read_text() for name in files).split()
        except (OSError, ValueError):  # no such version here
            continue
        if taken.isdecimal() and period.isdecimal():  # else `max` or -1
            return max(1, -(-int(taken) // int(period)))
    return None


def cores() -> int:
    """Return the number of threads that decode where nobody named one: one for each core, 16 at most."""
    return min(MOST, allowed_cores(), quota() or MOST)


def bounded_map(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int = 2
) -> Iterator[Result]:
    """Yield `work(item)` of each item in order; memory does not grow with the number of items.

    Decoding, resizing and a forward pass release the interpreter's lock, so threads use all cores without
    a copy of anything. An exception of `work` comes out here, and what has not begun by then never does.

    Args:
        work: called in the threads.
        items: taken one by one as results are.
        workers: threads.
        ahead: items that are begun or done beyond one for each thread.
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
