"""The files of an evaluation: figures with intervals, tables per label and of errors, pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src.analysis import figures as fig
from src.analysis.drawing import save
from src.analysis.evaluation import mistakes
from src.analysis.evaluation.measures import Evaluation
from src.analysis.evaluation.scored import Scored, co_predictions, confusion_matrices, label_outcomes
from src.analysis.explore.photo_figures import thumbnail_grid_figure
from src.analysis.pages import make_output, thumbnail
from src.errors import listed
from src.files import write_csv, write_json, write_whole

FOLDER = "evaluation"  # of a run
FIGURES, LABELS, REPORT = "evaluation.json", "per_label.csv", "classification_report.json"
CONFUSIONS, TOGETHER = "confusion_matrix", "co_prediction"
HISTOGRAM, PAIRS = "confidence_histogram.png", "confused_pairs.csv"
NOISY, WORST = "suspected_noisy_labels.csv", "worst_errors"  # an evaluation may go without them
TELLING, WORDS = "telling_words.csv", "words.csv"  # of texts
FILES = (FIGURES, LABELS, *(f"{CONFUSIONS}.{end}" for end in ("png", "csv", "txt")), REPORT, PAIRS,
         *(f"{TOGETHER}.{end}" for end in ("csv", "png")), HISTOGRAM, NOISY, TELLING,
         *(f"{name}.{end}" for name in (*mistakes.TABLES, WORST) for end in ("csv", "png")))  # fmt: skip
SHOWN = 20  # errors in a grid


def check_folder(folder: Path, photos: Path | None) -> None:
    """Make the output folder; files of an earlier evaluation are written over, no others: `make_output`."""
    make_output(folder, [photos] if photos else [], () if (folder / FIGURES).is_file() else FILES)


def write_extras(
    folder: Path,
    noisy: pd.DataFrame | None,
    worst: tuple[pd.DataFrame, Figure] | None,
    telling: pd.DataFrame | None = None,
) -> list[str]:
    """Write labels that may be wrong, and the worst errors with their figure; return lines for the console.

    Of texts, `telling` has the words behind the worst errors. What this evaluation is without is removed: it
    would be of an earlier one.
    """
    for name in (NOISY, f"{WORST}.csv", f"{WORST}.png", TELLING):
        (folder / name).unlink(missing_ok=True)
    lines = [f"no {NOISY}: it takes a run with held-out scores"]
    if noisy is not None:
        write_csv(folder / NOISY, noisy)
        lines = [f"labels that may be wrong among those the run held out: {len(noisy)}, in {NOISY}"]
    if worst is not None:
        write_csv(folder / f"{WORST}.csv", worst[0])
        save(worst[1], folder / f"{WORST}.png")
        drops = worst[0][["faithfulness_drop", "random_drop"]].mean().dropna()
        words = "a score falls by {:.3f} if the highlighted 20 % are blurred, by {:.3f} if others are"
        lines.append(words.format(*drops) if len(drops) else "no error to explain")
    if telling is not None:
        write_csv(folder / TELLING, telling)
        lines.append(f"the words behind {len(telling)} wrong labels: {TELLING}")
    return lines


def write_tables(found: Evaluation, folder: Path) -> None:
    """Write the figures as JSON, and the tables per label, of confusions and of errors."""
    scored, names = found.scored, list(found.scored.labels.names)
    content = {**found.about, "figures": found.figures, "labels_without_positives": found.without_positives}
    write_json(folder / FIGURES, content)  # first, for it marks the folder as ours
    write_csv(folder / LABELS, found.per_label)
    mistakes.write_errors(found.mistakes, folder)
    if scored.multilabel:
        table = pd.DataFrame(co_predictions(scored), names, names)
        write_csv(folder / f"{TOGETHER}.csv", table.reset_index(names="true_label", allow_duplicates=True))
        return
    own = {kind: list(labels) for kind, labels in scored.labels.kinds.items()}
    tables = {k: pd.DataFrame(counts, own[k], own[k]) for k, counts in confusion_matrices(scored).items()}
    rows = pd.concat(tables, names=["kind", "true_label"])[names].astype("Int64")  # empty in other kinds
    write_csv(folder / f"{CONFUSIONS}.csv", rows.reset_index(allow_duplicates=True))
    tabs = {"sep": "\t", "index_label": "true\\pred", "lineterminator": "\n"}
    text = "\n".join(table.to_csv(**tabs) for table in tables.values())
    write_whole(folder / f"{CONFUSIONS}.txt", text.encode())
    write_csv(folder / PAIRS, confused_pairs(scored))
    write_json(folder / REPORT, classification_report(found))


def write_pictures(
    found: Evaluation, folder: Path, root: Path | None = None, sample_bits: int | None = None
) -> None:
    """Write the figures and, with the photos' `root`, grids of the worst errors."""
    scored = found.scored
    save(confusion_figure(scored), folder / f"{CONFUSIONS}.png")
    parts = scored.decided & scored.truth, scored.decided & ~scored.truth
    slices = scored.labels.slices.items()
    chosen = {kind: [scored.scores[:, own][part[:, own]] for part in parts] for kind, own in slices}
    save(fig.confidence_figure(chosen), folder / HISTOGRAM)
    if scored.multilabel:
        together = fig.co_prediction_figure(co_predictions(scored), scored.labels.names)
        save(together, folder / f"{TOGETHER}.png")
    for name, rows in mistakes.error_rows(found.mistakes).items() if root else ():
        save(_grid(rows[:SHOWN], root, sample_bits), folder / f"{name}.png")


def _grid(rows: Sequence[mistakes.Row], root: Path, sample_bits: int | None) -> Figure:
    words = [f"{true or 'nothing'}, said {said or 'nothing'} {sure:.2f}" for _, true, said, sure, _ in rows]
    shown = [thumbnail(root, row[0], sample_bits=sample_bits) for row in rows]
    empty = f"no photo to show: {shown[-1][1]}" if shown else "no error"
    return thumbnail_grid_figure(list(zip(shown, words, strict=True)), empty)


def confusion_figure(scored: Scored) -> Figure:
    """Return the confusion matrix of each head, or the outcomes of each label."""
    if scored.multilabel:
        return fig.label_outcomes_figure(label_outcomes(scored))
    return fig.confusion_matrix_figure(confusion_matrices(scored), scored.labels.as_dict())


def confused_pairs(scored: Scored) -> pd.DataFrame:
    """Return the pairs of labels that heads confuse, most photos first; `share` is of the true label's."""
    rows = []
    for kind, matrix in confusion_matrices(scored).items():
        names, total = scored.labels.kinds[kind], matrix.sum(1)
        for i, j in np.argwhere(matrix - np.diag(np.diag(matrix))).tolist():
            rows.append((kind, names[i], names[j], matrix[i, j], matrix[i, j] / total[i]))
    rows.sort(key=lambda row: (-row[3], -row[4], row[1:3]))
    return pd.DataFrame(rows, columns=["kind", "true_label", "predicted_label", "photos", "share"])


def classification_report(found: Evaluation) -> dict[str, Any]:
    """Return scikit-learn's report of heads: precision, recall, F1, support; of several kinds, one for each.

    Means are over the labels with photos, as everywhere here; a label without photos has empty figures.
    """
    reports, names = {}, {"precision": "precision", "recall": "recall", "f1-score": "f1"}
    for kind, table in found.per_label.groupby("kind", sort=False):
        held, report = table[table["support"] > 0], {}
        for row in table.to_dict("records"):
            figures = {name: row[own] if row["support"] else None for name, own in names.items()}
            report[row["label"]] = figures | {"support": row["support"]}
        report["accuracy"] = found.figures[kind]["accuracy"]["value"]
        for name, weights in (("macro avg", np.ones(len(held))), ("weighted avg", held["support"])):
            means = [held[own] * weights for own in names.values()]
            figures = [float(mean.sum() / weights.sum()) if len(held) else None for mean in means]
            report[name] = dict(zip(names, figures, strict=True)) | {"support": int(held["support"].sum())}
        reports[kind] = report
    return reports if len(reports) > 1 else next(iter(reports.values()))


def summary_lines(found: Evaluation, noun: str = "photo") -> list[str]:
    """Return the figures with their intervals, for the console."""
    about, lines = found.about, []
    for kind in ("", *(kind for kind in found.figures if kind in found.scored.labels.kinds)):
        for name, figure in (found.figures[kind] if kind else found.figures).items():
            if figure.get("value") is not None:
                between = "" if figure["low"] is None else f" ({figure['low']:.4f} to {figure['high']:.4f})"
                lines.append(f"{f'{kind} {name}'.strip():24}{figure['value']:.4f}{between}")
    if none := found.without_positives:
        lines.append(f"not evaluated, no {noun} carries them: {listed(none, 20)}")
    level = f"in brackets: {about['level']:.0%} of {about['resamples']} resamples by group"
    level = level if about["groups"] > 1 else "no intervals: all are of one group"
    return [f"{about['photos']:,} {noun}s in {about['groups']:,} groups; {level}", *lines]
