"""What processes cost: CPU seconds and memory of one and of those it started, and how busy others are."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Return CPU seconds of this process, all its threads, and the processes it started, ended or not.

    Needs a session of its own, as `harness` gives each side, to know the ones that still run.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = sum(cpu for pid, cpu, _ in members(os.getsid(0)) if pid != os.getpid())
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


def peak_mb() -> int:
    """Return the largest resident size that this process has had, in MB."""
    try:
        for line in (PROC / "self" / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):  # ru_maxrss would begin with that of the parent
                return int(line.split()[1]) // 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def members(session: int) -> Iterator[tuple[int, float, float]]:
    """Yield pid, CPU seconds (ended children included) and resident MB of a session's processes."""
    for entry in PROC.glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session:
            pages = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            yield int(entry.name), sum(map(int, fields[11:15])) / TICKS, pages / 2**20


def resident_mb(session: int) -> float:
    """Return the resident sizes of a session's processes in MB; pages that several share count in each."""
    return sum(mb for _, _, mb in members(session))


def busy_seconds() -> float | None:
    """Return the CPU seconds of the whole machine since it began; None where they are not told."""
    try:
        user, nice, system, _, _, irq, softirq = map(int, (PROC / "stat").read_text().split()[1:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / TICKS
