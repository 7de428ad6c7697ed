"""Figures of a run: plain data in, a matplotlib `Figure` out.

No pyplot, so figures do not leak. Names that people chose (labels, IDs) are never read as mathematics: a `$`
in a label stays a `$`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from src.analysis import drawing as draw
from src.analysis.drawing import BAR_LABEL, BLUE, GREEN, GREY, INK, MUTED, NOTE, ORANGE, RED, SMALL

SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
BLUES = LinearSegmentedColormap.from_list("blues", ["#f7f9fb", "#a9cbe6", "#3b8bc4", "#0b4f86", "#062f52"])
GREYS = LinearSegmentedColormap.from_list("greys", ["#f7f9fb", "#c5ccd4"])
ORANGES = LinearSegmentedColormap.from_list("oranges", ["#fdf8f3", "#f3bf8b", "#d55e00", "#8f3f00"])
CELLS = 40  # labels of a confusion matrix
FEW = 5  # below this many photos a score of a label says little


def confusion_matrix_figure(
    matrices: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[str]]
) -> Figure:
    """Draw one confusion matrix per kind: counts in the cells, colours normalised by row.

    Each matrix is `[labels, labels]` in the order of `labels`; rows are truth, columns predictions. Of many
    labels those that are most often taken for one another are drawn.
    """
    shown = {kind: _most_confused(np.asarray(matrix)) for kind, matrix in matrices.items()}
    widths, heights = zip(
        *(_matrix_size([labels[kind][i] for i in rows]) for kind, rows in shown.items()), strict=True
    )
    if sum(widths) <= 13:  # inches: the panels fit side by side
        figure = draw.new_figure(sum(widths), max(heights))
        grid = figure.add_gridspec(1, len(widths), width_ratios=widths)
    else:
        figure = draw.new_figure(max(widths), sum(heights))
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    for cell, (kind, matrix) in zip(grid, matrices.items(), strict=True):
        _confusion_panel(figure.add_subplot(cell), kind, np.asarray(matrix), labels[kind], shown[kind])
    return figure


def _most_confused(matrix: np.ndarray) -> list[int]:
    """Return the rows to draw: all, or the `CELLS` labels in the cells with the most errors."""
    if len(matrix) <= CELLS:
        return list(range(len(matrix)))
    errors = matrix - np.diag(np.diag(matrix))
    cells = np.argsort(-errors, axis=None, kind="stable")[: CELLS**2]
    pairs = np.stack(np.unravel_index(cells, errors.shape), 1)
    return sorted(list(dict.fromkeys(pairs.ravel().tolist()))[:CELLS])


def _matrix_size(names: Sequence[str]) -> tuple[float, float]:
    """Return width and height in inches of a confusion panel with square cells."""
    cells = max(len(names) * (0.62 if len(names) <= 8 else 0.42), 1.8)
    return cells + draw.text_width(names) + 1.6, cells + draw.text_width(names) * 0.8 + 0.9


def _confusion_panel(
    axes: Axes, kind: str, matrix: np.ndarray, labels: Sequence[str], rows: list[int]
) -> None:
    """Draw some rows and columns of one kind's confusion matrix; shares are of all photos."""
    right = f"{np.trace(matrix) / matrix.sum():.1%} right" if matrix.any() else "no photos"
    few = f"; the {len(rows)} most confused of {len(labels):,} labels" if len(rows) < len(labels) else ""
    draw.set_title(axes, f"{kind}: {right}{few}")
    names, total = [labels[i] for i in rows], matrix.sum(axis=1)[rows]
    matrix = matrix[np.ix_(rows, rows)]
    draw.draw_cells(axes, matrix, BLUES(_share(matrix, total[:, None])))
    axes.set_aspect("equal")
    draw.name_axis(
        axes, "y", names, [f"{draw.short(name)}  ({n:,})" for name, n in zip(names, total, strict=True)]
    )
    draw.name_axis(axes, "x", names)
    axes.set_ylabel("truth (counts)", **SMALL)
    axes.set_xlabel("prediction", **SMALL)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)


def label_outcomes_figure(counts: Mapping[str, tuple[int, int, int, int]]) -> Figure:
    """Draw the outcomes of each label, the counterpart of a confusion matrix where a photo has many labels.

    The counts are true positives, false negatives, false positives and true negatives.
    """
    names, most, title = list(counts), draw.FIRST + draw.LAST, "Outcomes per label (how many have it)"
    if len(names) > most:
        title = f"Outcomes: the {most} of {len(names):,} labels with the most errors"
        worst = set(sorted(names, key=lambda name: -sum(counts[name][1:3]))[:most])
        names = [name for name in names if name in worst]
    table = np.array([counts[name] for name in names], dtype=np.int64).reshape(-1, 4)
    tp, fn, fp, tn = table.T
    parts = ((BLUES, tp, tp + fn), (ORANGES, fn, tp + fn), (ORANGES, fp, tp + fp), (GREYS, tn, fp + tn))
    colours = np.stack([palette(_share(part, whole)) for palette, part, whole in parts], axis=1)
    height = 1.3 + 0.32 * max(len(names), 1)
    figure, axes = draw.titled_panel(title, draw.text_width(names) + 5.4, height)
    draw.draw_cells(axes, table, colours)
    shown = [f"{draw.short(name)}  ({n})" for name, n in zip(names, tp + fn, strict=True)]
    draw.name_axis(axes, "y", names, shown)
    axes.set_xticks(range(4), ["hit", "missed", "false alarm", "correct\nrejection"], fontsize=9, color=INK)
    axes.xaxis.tick_top()
    axes.set_xlabel(
        "shade: hit, missed = share of those with the label; false alarm = share of the alarms", **NOTE
    )
    return figure


def co_prediction_figure(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw the photos `[labels, labels]` with each pair of a true label (row) and a predicted one.

    The shade is relative to the largest count of the row. Of many labels those with the largest counts off
    the diagonal are drawn.
    """
    rows = _most_confused(counts)
    few = f": {len(rows)} of {len(names):,} labels" if len(rows) < len(names) else ""
    shown = [names[i] for i in rows]
    figure, axes = draw.titled_panel(f"Predicted with each true label{few}", *_matrix_size(shown))
    part = counts[np.ix_(rows, rows)]
    draw.draw_cells(axes, part, BLUES(_share(part, counts.max(1)[rows, None])))
    axes.set_aspect("equal")
    for side in "yx":
        draw.name_axis(axes, side, shown)
    axes.set_ylabel("true label", **SMALL)
    axes.set_xlabel("predicted label; shade: share of the row's largest count", **SMALL)
    return figure


def confidence_figure(scores: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Draw the confidence of predicted labels, `{kind: (right, wrong)}`."""
    figure = draw.new_figure(4.6 * len(scores), 3.4)
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (kind, (right, wrong)) in zip(panels, scores.items(), strict=True):
        draw.plain_axes(axes, "y")
        look = {"color": [BLUE, ORANGE], "label": [f"right ({len(right):,})", f"wrong ({len(wrong):,})"]}
        axes.hist([right, wrong], np.linspace(0, 1, 21), stacked=True, **look)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        draw.set_title(axes, f"{kind}: confidence of predicted labels")
        axes.set_xlabel("confidence", **NOTE)
        axes.set_ylabel("labels", **SMALL)
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure


def reliability_figure(points: pd.DataFrame, parts: Sequence[str]) -> Figure:
    """Draw how often labels were right over their confidence, a panel for each of `parts`.

    Columns: `stage` (before, after), `label`, `score`, `share`.
    """
    figure = draw.new_figure(4.4 * len(parts), 4.2)
    for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        draw.plain_axes(axes, "both")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as the confidence says")
        for stage, colour in (("before", ORANGE), ("after", BLUE)):
            rows = points[(points["label"] == part) & (points["stage"] == stage)]
            look = {"marker": "o", "markersize": 3.5, "linewidth": 1.6, "label": f"{stage} calibration"}
            axes.plot(rows["score"], rows["share"], color=colour, **look)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        draw.set_title(axes, f"Reliability: {part}")
        axes.set_xlabel("confidence; as many at each point", **NOTE)
        axes.set_ylabel("share that was right", **SMALL)
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure


def workload_figure(points: pd.DataFrame) -> Figure:
    """Draw what is missed over what a person looks at: columns `miss`, `reviewed`, `missed`, `promise`."""
    figure, axes = draw.titled_panel("What a person looks at, and what is missed", 6.5, 3.8, "both")
    filled = np.where(points["promise"], BLUE, "white")
    axes.scatter(points["reviewed"], points["missed"], 30, filled, edgecolors=BLUE, zorder=3)
    for (x, y), rates in points.groupby(["reviewed", "missed"])["miss"]:
        text = f"{rates.min():.0%}" if len(rates) == 1 else f"{rates.min():.0%} to {rates.max():.0%}"
        axes.annotate(text, (x, y), xytext=(5, 5), textcoords="offset points", **SMALL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    most = 1.2 * points["missed"].max()
    axes.set(xlim=(-0.02, 1.08), ylim=(-most / 30, most) if most > 0 else (-0.01, 0.2))
    axes.set_xlabel("sent to a person; at the points: the rate of misses that was asked for", **NOTE)
    axes.set_ylabel("labels missed all the same", **SMALL)
    return figure


def learning_rate_figure(table: pd.DataFrame, suggestion: float) -> Figure:
    """Draw the loss of each batch over its learning rate: columns `lr`, `loss` and `smooth`."""
    figure = draw.new_figure(6, 3.8)
    axes = figure.subplots()
    draw.plain_axes(axes, "y")
    axes.plot(table["lr"], table["loss"], color=GREY, linewidth=1, label="batch")
    axes.plot(table["lr"], table["smooth"], color=BLUE, linewidth=1.8, label="running mean")
    axes.axvline(suggestion, color=RED, linewidth=1.2, linestyle="--", label=f"model.lr={suggestion:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.1 * table["smooth"].head(20).max())
    draw.set_title(axes, "Loss over the learning rate")
    axes.set_xlabel("learning rate of the heads", **NOTE)
    axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", labelcolor=INK)
    return figure


def cost_figure(table: pd.DataFrame) -> Figure:
    """Draw a figure of models over the time of a photo: columns of `compare_backbones.py`."""
    table = table[table["latency_ms"].notna()] if "latency_ms" in table else table.iloc[:0]
    if not len(table):
        return draw.empty_figure("no training was finished")
    score = "test_f1" if table["test_f1"].notna().any() else "val_f1"
    figure, axes = draw.titled_panel(f"{score.replace('_', ' ')} and time; area: size of the weights", 7, 4.5)
    axes.grid(color=draw.FAINT, linewidth=0.7)
    for (method, rows), colour in zip(table.groupby("method", sort=False), (BLUE, ORANGE), strict=False):
        sizes = 20 + 4 * rows["size_mb"]
        axes.scatter(rows["latency_ms"], rows[score], s=sizes, color=colour, alpha=0.75, label=method)
        for name, x, y in zip(rows["backbone"], rows["latency_ms"], rows[score], strict=True):
            place = {"xytext": (6, 4), "textcoords": "offset points", "parse_math": False}
            axes.annotate(draw.short(name), (x, y), fontsize=8, color=INK, **place)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(0.15)
    axes.set_xlabel("ms of a photo, on one thread of a CPU", **NOTE)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, markerscale=0.7)
    return figure


def loss_curve_figure(history: pd.DataFrame, best_epoch: int) -> Figure:
    """Draw the loss (left) and F1 and accuracy (right) of each epoch, train and val.

    Columns of `history.csv` that are missing or empty are left out. The loss has a logarithmic axis where its
    highest value is more than ten times the median.
    """
    figure = draw.new_figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    columns = set(history.columns[history.notna().any()])
    lines = (left, "loss", "", "-"), (right, "f1", " F1", "-"), (right, "accuracy", " accuracy", ":")
    for axes, score, name, style in lines:
        for split, colour in (("train", BLUE), ("val", RED)):
            if (column := f"{split}_{score}") in columns:
                rows = history[history[column].notna()]
                shape = {"marker": "o" if len(rows) <= 30 else None, "markersize": 3.5, "linewidth": 1.8}
                axes.plot(rows["epoch"], rows[column], style, color=colour, label=f"{split}{name}", **shape)
    for axes, title in ((left, "Loss"), (right, "F1 and accuracy")):
        draw.plain_axes(axes, "y")
        draw.set_title(axes, title)
        axes.set_xlabel("epoch", **NOTE)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", color=MUTED)
            continue
        look = {"color": GREY, "linewidth": 1.2, "linestyle": "--"}
        axes.axvline(best_epoch, label=f"best epoch ({best_epoch})", **look)
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", labelcolor=INK)
    losses = history.filter(regex="^(train|val)_loss$").to_numpy(float)
    losses = losses[np.isfinite(losses)]
    if len(losses) and losses.min() > 0 and losses.max() > 10 * np.median(losses):
        _logarithmic(left)
    if right.lines:
        right.set_ylim(-0.02, 1.02)
    return figure


def _logarithmic(axes: Axes) -> None:
    """Give the losses a logarithmic axis: a few are so high that the others could not be told apart."""
    axes.set_yscale("log")
    low, high = np.log10(axes.get_ylim())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 4 else (1,), numticks=8))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    draw.set_title(axes, "Loss (logarithmic)")


def class_distribution_figure(counts: pd.DataFrame) -> Figure:
    """Draw the number of photos of each label in each split, the commonest label of each kind first.

    `counts` is indexed by label, with `kind` and a column per split that exists.
    """
    splits = [column for column in counts.columns if column != "kind"]
    total = counts[splits].sum(axis=1)
    order = total.sort_values(ascending=False, kind="stable").index
    rows = dict(zip(order, counts.loc[order, splits].to_numpy(), strict=True))
    kinds = draw.ends_of_kinds(
        {kind: {name: rows[name] for name in order if counts.at[name, "kind"] == kind}
         for kind in counts["kind"].unique()}
    )  # fmt: skip
    if not kinds:
        return draw.new_figure(6.5, 1.5)
    figure, panels = draw.kind_panels(kinds, 6.5, 0.27)
    most = max(1, total.max())
    for axes, rows in zip(panels, kinds.values(), strict=True):
        table = np.array(list(rows.values()))
        start = table.cumsum(axis=1) - table
        for split, width, left in zip(splits, table.T, start.T, strict=True):
            colour = SPLIT_COLOURS[split]
            axes.barh(range(len(rows)), width, left=left, height=0.72, color=colour, label=split)
        for i, parts in enumerate(table):
            axes.text(parts.sum() + most * 0.01, i, " · ".join(f"{n:,}" for n in parts), **BAR_LABEL)
        axes.set_xlim(0, most * 1.22)
    place = {"ncols": len(splits), "loc": "lower right", "bbox_to_anchor": (1, 1)}
    panels[0].legend(fontsize=8, frameon=False, labelcolor=INK, **place)
    panels[-1].set_xlabel(f"counts; at the bars: {' · '.join(splits)}", **NOTE)
    return figure


def label_f1_figure(per_class: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draw F1 per label, best first, with the number of photos behind it; pale where these are fewer than 5.

    `per_class` is `{label: {"f1": ..., "support": ...}}`; without photos a label reads "not evaluated".
    """
    rows = [(name, row["f1"] if row["support"] else None, row["support"]) for name, row in per_class.items()]
    rows.sort(key=lambda row: (row[1] is None, -(row[1] or 0)))
    if len(rows) > draw.FIRST + draw.LAST:  # without those that would be all of the worst
        rows = [row for row in rows if row[1] is not None] or rows
    title, rows = draw.ends("F1 per label", rows, "best", "worst")
    names = [row[0] for row in rows]
    size = draw.text_width(names) + 5.6, 1.1 + 0.28 * max(len(rows), 1)
    figure, axes = draw.titled_panel(title, *size, "x")
    for i, (_, f1, support) in enumerate(rows):
        if f1 is None:
            axes.text(0.01, i, "not evaluated: none", style="italic", **BAR_LABEL)
            continue
        axes.barh(i, f1, height=0.72, color="#b9d3e6" if support < FEW else BLUE)
        axes.text(f1 + 0.01, i, f"{f1:.2f}   n = {support:,}", **BAR_LABEL)
    axes.set(xlim=(0, 1.22), ylim=(max(len(rows), 1) - 0.4, -0.6), xticks=np.arange(0, 1.01, 0.2))
    draw.name_axis(axes, "y", names)
    axes.set_xlabel(f"F1; pale: fewer than {FEW} of the label", **NOTE)
    return figure


def sample_grid_figure(
    images: np.ndarray, truth: Sequence[str], predicted: Sequence[str], right: Sequence[bool]
) -> Figure:
    """Draw photos, uint8 `[N, H, W, 3]`, with predicted and true labels, framed green (right) or red."""
    figure, panels = draw.photo_panels(len(images), min(4, max(len(images), 1)), 2.9, 3.5)
    words = {"fontsize": 9, "loc": "left", "parse_math": False}
    for axes, image, true, labels, good in zip(panels, images, truth, predicted, right, strict=False):
        axes.set_axis_on()
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        colour, mark = (GREEN, "✓") if good else (RED, "✗")
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=3.5)
        axes.set_title(draw.wrapped(f"{mark} {labels or 'nothing'}"), color=colour, **words)
        if not good:
            axes.set_xlabel(draw.wrapped(f"true: {true or 'nothing'}"), color=INK, **words)
    return figure
