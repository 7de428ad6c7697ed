"""IDs of a table against the photos: the column that names them, paths of other machines."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from src.datamodules.csv_table import FILE_NAME, pick_column
from src.datamodules.records import EXAMPLES, Finding, PhotoIndex, path_parts
from src.errors import InputError, listed

log = logging.getLogger(__name__)


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
    unnamed = [n for n in frame.columns if not wanted and n not in named and _are_files(frame[n])]
    if not (key or named) and len(unnamed) == 1:
        return unnamed[0]
    first = pick_column(frame, wanted, candidates, csv_path, key)
    others = named if any(_are_files(frame[name]) for name in named) else [*named, *unnamed]
    there = [first, *(name for name in others if not frame[name].equals(frame[first]))]
    if wanted or len(there) == 1:
        return first
    found = {name: _one_photo(frame[name], index()) for name in there}
    count = {name: sum(path is not None for path in paths) for name, paths in found.items()}
    files = [name for name in there if count[name] and _are_files(frame[name])]
    sure = len(files) == 1 and (files[0] in named or all(map(str.isdecimal, frame[first].str.strip())))
    best = max(there, key=lambda name: count[name])
    for row, *paths in zip(frame.index, *found.values(), strict=True):
        if len(set(paths) - {None}) > 1:
            if not sure:
                both = [(name, path) for name, path in zip(there, paths, strict=True) if path]
                shown = " and ".join(f"{path} by column '{name}'" for name, path in both)
                cure = f"name the right column with {key}=" if key else "remove the wrong column"
                raise InputError(f"{csv_path}, row {row}: names {shown}; {cure}")
            best = files[0]
    if best != first:
        log.info("%s: the column '%s' names the photos, and '%s' is not used", csv_path, best, first)
    return best


def _are_files(cells: pd.Series) -> bool:
    filled = [cell for cell in cells if cell.strip()]
    return 2 * sum(bool(FILE_NAME.search(cell)) for cell in filled) > len(filled)


def _one_photo(cells: Iterable[str], index: PhotoIndex) -> list[str | None]:
    """Return the photo that each cell names alone, by its path from any machine; None where there is none."""
    found = {cell: index.find(cell) or [index.find_by_end(cell)] for cell in set(cells)}
    return [found[cell][0] if len(found[cell]) == 1 else None for cell in cells]


def find_all(ids: Sequence[str], index: PhotoIndex, where: str) -> tuple[dict[str, list[str]], list[Finding]]:
    """Return the photos that each ID can mean, those of paths from another machine included, and findings.

    Such a path is not used where another ID names the same photo: one of its folders may tell them apart.
    """
    found = {id_: index.find(id_) if id_ else [] for id_ in dict.fromkeys(ids)}
    ends = {id_: path for id_, some in found.items() if id_ and not some and (path := index.find_by_end(id_))}
    if not ends:
        return found, []
    names: dict[str, set[str]] = defaultdict(set)
    for id_, path in [*((id_, some[0]) for id_, some in found.items() if len(some) == 1), *ends.items()]:
        names[path].add(PurePosixPath(*path_parts(id_)).with_suffix("").as_posix().casefold())
    clear = {id_: path for id_, path in ends.items() if len(names[path]) == 1}
    found |= {id_: [path] for id_, path in clear.items()}
    for id_, path in [*clear.items()][:1]:
        said = "%s: %d IDs are paths of another place, read by their ends, as %s for %s"
        log.info(said, where, len(clear), id_, path)
    if len(clear) == len(ends):
        return found, []
    doubtful = {id_: path for id_, path in ends.items() if id_ not in clear}
    shown = listed((f"{id_} for {path}" for id_, path in doubtful.items()), EXAMPLES)
    text = f"{len(doubtful)} IDs end with a photo's path that another ID names, too: {shown}"
    return found, [Finding("ids_doubtful", text, "give paths below the folder of photos", len(doubtful))]
