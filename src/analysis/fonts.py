"""Fonts for letters that the default font lacks: those that are installed, or the name of one to install."""

import logging
import unicodedata
from functools import cache
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

log = logging.getLogger(__name__)
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")
PLACEHOLDERS = ("lastresort", "adobeblank")  # fonts that have a box for every letter
_FAMILIES: dict[str, str] = {}  # of each letter looked up so far; empty: no installed font has it
_SAID: set[str] = set()  # fonts that a line has named


def fit_letters(figure: Figure) -> None:
    """Add to each text of a figure the fonts that its letters need; name fonts to install, once each."""
    lacking: dict[str, str] = {}
    for text in figure.findobj(Text):
        text.set_usetex(False)  # a user's setting would read labels as LaTeX
        letters = [c for c in dict.fromkeys(text.get_text()) if not c.isascii() and c not in _default()]
        letters = [c for c in letters if unicodedata.category(c)[0] not in "CZ"]  # controls, joiners, blanks
        if letters:
            _look_up({*letters} - {*_FAMILIES})
            families = [*text.get_fontfamily(), *(_FAMILIES[c] for c in letters)]
            text.set_fontfamily([family for family in dict.fromkeys(families) if family])
        none = [c for c in letters if not _FAMILIES[c]]
        for font in dict.fromkeys(map(_font_for, none)):
            if font not in _SAID:
                _SAID.add(font)
                lacking[font] = "".join(c for c in none if _font_for(c) == font)
    if lacking:
        shown = "', '".join(lacking.values())
        log.warning("no installed font draws '%s': install %s", shown, ", ".join(lacking))


def font_file(letters: str) -> str:
    """Return the file of a font for a text; of several that its letters need, the first one's."""
    lacking = [c for c in letters if not c.isascii() and c not in _default()]
    _look_up({*lacking} - {*_FAMILIES})
    families = filter(None, (_FAMILIES[c] for c in lacking))
    return findfont(FontProperties(family=next(families, None)))


@cache
def _default() -> frozenset[str]:
    """Return the letters of the default font."""
    return _letters(findfont(FontProperties()))


def _letters(path: str) -> frozenset[str]:
    """Return the letters that a font draws; none for a broken file, bitmaps and placeholders."""
    if Path(path).name.lower().startswith(PLACEHOLDERS):
        return frozenset()
    try:
        font = FT2Font(path)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (RuntimeError, OSError, ValueError):
        return frozenset()


def _look_up(letters: set[str]) -> None:
    """Note the font family of each letter; fonts installed since matplotlib listed them count too."""
    if not letters:
        return
    _FAMILIES.update(dict.fromkeys(letters, ""))
    names = {entry.fname: entry.name for entry in fontManager.ttflist}
    for path in sorted({*names, *findSystemFonts()}, key=_rank):
        if found := letters and letters & _letters(path):
            if path not in names:
                fontManager.addfont(path)
            _FAMILIES.update(dict.fromkeys(found, names.get(path) or FT2Font(path).family_name))
            letters = letters - found


def _rank(path: str) -> tuple[bool, bool, str]:
    """Put regular fonts without serifs first."""
    name = Path(path).name.lower()
    return "sans" not in name, any(word in name for word in ("bold", "italic", "oblique", "mono")), path


def _font_for(letter: str) -> str:
    """Return the font to install for a letter, from the script in its Unicode name."""
    script = unicodedata.name(letter, "").partition(" ")[0]
    if unicodedata.category(letter) in ("So", "Sk"):
        return "Noto Emoji"
    return "Noto Sans CJK" if script in CJK else f"Noto Sans {script.title()}".strip()
