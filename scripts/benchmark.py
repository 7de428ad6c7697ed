"""Measure ours beside the naive way: `python scripts/benchmark.py split`; without a name, all of them."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.config import REPOSITORY
from src.errors import did_you_mean, leave

NAMES = ("split", "hash")


def main() -> int:
    """Run the benchmarks, write `outputs/bench/NAME.json` and print a table; 1 if a result was not right."""
    names = sys.argv[1:] or list(NAMES)
    for name in names:
        if name not in NAMES:
            leave(2, f"no benchmark '{name}': {did_you_mean(name, NAMES)}")
    from benchmarks.harness import circumstances, run, table

    right = True
    for name in names:
        try:
            rows, remarks = run(name)
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
