"""Print the test figures of all runs below a folder, and their mean: `python scripts/summarise.py FOLDER`."""

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.errors import leave
from src.runs import missing_runs


def figures(metrics: dict) -> dict[str, float]:
    """Return the figures of the test split by name; those of a kind carry its name."""
    test = metrics["test"]
    values = {name: value for name, value in test.items() if isinstance(value, float)}
    for kind, part in test.items():
        if isinstance(part, dict) and "accuracy" in part:
            values |= {f"{kind}_accuracy": part["accuracy"], f"{kind}_f1_macro": part["f1_macro"]}
    return {name: value for name, value in values.items() if value is not None}


def main() -> None:
    """Print a Markdown table: a row per run, then mean and standard deviation; 1 if runs are missing."""
    if len(sys.argv) != 2:
        leave(2, "name one folder: python scripts/summarise.py outputs/dual_head/DATE")
    folder = Path(sys.argv[1])
    files = sorted(folder.glob("**/metrics.json"))
    if not files:
        leave(2, f"no metrics.json below {folder}: no finished run there")
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
    if missing := missing_runs(folder):
        leave(1, f"the mean lacks runs: {'; '.join(missing)}")


if __name__ == "__main__":
    main()
