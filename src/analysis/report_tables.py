"""The tables of a report: how the photos were divided, the scores, each label."""

from collections.abc import Mapping

import pandas as pd

from src.analysis.markup import (
    NONE,
    Html,
    element,
    integer,
    is_number,
    join,
    number,
    percent,
    section,
    table,
    text,
)
from src.runs import RunFolder, crossing_groups, label_counts

FEW = 5  # below this many photos a score of a label says little
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
SCORES = {
    "loss": "loss",
    "exact_match": "exact match (every label of the photo right)",
    "accuracy": "accuracy",
    "hamming_loss": "Hamming loss (share of wrong decisions)",
    "f1_macro": "macro F1",
    "f1_macro_at_0.5": "macro F1 with every threshold at 0.5",
    "f1_micro": "micro F1",
    "f1_weighted": "weighted F1",
    "map": "mean average precision",
}


def splits_section(run: RunFolder) -> Html:
    """How the photos were divided."""
    if not run.splits:
        return Html("")
    total = sum(len(rows) for rows in run.splits.values())
    rows = []
    for split, photos in run.splits.items():
        groups = f"{photos['group'].nunique():,}" if "group" in photos else NONE
        rows.append((SPLIT_NAMES[split], integer(len(photos)), percent(len(photos), total), groups))
    parts = [table(("split", "photos", "share", "groups"), rows)]
    if all("group" in photos for photos in run.splits.values()):
        crossing = len(crossing_groups(run))
        said = f"Groups that lie in more than one split: {crossing or 'none'}."
        parts.append(element("p", said, css="muted small"))
    counts = label_counts(run)
    if len(counts) and not run.certificate:  # which has them
        rows = []
        for kind, labels in counts.groupby("kind", sort=False):
            rows.append((kind,))
            rows += [_count_row(run, label, row) for label, row in labels.iterrows()]
        shown = "Photos with each label; in brackets the share of the split's photos."
        parts += [element("p", shown, css="muted small")]
        parts += [table(("label", *(SPLIT_NAMES[split] for split in run.splits)), rows)]
    return section("The split", *parts)


def _count_row(run: RunFolder, label: str, row: pd.Series) -> tuple:
    """Return one label's photos in each split."""
    missing = [SPLIT_NAMES[split] for split in ("val", "test") if split in run.splits and row[split] == 0]
    said = f"cannot be evaluated: {' and '.join(missing)} without it"
    flag = element("span", said, css="flag") if missing else ""
    cells = (f"{row[split]:,} ({percent(row[split], len(rows))})" for split, rows in run.splits.items())
    return (join([label, flag]), *cells)


def scores_section(run: RunFolder) -> Html:
    """Validation against test."""
    splits = {split: run.metrics.get(split) for split in ("val", "test") if run.metrics.get(split)}
    if not splits:
        return Html("")
    rows = _score_rows(splits)
    kinds = dict.fromkeys(kind for scores in splits.values() for kind in kind_scores(scores))
    for kind in kinds:
        inner = _score_rows({split: kind_scores(scores).get(kind, {}) for split, scores in splits.items()})
        rows += [(kind,), *inner] if inner else []
    head = ["", *(SPLIT_NAMES[split] for split in splits)]
    head += ["test - validation"] if len(splits) == 2 else []
    said = (
        "The test photos took no part in training, in choosing the best epoch or in setting thresholds. "
        "Validation did, so it flatters: go by the test."
    )
    note = element("p", said, css="muted small") if "test" in splits else ""
    return section("Scores", note, table(head, rows))


def _score_rows(splits: Mapping[str, Mapping]) -> list[tuple]:
    """Return a row per score that a split has: its name, the value in each split and the difference."""
    present = dict.fromkeys(
        name for scores in splits.values() for name, value in scores.items() if is_number(value)
    )
    ordered = [name for name in SCORES if name in present] + [name for name in present if name not in SCORES]
    rows = []
    for name in ordered:
        values = [scores.get(name) for scores in splits.values()]
        cells = [number(value) for value in values]
        if len(values) == 2:
            cells.append(text(f"{values[1] - values[0]:+.3f}") if all(map(is_number, values)) else NONE)
        rows.append((SCORES.get(name, name), *cells))
    return rows


def kind_scores(scores: Mapping) -> dict[str, Mapping]:
    """Return the scores of each kind, in a task with heads."""
    return {name: part for name, part in scores.items() if isinstance(part, Mapping) and name != "per_class"}


def labels_section(run: RunFolder) -> Html:
    """The scores of each label."""
    split = "test" if run.metrics.get("test") else "val"
    kinds = _per_class(run, run.metrics.get(split) or {})
    if not any(kinds.values()):
        return Html("")
    other = _per_class(run, run.metrics.get("val") or {}) if split == "test" else {}
    also = {label: row for labels in other.values() for label, row in labels.items()}
    more = ("AP", "threshold") if run.task == "multilabel" else ()
    head = ("label", "photos", "precision", "recall", "F1", *more, *(("validation F1",) if also else ()))
    rows = []
    for kind, labels in kinds.items():
        rows += [(kind,)] if len(kinds) > 1 else []
        rows += [_label_row(run, label, row, also) for label, row in labels.items()]
    said = f"On the {SPLIT_NAMES[split]} photos."
    said += " AP is the average precision, which needs no threshold." if more else ""
    least = run.setting("callbacks.thresholds.min_positives")
    if more and isinstance(least, int) and least > 1:
        said += f" Labels with fewer than {least} validation photos keep the threshold 0.5."
    return section("Each label", element("p", said, css="muted small"), table(head, rows))


def _per_class(run: RunFolder, scores: Mapping) -> dict[str, dict[str, Mapping]]:
    """Return the scores of one split as `{kind: {label: scores}}`."""
    kinds = {kind: dict(part.get("per_class") or {}) for kind, part in kind_scores(scores).items()}
    rest = dict(scores.get("per_class") or {})
    for kind, labels in run.classes.items():
        kinds.setdefault(kind, {}).update({label: rest.pop(label) for label in labels if label in rest})
    kinds |= {"labels": rest} if rest else {}
    return {kind: labels for kind, labels in kinds.items() if labels}


def _label_row(run: RunFolder, label: str, row: Mapping, also: Mapping) -> tuple:
    """Return one label's scores; none where no photo carries it."""
    support = row.get("support")
    flag = ""
    if is_number(support) and support < FEW:
        flag = element("span", "few photos" if support else "cannot be evaluated", css="flag")
    known = row if support != 0 else {}
    cells = [integer(support), number(known.get("precision"), 2), number(known.get("recall"), 2)]
    f1 = known.get("f1")
    bar = ""
    if is_number(f1):
        width = min(max(f1, 0), 1) * 100
        bar = element("span", element("i", style=f"width:{width:.1f}%"), css="bar", aria_hidden="true")
    cells.append(join([bar, number(f1, 2)]))
    if run.task == "multilabel":
        cells += [number(known.get("ap"), 2), number(row.get("threshold", run.thresholds.get(label)), 2)]
    if also:
        before = also.get(label) or {}
        cells.append(number(before.get("f1") if before.get("support") != 0 else None, 2))
    return (join([label, flag]), *cells)
