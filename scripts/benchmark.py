"""Measure ours beside the naive way: `python scripts/benchmark.py [NAME...] [--rounds N]`."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.config import REPOSITORY
from src.errors import did_you_mean, leave

NAMES = (
    "decode",
    "train",
    "finetune",
    "predict",
    "forward",
    "threshold",
    "split",
    "hash",
    "startup",
    "memory",
    "gpu",
)


def main() -> int:
    """Run the benchmarks, write `outputs/bench/NAME.json` and print a table; 1 if a result was not right."""
    parser = argparse.ArgumentParser(description=f"Benchmarks: {', '.join(NAMES)}.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="none: all of them")
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of each benchmark's own number")
    given = parser.parse_args()
    if given.rounds is not None and given.rounds < 1:
        leave(2, f"--rounds {given.rounds}: needs at least 1")
    for name in given.names:
        if name not in NAMES:
            leave(2, f"no benchmark '{name}': {did_you_mean(name, NAMES)}")
    from benchmarks.harness import Unavailable, run
    from benchmarks.tables import circumstances, table

    right = True
    for name in given.names or NAMES:
        try:
            rows, remarks = run(name, given.rounds)
        except Unavailable as reason:
            if given.names:
                leave(2, f"benchmark '{name}': {reason}")
            print(f"{name}: left out: {reason}")
            continue
        except ModuleNotFoundError as error:
            leave(2, f"{error.name} is not installed: benchmarks need the extra dev, pip install -e '.[dev]'")
        file = REPOSITORY / "outputs" / "bench" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print("\n".join([circumstances(rows), "", table(rows), "", *remarks, f"\nwritten: {file}"]))
        right &= all(row["equal"] for row in rows)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
