"""What the figures of a run rest on: thresholds, calibration, promises and confusions, from its tables.

A table that is missing leaves its part empty: runs of earlier versions have none of them.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from src.analysis.evaluation.calibrated import ALL
from src.analysis.evaluation.evaluation_folder import FOLDER, LABELS, PAIRS
from src.analysis.evaluation.mistakes import TABLES, Mistake
from src.analysis.evaluation.telling import excerpt, read_weights
from src.analysis.pages import label_names
from src.decisions.routing import needed
from src.runs import RunFolder, read_table

MISS = 0.05  # the rate of misses that the pages speak of
PAIRS_SHOWN = 10
WORDS = ("label", "kind", "objective", "state", "source", "promise", "unfitted", "true_label",
         "predicted_label", "file")  # fmt: skip


def evidence_of(run: RunFolder, mistakes: Sequence[Mistake]) -> dict:
    """Return the parts of a page that come from the tables of decisions and of the run's evaluation."""
    folder = run.path / FOLDER
    return {
        "thresholds": {row["label"]: row for row in records(run.path / "thresholds.csv", "label")},
        "measured": {row["label"]: row for row in records(folder / LABELS, "label")},
        "calibration": records(folder / "calibration.csv", "label"),
        "miss": MISS,
        "needed": needed(MISS),
        **_workload(run),
        "confused": records(folder / PAIRS)[:PAIRS_SHOWN] or _false_alarms(run, mistakes),
        "errors": [row | {"file": excerpt(row["file"])} for row in records(folder / f"{TABLES[0]}.csv")],
        "weights": read_weights(folder),
    }


def records(path: Path, *needs: str) -> list[dict]:
    """Return the rows of a table; columns other than `WORDS` are numbers, NaN where a cell is empty."""
    if (table := read_table(path, needs)) is None:
        return []
    numbers = table.columns.difference(WORDS)
    return table.assign(**table[numbers].apply(pd.to_numeric, errors="coerce")).to_dict("records")


def _workload(run: RunFolder) -> dict:
    """Return the shares at `MISS`, and whether misses are promised: by label, or of heads by kind."""
    table = records(run.path / FOLDER / "workload.csv", "label", "miss")
    rows = {row["label"]: row for row in table if row["miss"] == MISS}
    held = read_table(run.path / FOLDER / "held_out.csv", tuple(run.classes)) if rows else None
    photos: dict[str, int] = {}
    for kind in run.classes if held is not None else ():
        cells = held[kind].str.split(";").explode()
        photos |= {**cells[cells != ""].value_counts().to_dict(), kind: int((held[kind] != "").sum())}
    by_label = run.task == "multilabel" or bool(run.setting("thresholds.by_class"))
    if not by_label:  # a head's limit rests on all photos of its kind
        rows |= {kind: rows[names[0]] for kind, names in run.classes.items() if names[0] in rows}
    promises = {}
    for name in label_names(run.classes) if by_label else run.classes:
        if name in rows:
            enough = held is None or photos.get(name, 0) >= needed(MISS)
            promise = rows[name]["promise"].lower() == "true" and enough
            promises[name] = {**rows[name], "promise": promise, "photos": photos.get(name)}
    few = [f"{name} ({row['photos'] or 0})" for name, row in promises.items() if not row["promise"]]
    return {"workload": rows.get(ALL), "promises": promises, "unpromised": few, "promised_by_label": by_label}


def _false_alarms(run: RunFolder, mistakes: Sequence[Mistake]) -> list[dict]:
    """Return the labels of `multilabel` that are most often predicted in vain on photos with another one."""
    count: Counter[tuple[str, str]] = Counter()
    for mistake in mistakes if run.task == "multilabel" else ():
        true = [name for names in mistake.true.values() for name in names]
        said = [name for names in mistake.predicted.values() for name in names if name not in true]
        count.update(product(true, said))
    names = ("true_label", "predicted_label", "photos")
    return [dict(zip(names, (*pair, n), strict=True)) for pair, n in count.most_common(PAIRS_SHOWN)]
