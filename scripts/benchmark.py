"""Measure ours against the naive way: `python scripts/benchmark.py [NAME...] [--rounds N]`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.errors import InputError, did_you_mean, leave

NAMES = ("train", "predict", "forward", "split", "serve", "gpu", "threshold_evidence")
LONG = ("recipes", "original", "decisions", "notes", "ray", "serve_cluster")  # hours: only when named


def main() -> int:
    """Run benchmarks and print a table of each; return 1 if a result was not right."""
    parser = argparse.ArgumentParser(description=f"Benchmarks: {', '.join(NAMES + LONG)}.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"none: all but {' and '.join(LONG)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of each benchmark's own number")
    given = parser.parse_args()
    if given.rounds is not None and given.rounds < 1:
        leave(2, f"--rounds {given.rounds}: needs at least 1")
    for name in given.names:
        if name not in NAMES + LONG:
            leave(2, f"no benchmark '{name}': {did_you_mean(name, NAMES + LONG)}")
    from benchmarks.harness import run

    right = True
    for name in given.names or NAMES:
        try:
            right &= run(name, given.rounds)
        except InputError as error:
            if given.names:
                leave(2, f"benchmark '{name}': {error}")
            print(f"{name}: left out: {error}")
        except ModuleNotFoundError as error:
            leave(2, f"{error.name} is not installed: benchmarks need the extra dev, pip install -e '.[dev]'")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
