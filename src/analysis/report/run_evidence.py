"""What a run's figures rest on, from its tables, and what changed since the run before on the same photos.

A table that is missing leaves its part empty: runs of earlier versions have none of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from src.analysis.comparison import compare, flips, read_pair
from src.analysis.evaluation.calibrated import ALL
from src.analysis.evaluation.evaluation_folder import FOLDER, LABELS, PAIRS
from src.analysis.evaluation.mistakes import TABLES, Mistake
from src.analysis.evaluation.telling import excerpt, read_weights
from src.analysis.pages import label_names
from src.decisions.routing import needed
from src.errors import InputError
from src.files import read_json
from src.runs import RunFolder, finished_runs, read_run, read_table

OWN = ("output_dir", "resume")  # settings that every run has its own of
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


def run_before(run: RunFolder) -> RunFolder | None:
    """Return the newest run of the same task and data that had finished before this one; None without one."""
    own = run.path.resolve()
    outputs = next((folder.parent for folder in own.parents if folder.name == run.task), None)
    written = (own / "metrics.json").stat().st_mtime_ns
    for folder in finished_runs(outputs) if outputs and run.facts.get("data_hash") else ():
        if folder == own or (folder / "metrics.json").stat().st_mtime_ns >= written:
            continue
        try:
            facts = read_json(folder / "metrics.json").get("run") or {}
            if all(facts.get(key) == run.facts.get(key) for key in ("task", "data_hash")):
                return read_run(folder)
        except InputError:  # a broken run is not this one's fault
            continue
    return None


def changes(before: RunFolder, run: RunFolder) -> dict:
    """Return what differs: `settings` (name, before, now), and figures of the same test photos.

    `differences` are rows of `compare`, empty where `refused` says why the test photos do not allow it.
    """
    old, new = _settings(before), _settings(run)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    found = {"settings": [(name, old.get(name), new.get(name)) for name in names], "refused": ""}
    try:
        pair = read_pair([str(before.path), str(run.path.resolve())])
    except InputError as error:
        return found | {"differences": [], "refused": str(error)}
    rows = [row for row in compare(pair) if not row["label"] and "difference" in row]
    return found | {"differences": rows, "flips": len(flips(pair)), "same": len(pair.truth)}


def _settings(run: RunFolder) -> dict[str, object]:
    """Return the settings of a run, and its code and packages, by dotted name."""
    config = OmegaConf.to_container(run.config) if OmegaConf.is_dict(run.config) else {}
    code = {"code": run.facts.get("git"), "version": run.facts.get("versions")}
    return {name: value for name, value in _flat({**config, **code}) if name not in OWN}


def _flat(node: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested settings with their dotted names."""
    if not isinstance(node, dict) or not node:
        yield name, node
        return
    for key, value in node.items():
        yield from _flat(value, f"{name}.{key}" if name else str(key))
