"""Agreement between several rows of a table that describe one photo, label by label."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from src.datamodules.records import Record
from src.decisions.predictions import kept_from_running
from src.labels import LabelSpace

Rows = Sequence[Mapping[str, Sequence[str]]]


def agreement(
    records: Sequence[Record],
    annotations: Mapping[str, Rows],
    labels: LabelSpace,
    healthy: Collection[str],
    one_per_kind: bool,
) -> pd.DataFrame:
    """Compare the rows of each photo, label by label; docs/audit.md says what counts as disagreement.

    `annotations` are `{path: labels by kind of each row}`; `healthy` names mean "nothing wrong" and are no
    labels: a row with one says something of the kind.

    Returns:
        a row per label: `photos` that can be compared, those that carry it `in_all_rows` and `in_some_rows`,
        `rows_with` and `rows_without` it, `agreement` (the share of the photos with it where all rows carry
        it, NaN without such photos), photos that carry it and `cannot_tell`, and the IDs of the `differing`.
    """
    counts = {name: Counter() for name in labels.names}
    differing: dict[str, list[str]] = defaultdict(list)
    for record in records:
        rows = annotations.get(record.path, ())
        unclear = not one_per_kind and any(_reads_like_a_list(rows, kind, healthy) for kind in labels.kinds)
        for kind, names in labels.kinds.items():
            sets = [set(row[kind]) for row in rows if row.get(kind)]
            for name in names if len(sets) > 1 else ():
                carrying = sum(name in found for found in sets)
                if unclear:
                    counts[name]["cannot_tell"] += carrying > 0
                    continue
                counts[name].update(photos=1, rows_with=carrying, rows_without=len(sets) - carrying)
                if carrying == len(sets):
                    counts[name]["in_all_rows"] += 1
                elif carrying:
                    counts[name]["in_some_rows"] += 1
                    differing[name].append(record.id)
    columns = ["photos", "in_all_rows", "in_some_rows", "rows_with", "rows_without", "cannot_tell"]
    table = pd.DataFrame([[count[name] for name in columns] for count in counts.values()], columns=columns)
    table.insert(0, "kind", [kind for kind, names in labels.kinds.items() for _ in names])
    table.insert(1, "label", labels.names)
    carried = table["in_all_rows"] + table["in_some_rows"]
    table.insert(7, "agreement", table["in_all_rows"] / carried.where(carried > 0))
    return table.assign(differing=[differing[name] for name in labels.names])


def _reads_like_a_list(rows: Rows, kind: str, healthy: Collection[str]) -> bool:
    """Whether the rows name different labels of a kind and no two different ones share any."""
    sets = {frozenset(name for name in row.get(kind, ()) if name not in healthy) for row in rows}
    sets.discard(frozenset())
    return len(sets) > 1 and sum(map(len, sets)) == len(frozenset().union(*sets))


def agreement_csv(table: pd.DataFrame) -> bytes:
    """Return the content of `agreement.csv`: a row per label, with the photos whose rows differ."""
    table = table.assign(differing=table["differing"].map(" | ".join)).map(kept_from_running)
    return table.to_csv(index=False, float_format="%.4f", lineterminator="\n").encode("utf-8-sig")
