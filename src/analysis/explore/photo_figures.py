"""The figures of an exploration: sizes, shapes and brightness of the photos, and grids of some of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.analysis import drawing as draw
from src.analysis.drawing import BAR_LABEL, BLUE, INK, NOTE, ORANGE, SMALL
from src.analysis.pages import Thumbnail
from src.images import open_image

COMMON_RATIOS = {"9:16": 9 / 16, "3:4": 3 / 4, "1:1": 1.0, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9}
BOX = {
    "boxprops": {"facecolor": "#cfe3f1", "edgecolor": BLUE, "linewidth": 1.1},
    "medianprops": {"color": INK, "linewidth": 1.6},
    "whiskerprops": {"color": BLUE, "linewidth": 1.1},
    "capprops": {"color": BLUE, "linewidth": 1.1},
    "flierprops": {"marker": ".", "markersize": 4, "markerfacecolor": ORANGE, "markeredgecolor": "none"},
}


def counts_figure(kinds: Mapping[str, Mapping[str, int]], few: int) -> Figure:
    """Draw the number of photos of each label; labels of `few` photos in another colour."""
    kinds = draw.ends_of_kinds(kinds)
    figure, panels = draw.kind_panels(kinds, 6, 0.27)
    most = max((count for counts in kinds.values() for count in counts.values()), default=1)
    for axes, counts in zip(panels, kinds.values(), strict=True):
        colours = [ORANGE if count < few else BLUE for count in counts.values()]
        axes.barh(range(len(counts)), list(counts.values()), height=0.72, color=colours)
        for i, count in enumerate(counts.values()):
            axes.text(count + most * 0.01, i, f"{count:,}", **BAR_LABEL)
        axes.set_xlim(0, most * 1.12)
    panels[-1].set_xlabel(f"photos; orange: fewer than {few}", **NOTE)
    return figure


def dimensions_figure(sizes: np.ndarray) -> Figure:
    """Draw widths and heights, pixels `[photos, 2]`; a larger dot means more photos of that size."""
    if not len(sizes):
        return draw.empty_figure("no photo")
    figure, axes = draw.titled_panel("Width and height", 5.4, 4.0, "both")
    unique, counts = np.unique(sizes, axis=0, return_counts=True)
    area = 20 + 380 * counts / counts.max()
    axes.scatter(unique[:, 0], unique[:, 1], s=area, color=BLUE, alpha=0.45, linewidths=0)
    most = sizes.max() * 1.12
    axes.set(xlim=(0, most), ylim=(0, most), aspect="equal")
    axes.set_xlabel(f"width in pixels; {len(unique):,} different sizes", **NOTE)
    axes.set_ylabel("height in pixels", **SMALL)
    return figure


def aspect_ratios_figure(sizes: np.ndarray) -> Figure:
    """Draw the distribution of width to height, pixels `[photos, 2]`."""
    if not len(sizes):
        return draw.empty_figure("no photo")
    figure, axes = draw.titled_panel("Aspect ratio", 5.4, 4.0, "y")
    ratios = np.log2(sizes[:, 0] / sizes[:, 1])
    low, high = min(ratios.min(), -1) - 0.05, max(ratios.max(), 1) + 0.05
    axes.hist(ratios, bins=np.linspace(low, high, 61), color=BLUE)
    axes.set_xlim(low, high)
    axes.set_xticks(np.log2(list(COMMON_RATIOS.values())), list(COMMON_RATIOS), fontsize=9, color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_xlabel("width : height, logarithmic", **NOTE)
    axes.set_ylabel("photos", **SMALL)
    return figure


def brightness_figure(brightness: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw a box of the photos' mean gray levels per label, with whiskers of 1.5 box lengths."""
    kinds = draw.ends_of_kinds({kind: labels for kind, labels in brightness.items() if labels})
    if not kinds:
        return draw.empty_figure("no photo")
    figure, panels = draw.kind_panels(kinds, 6, 0.3)
    for axes, labels in zip(panels, kinds.values(), strict=True):
        rows = {"orientation": "horizontal", "positions": range(len(labels)), "manage_ticks": False}
        axes.boxplot(list(labels.values()), widths=0.6, patch_artist=True, **rows, **BOX)
        axes.set_xlim(0, 255)
    panels[-1].set_xlabel("mean gray level of a photo, 0 to 255", **NOTE)
    return figure


def thumbnail_grid_figure(photos: Sequence[tuple[Thumbnail, str]], empty: str) -> Figure:
    """Draw the thumbnails that there are, with words below; `empty` where there is none."""
    pixels = [(np.asarray(open_image(content)), words) for (content, _), words in photos if content]
    return photo_grid_figure(pixels, 5, empty)


def photo_grid_figure(photos: Sequence[tuple[np.ndarray, str]], columns: int, empty: str) -> Figure:
    """Draw photos, uint8 `[height, width, 3]`, in a grid with words below; `empty` where there is none."""
    if not photos:
        return draw.empty_figure(empty)
    figure, panels = draw.photo_panels(len(photos), columns, 2.3, 2.4)
    for axes, (pixels, words) in zip(panels, photos, strict=False):
        axes.imshow(pixels)
        below = {"xycoords": "axes fraction", "xytext": (0, -4), "textcoords": "offset points", "va": "top"}
        axes.annotate(draw.wrapped(words, 28), (0, 0), fontsize=8, color=INK, parse_math=False, **below)
    return figure
