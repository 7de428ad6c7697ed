"""A split that the user gave in a file: a CSV with a row per photo, or a run folder's metadata."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.datamodules.csv_table import ID_COLUMNS, pick_column, read_csv
from src.datamodules.layouts import OTHER_SPLITS, SPLIT_LIKE
from src.datamodules.records import PhotoIndex, Record, tidy
from src.datamodules.table_checks import find_all, photo_column
from src.errors import InputError, did_you_mean, listed
from src.labels import SPLITS

log = logging.getLogger(__name__)
KEY = "data.split_file"


def split_by_file(
    path: Path, root: Path, records: Sequence[Record], others: Iterable[str]
) -> tuple[list[Record], dict[str, str]]:
    """Return the records that a split file, or a run folder, names, and `{ID: split}` of them.

    `others` are paths of photos that are no records: their names mean them, and no record.
    """
    index = PhotoIndex(root, {*(record.path for record in records), *others})
    rows = _split_rows(path, index)
    by_id = {record.id: record for record in records}
    by_path = {record.path: record for record in records}
    named = dict.fromkeys(id_ for _, id_, _ in rows)
    found, findings = find_all([id_ for _, id_, _ in rows if id_ not in by_id], index, f"{KEY}={path}")
    given: dict[str, tuple[str, str]] = {}
    lost = []
    for row, id_, split in rows:
        paths = found.get(id_, ())
        record = by_id.get(id_) or (by_path.get(paths[0]) if len(paths) == 1 else None)
        if record is None:
            lost.append(id_)
        elif given.setdefault(record.id, (split, row))[0] != split:
            other, first = given[record.id]
            raise InputError(f"{KEY}={path}: IDs in two splits: {id_} ({first} {other}, {row} {split})")
    if not given:
        why = "".join(f"; {finding}" for finding in findings)
        raise InputError(
            f"{KEY}={path}: none of its {len(named)} IDs (as {listed(named, 3)}) "
            f"is among the {records[0].noun}s (as {listed(by_id, 3)}){why}"
        )
    if left := [id_ for id_ in by_id if id_ not in given]:
        told = "Left out %d %ss that the split file does not name: %s"
        log.warning(told, len(left), records[0].noun, listed(left, 5))
    if lost:
        told = "%d rows of the split file have no %s now: %s"
        log.warning(told, len(lost), records[0].noun, listed(sorted(lost), 5))
    for finding in findings:
        log.warning("%s=%s: %s", KEY, path, finding)
    return [r for r in records if r.id in given], {id_: split for id_, (split, _) in given.items()}


def _split_rows(path: Path, index: PhotoIndex) -> list[tuple[str, str, str]]:
    """Return `(row, ID, split)` of each row of a run folder's metadata, or of a CSV with `ID,split`.

    Rows are numbered as in a spreadsheet; the photos of `index` decide between several columns of IDs.
    """
    rows = []
    if path.is_dir():
        for name in SPLITS:
            file = path / f"{name}_metadata.csv"
            if name != "test" or file.is_file():
                frame = read_csv(file, key=KEY, allow_empty=True)
                ids = frame[pick_column(frame, "ID", (), file, "")]
                rows += [(f"{file.name} row {row}", id_, name) for row, id_ in ids.items()]
    else:
        frame = read_csv(path, key=KEY)
        column = photo_column(frame, None, ID_COLUMNS, path, "", lambda: index)
        ids, names = frame[column].map(tidy), frame[pick_column(frame, "split", (), path, "")].map(tidy)
        for row, id_, name in zip(frame.index, ids, names, strict=True):
            if not name:
                continue
            if not (split := _split_name(name)):
                raise InputError(f"{path}, row {row}: unknown split '{name}': {did_you_mean(name, SPLITS)}")
            rows.append((f"row {row}", id_, split))
    return rows


def _split_name(name: str) -> str:
    """Return the split that a name stands for, as `Validation set`; empty for none."""
    match = SPLIT_LIKE.fullmatch(name.casefold())
    return OTHER_SPLITS[match[1]] if match and match.start(1) == 0 else ""
