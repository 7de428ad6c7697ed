"""Photos with notes on the demo set: accuracy of each alone and of both, and the conflicts that are found.

For each round a run of photos, one of texts on the same split, their fusion, and an audit with the notes; the
demo set is drawn once. Conflicts are planted in its notes.
"""

import csv
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import BENCH, REPOSITORY, markdown
from src.errors import InputError

KINDS = ("component", "defect")
GROUP = "data.group='^(A\\d+)_'"


def main(rounds: int | None) -> bool:
    """Print the tables; return whether each part of the work gave its figures."""
    home = BENCH / "notes"
    demo = home / "demo"
    if not (demo / "notes.csv").is_file():
        _script("make_demo_data", f"output={demo}", f"hydra.run.dir={home}")
    table, planted = [], _planted(demo)
    for seed in range(1, (rounds or 3) + 1):
        runs = {name: home / f"{seed}" / name for name in ("photo", "note", "both", "audit")}
        _train(runs["photo"], f"data.root={demo}", GROUP, f"seed={seed}")
        _train(
            runs["note"], "model=text_tfidf", "task=dual_head", f"data.csv={demo / 'notes.csv'}",
            "data.multiple=first", "data.group=asset", f"data.split_file={runs['photo']}", f"seed={seed}",
        )  # fmt: skip
        _train(
            runs["both"], "model=photo_and_note", f"model.photo={runs['photo']}", f"model.note={runs['note']}"
        )
        where = f"data.root={demo}", f"notes={demo / 'notes.csv'}", f"hydra.run.dir={runs['audit']}"
        if not (runs["audit"] / "audit.csv").is_file():
            _script("audit", *where, GROUP, f"seed={seed}")
        table += _rows(seed, runs, planted)
    print(markdown(table + _means(table)))
    return True


def _train(run: Path, *words: str) -> None:
    if not (run / "metrics.json").is_file():
        _script("train", *words, f"hydra.run.dir={run}")


def _script(name: str, *words: str) -> None:
    script = str(REPOSITORY / "scripts" / f"{name}.py")
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{name} {' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")


def _planted(demo: Path) -> set[str]:
    return {row["ID"] for row in _table(demo / "notes_truth.csv") if row["conflict"]}


def _rows(seed: int, runs: dict[str, Path], planted: set[str]) -> list[dict]:
    """Return the accuracies of a round on the test photos with a note, and on all; print the audit's list."""
    truth = {Path(row["path"]).stem: row for row in _table(runs["both"] / "test_metadata.csv")}
    found = []
    for photos in ("with a note", "all"):
        names = [stem for stem, row in truth.items() if row["text"] or photos == "all"]
        for model in ("photo", "note", "both") if photos == "with a note" else ("photo", "both"):
            rows = _table(runs[model] / "predictions.csv")
            said = {Path(row.get("path") or row["ID"]).stem: row for row in rows}
            right = {kind: [said[n][kind] == truth[n][kind] for n in names] for kind in KINDS}
            row = {"seed": seed, "test photos": photos, "number": len(names), "by": model}
            both = [all(pair) for pair in zip(*right.values(), strict=True)]
            found.append(row | {k: sum(v) / len(names) for k, v in {**right, "both labels": both}.items()})
    listed = [row for row in _table(runs["audit"] / "audit.csv") if row["list"] == "note_disagrees"]
    hits = [Path(row["path"]).stem in planted for row in listed]
    first = hits[: len(planted)]
    print(
        f"seed {seed}: {len(listed)} photos whose note and picture disagree, {sum(hits)} of {len(planted)} "
        f"planted conflicts among them, {sum(first)} among the first {len(first)}"
    )
    return found


def _means(table: list[dict]) -> list[dict]:
    """Return the means over the rounds."""
    groups: dict[tuple, list[dict]] = {}
    for row in table:
        groups.setdefault((row["test photos"], row["by"]), []).append(row)
    names = (*KINDS, "both labels")
    return [
        {"seed": "mean", "test photos": photos, "number": sum(row["number"] for row in rows), "by": model}
        | {name: sum(row[name] for row in rows) / len(rows) for name in names}
        for (photos, model), rows in groups.items()
    ]


def _table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))
