"""Print the test figures of all runs below a folder, and their mean: `python scripts/summarise.py FOLDER`."""

import json
import statistics
import sys
from pathlib import Path


def figures(metrics: dict) -> dict[str, float]:
    """Return the figures of the test split by name; those of a kind carry its name."""
    test = metrics["test"]
    values = {name: value for name, value in test.items() if isinstance(value, float)}
    for kind, part in test.items():
        if isinstance(part, dict) and "accuracy" in part:
            values |= {f"{kind}_accuracy": part["accuracy"], f"{kind}_f1_macro": part["f1_macro"]}
    return {name: value for name, value in values.items() if value is not None}


def main() -> int:
    """Print a Markdown table: a row per run, then mean and standard deviation over the runs."""
    if len(sys.argv) != 2:
        print("error: name one folder: python scripts/summarise.py outputs/dual_head/DATE", file=sys.stderr)
        return 2
    files = sorted(Path(sys.argv[1]).glob("**/metrics.json"))
    if not files:
        print(f"error: no metrics.json below {sys.argv[1]}: no finished run there", file=sys.stderr)
        return 2
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = [figures(run) for run in runs]
    names = [name for name in rows[0] if all(name in row for row in rows)]
    print("| seed | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for run, row in zip(runs, rows, strict=True):
        cells = [f"{row[name]:.4f}" for name in names]
        print(f"| {run['run']['seed']} | " + " | ".join(cells) + " |")
    means = [f"**{statistics.fmean(row[name] for row in rows):.4f}**" for name in names]
    print("| mean | " + " | ".join(means) + " |")
    if len(rows) > 1:
        spread = [f"{statistics.stdev(row[name] for row in rows):.4f}" for name in names]
        print("| standard deviation | " + " | ".join(spread) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
