"""The figures of an exploration: sizes, shapes and brightness of the photos, and grids of some of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.analysis.drawing import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    NOTE,
    ORANGE,
    name_axis,
    new_figure,
    plain_axes,
    set_title,
    text_width,
    wrapped,
)

COMMON_RATIOS = {"9:16": 9 / 16, "3:4": 3 / 4, "1:1": 1.0, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9}


def counts_figure(kinds: Mapping[str, Mapping[str, int]], few: int) -> Figure:
    """Draw how many photos carry each label, the commonest first.

    Args:
        kinds: `{kind: {label: photos}}`.
        few: labels of fewer photos are drawn in another colour.
    """
    names = [name for counts in kinds.values() for name in counts]
    figure = new_figure(text_width(names) + 6, 0.9 + sum(0.6 + 0.27 * len(c) for c in kinds.values()))
    heights = [1.5 + len(counts) for counts in kinds.values()]
    panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    most = max((count for counts in kinds.values() for count in counts.values()), default=1)
    for axes, (kind, counts) in zip(panels, kinds.items(), strict=True):
        colours = [ORANGE if count < few else BLUE for count in counts.values()]
        axes.barh(range(len(counts)), list(counts.values()), height=0.72, color=colours)
        for i, count in enumerate(counts.values()):
            axes.text(count + most * 0.01, i, f"{count:,}", va="center", fontsize=8, color=MUTED)
        plain_axes(axes, "x")
        name_axis(axes, "y", list(counts))
        axes.set_ylim(len(counts) - 0.4, -0.6)
        axes.set_xlim(0, most * 1.12)
        set_title(axes, kind)
    panels[-1].set_xlabel(f"photos; orange: fewer than {few}", **NOTE)
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return figure


def dimensions_figure(sizes: np.ndarray) -> Figure:
    """Draw the photos' widths and heights; the larger a dot, the more photos have that size.

    Args:
        sizes: pixels, int `[photos, 2]`, width and height.
    """
    figure = new_figure(5.4, 4.0)
    axes = figure.add_subplot()
    plain_axes(axes)
    set_title(axes, "Width and height")
    if not len(sizes):
        return _nothing(figure, axes)
    unique, counts = np.unique(sizes, axis=0, return_counts=True)
    area = 20 + 380 * counts / counts.max()
    axes.scatter(unique[:, 0], unique[:, 1], s=area, color=BLUE, alpha=0.45, linewidths=0)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    most = sizes.max() * 1.12
    axes.set(xlim=(0, most), ylim=(0, most), aspect="equal")
    axes.set_xlabel(f"width in pixels; {len(unique):,} different sizes", **NOTE)
    axes.set_ylabel("height in pixels", fontsize=8, color=MUTED)
    return figure


def aspect_ratios_figure(sizes: np.ndarray) -> Figure:
    """Draw how many photos have which ratio of width to height.

    Args:
        sizes: pixels, int `[photos, 2]`, width and height.
    """
    figure = new_figure(5.4, 4.0)
    axes = figure.add_subplot()
    plain_axes(axes, "y")
    set_title(axes, "Aspect ratio")
    if not len(sizes):
        return _nothing(figure, axes)
    ratios = np.log2(sizes[:, 0] / sizes[:, 1])
    low, high = min(ratios.min(), -1) - 0.05, max(ratios.max(), 1) + 0.05
    axes.hist(ratios, bins=np.linspace(low, high, 61), color=BLUE)
    axes.set_xlim(low, high)
    axes.set_xticks(np.log2(list(COMMON_RATIOS.values())), list(COMMON_RATIOS), fontsize=9, color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_xlabel("width : height, logarithmic", **NOTE)
    axes.set_ylabel("photos", fontsize=8, color=MUTED)
    return figure


def brightness_figure(brightness: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw a box of the mean gray levels per label: median, quartiles, whiskers of 1.5 box lengths, the rest.

    Args:
        brightness: `{kind: {label: mean gray level of each photo}}`.
    """
    kinds = {kind: {name: v for name, v in labels.items() if len(v)} for kind, labels in brightness.items()}
    kinds = {kind: labels for kind, labels in kinds.items() if labels}
    names = [name for labels in kinds.values() for name in labels]
    figure = new_figure(text_width(names) + 6, 0.9 + sum(0.6 + 0.3 * len(v) for v in kinds.values()))
    if not kinds:
        return _nothing(figure, figure.add_subplot())
    heights = [1.5 + len(labels) for labels in kinds.values()]
    panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    line = {"color": BLUE, "linewidth": 1.1}
    for axes, (kind, labels) in zip(panels, kinds.items(), strict=True):
        axes.boxplot(
            list(labels.values()),
            orientation="horizontal",
            positions=range(len(labels)),
            widths=0.6,
            patch_artist=True,
            boxprops={"facecolor": "#cfe3f1", "edgecolor": BLUE, "linewidth": 1.1},
            medianprops={"color": INK, "linewidth": 1.6},
            whiskerprops=line,
            capprops=line,
            flierprops={"marker": ".", "markersize": 4, "markerfacecolor": ORANGE, "markeredgecolor": "none"},
            manage_ticks=False,
        )
        plain_axes(axes, "x")
        name_axis(axes, "y", list(labels))
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(0, 255)
        set_title(axes, kind)
    panels[-1].set_xlabel("mean gray level of a photo, 0 to 255", **NOTE)
    return figure


def photo_grid_figure(
    photos: Sequence[tuple[np.ndarray, str]], rows: int, columns: int, empty: str
) -> Figure:
    """Draw photos in a grid, each with a few words below.

    Args:
        photos: pixels, uint8 `[height, width, 3]`, and the words; at most `rows` times `columns` are drawn.
        rows: of the grid; those without photos are left out.
        columns: of the grid.
        empty: what to write where there is no photo at all.
    """
    photos = photos[: rows * columns]
    if not photos:
        figure = new_figure(6, 1.5)
        return _nothing(figure, figure.add_subplot(), empty)
    rows = -(-len(photos) // columns)
    figure = new_figure(2.3 * columns, 2.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (pixels, words) in zip(panels, photos, strict=False):
        axes.imshow(pixels)
        below = {"xycoords": "axes fraction", "xytext": (0, -4), "textcoords": "offset points", "va": "top"}
        axes.annotate(wrapped(words, 28), (0, 0), fontsize=8, color=INK, parse_math=False, **below)
    return figure


def _nothing(figure: Figure, axes: object, words: str = "no photo") -> Figure:
    """Write that there is nothing to draw."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=11, color=MUTED)
    return figure
