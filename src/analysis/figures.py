"""Figures of a run: plain data in, a matplotlib `Figure` out.

No pyplot, so figures do not leak. Names that people chose (labels, IDs) are never read as mathematics: a `$`
in a label stays a `$`.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from src.analysis.drawing import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    MUTED,
    NOTE,
    ORANGE,
    RED,
    grid_of_cells,
    name_axis,
    new_figure,
    plain_axes,
    set_title,
    short,
    text_width,
    wrapped,
    write_cells,
)

SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
BLUES = LinearSegmentedColormap.from_list("blues", ["#f7f9fb", "#a9cbe6", "#3b8bc4", "#0b4f86", "#062f52"])
GREYS = LinearSegmentedColormap.from_list("greys", ["#f7f9fb", "#c5ccd4"])
ORANGES = LinearSegmentedColormap.from_list("oranges", ["#fdf8f3", "#f3bf8b", "#d55e00", "#8f3f00"])
FEW = 5  # below this many photos a score of a label says little


def confusion_matrix_figure(
    matrices: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[str]]
) -> Figure:
    """Draw one confusion matrix per kind: counts in the cells, colours normalised by row.

    Args:
        matrices: `{kind: counts}`, each of shape `[labels, labels]`; rows are truth, columns predictions.
        labels: `{kind: names}` in the order of the matrix.
    """
    sizes = {kind: _matrix_size(labels[kind]) for kind in matrices}
    side_by_side = sum(width for width, _ in sizes.values()) <= 13
    if side_by_side:
        figure = new_figure(sum(w for w, _ in sizes.values()), max(h for _, h in sizes.values()))
        grid = figure.add_gridspec(1, len(sizes), width_ratios=[w for w, _ in sizes.values()])
    else:
        figure = new_figure(max(w for w, _ in sizes.values()), sum(h for _, h in sizes.values()))
        grid = figure.add_gridspec(len(sizes), 1, height_ratios=[h for _, h in sizes.values()])
    for cell, (kind, matrix) in zip(grid, matrices.items(), strict=True):
        _confusion_panel(figure.add_subplot(cell), kind, np.asarray(matrix), list(labels[kind]))
    return figure


def label_outcomes_figure(counts: Mapping[str, tuple[int, int, int, int]]) -> Figure:
    """Draw what became of each label, the counterpart of a confusion matrix where a photo has many labels.

    Args:
        counts: `{label: (hit, missed, false alarm, correct rejection)}`, that is true positives, false
            negatives, false positives and true negatives.
    """
    names = list(counts)
    table = np.array([counts[name] for name in names], dtype=np.int64).reshape(-1, 4)
    tp, fn, fp, tn = table.T
    shares = np.stack(
        [_share(tp, tp + fn), _share(fn, tp + fn), _share(fp, tp + fp), _share(tn, fp + tn)], axis=1
    )
    figure = new_figure(text_width(names) + 5.4, 1.3 + 0.32 * max(len(names), 1))
    axes = figure.add_subplot()
    colours = np.stack(
        [palette(shares[:, i]) for i, palette in enumerate((BLUES, ORANGES, ORANGES, GREYS))], axis=1
    )
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    write_cells(axes, table, colours)
    grid_of_cells(axes, table.shape)
    name_axis(axes, "y", names, [f"{short(name)}  ({n})" for name, n in zip(names, tp + fn, strict=True)])
    axes.set_xticks(range(4), ["hit", "missed", "false alarm", "correct\nrejection"], fontsize=9, color=INK)
    axes.xaxis.tick_top()
    axes.set_xlabel(
        "shade: hit, missed = share of the photos with the label; false alarm = share of the alarms", **NOTE
    )
    set_title(axes, "Outcomes per label (photos with it)")
    return figure


def loss_curve_figure(history: pd.DataFrame, best_epoch: int | None = None) -> Figure:
    """Draw the loss (left) and F1 and accuracy (right) of each epoch, train and val.

    Args:
        history: the columns of `history.csv`; one that is missing or empty is left out.
        best_epoch: the epoch to mark; by default the one with the lowest `val_loss`.

    The loss has a logarithmic axis where its highest value is more than ten times the median.
    """
    figure = new_figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    if best_epoch is None and "val_loss" in history and history["val_loss"].notna().any():
        best_epoch = int(history.loc[history["val_loss"].idxmin(), "epoch"])
    lines = (
        (left, "train_loss", "train", BLUE, "-"),
        (left, "val_loss", "val", RED, "-"),
        (right, "train_f1", "train F1", BLUE, "-"),
        (right, "val_f1", "val F1", RED, "-"),
        (right, "train_accuracy", "train accuracy", BLUE, ":"),
        (right, "val_accuracy", "val accuracy", RED, ":"),
    )
    for axes, column, name, colour, style in lines:
        if column in history and history[column].notna().any():
            rows = history[history[column].notna()]
            marker = "o" if len(rows) <= 30 else None
            axes.plot(
                rows["epoch"],
                rows[column],
                style,
                color=colour,
                label=name,
                marker=marker,
                markersize=3.5,
                linewidth=1.8,
            )
    for axes, title in ((left, "Loss"), (right, "F1 and accuracy")):
        plain_axes(axes)
        set_title(axes, title)
        axes.set_xlabel("epoch", **NOTE)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
        if axes is left and _wide(history):
            axes.set_yscale("log")
            low, high = np.log10(axes.get_ylim())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 4 else (1,), numticks=8))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
            set_title(axes, "Loss (logarithmic)")
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", color=MUTED)
            continue
        if best_epoch is not None:
            axes.axvline(
                best_epoch, color=GREY, linewidth=1.2, linestyle="--", label=f"best epoch ({best_epoch})"
            )
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", labelcolor=INK)
    if right.lines:
        right.set_ylim(-0.02, 1.02)
    return figure


def _wide(history: pd.DataFrame) -> bool:
    """Whether a few losses are so high that the others could not be told apart beside them."""
    columns = [name for name in ("train_loss", "val_loss") if name in history]
    losses = history[columns].to_numpy(float).ravel()
    losses = losses[np.isfinite(losses)]
    return bool(len(losses)) and losses.min() > 0 and losses.max() > 10 * np.median(losses)


def class_distribution_figure(counts: pd.DataFrame) -> Figure:
    """Draw how many photos each label has in each split, the commonest label of each kind first.

    Args:
        counts: indexed by label; a column per split (`train`, `val`, `test`, those that exist) and `kind`.
    """
    splits = [column for column in counts.columns if column != "kind"]
    kinds = list(dict.fromkeys(counts["kind"])) if len(counts) else []
    figure = new_figure(
        text_width(counts.index) + 6.5, 0.9 + sum(0.6 + 0.27 * (counts["kind"] == k).sum() for k in kinds)
    )
    if not kinds:
        return figure
    heights = [1.5 + (counts["kind"] == kind).sum() for kind in kinds]
    panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    most = max(1, counts[splits].sum(axis=1).max())
    for axes, kind in zip(panels, kinds, strict=True):
        rows = counts[counts["kind"] == kind]
        rows = rows.loc[rows[splits].sum(axis=1).sort_values(ascending=False, kind="stable").index]
        start = np.zeros(len(rows))
        for split in splits:
            colour = SPLIT_COLOURS.get(split, GREY)
            axes.barh(range(len(rows)), rows[split], left=start, height=0.72, color=colour, label=split)
            start += rows[split].to_numpy()
        for i, (total, parts) in enumerate(zip(start, rows[splits].to_numpy(), strict=True)):
            axes.text(
                total + most * 0.01,
                i,
                " · ".join(f"{n:,}" for n in parts),
                va="center",
                fontsize=8,
                color=MUTED,
            )
        plain_axes(axes, "x")
        name_axis(axes, "y", list(rows.index))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, most * 1.22)
        set_title(axes, str(kind))
    panels[0].legend(
        fontsize=8, frameon=False, ncols=len(splits), loc="lower right", bbox_to_anchor=(1, 1), labelcolor=INK
    )
    panels[-1].set_xlabel(f"photos; at the bars: {' · '.join(splits)}", **NOTE)
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return figure


def label_f1_figure(per_class: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draw F1 per label, best first, with the number of photos behind it; pale where these are fewer than 5.

    Args:
        per_class: `{label: {"f1": ..., "support": ...}}`; without them it reads "not evaluated".
    """
    rows = [(name, _number(row.get("f1")), _number(row.get("support"))) for name, row in per_class.items()]
    rows = [(name, f1 if support != 0 else None, support) for name, f1, support in rows]
    rows.sort(key=lambda row: (row[1] is None, -(row[1] or 0)))
    figure = new_figure(text_width(per_class) + 5.6, 1.1 + 0.28 * max(len(rows), 1))
    axes = figure.add_subplot()
    for i, (_, f1, support) in enumerate(rows):
        if f1 is None:
            axes.text(
                0.01, i, "not evaluated: no photo", va="center", fontsize=8, color=MUTED, style="italic"
            )
            continue
        few = support is not None and support < FEW
        axes.barh(i, f1, height=0.72, color="#b9d3e6" if few else BLUE)
        count = "" if support is None else f"   n = {int(support):,}"
        axes.text(f1 + 0.01, i, f"{f1:.2f}{count}", va="center", fontsize=8, color=MUTED)
    plain_axes(axes, "x")
    axes.set_xlim(0, 1.22)
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    name_axis(axes, "y", [row[0] for row in rows])
    axes.set_xlabel(f"F1; pale: fewer than {FEW} photos", **NOTE)
    set_title(axes, "F1 per label")
    return figure


def sample_grid_figure(
    images: np.ndarray, truth: Sequence[str], predicted: Sequence[str], right: Sequence[bool]
) -> Figure:
    """Draw photos with what was predicted and what is true, framed green (right) or red (wrong).

    Args:
        images: uint8 of shape `[N, H, W, 3]`.
        truth: what is on each photo.
        predicted: what the model says.
        right: whether the two agree.
    """
    count = len(images)
    columns = min(4, max(count, 1))
    rows = max(1, math.ceil(count / columns))
    figure = new_figure(2.9 * columns, 3.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, image, true, said, good in zip(panels, images, truth, predicted, right, strict=False):
        axes.set_axis_on()
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        colour, mark = (GREEN, "✓") if good else (RED, "✗")
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=3.5)
        axes.set_title(
            wrapped(f"{mark} {said or 'nothing'}"), fontsize=9, color=colour, loc="left", parse_math=False
        )
        if not good:
            axes.set_xlabel(
                wrapped(f"true: {true or 'nothing'}"), fontsize=9, color=INK, loc="left", parse_math=False
            )
    return figure


def _matrix_size(names: Sequence[str]) -> tuple[float, float]:
    """Return width and height in inches of a confusion panel with square cells."""
    cells = max(len(names) * (0.62 if len(names) <= 8 else 0.42), 1.8)
    return cells + text_width(names) + 1.6, cells + text_width(names) * 0.8 + 0.9


def _confusion_panel(axes: Axes, kind: str, matrix: np.ndarray, names: list[str]) -> None:
    """Draw one kind's confusion matrix."""
    total = matrix.sum(axis=1)
    colours = BLUES(_share(matrix, total[:, None]))
    axes.imshow(colours, interpolation="nearest")
    write_cells(axes, matrix, colours)
    grid_of_cells(axes, matrix.shape)
    name_axis(axes, "y", names, [f"{short(name)}  ({n:,})" for name, n in zip(names, total, strict=True)])
    name_axis(axes, "x", names)
    axes.set_ylabel("truth (photos)", fontsize=8, color=MUTED)
    axes.set_xlabel("prediction", fontsize=8, color=MUTED)
    share = f": {np.trace(matrix) / total.sum():.1%} right" if total.sum() else ": no photos"
    set_title(axes, f"{kind}{share}")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)


def _number(value: float | None) -> float | None:
    """Return a finite number or None."""
    return float(value) if value is not None and math.isfinite(value) else None
