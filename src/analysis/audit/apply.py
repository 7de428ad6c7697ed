"""A new table of labels with the decisions of an `audit.csv`, and a record of the changes."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from src.analysis.audit.decisions import Labels, read_decisions, settle
from src.analysis.pages import label_names
from src.datamodules.folders import FolderDataModule
from src.datamodules.groups import Linked
from src.datamodules.label_table import TableReader
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.records import Record, label_space
from src.datamodules.splits import split_records
from src.datamodules.table import TableDataModule
from src.errors import InputError, listed
from src.files import write_json, write_whole
from src.overrides import command_like_this, shown

FILES = TABLE, SPLIT, CHANGES, SUMMARY = "image_data.csv", "split.csv", "changes.csv", "summary.json"
REPLACED = {"ckpt", "folds", "top", "apply", "output", "device", "data", "data.root", "data.csv",
            "data.images", "data.strict", "data.encoding"}  # fmt: skip
After = Mapping[str, Labels | None]  # the new labels of changed photos, by path; None: left out


def apply_audit(datamodule: PhotoDataModule, linked: Linked, audit: Path, folder: Path) -> dict[str, Any]:
    """Write a new version of the labels into `folder`; the old one and the photos stay as they are.

    The folder gets `image_data.csv`, `changes.csv`, `summary.json` (its content is returned) and, for photos
    below train/, val/ and test/, `split.csv`. `linked` comes from `datamodule.collect()`.
    """
    source, healthy = datamodule.source, datamodule.healthy if datamodule.multilabel else []
    usual = _usual_healthy(source.records, healthy)
    kind_of = dict.fromkeys(healthy, list(linked.records[0].labels)[-1]) | {v: k for k, v in usual.items()}
    for kinds in (datamodule.vocabulary, label_space(linked.records).kinds):
        kind_of |= {name: kind for kind, names in kinds.items() for name in names}
    gone = dict.fromkeys(source.unlabelled, "it has no label now")
    gone |= dict.fromkeys(datamodule.unreadable, "it cannot be read now")
    decided, undecided = read_decisions(audit, linked.records, kind_of, gone)
    settled = settle(decided, linked.records, kind_of, healthy, not datamodule.multilabel)
    before = {record.path: record.labels for record in source.records}
    judged = {record.path: _pairs(record.labels) for record in linked.records}
    after: dict[str, Labels | None] = {}
    for path, new in settled.items():
        if new is None:
            after[path] = None
        elif _pairs(new) != judged[path]:
            written = _with_healthy(before[path], new, healthy, usual)
            after |= {path: written} if _pairs(written) != _pairs(before[path]) else {}
    left_out = sum(labels is None for labels in after.values())
    if left_out == len(before):
        raise InputError("every photo is left out: nothing would be left to train on")
    table, paths, delimiter = _new_table(datamodule, before, after)
    summary = {
        "audit": audit.as_posix(),
        "photos": len(before),
        "changed": len(after) - left_out,
        "left_out": left_out,
        "confirmed": len(settled) - len(after),
        "rows_decided": len(decided),
        "rows_undecided": undecided,
        "labels": _tally(before, {**before, **after}),
    }
    write_whole(folder / CHANGES, _changes(decided, linked.records, before, {**before, **after}))
    write_json(folder / SUMMARY, summary)
    if source.given:
        splits = split_records(linked, datamodule.shares, datamodule.seed, source.given)
        split_of = {record.path: name for name, records in splits.items() for record in records}
        split = pd.DataFrame({"ID": table["ID"], "split": [split_of[path] for path in paths]})
        write_whole(folder / SPLIT, _csv(split))
    write_whole(folder / TABLE, _csv(table, delimiter))
    return summary


def summary_text(summary: Mapping[str, Any]) -> str:
    """Return the changes in a few lines for the console."""
    changes = [f"\n  {k}: {n['before']} -> {n['after']} photos" for k, n in summary["labels"].items()]
    return (
        f"{summary['changed']} photos changed, {summary['left_out']} left out, "
        f"{summary['confirmed']} confirmed; {summary['rows_undecided']} rows without a decision"
    ) + "".join(changes)


def train_command(datamodule: PhotoDataModule, folder: Path) -> str:
    """Return the command that trains on the new table, with the overrides of this call."""
    is_table = isinstance(datamodule, TableDataModule)
    replaced = REPLACED if is_table else REPLACED | {"data.separator"}
    new = {"data": "table", "data.csv": shown(folder.absolute() / TABLE), "data.images": datamodule.root}
    if datamodule.group:  # the demo set's is not in the overrides
        new["data.group"] = datamodule.group
    if is_table and datamodule.encoding:
        new["data.encoding"] = "utf-8"
    if datamodule.source.given and not datamodule.split_file:
        new["data.split_file"] = shown(folder.absolute() / SPLIT)
    return command_like_this("train", lambda key: key not in replaced, new)


def _usual_healthy(records: Sequence[Record], healthy: Sequence[str]) -> dict[str, str]:
    """Return `{kind: label}`: the most frequent label for "nothing wrong", where photos carry one."""
    count = Counter(pair for record in records for pair in _pairs(record.labels) if pair[1] in healthy)
    return dict(sorted(count, key=lambda pair: (-count[pair], pair), reverse=True))  # the last one stays


def _with_healthy(
    old: Labels, wanted: Labels, healthy: Sequence[str], usual: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return labels as a table has them: a photo that loses its last label of a kind has "nothing wrong".

    That is written only where the labels say it of other photos, or where the photo would be unlabelled.
    """
    written = {}
    for kind in dict.fromkeys([*old, *wanted]):
        was_healthy = tuple(name for name in old.get(kind, ()) if name in healthy)
        lost = (usual[kind],) if old.get(kind) and kind in usual else ()
        written[kind] = wanted.get(kind) or was_healthy or lost
    if not any(written.values()):
        kind = next(iter(usual), list(written)[-1])
        written[kind] = (usual.get(kind) or healthy[0],)
    return written


def _new_table(
    datamodule: PhotoDataModule, before: Mapping[str, Labels], after: After
) -> tuple[pd.DataFrame, list[str | None], str]:
    """Return the table with other labels, the path of each row's photo, and its delimiter.

    A photo's first row holds its labels. Further rows hold none, and stay for their other columns: a photo of
    two assets has a row for each.
    """
    if isinstance(datamodule, TableDataModule):
        source, separator = datamodule.source, datamodule.separator
        frame = datamodule.frame()
        delimiter = frame.attrs["delimiter"]
        if not set(source.label_columns.values()) <= set(frame.columns):
            raise InputError(
                f"{datamodule.csv}: apply= cannot change a table with one column per label: write "
                "a photo's labels into one column named label, joined by ;"
            )
        path_of = {record.id: record.path for record in source.records}
        columns, paths = dict(source.label_columns), [path_of.get(id_) for id_ in source.rows]
    else:
        frame, separator, delimiter, paths = _table_of_folders(datamodule), ";", ",", list(before)
        columns = {kind: kind for kind in frame.columns[1:]}
    frame, paths = frame.reset_index(drop=True), pd.Series(paths, dtype=object)
    frame.loc[paths.isin(list(after)), list(dict.fromkeys(columns.values()))] = ""
    rows = paths.drop_duplicates()
    first = dict(zip(rows, rows.index, strict=True))
    for path, labels in after.items():
        cells = defaultdict(list)
        for kind, names in (labels or {}).items():
            cells[columns.get(kind, next(iter(columns.values())))] += names
        for column, names in cells.items():
            frame.at[first[path], column] = separator.join(names)
    kept = ~paths.isin([path for path, labels in after.items() if labels is None])
    frame, paths = frame[kept], paths[kept].tolist()
    reader = TableReader(columns, separator, datamodule)
    _check_labels(reader, frame, paths, {**before, **after})
    return frame, paths, delimiter


def _table_of_folders(datamodule: FolderDataModule) -> pd.DataFrame:
    records = datamodule.source.records
    kinds = dict.fromkeys(kind for record in records for kind in record.labels)
    rows = [[r.id, *(";".join(r.labels.get(kind, ())) for kind in kinds)] for r in records]
    return pd.DataFrame(rows, columns=["ID", *kinds], dtype=object)


def _check_labels(reader: TableReader, frame: pd.DataFrame, paths: list[str | None], meant: After) -> None:
    """Read the labels of a table as training will, and refuse a table that says anything else."""
    found: dict[str | None, set[tuple[str, str]]] = defaultdict(set)
    cells = frame[list(reader.columns.values())].to_numpy()
    for path, row in zip(paths, cells, strict=True):
        found[path] |= _pairs(reader.labels(dict(zip(reader.columns, row, strict=True))))
    wrong = [path for path, labels in meant.items() if labels is not None and found[path] != _pairs(labels)]
    if wrong:
        shown = (f"{path} ({'; '.join(sorted(name for _, name in _pairs(meant[path])))})" for path in wrong)
        raise InputError(
            f"a table cannot say the labels of {len(wrong)} photos: {listed(shown, 3)}; words such as nan, "
            "component, defect and label stand for no label there: rename them, or name them in "
            "data.components or data.defects"
        )


def _pairs(labels: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    return {(kind, name) for kind, names in labels.items() for name in names}


def _csv(frame: pd.DataFrame, delimiter: str = ",") -> bytes:
    """Return a table as UTF-8; all cells are quoted where a reader would else trim or break one."""
    fragile = frame.map(lambda cell: cell != cell.lstrip() or "\r" in cell).any(axis=None)
    quoting = csv.QUOTE_ALL if fragile else csv.QUOTE_MINIMAL
    return frame.to_csv(index=False, sep=delimiter, quoting=quoting, lineterminator="\n").encode()


def _tally(before: Mapping[str, Labels], after: After) -> dict[str, dict[str, int]]:
    counts = [Counter(p for of in found.values() for p in _pairs(of or {})) for found in (before, after)]
    touched = set().union(*(_pairs(before[p]) ^ _pairs(after[p] or {}) for p in before))
    return {p[1]: {"before": counts[0][p], "after": counts[1][p]} for p in sorted(touched)}


def _changes(
    decided: pd.DataFrame, records: Sequence[Record], before: Mapping[str, Labels], after: After
) -> bytes:
    ids, paths = {record.path: record.id for record in records}, decided["path"]
    old, new = (
        paths.map({path: ";".join(label_names(labels or {})) for path, labels in found.items()})
        for found in (before, after)
    )
    columns = {"ID": paths.map(ids), "path": paths, "before": old, "after": new}
    columns["row"] = decided.index.astype(str)
    columns |= {name: decided.get(name, "") for name in ("list", "decision", "comment")}
    return _csv(pd.DataFrame(columns))
