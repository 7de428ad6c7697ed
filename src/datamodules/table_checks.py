"""IDs of a table against the photos: the column that names them, paths of other machines, damaged IDs."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from src.datamodules.csv_table import FILE_NAME, pick_column
from src.datamodules.records import Finding, PhotoIndex, path_parts
from src.errors import InputError, listed

log = logging.getLogger(__name__)
TEXT = "format the column as text and take the IDs from their source again"
CHANGES = {  # by a spreadsheet
    "ids_zeros": "lost their leading zeros",
    "ids_decimal": "became decimal numbers",
    "ids_exponent": "became numbers with an exponent",
}
NUMBER, EXPONENT = re.compile(r"(\d+)(?:[.,]0+)?"), re.compile(r"\d(?:[.,]\d+)?e\+?(\d+)")


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
    finding names each way in which a spreadsheet has changed IDs that name no photo. There is an ID for each
    row.
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
    found |= {id_: [path] for id_, path in clear.items()}
    lost = {id_: count for id_, count in rows.items() if not found[id_]}
    return found, _changed(lost, index.paths) if lost else []


def _changed(lost: Mapping[str, int], paths: Sequence[str]) -> list[Finding]:
    """Return a finding for each way in which IDs were changed, `{ID: rows}`, that name no photo."""
    stems = {PurePosixPath(path).stem: path for path in reversed(paths)}
    numbers = {stem.lstrip("0") or "0": path for stem, path in stems.items() if stem.isdecimal()}
    lengths = {len(stem) for stem in stems if stem.isdecimal()}
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for id_ in lost:
        text = id_.strip().casefold()
        if (match := NUMBER.fullmatch(text)) and (path := numbers.get(match[1])):
            name = PurePosixPath(path).name
            found["ids_zeros" if name[0] == "0" else "ids_decimal"].append((id_, f"{id_} for {name}"))
        elif (match := EXPONENT.fullmatch(text)) and int(match[1]) + 1 in lengths:
            found["ids_exponent"].append((id_, id_))
    findings = []
    for kind, words in CHANGES.items():
        if pairs := found[kind]:
            rows = sum(lost[id_] for id_, _ in pairs)
            text = f"{len(pairs)} IDs ({rows} rows) {words}, as {pairs[0][1]}"
            findings.append(Finding(kind, text, TEXT, rows))
    return findings
