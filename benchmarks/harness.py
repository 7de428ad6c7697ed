"""Times the naive way beside ours: in turn, in fresh processes, and checks what both did."""

import contextlib
import importlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.processes import busy_seconds, cpu_seconds, peak_mb, resident_mb

REPOSITORY = Path(__file__).resolve().parent.parent
BENCH = REPOSITORY / "outputs" / "bench"
ROUNDS = 5
CORES = os.cpu_count() or 1
ONE, BOTH = (1,), tuple(dict.fromkeys((1, CORES)))
THREADS = "BENCHMARK_THREADS"


class Unavailable(Exception):
    """This machine cannot run a benchmark."""


@dataclass(frozen=True)
class Work:
    """One job, done in two ways.

    Attributes:
        work: what is done, in words.
        goal: what ours should reach beside the numbers below, in words.
        prepare: makes the input, which all sides are given and which is not timed.
        naive: the plain way.
        ours: Corbel's way.
        describe: what is kept of the input and a result, as a dictionary for JSON; not timed. Entries that
            begin with `_` are compared and not kept.
        equal: says of two descriptions, the naive (or the reference's) and ours, whether the job was done
            right.
        rounds: how often each side runs.
        threads: a side runs once a round with each of these numbers; CPU seconds are taken from the first,
            wall time from the last. A side asks `threads()`.
        limit: what no way can avoid, measured in the same run, or None.
        reference: does the job in the way that ours is compared with; not timed, run once. None: `naive`.
        times: how often ours does the job in one call; its times are divided by it.
        packages: whose versions are told.
        goal_cpu: naive CPU seconds / ours, at least.
        goal_wall: naive wall time / ours, at least.
        most_cpu_s: CPU seconds of ours, at most.
        most_mb: peak memory of ours, at most.
        most_limit: wall time of ours / the limit's, at most.
    """

    work: str
    goal: str
    prepare: Callable[[], Any]
    naive: Callable[[Any], Any]
    ours: Callable[[Any], Any]
    describe: Callable[[Any, Any], dict]
    equal: Callable[[dict, dict], bool]
    rounds: int = ROUNDS
    threads: tuple[int, ...] = ONE
    limit: Callable[[Any], Any] | None = None
    reference: Callable[[Any], Any] | None = None
    times: int = 1
    packages: tuple[str, ...] = ("numpy", "pillow")
    goal_cpu: float | None = None
    goal_wall: float | None = None
    most_cpu_s: float | None = None
    most_mb: float | None = None
    most_limit: float | None = None


def threads() -> int:
    """Return the number of threads, or processes, that a side may keep busy."""
    return int(os.environ.get(THREADS, "1"))


def run(name: str, rounds: int | None = None) -> tuple[list[dict], list[str]]:
    """Run the works of `benchmarks.<name>`; return what `outputs/bench/<name>.json` holds, and remarks.

    Raises:
        Unavailable: where the benchmark's `check` finds that this machine cannot run it.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "check"):
        module.check()
    load = round(os.getloadavg()[0], 2)  # of others: nothing of ours runs yet
    rows = [
        measured(name, number, work, rounds or work.rounds, load) for number, work in enumerate(module.WORKS)
    ]
    return rows, module.remarks(rows) if hasattr(module, "remarks") else []


def measured(name: str, number: int, work: Work, rounds: int, load: float) -> dict:
    """Run the sides of a work in turn; return its row."""
    print(f"{work.work}: {rounds} rounds", file=sys.stderr)
    sides = ["naive", "ours"] + ["limit"] * (work.limit is not None)
    found: dict[tuple[str, int], list[dict]] = {(side, n): [] for n in work.threads for side in sides}
    expected = _in_a_fresh_process(name, number, "reference", work.threads[-1]) if work.reference else None
    for _ in range(rounds):
        for side, n in found:
            found[side, n].append(_in_a_fresh_process(name, number, side, n))
            one = found[side, n][-1]
            print(f"  {side}, {n} threads: {one['wall_s']:.3g} s, CPU {one['cpu_s']:.3g} s", file=sys.stderr)
    equal = all(
        work.equal((expected or naive)["result"], ours["result"])
        for n in work.threads
        for naive, ours in zip(found["naive", n], found["ours", n], strict=True)
    )
    print(f"  {'equal' if equal else 'NOT EQUAL'}: {work.goal}", file=sys.stderr)
    parts = {
        side: _summary(found[side, work.threads[0]], found[side, work.threads[-1]], times)
        for side, times in zip(sides, (1, work.times, 1), strict=False)
    }
    naive, ours = parts["naive"], parts["ours"]
    row = {
        "work": work.work,
        "goal": _goal(work),
        "ratio_cpu": _ratio(naive, ours, "cpu_s"),
        "ratio_wall": _ratio(naive, ours, "wall_s"),
        "equal": equal,
        "rounds": rounds,
        **parts,
        "threads": list(work.threads),
        "load": load,
        "cores": CORES,
        "versions": {package: version(package) for package in work.packages},
    }
    if work.limit:
        row["ratio_limit"] = _ratio(ours, parts["limit"], "wall_s")
    return row | {"met": verdicts(work, row)}


def _ratio(naive: dict, ours: dict, key: str) -> float:
    """Return how many times the naive median is ours."""
    return round(naive[key]["median"] / max(ours[key]["median"], 1e-9), 2)


def _goal(work: Work) -> str:
    """Return the goals in words."""
    numbers = (
        ("CPU {:g}x", work.goal_cpu),
        ("wall {:g}x", work.goal_wall),
        ("at most {:g} CPU s", work.most_cpu_s),
        ("at most {:g} MB", work.most_mb),
        ("at most {:g}x the limit", work.most_limit),
    )
    return ", ".join([text.format(n) for text, n in numbers if n is not None] + [work.goal] * bool(work.goal))


def verdicts(work: Work, row: dict) -> dict[str, bool | None]:
    """Return whether each goal in numbers is met; of wall time None where others kept the cores busy."""
    ours = row["ours"]
    quiet = not disturbed(row)
    met: dict[str, bool | None] = {}
    if work.goal_cpu is not None:
        met["cpu"] = row["ratio_cpu"] >= work.goal_cpu
    if work.goal_wall is not None:
        met["wall"] = row["ratio_wall"] >= work.goal_wall if quiet else None
    if work.most_cpu_s is not None:
        met["cpu_s"] = ours["cpu_s"]["median"] <= work.most_cpu_s
    if work.most_mb is not None:
        met["mb"] = ours["peak_mb"] <= work.most_mb
    if work.most_limit is not None:
        met["limit"] = row["ratio_limit"] <= work.most_limit if quiet else None
    return met


def disturbed(row: dict, tolerated: float = 0.25) -> bool:
    """Whether threads of ours and what others kept busy meanwhile are more than the cores.

    Others' work is the machine's busy time less that of the measured processes: unlike the load average it
    does not count ours. Where the machine does not tell, the load average before the run stands for it.
    """
    sides = [row[side] for side in ("naive", "ours", "limit") if side in row]
    others = [row["load"] if side["others"] is None else side["others"] for side in sides]
    return row["threads"][-1] + max(others) > row["cores"] + tolerated


def _in_a_fresh_process(name: str, number: int, side: str, count: int) -> dict:
    """Run one side of a work once, with so many threads."""
    given = {f"{library}_NUM_THREADS": str(count) for library in ("OMP", "OPENBLAS", "MKL")}
    given |= {"OMP_WAIT_POLICY": "passive", THREADS: str(count)}
    command = [sys.executable, "-m", "benchmarks.harness", name, str(number), side]
    wall, busy, own = time.perf_counter(), busy_seconds(), _ended_children()
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | given,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    sampled = [0.0]
    done = threading.Event()
    sampler = threading.Thread(target=_sample, args=(process.pid, sampled, done))
    sampler.start()
    try:
        said = process.communicate()[0]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        done.set()
        sampler.join()
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command[1:])} ended with exit code {process.returncode}")
    others = None
    if busy is not None:
        beside = busy_seconds() - busy - (_ended_children() - own)
        others = round(max(0.0, beside) / (time.perf_counter() - wall), 2)
    found = json.loads(said.splitlines()[-1])
    return found | {"peak_mb": max(found["peak_mb"], round(sampled[0])), "others": others}


def _sample(session: int, sampled: list[float], done: threading.Event) -> None:
    """Keep the largest memory of a session's processes together."""
    while not done.wait(0.2):
        sampled[0] = max(sampled[0], resident_mb(session))


def _ended_children() -> float:
    """Return the CPU seconds of the processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _summary(for_cpu: list[dict], for_wall: list[dict], times: int) -> dict:
    """Return median, minimum and maximum of the times, the largest memory, and the last result."""
    spread = {}
    for key, found in (("cpu_s", for_cpu), ("wall_s", for_wall)):
        values = [one[key] / times for one in found]
        spread[key] = {
            "median": round(statistics.median(values), 5),
            "min": round(min(values), 5),
            "max": round(max(values), 5),
        }
    every = [*for_cpu, *for_wall]
    others = [one["others"] for one in every if one["others"] is not None]
    result = {key: value for key, value in for_wall[-1]["result"].items() if not key.startswith("_")}
    return {
        **spread,
        "peak_mb": max(one["peak_mb"] for one in every),
        "load": max(one["load"] for one in every),
        "others": statistics.median(others) if others else None,
        "result": result,
    }


def main() -> None:
    """Run one side of one work and print what it cost and gave, as one line of JSON."""
    name, number, side = sys.argv[1:]
    work = importlib.import_module(f"benchmarks.{name}").WORKS[int(number)]
    with contextlib.redirect_stdout(sys.stderr):  # what a side prints is none of the result
        given = work.prepare()
        wall, cpu = time.perf_counter(), cpu_seconds()
        result = getattr(work, side)(given)
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        cost = {"cpu_s": cpu, "wall_s": wall, "peak_mb": peak_mb(), "load": round(os.getloadavg()[0], 2)}
        described = work.describe(given, result)
    print(json.dumps(cost | {"result": described}))


if __name__ == "__main__":
    main()
