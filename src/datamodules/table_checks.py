"""IDs of a table against the photos: the column that names them, paths of other machines, damaged IDs."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path, PurePosixPath

import pandas as pd

from src.datamodules.csv_table import FILE_NAME, pick_column
from src.datamodules.records import EXAMPLES, Finding, PhotoIndex, path_parts
from src.errors import InputError, counted, listed

log = logging.getLogger(__name__)
QUOTES = "='\"`\u2018\u2019\u201c\u201d \u200b\u200e\u200f\u2060\ufeff"  # and letters that cannot be seen
_MONTHS = (
    "jan ene", "feb fev fév", "mar mär mrz", "apr avr abr", "may mai", "jun", "jul", "aug aoû ago", "sep",
    "oct okt", "nov", "dec dez déc dic",
)  # fmt: skip
MONTHS = {name: number for number, names in enumerate(_MONTHS, 1) for name in names.split()}
DATE = re.compile(r"(\d+|[^\W\d_]+)\.?[-/. ](\d+|[^\W\d_]+)\.?(?:[-/. ](\d+))?(?: 0?0:00(?::00)?)?")
TEXT = "format the column as text and take the IDs from their source again"
DAMAGES = {
    "ids_quoted": ("carry quotes, or letters that cannot be seen", "remove them"),
    "ids_zeros": ("lost their leading zeros", TEXT),
    "ids_decimal": ("became decimal numbers", TEXT),
    "ids_thousands": ("became numbers with thousands separators", TEXT),
    "ids_exponent": ("became numbers with an exponent", TEXT),
    "ids_rounded": ("were rounded after 15 digits", TEXT),
    "ids_dates": ("became dates", TEXT),
    "ids_prefixed": ("carry the letters that Label Studio puts before a name", "remove them"),
    "ids_extension": ("name another extension", "correct it, or leave the extension out"),
}


def photo_column(
    frame: pd.DataFrame,
    wanted: str | None,
    candidates: tuple[str, ...],
    csv_path: Path,
    key: str,
    index: Callable[[], PhotoIndex],
) -> str:
    """Return the column that names the photos: `wanted`, or the best of `candidates` and of file names.

    Where several are there and name different photos, it is the only one whose cells are names of files; if
    its own name is no candidate's, only next to numbers. Without a `key`, that is the way to name a column,
    the only column of file names needs no candidate's name.

    Raises:
        InputError: no such column, or several that name different photos.
    """
    known = {name.casefold() for name in candidates}
    named = [name for name in frame.columns if name.casefold() in known]
    unnamed = [n for n in frame.columns if not wanted and n not in named and _are_files(frame[n], 0.9)]
    if not (key or named) and len(unnamed) == 1:
        return unnamed[0]
    first = pick_column(frame, wanted, candidates, csv_path, key)
    others = [name for name in named if name != first]
    others += [] if any(_are_files(frame[name]) for name in named) else unnamed
    there = [first, *(name for name in others if not frame[name].equals(frame[first]))]
    if wanted or len(there) == 1:
        return first
    files = [name for name in there if _are_files(frame[name])]
    if files == [first]:
        return first
    found = {name: _one_photo(frame[name], index()) for name in there}
    count = {name: sum(path is not None for path in paths) for name, paths in found.items()}
    best = max(there, key=lambda name: (count[name], name in files and not count[name]))
    files = [name for name in files if count[name]]
    sure = len(files) == 1 and (files[0] in named or all(map(str.isdecimal, frame[first].str.strip())))
    for row, *paths in zip(frame.index, *found.values(), strict=True):
        if len(set(paths) - {None}) > 1 and not sure:
            both = [(name, path) for name, path in zip(there, paths, strict=True) if path]
            shown = " and ".join(f"{path} by column '{name}'" for name, path in both)
            cure = f"name the right column with {key}=" if key else "remove the wrong column"
            raise InputError(f"{csv_path}, row {row}: names {shown}; {cure}")
    if len(files) == 1 and any(a and a != b for a, b in zip(found[files[0]], found[first], strict=True)):
        best = files[0]
    if best != first:
        log.info("%s: the column '%s' names the photos, and '%s' is not used", csv_path, best, first)
    return best


def _are_files(cells: pd.Series, share: float = 0.5) -> bool:
    """Whether more than a share of the cells hold the name of a photo's file."""
    filled = [cell for cell in cells if cell.strip()]
    return sum(bool(FILE_NAME.search(cell)) for cell in filled) > share * len(filled)


def _one_photo(cells: Iterable[str], index: PhotoIndex) -> list[str | None]:
    """Return the photo that each cell names alone, by its path from any machine; None where there is none."""
    found = {cell: index.find(cell) or [index.find_by_end(cell)] for cell in set(cells)}
    return [found[cell][0] if len(found[cell]) == 1 else None for cell in cells]


def find_all(ids: Sequence[str], index: PhotoIndex, where: str) -> tuple[dict[str, list[str]], list[Finding]]:
    """Return the photos that each ID can mean, those of paths from another machine included, and findings.

    Such a path is not used where another ID names the same photo: one of its folders may tell them apart. A
    finding names each way in which a spreadsheet or a tool has changed IDs that name no photo.

    Args:
        ids: one for each row.
        index: of the photos.
        where: the table, for messages.
    """
    rows = Counter(ids)
    found = {id_: index.find(id_) if id_ else [] for id_ in rows}
    ends = {id_: path for id_, some in found.items() if id_ and not some and (path := index.find_by_end(id_))}
    names: dict[str, set[str]] = defaultdict(set)
    for id_, path in [*((i, some[0]) for i, some in found.items() if ends and len(some) == 1), *ends.items()]:
        names[path].add(PurePosixPath(*path_parts(id_)).with_suffix("").as_posix().casefold())
    clear = {id_: path for id_, path in ends.items() if len(names[path]) == 1}
    if clear:
        shown = listed((f"{id_} as {path}" for id_, path in clear.items()), 1)
        log.info("%s: %d IDs are paths of another place, read by their ends: %s", where, len(clear), shown)
    findings = []
    if doubtful := {id_: path for id_, path in ends.items() if id_ not in clear}:
        shown = listed((f"{id_} for {path}" for id_, path in doubtful.items()), EXAMPLES)
        text = f"{len(doubtful)} IDs end with a photo's path that another ID names, too: {shown}"
        findings.append(Finding("ids_doubtful", text, "give paths below the folder of photos", len(doubtful)))
    found |= {id_: [path] for id_, path in clear.items()}
    lost = {id_: count for id_, count in rows.items() if not found[id_]}
    findings += _piled(rows, found, {*index.paths}.difference(*found.values()))
    return found, findings + (_damaged(lost, index.paths) if lost else [])


def _piled(rows: Mapping[str, int], found: Mapping, paths: Iterable[str]) -> list[Finding]:
    """Return a finding of long numbers that have rows of other photos, too, if their digits are rounded."""
    others = {(stem[:15], len(stem)) for stem in (PurePosixPath(path).stem for path in paths)}
    several = {id_: n for id_, n in rows.items() if n > 1 and re.fullmatch(r"\d{15}0+", id_) and found[id_]}
    piled = {id_: n for id_, n in several.items() if (id_[:15], len(id_)) in others}
    text = f"{len(piled)} IDs end in zeros and have rows of other photos, too, if their digits are rounded"
    shown, examples = counted(piled, EXAMPLES, " rows"), tuple(found[id_][0] for id_ in [*piled][:EXAMPLES])
    return [Finding("ids_rounded", f"{text}: {shown}", TEXT, sum(piled.values()), examples)] if piled else []


def _damaged(lost: Mapping[str, int], paths: Sequence[str]) -> list[Finding]:
    """Return a finding for each way in which IDs were changed, `{ID: rows}`, that name no photo."""
    names, found = _Names(paths), defaultdict(list)
    for id_ in lost:
        if hit := names.damage(id_.strip()):
            found[hit[0]].append((id_, hit[1]))
    findings = []
    for kind, (text, cure) in DAMAGES.items():
        if pairs := found[kind]:
            rows = sum(lost[id_] for id_, _ in pairs)
            id_, path = pairs[0]
            shown = id_ if id_.isprintable() else ascii(id_)
            text = f"{len(pairs)} IDs ({rows} rows) {text}, as {shown} for {PurePosixPath(path).name}"
            findings.append(Finding(kind, text, cure, rows, tuple(path for _, path in pairs[:EXAMPLES])))
    return findings


class _Names:
    """File names of photos by the forms in which spreadsheets leave them."""

    def __init__(self, paths: Sequence[str]):
        self.stems = {PurePosixPath(path).stem.casefold(): path for path in reversed(paths)}
        numbers = [(stem, path) for stem, path in self.stems.items() if re.fullmatch(r"[0-9]+", stem)]
        self.numbers = [*numbers, *((s, p) for s, p in self.stems.items() if re.fullmatch(r"\d+e\d{1,3}", s))]
        self.zeros = {stem.lstrip("0") or "0": path for stem, path in numbers if stem[0] == "0"}
        long = [(stem, path) for stem, path in numbers if len(stem) > 15]
        self.rounded = {(len(stem), stem[:15]): path for stem, path in long}
        self.rounded |= {(len(s), f"{Decimal(s):.14e}".replace(".", "")[:15]): path for s, path in long}
        self.dates = {
            tuple(sorted(int(number) % 100 for number in re.findall(r"\d+", stem))): path
            for stem, path in self.stems.items()
            if re.fullmatch(r"\d{1,4}([-_/. ]\d{1,4}){1,2}", stem)
        }
        self.exponents: dict[int, dict[str, str]] = {}  # by the number of decimals

    def damage(self, id_: str) -> tuple[str, str] | None:
        """Return the kind of damage that turned a photo's name into this ID, and the photo."""
        text = id_.strip(QUOTES).casefold()
        if text != id_.casefold() and (path := self._known(text)):
            return "ids_quoted", path
        for kind, number in self._plain(text):
            if path := self.zeros.get(number):
                return "ids_zeros", path
            if kind and (path := self.stems.get(number)):
                return kind, path
            if len(number) > 15 and (path := self.rounded.get((len(number), number[:15]))):
                return "ids_rounded", path
        if path := self._by_exponent(text):
            return "ids_exponent", path
        if path := self._by_date(text):
            return "ids_dates", path
        name = re.split(r"[\\/]", text)[-1]
        if re.match(r"[0-9a-f]{8}-", name) and (path := self._known(name[9:])):
            return "ids_prefixed", path
        if FILE_NAME.search(name) and (path := self.stems.get(PurePosixPath(name).stem)) and name == text:
            return "ids_extension", path
        return None

    def _known(self, name: str) -> str | None:
        """Return the photo of a file's name, with or without extension."""
        return self.stems.get(name) or self.stems.get(FILE_NAME.sub(lambda match: match[0][0], name))

    @staticmethod
    def _plain(text: str) -> list[tuple[str, str]]:
        """Return the whole numbers that a text can be, each with the kind of damage that makes it so."""
        found = [("", text)] if text.isdecimal() else []
        if match := re.fullmatch(r"(\d+)[.,]0+", text):
            found.append(("ids_decimal", match[1]))
        if re.fullmatch(r"\d{1,3}([.,'\u2019 \u00a0\u202f]\d{3})+([.,]0+)?", text):
            digits = re.sub(r"\D", "", re.sub(r"[.,]0{1,2}$", "", text))
            found.append(("ids_thousands", digits))
        return found

    def _by_exponent(self, text: str) -> str | None:
        """Return the photo whose number has been shortened to one with an exponent, as 2.02E+13."""
        match = re.fullmatch(r"(\d)(?:[.,](\d+))?e\+?(\d{1,3})", text)
        if not match:
            return None
        decimals = len(match[2] or "")
        if decimals not in self.exponents:
            forms = ((f"{Decimal(stem):.{decimals}e}", path) for stem, path in self.numbers)
            self.exponents[decimals] = dict(forms)
        mantissa = f"{match[1]}.{match[2]}" if match[2] else match[1]
        return self.exponents[decimals].get(f"{mantissa}e+{int(match[3])}")

    def _by_date(self, text: str) -> str | None:
        """Return the photo whose name was read as a date: 2-1 as 02-Jan, Jan-02 or 2024-01-02 00:00:00."""
        match = DATE.fullmatch(text)
        if not match:
            return None
        parts = [MONTHS.get(part[:3], -1) if part.isalpha() else int(part) for part in match.groups() if part]
        year = [part for part in parts if part > 31][:1]
        short = sorted(part for part in parts if part not in year)
        forms = [[part % 100 for part in parts], short, *([part, year[0] % 100] for part in short if year)]
        return next((self.dates[key] for form in forms if (key := tuple(sorted(form))) in self.dates), None)
