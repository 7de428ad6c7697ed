"""The look of all figures: palette, fonts, text, axes, layouts, and one way to write a PNG."""

import io
import logging
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from src.files import write_whole

log = logging.getLogger(__name__)
Row = TypeVar("Row")
DPI = 110
FIRST, LAST = 40, 20  # rows of a panel that has more labels than both together
INK, MUTED, FAINT, PAPER = "#1f2933", "#66727f", "#d9dee4", "#ffffff"
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#9aa5b1"  # Okabe and Ito, 2008
PLACEHOLDER = "Last Resort"  # matplotlib's font with a box for every letter
SMALL = {"fontsize": 8, "color": MUTED}
NOTE = {**SMALL, "loc": "left"}
BAR_LABEL = {**SMALL, "va": "center"}


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG, whole or not at all; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with lettered(figure):
        figure.savefig(
            buffer, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1
        )
    write_whole(Path(path), buffer.getvalue())


@contextmanager
def lettered(figure: Figure) -> Iterator[None]:
    """Draw a figure with fonts for all its letters, and without a warning for each that no font has."""
    fit_letters(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height in inches."""
    figure = Figure(figsize=(max(width, 4), max(height, 1.5)), dpi=DPI, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def empty_figure(words: str) -> Figure:
    """Return a figure that says in words why there is nothing to draw."""
    figure = new_figure(6, 1.5)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=11, color=MUTED)
    return figure


def titled_panel(title: str, width: float, height: float, grid: str | None = None) -> tuple[Figure, Axes]:
    """Return a figure with one panel; width and height in inches, `grid` as for `plain_axes`."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    plain_axes(axes, grid)
    set_title(axes, title)
    return figure, axes


def ends(title: str, names: Sequence[str], first: str, last: str) -> tuple[str, list[str]]:
    """Return title and names of a panel; of many names the first and the last, as the title then says."""
    if len(names) <= FIRST + LAST:
        return title, list(names)
    shown = [*names[:FIRST], *names[-LAST:]]
    return f"{title}: the {FIRST} {first} and the {LAST} {last} of {len(names):,} labels", shown


def ends_of_kinds(kinds: Mapping[str, Mapping[str, Row]]) -> dict[str, dict[str, Row]]:
    """Return a panel per kind, `{title: {label: row}}`, of labels sorted by their photos."""
    panels = [(ends(kind, list(rows), "commonest", "rarest"), rows) for kind, rows in kinds.items()]
    return {title: {name: rows[name] for name in names} for (title, names), rows in panels}


def kind_panels(kinds: Mapping[str, Iterable[str]], width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel per kind, one below the other, and in each a row per label.

    Width is inches beside the names, height inches of a row.
    """
    kinds = {kind: list(names) for kind, names in kinds.items()}
    longest = text_width(name for names in kinds.values() for name in names)
    figure = new_figure(longest + width, 0.9 + sum(0.6 + height * len(names) for names in kinds.values()))
    heights = [1.5 + len(names) for names in kinds.values()]
    panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (kind, names) in zip(panels, kinds.items(), strict=True):
        plain_axes(axes, "x")
        name_axis(axes, "y", names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        set_title(axes, kind)
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return figure, list(panels)


def photo_panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with an empty panel per photo; width and height in inches of one."""
    rows = max(1, -(-count // columns))
    figure = new_figure(width * columns, height * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    return figure, panels


def short(name: object) -> str:
    """Cut a name of more than 32 letters, with an ellipsis."""
    name = _drawable(str(name))
    return name if len(name) <= 32 else name[:31].rstrip() + "…"


def _drawable(text: str) -> str:
    """Return text without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def wrapped(text: str, width: int = 32) -> str:
    """Break at spaces into at most three lines of `width` characters."""
    text = _drawable(text.replace(";", "; "))
    return "\n".join(textwrap.wrap(text, width, max_lines=3, placeholder="…", break_on_hyphens=False))


def text_width(names: Iterable[str]) -> float:
    """Return the width of the longest name, in inches, at the size of tick labels."""
    return 0.25 + 0.082 * max((len(short(name)) for name in names), default=0)


def draw_cells(axes: Axes, counts: np.ndarray, colours: np.ndarray) -> None:
    """Draw counts `[rows, columns]` in cells of RGBA colours, as a dot where they are zero."""
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    bright = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    digits = len(str(counts.max())) if counts.size else 1
    size = 8.5 if digits <= 3 or counts.shape[1] <= 8 else 25 / digits
    dots = (counts == 0) & (counts.size > 400)  # as one artist: each text takes milliseconds
    if dots.any():
        axes.scatter(*np.nonzero(dots)[::-1], s=1.5, color=GREY)
    for row, column in np.argwhere(~dots):
        count = counts[row, column]
        colour = GREY if count == 0 else ("white" if bright[row, column] < 0.55 else INK)
        text = str(count) if count else "·"
        cell = axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
        cell.set_in_layout(False)  # inside the axes anyway; measuring each is most of the drawing time
    axes.set_xticks(np.arange(1, counts.shape[1]) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, counts.shape[0]) - 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=1.5)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def name_axis(axes: Axes, side: str, names: Sequence[str], shown: Sequence[str] | None = None) -> None:
    """Put label names on one axis."""
    set_ticks = axes.set_yticks if side == "y" else axes.set_xticks
    turned = {} if side == "y" else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    shown = shown or [short(name) for name in names]
    set_ticks(range(len(names)), shown, fontsize=9, color=INK, parse_math=False, **turned)


def plain_axes(axes: Axes, grid: str | None = None) -> None:
    """Remove frame and tick marks; draw faint lines across one axis."""
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


def fit_letters(figure: Figure) -> None:
    """Add to each text of a figure the fonts that its letters need; warn of letters that no font has."""
    for text in figure.findobj(Text):
        text.set_usetex(False)  # a user's setting would read labels as LaTeX
        fonts = _fonts(text.get_text())
        text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *filter(None, fonts.values())])))
        if lacking := "".join(letter for letter, family in fonts.items() if not family):
            _warn(lacking)


def font_file(letters: str) -> str:
    """Return the file of a font for a text; of several that its letters need, the first one's."""
    return findfont(FontProperties(family=next(filter(None, _fonts(letters).values()), None)))


def _fonts(letters: str) -> dict[str, str]:
    """Return `{letter: font family}` of the letters that the default font lacks."""
    visible = [c for c in letters if not c.isascii() and unicodedata.category(c)[0] not in "CZ"]
    return {c: _family(c) for c in visible if c not in _letters(findfont(FontProperties()))}


@cache
def _family(letter: str) -> str:
    """Return the family of an installed font that draws a letter, those without serifs first, or nothing."""
    fonts = sorted(fontManager.ttflist, key=lambda font: ("Sans" not in font.name, font.fname))
    return next((font.name for font in fonts if letter in _letters(font.fname)), "")


@cache
def _letters(path: str) -> frozenset[str]:
    """Return the letters that a font draws; none for a broken file, bitmaps and the placeholder."""
    try:
        font = FT2Font(path)
    except (RuntimeError, OSError, ValueError):
        return frozenset()
    drawn = font.scalable and not font.family_name.startswith(PLACEHOLDER)
    return frozenset(map(chr, font.get_charmap())) if drawn else frozenset()


@cache
def _warn(letters: str) -> None:
    """Warn once of letters that no font has."""
    log.warning("no installed font draws '%s': install one that does, such as Noto Sans", letters)
