"""A person's decisions in an `audit.csv`, and the labels that they give each photo."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from src.analysis.audit.lists import CONTENT, GIVEN
from src.datamodules.csv_table import read_csv
from src.datamodules.records import Record, label_space, tidy
from src.decisions.predictions import as_written
from src.errors import InputError, did_you_mean, listed

Labels = Mapping[str, tuple[str, ...]]
WORDS = ("accept", "keep", "exclude", "set A;B")
KNOWN = r"(?is)accept|keep|exclude|set(\s.*)?"
CHANGE = re.compile(r"(add|remove) (.+)", re.DOTALL)
LEFT_OUT = ""  # among claims on labels: the photo is left out


def read_decisions(
    path: Path, records: Sequence[Record], kind_of: Mapping[str, str], gone: Mapping[str, str]
) -> tuple[pd.DataFrame, int]:
    """Read the rows with a decision of an `audit.csv`, also as a spreadsheet saved it: sorted, cut, widened.

    `kind_of` is `{label: kind}` of all labels that a photo may get, `gone` `{path: reason}` of photos in the
    data set that are no record.

    Returns:
        the rows, with `claims` (`{label: whether the photo carries it}`), indexed by the row number in a
        spreadsheet; and the number of rows without a decision.
    """
    where, record_of = f"apply={path}", {record.path: record for record in records}
    frame = read_csv(path, key="apply").map(lambda cell: as_written(cell.strip()))
    frame.columns = frame.columns.str.casefold()
    given = {f"{GIVEN}{kind}".casefold(): kind for kind in label_space(records).kinds}
    lacking = [n for n in ("path", "suggestion", "decision", *given) if list(frame.columns).count(n) != 1]
    if lacking:
        raise InputError(
            f"{where}: not an audit of these photos, as scripts/audit.py writes it with this model=: "
            f"it has no column {listed(lacking)}, or several"
        )
    decided = frame[frame["decision"] != ""].copy()
    if decided.empty:
        raise InputError(f"{where}: no row has a decision; write one of {', '.join(WORDS)}")
    wrong = decided["decision"][~decided["decision"].str.fullmatch(KNOWN)]
    if len(wrong):
        rows = listed((f"row {row} '{text}'" for row, text in wrong.items()), 6)
        raise InputError(f"{where}, {rows}: {did_you_mean(wrong.iloc[0], WORDS)}")
    rows = decided.to_dict("index")
    reasons = {row: _since(cells, record_of, gone, given) for row, cells in rows.items()}
    if changed := [f"row {row} {rows[row]['path']} ({why})" for row, why in reasons.items() if why]:
        raise InputError(
            f"{where}: {len(changed)} rows decide on photos that have changed since the audit: "
            f"{listed(changed, 20)}; audit again, restore them, or empty their decisions"
        )
    decided["claims"] = [_claims(f"{where}, row {row}", cells, kind_of) for row, cells in rows.items()]
    return decided, len(frame) - len(decided)


def _since(
    cells: Mapping[str, str],
    record_of: Mapping[str, Record],
    gone: Mapping[str, str],
    given: Mapping[str, str],
) -> str:
    """Return the change of a row's photo since the audit, if any; a spreadsheet may have made 01 a 1."""
    record = record_of.get(cells["path"])
    if record is None:
        return gone.get(cells["path"], "no such photo")
    if cells.get("photo") and cells["photo"] != f"{CONTENT}{record.digest}":
        return "another file"
    for column, kind in given.items():
        then, now = _names(cells[column]), record.labels.get(kind, ())
        if {name.lstrip("0") for name in then} != {name.lstrip("0") for name in now}:
            return f"{kind} from '{';'.join(then)}' to '{';'.join(now)}'"
    return ""


def _names(cell: str) -> list[str]:
    return [tidy(name) for name in cell.split(";") if name.strip()]


def _claims(where: str, cells: Mapping[str, str], kind_of: Mapping[str, str]) -> dict[str, bool]:
    verb, *rest = cells["decision"].split(None, 1)
    if verb.casefold() == "exclude":
        return {LEFT_OUT: True}
    if verb.casefold() == "set":
        names = [_known(where, name, kind_of) for name in _names("".join(rest))]
        if not names:
            raise InputError(f"{where}: 'set' names no label: write set A;B, or exclude")
        return {LEFT_OUT: False} | dict.fromkeys(kind_of, False) | dict.fromkeys(names, True)
    changes = [CHANGE.fullmatch(part.strip()) for part in cells["suggestion"].split(";")]
    if not all(changes):
        raise InputError(f"{where}: the suggestion '{cells['suggestion']}' has been changed: use set A;B")
    suggested = {tidy(change[2]): change[1] == "add" for change in changes}
    if verb.casefold() == "keep":
        return {label: not adds for label, adds in suggested.items()}
    return {LEFT_OUT: False} | {_known(where, label, kind_of): adds for label, adds in suggested.items()}


def _known(where: str, label: str, kind_of: Mapping[str, str]) -> str:
    alike = [name for name in kind_of if name.casefold() == label.casefold()]
    if label not in kind_of and len(alike) != 1:
        hint = "; labels are separated by ';'" if "," in label else ""
        raise InputError(f"{where}: unknown label '{label[:60]}': {did_you_mean(label, kind_of)}{hint}")
    return label if label in kind_of else alike[0]


def settle(
    decided: pd.DataFrame,
    records: Sequence[Record],
    kind_of: Mapping[str, str],
    healthy: Collection[str],
    one_per_kind: bool,
) -> dict[str, Labels | None]:
    """Return the labels of each decided photo, by path; None for one that is left out.

    `healthy` are labels that mean "nothing wrong" and are on no record; the others as for `read_decisions`.
    """
    settled: dict[str, Labels | None] = {}
    by_path = {record.path: record for record in records}
    for path, rows in decided.groupby("path", sort=False):
        record = by_path[path]
        where = f"audit.csv, row {' and '.join(map(str, rows.index))}: {record.id} would"
        claims = _joined(rows, record.id)
        old = {name for names in record.labels.values() for name in names}
        new = [name for name in kind_of if claims.get(name, name in old)]
        kinds = dict.fromkeys([*record.labels, *(kind_of[name] for name in new)])
        labels = {kind: tuple(name for name in new if kind_of[name] == kind) for kind in kinds}
        settled[path] = None if claims.get(LEFT_OUT) else labels
        if settled[path]:
            _check_labels(where, labels, healthy, one_per_kind)
    return settled


def _joined(rows: pd.DataFrame, photo: str) -> dict[str, bool]:
    claims: dict[str, tuple[bool, str]] = {}
    for row, cells in rows.iterrows():
        source = f"row {row} says '{cells['decision']}' ({cells['suggestion']})"
        for label, carried in cells["claims"].items():
            first, other = claims.setdefault(label, (carried, source))
            if first != carried:
                raise InputError(f"audit.csv, {photo}: {other} and {source}: both cannot hold, change one")
    return {label: carried for label, (carried, _) in claims.items()}


def _check_labels(where: str, labels: Labels, healthy: Collection[str], one_per_kind: bool) -> None:
    for kind, names in labels.items():
        if one_per_kind and len(names) > 1:
            raise InputError(
                f"{where} have several labels of kind {kind}, {'; '.join(names)}: set one of them"
            )
        if len(names) > 1 and set(names) & set(healthy):
            raise InputError(f"{where} be {'; '.join(names)}, which is nothing wrong and something")
    if not any(labels.values()) and not healthy:
        raise InputError(
            f"{where} have no label at all, which counts as unlabelled: write exclude, or set with its labels"
        )
