"""Benchmark harness: sides in turn, each in a fresh process; medians, ratios and an equality check."""

import importlib
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from src.config import CONF
from src.errors import InputError, leave

REPOSITORY = Path(__file__).resolve().parent.parent
BENCH = REPOSITORY / "outputs" / "bench"
CORES = os.cpu_count() or 1
ONE, BOTH = (1,), tuple(dict.fromkeys((1, CORES)))
THREADS = "BENCHMARK_THREADS"
REFERENCE = "reference"
Cost = dict[str, Any]  # cpu_s, wall_s, result


@dataclass(frozen=True)
class Work:
    """One job and the ways to do it; `prepare` and `describe` are not timed."""

    name: str
    prepare: Callable[[], Any]  # makes the input of all sides
    sides: dict[str, Callable[[Any], Any]]  # `naive`, `ours`, others; `reference` runs once, not timed
    equal: Callable[[dict[str, Any]], bool]  # says from the result of each side whether ours is right
    # the part of a result that is kept; entries of a dictionary are printed, except keys with a leading `_`
    describe: Callable[[Any, Any], Any] = lambda given, result: result
    rounds: int = 5
    threads: tuple[int, ...] = ONE  # `threads()` returns the present one


def composed(*overrides: str) -> DictConfig:
    """Return the configuration of a training run with its defaults filled in."""
    from src.models.backbones import fill_defaults  # imports torch

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return fill_defaults(compose("train", list(overrides)))


def command(main: Callable[[], None]) -> None:
    """Call the main function of a benchmark; bad input is one line and exit code 2."""
    try:
        main()
    except InputError as error:
        leave(2, str(error))


def threads() -> int:
    """Return the number of threads, or processes, that a side may keep busy."""
    return int(os.environ.get(THREADS, "1"))


def run(name: str, rounds: int | None = None) -> bool:
    """Run the works of `benchmarks.<name>`, print their figures; return whether every result was right."""
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "check"):
        module.check()
    if hasattr(module, "main"):
        return module.main(rounds)
    print(f"{CORES} cores, load {os.getloadavg()[0]:.2f} before")
    every = True
    for number, work in enumerate(module.WORKS):
        text, equal = measured(work, rounds or work.rounds, partial(in_fresh_process, name, number))
        print(text)
        every &= equal
    return every


def measured(work: Work, rounds: int, run_side: Callable[[str, int], Cost]) -> tuple[str, bool]:
    """Run the sides in turn, each by `run_side(side, threads)`; return a Markdown text and the verdict."""
    sides = [side for side in work.sides if side != REFERENCE]
    known = {REFERENCE: run_side(REFERENCE, work.threads[-1])["result"]} if REFERENCE in work.sides else {}
    costs: dict[tuple[str, int], list[Cost]] = {(side, n): [] for n in work.threads for side in sides}
    equal = True
    for _ in range(rounds):
        for (side, count), found in costs.items():
            found.append(run_side(side, count))
            known[side] = found[-1]["result"]
            print(f"{work.name}, {side}: {found[-1]['wall_s']:.3g} s", file=sys.stderr)
            if side == sides[-1]:
                equal &= bool(work.equal(known))
    title = f"\n**{work.name}: results {'equal' if equal else 'NOT EQUAL'}**\n"
    return "\n".join([title, _table(costs), *_figures(known)]), equal


def markdown(rows: Sequence[Mapping[str, Any]], digits: int = 4) -> str:
    """Return rows as a Markdown table under the keys of the first one, fractions with that many digits."""
    lines = [[*rows[0]], ["---"] * len(rows[0])]
    lines += [[f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def close(results: Mapping[str, Mapping], tolerance: float, side: str = REFERENCE) -> bool:
    """Whether our arrays are those of another side."""
    ours, theirs = results["ours"], results[side]
    pairs = [(value, theirs[key]) for key, value in ours.items() if isinstance(value, np.ndarray)]
    return all(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)


def figures_of(scored: Mapping, keys: Mapping[str, str], of_kinds: Sequence[str] = ("accuracy",)) -> dict:
    """Return figures of a split by name: those under `keys` of multilabel, or `of_kinds` of each kind."""
    if "map" in scored:
        return {name: scored[key] for name, key in keys.items()}
    kinds = {kind: values for kind, values in scored.items() if isinstance(values, Mapping)}
    return {f"{kind} {key}": values[key] for kind, values in kinds.items() for key in of_kinds}


def _table(costs: Mapping[tuple[str, int], Sequence[Cost]]) -> str:
    """Return a Markdown table: medians (minimum-maximum), and their ratio to ours."""
    rows = []
    for (side, count), found in costs.items():
        row = {"side": side, "threads": count}
        for key, name in (("cpu_s", "CPU"), ("wall_s", "wall")):
            values, ours = ([cost[key] for cost in part] for part in (found, costs["ours", count]))
            row[f"{name} s"] = f"{median(values):.3g} ({min(values):.3g}-{max(values):.3g})"
            row[f"{name} / ours"] = f"{median(values) / max(median(ours), 1e-9):.3g}x"
        rows.append(row)
    return markdown(rows)


def _figures(results: Mapping[str, Any]) -> list[str]:
    """Return a line per side with the entries of its result."""
    lines = []
    for side, result in results.items():
        entries = result.items() if isinstance(result, dict) else ()
        if figures := [f"{key} {value}" for key, value in entries if not key.startswith("_")]:
            lines.append(f"\n{side}: {', '.join(figures)}")
    return lines


def in_fresh_process(name: str, number: int, side: str, count: int) -> Cost:
    """Run one side of a work once, in a process with that number of threads."""
    given = {f"{library}_NUM_THREADS": str(count) for library in ("OMP", "OPENBLAS", "MKL")}
    given |= {"OMP_WAIT_POLICY": "passive", THREADS: str(count)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cost"
        command = [sys.executable, "-m", "benchmarks.harness", name, str(number), side, str(file)]
        done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | given, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"error: {name}, work {number}, {side} ended with exit code {done.returncode}")
        return pickle.loads(file.read_bytes())


def timed(work: Work, side: str) -> Cost:
    """Run one side in this process; return its CPU and wall seconds and its result."""
    given = work.prepare()
    wall, cpu = time.perf_counter(), _cpu_seconds()
    result = work.sides[side](given)
    cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - wall
    return {"cpu_s": cpu, "wall_s": wall, "result": work.describe(given, result)}


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process, its threads and its ended children."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def busy_seconds() -> float | None:
    """Return the CPU seconds of the whole machine since its start; None where /proc does not hold them."""
    try:
        user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    except OSError:
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    module, number, side, file = sys.argv[1:]
    cost = timed(importlib.import_module(f"benchmarks.{module}").WORKS[int(number)], side)
    Path(file).write_bytes(pickle.dumps(cost))
