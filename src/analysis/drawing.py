"""How all figures are drawn: palette, text, axes, and one way to write a PNG."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from src.files import write_whole

DPI = 110
INK, MUTED, FAINT, PAPER = "#1f2933", "#66727f", "#d9dee4", "#ffffff"
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#9aa5b1"  # Okabe and Ito, 2008
NOTE = {"fontsize": 8, "color": MUTED, "loc": "left"}


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG, whole or not at all; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    if not isinstance(figure.canvas, FigureCanvasAgg):
        FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # a label in another script: boxes
        figure.savefig(
            buffer, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1
        )
    write_whole(Path(path), buffer.getvalue())


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    figure = Figure(figsize=(max(width, 4), max(height, 1.5)), dpi=DPI, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def short(name: object, limit: int = 32) -> str:
    """Cut a long name, with an ellipsis."""
    name = str(name).replace("\n", " ")
    return name if len(name) <= limit else name[: limit - 1].rstrip() + "…"


def wrapped(text: str, width: int = 32, lines: int = 3) -> str:
    """Break at spaces into lines of `width` characters, at most `lines` of them."""
    broken = [""]
    for word in text.replace(";", "; ").split():
        if broken[-1] and len(broken[-1]) + 1 + len(word) > width:
            broken.append("")
        broken[-1] = f"{broken[-1]} {short(word, width)}".strip()
    more = "…" if len(broken) > lines else ""
    return "\n".join(broken[:lines]) + more


def text_width(names: Sequence[str] | Mapping) -> float:
    """Return the inches that the longest name takes, at the size of tick labels."""
    return 0.25 + 0.082 * max((len(short(name)) for name in names), default=0)


def write_cells(axes: Axes, counts: np.ndarray, colours: np.ndarray) -> None:
    """Write the counts, white on dark and dark on light; a nought is only hinted at."""
    bright = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    digits = len(str(counts.max())) if counts.size else 1
    size = 8.5 if digits <= 3 or counts.shape[1] <= 8 else 25 / digits
    for (row, column), count in np.ndenumerate(counts):
        colour = GREY if count == 0 else ("white" if bright[row, column] < 0.55 else INK)
        cell = axes.text(
            column, row, str(count) if count else "·", ha="center", va="center", fontsize=size, color=colour
        )
        cell.set_in_layout(False)  # inside the axes anyway; measuring each is most of the drawing time


def grid_of_cells(axes: Axes, shape: tuple[int, int]) -> None:
    """Draw white lines between cells and nothing around them."""
    axes.set_xticks(np.arange(1, shape[1]) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, shape[0]) - 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=1.5)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def name_axis(axes: Axes, side: str, names: Sequence[str], shown: Sequence[str] | None = None) -> None:
    """Put label names on one axis."""
    shown = [short(name) for name in names] if shown is None else shown
    if side == "y":
        axes.set_yticks(range(len(names)), shown, fontsize=9, color=INK, parse_math=False)
        return
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), shown, fontsize=9, color=INK, parse_math=False, **turn)


def plain_axes(axes: Axes, grid: str | None = None) -> None:
    """Take away what is only ink: frame and tick marks."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)


def set_title(axes: Axes, text: str) -> None:
    """Set a panel's title."""
    axes.set_title(text, fontsize=11, color=INK, loc="left", fontweight="bold", parse_math=False)
