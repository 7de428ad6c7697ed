"""Fonts for letters that the default font lacks, among those that are installed."""

import logging
import unicodedata
from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

log = logging.getLogger(__name__)
PLACEHOLDER = "Last Resort"  # matplotlib's font with a box for every letter


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
