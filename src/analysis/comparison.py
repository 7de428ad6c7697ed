"""Two runs on the same test photos: figures with a paired bootstrap by group, changed decisions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.analysis.evaluation.measures import over_labels
from src.decisions.bootstrap import group_weights
from src.errors import InputError, listed
from src.files import user_path, write_csv
from src.labels import LabelSpace
from src.overrides import typed
from src.runs import RunFolder, read_run

RESAMPLES, SEED, CONFIDENCE = 1000, 0, 0.9
OF_LABEL = ("precision", "recall", "f1")
FILES = {  # with their columns
    "comparison.csv": "kind label metric a b difference low high b_better support groups",
    "flipped.csv": "path kind truth a a_confidence b b_confidence right",
    "gate.csv": "metric label drop confidence fall bound support groups verdict reason",
}
SHOWN = 10  # labels in the printed table


@dataclass(frozen=True)
class Pair:
    """The decisions of two runs, A and B, on the same photos.

    Attributes:
        task: of both runs.
        labels: the label space of both runs.
        rows: A's and B's rows of `predictions.csv`, `N` each.
        truth: bool `[N, L]`.
        known: whether a photo counts for a kind, bool `[N, K]`; without a label it does in multilabel only.
        said: the predicted labels of A and B, bool `[2, N, L]`.
        groups: the number of each photo's group, `[N]`.
        notes: what the reader has to know.
        noun: what they are, photo or text.
    """

    task: str
    labels: LabelSpace
    rows: list[list[dict]]
    truth: np.ndarray
    known: np.ndarray
    said: np.ndarray
    groups: np.ndarray
    notes: list[str]
    noun: str = "photo"


def read_pair(given: Sequence[str]) -> Pair:
    """Read two runs; photos are joined by content where both tables have a `digest` or `text`, else by path.

    Labels are B's. Groups are those of the run that has fewer, so that no interval is too narrow.

    Raises:
        InputError: for anything but two runs of one task, with the same labels and the same test photos.
    """
    paths = [user_path(path) for path in given]
    if len(paths) != 2 or paths[0].resolve() == paths[1].resolve():
        raise InputError(f"runs=[{listed(given)}]: name two run folders, runs=[A,B]")
    runs = [read_run(path) for path in paths]
    labels, photos = _common_labels(*runs), _same_photos(*runs)
    both = [[found[key] for key in sorted(photos[1])] for found in photos]
    read = [all(rows["status"] == "ok" for _, rows in two) for two in zip(*both, strict=True)]
    both = [[rows for rows, ok in zip(found, read, strict=True) if ok] for found in both]
    if not both[0]:
        raise InputError(f"runs=[{listed(given)}]: no test {runs[1].noun} that both runs could read")
    noun = runs[1].noun
    notes = [f"left out {read.count(False)} {noun}s that a run could not read"] * (not all(read))
    other, truth = (
        np.array([labels.encode({k: run.labels(row, k) for k in labels.kinds}) for row, _ in found]) > 0
        for run, found in zip(runs, both, strict=True)
    )
    if differ := (other != truth).any(1).sum():
        notes.append(f"{differ} {noun}s have other labels in A's table: B's are the truth for both")
    several = runs[0].task == "multilabel"
    known = np.stack([truth[:, part].any(1) | several for part in labels.slices.values()], 1)
    rows = [[row for _, row in found] for found in both]
    said = [[_said(run, labels, row) for row in part] for run, part in zip(runs, rows, strict=True)]
    groups = [[row.get("group") or f"\n{i}" for i, (row, _) in enumerate(found)] for found in both]
    numbers = np.unique(min(groups, key=lambda names: len({*names})), return_inverse=True)[1]
    return Pair(runs[0].task, labels, rows, truth, known, np.array(said), numbers, notes, noun)


def _common_labels(a: RunFolder, b: RunFolder) -> LabelSpace:
    """Return the label space of both runs; refuse runs that differ in it, or in their task."""
    if a.task != b.task:
        raise InputError(f"runs of different tasks: {a.path} is {a.task}, {b.path} is {b.task}")
    pairs = [{(kind, name) for kind, names in run.classes.items() for name in names} for run in (a, b)]
    alone = zip((a, b), (pairs[0] - pairs[1], pairs[1] - pairs[0]), strict=True)
    if only := [
        f"only {run.path} has {listed(n for _, n in sorted(names))}" for run, names in alone if names
    ]:
        raise InputError(f"runs of different label spaces: {'; '.join(only)}")
    return LabelSpace(b.classes)


def _same_photos(a: RunFolder, b: RunFolder) -> list[dict[tuple, tuple[dict, dict]]]:
    """Return each test photo's rows of the split's table and of the predictions, for both runs."""
    for run in (a, b):
        if run.splits.get("test", pd.DataFrame()).empty:
            raise InputError(f"{run.path / 'test_metadata.csv'}: no test photos, so nothing to compare")
    tests = [run.splits["test"].sort_values("path") for run in (a, b)]
    keys = ("digest", "text")  # a text may be of another row
    by = next((key for key in keys if all(key in test and test[key].all() for test in tests)), "path")
    found = [_photos(run, test, by) for run, test in zip((a, b), tests, strict=True)]
    alone = [len(found[0].keys() - found[1]), len(found[1].keys() - found[0])]
    if any(alone):
        parts = [
            f"{n} of {len(rows)} {run.noun}s are in {run.path}'s alone"
            for n, rows, run in zip(alone, found, (a, b), strict=True)
        ]
        cure = f"train again with {typed('data.split_file', a.path)}"
        raise InputError(f"the test splits differ: {', '.join(parts)}; {cure}")
    return found


def _photos(run: RunFolder, test: pd.DataFrame, by: str) -> dict[tuple, tuple[dict, dict]]:
    """Return the rows of a run's test photos by path or content; copies of a photo are numbered."""
    predicted = {row["ID"]: {"path": row["ID"], **row} for row in run.predictions.to_dict("records")}
    if lost := [id_ for id_ in test["ID"] if id_ not in predicted]:
        file = run.path / "predictions.csv"
        raise InputError(f"{file}: it lacks {len(lost)} of {len(test)} test {run.noun}s ({listed(lost, 3)})")
    keys = zip(test[by], test.groupby(by).cumcount(), strict=True)
    return {key: (row, predicted[row["ID"]]) for key, row in zip(keys, test.to_dict("records"), strict=True)}


def _columns(task: str, kind: str) -> tuple[str, str]:
    """Return the columns of `predictions.csv` with the labels of a kind and with their confidences."""
    if task == "multiclass":
        return "label", "confidence"
    return (f"{kind}s", f"{kind}s_confidence") if task == "multilabel" else (kind, f"{kind}_confidence")


def _said(run: RunFolder, labels: LabelSpace, row: dict) -> np.ndarray:
    """Return the predicted labels of a photo, bool `[L]`."""
    cells = {kind: row[_columns(run.task, kind)[0]] for kind in labels.kinds}
    return labels.encode({kind: run.labels(cells, kind) for kind in labels.kinds}) > 0


def group_sums(pair: Pair) -> list[dict[str, np.ndarray]]:
    """Return sums over each group, float32 `[groups, ...]`, from which every figure of A and B follows."""
    parts, known, found = pair.labels.slices.values(), pair.known, []
    sizes = np.array([part.stop - part.start for part in parts])
    complete = known.all(1, keepdims=True)
    for said in pair.said:
        same = said == pair.truth
        right, decided = np.stack([same[:, part].sum(1) for part in parts], 1), known * sizes
        if pair.task != "multilabel":
            right, decided = (right == sizes) & known, known
        exact, counted = same.all(1, keepdims=True) & complete, said & np.repeat(known, sizes, 1)
        values = {"hits": said & pair.truth, "said": counted, "support": pair.truth, "right": right}
        values |= {"decided": decided, "exact": exact, "complete": complete}
        sums = {k: np.zeros((pair.groups.max() + 1, v.shape[1]), np.float32) for k, v in values.items()}
        for name, value in values.items():
            np.add.at(sums[name], pair.groups, value)
        found.append(sums)
    return found


def figures(pair: Pair, sums: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[tuple, np.ndarray]:
    """Return `{(label, kind or "", metric): [resamples]}` as `metrics.json` defines them; NaN for undefined.

    A label without positives has no figures. In multilabel, accuracy is the share of right answers.
    """
    total = {name: (weights @ value).astype(np.float64) for name, value in sums.items()}
    hits, said, support, right, decided = (total[k] for k in ("hits", "said", "support", "right", "decided"))
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(support > 0, hits / np.where(said > 0, said, 1), np.nan)
        per_label = precision, hits / support, np.where(support > 0, 2 * hits / (said + support), np.nan)
        found = {("", "accuracy"): right.sum(1) / decided.sum(1)}
        found["", "exact_match"] = (total["exact"] / total["complete"])[:, 0]
        accuracy = right / decided
    means = {kind: over_labels(per_label[2][:, part]) for kind, part in pair.labels.slices.items()}
    heads = pair.task != "multilabel"
    found["", "f1_macro"] = over_labels(np.stack([*means.values()], 1) if heads else per_label[2])
    for i, kind in enumerate(means if len(means) > 1 else ()):
        found |= {(kind, "accuracy"): accuracy[:, i], (kind, "f1_macro"): means[kind]}
    for i, name in enumerate(pair.labels.names):
        found |= {(name, metric): value[:, i] for metric, value in zip(OF_LABEL, per_label, strict=True)}
    return found


def compare(pair: Pair) -> list[dict[str, Any]]:
    """Return a row for each figure: both runs', the difference with a 90 % interval, how likely B is better.

    Both runs are drawn the same groups; equal figures count half for B. `support` is the photos of a figure,
    for a label its positives. With positives in a single group there is no interval.
    """
    draws = group_weights(np.arange(pair.groups.max() + 1), RESAMPLES, SEED)
    weights = np.vstack([np.ones_like(draws[:1]), draws])
    a, b = (figures(pair, sums, weights) for sums in group_sums(pair))
    kind_of = {label: kind for kind, names in pair.labels.kinds.items() for label in names}
    rows = []
    for (subject, metric), values in a.items():
        photos = pair.known[:, [*pair.labels.kinds].index(subject)] if subject in pair.labels.kinds else ...
        label = subject if metric in OF_LABEL else ""
        photos = pair.truth[:, pair.labels.position(label)] if label else photos
        groups, gain = pair.groups[photos], b[subject, metric] - values
        row = {"kind": kind_of[label] if label else subject, "label": label, "metric": metric}
        row |= {"support": len(groups), "groups": len(np.unique(groups))}
        if np.isfinite(gain[0]):
            row |= {"a": values[0], "b": b[subject, metric][0], "difference": gain[0]}
            drawn = gain[1:][np.isfinite(gain[1:])]
            if row["groups"] > 1 and len(drawn):
                row["low"], row["high"] = np.quantile(drawn, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
                row["b_better"] = (drawn > 0).mean() + (drawn == 0).mean() / 2
        rows.append(row)
    return rows


def flips(pair: Pair) -> list[dict[str, str]]:
    """Return a row for each photo and kind whose decision changed, first those where A is right.

    `right` is the run with fewer wrong labels of the kind, `neither`, or empty where the truth is not known.
    """
    rows, wrong = [], pair.said != pair.truth
    for k, (kind, part) in enumerate(pair.labels.slices.items()):
        for i in np.flatnonzero((pair.said[0] != pair.said[1])[:, part].any(1)):
            one, two = wrong[:, i, part].sum(1)
            right = ("neither" if one == two else "A" if one < two else "B") if pair.known[i, k] else ""
            truth = ";".join(np.array(pair.labels.kinds[kind])[pair.truth[i, part]])
            row = {"path": pair.rows[1][i]["path"], "kind": kind, "truth": truth}
            for run, table in zip("ab", pair.rows, strict=True):
                label, confidence = _columns(pair.task, kind)
                row |= {run: table[i][label], f"{run}_confidence": table[i].get(confidence)}
            rows.append(row | {"right": right})
    return sorted(rows, key=lambda row: ["A", "neither", "B", ""].index(row["right"]))


def write_tables(folder: Path, *tables: list[dict]) -> None:
    """Write the files of `FILES`; a cell without a value is empty."""
    for (name, columns), rows in zip(FILES.items(), tables, strict=False):
        write_csv(folder / name, pd.DataFrame(rows, columns=columns.split()))


def summary_text(pair: Pair, rows: Sequence[dict], flipped: Sequence[dict]) -> str:
    """Return the figures of the whole set, and of the labels whose F1 changed most, as lines."""
    right = Counter(row["right"] for row in flipped)
    photos = f"{len(pair.truth):,} test {pair.noun}s in {pair.groups.max() + 1:,} groups"
    lines = [f"{photos}; {len(flipped):,} decisions changed: A right in {right['A']:,}, B in {right['B']:,}"]
    changed = [row for row in rows if row["metric"] == "f1" and row.get("difference")]
    changed.sort(key=lambda row: -abs(row["difference"]))
    table = pd.DataFrame([row for row in rows if not row["label"]] + changed[:SHOWN]).dropna(subset="a")
    names = table.pop("kind") + " " + table.pop("label") + " " + table.pop("metric")
    table.index = names.str.split().str.join(" ")
    lines += [f"note   {note}" for note in pair.notes] + [table.to_string(float_format="%.4f", na_rep="")]
    return "\n".join(lines + [f"... and {len(changed) - SHOWN} more labels"] * (len(changed) > SHOWN))
