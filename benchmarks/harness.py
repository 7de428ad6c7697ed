"""Times the naive way beside ours: in turn, in fresh processes on one thread, and checks what both did."""

import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
ROUNDS = 5


@dataclass(frozen=True)
class Work:
    """One job, done in two ways.

    Attributes:
        work: what is done, in words.
        goal: what ours should reach, in words.
        prepare: makes the input, which both ways are given and which is not timed.
        naive: the plain way.
        ours: Corbel's way.
        describe: what is kept of the input and a result, as a dictionary for JSON; not timed.
        equal: says of both descriptions whether the job was done right.
        rounds: how often each runs.
    """

    work: str
    goal: str
    prepare: Callable[[], Any]
    naive: Callable[[Any], Any]
    ours: Callable[[Any], Any]
    describe: Callable[[Any, Any], dict]
    equal: Callable[[dict, dict], bool]
    rounds: int = ROUNDS


def run(name: str) -> tuple[list[dict], list[str]]:
    """Run the works of `benchmarks.<name>`; return what `outputs/bench/<name>.json` holds, and remarks."""
    module = importlib.import_module(f"benchmarks.{name}")
    rows = []
    for number, work in enumerate(module.WORKS):
        print(f"{work.work}: {work.rounds} rounds", file=sys.stderr)
        sides: dict[str, list[dict]] = {"naive": [], "ours": []}
        for _ in range(work.rounds):
            for side, found in sides.items():
                found.append(_in_a_fresh_process(name, number, side))
        naive, ours = (_summary(found) for found in sides.values())
        rows.append(
            {
                "work": work.work,
                "goal": work.goal,
                "ratio_cpu": round(naive["cpu_s"]["median"] / ours["cpu_s"]["median"], 2),
                "ratio_wall": round(naive["wall_s"]["median"] / ours["wall_s"]["median"], 2),
                "equal": all(
                    work.equal(one["result"], other["result"])
                    for one, other in zip(sides["naive"], sides["ours"], strict=True)
                ),
                "rounds": work.rounds,
                "naive": naive,
                "ours": ours,
            }
        )
    return rows, module.remarks(rows) if hasattr(module, "remarks") else []


def _in_a_fresh_process(name: str, number: int, side: str) -> dict:
    """Run one side of a work once, on one thread."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, "-m", "benchmarks.harness", name, str(number), side]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command[1:])} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _summary(found: list[dict]) -> dict:
    """Return median, minimum and maximum of the times, the largest memory, and the last result."""
    times = {}
    for key in ("cpu_s", "wall_s"):
        values = [one[key] for one in found]
        times[key] = {
            "median": round(statistics.median(values), 5),
            "min": round(min(values), 5),
            "max": round(max(values), 5),
        }
    memory = max(one["peak_mb"] for one in found)
    return {**times, "peak_mb": memory, "load": found[-1]["load"], "result": found[-1]["result"]}


def table(rows: list[dict]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| work | goal | CPU naive / ours | ratio CPU (wall) | equal | peak MB naive / ours |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        naive, ours = row["naive"], row["ours"]
        cpu = " / ".join(f"{side['cpu_s']['median']:.3g} s" for side in (naive, ours))
        lines.append(
            f"| {row['work']} | {row['goal']} | {cpu} | {row['ratio_cpu']:g} ({row['ratio_wall']:g}) | "
            f"{'yes' if row['equal'] else 'NO'} | {naive['peak_mb']} / {ours['peak_mb']} |"
        )
    return "\n".join(lines)


def circumstances(rows: list[dict]) -> str:
    """Return what the figures depend on: cores, load, versions; and what the load makes of wall times."""
    load = max(side["load"] for row in rows for side in (row["naive"], row["ours"]))
    cores = os.cpu_count() or 1
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "pillow"))
    said = f"{cores} cores, load up to {load}, one thread, Python {platform.python_version()}, {versions}"
    return said + ("; more load than cores: no verdict on wall times" if load > cores else "")


def main() -> None:
    """Run one side of one work and print what it cost and gave, as one line of JSON."""
    name, number, side = sys.argv[1:]
    work = importlib.import_module(f"benchmarks.{name}").WORKS[int(number)]
    given = work.prepare()
    wall, cpu = time.perf_counter(), time.process_time()
    result = getattr(work, side)(given)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    described = work.describe(given, result)
    print(
        json.dumps(
            {
                "cpu_s": cpu,
                "wall_s": wall,
                "peak_mb": peak,
                "load": round(os.getloadavg()[0], 2),
                "result": described,
            }
        )
    )


if __name__ == "__main__":
    main()
