"""Takes the decisions of an `audit.csv` into a new table, beside what was changed and why."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.analysis.audit_decisions import Labels, settle
from src.analysis.audit_files import APPLIED, CHANGES, SPLIT, SUMMARY, TABLE, refuse_to_replace
from src.analysis.audit_table import Decision, judged_labels, read_decisions
from src.datamodules.groups import Linked
from src.datamodules.photos import PhotoDataModule
from src.datamodules.records import Record
from src.datamodules.revise import Revision, revise, usual_healthy
from src.files import write_whole


def apply_audit(datamodule: PhotoDataModule, linked: Linked, audit: Path, folder: Path) -> dict[str, Any]:
    """Write a new version of the labels into `folder`; the old one and the photos stay as they are.

    Args:
        datamodule: after `collect()`.
        linked: what `collect()` returned.
        audit: an `audit.csv` with decisions.
        folder: gets `image_data.csv`, `changes.csv`, `summary.json`, and `split.csv` for photos below train/,
            val/ and test/.

    Returns:
        the content of `summary.json`.

    Raises:
        InputError: see `read_decisions`, `settle` and `revise`.
    """
    records, where = linked.records, f"apply={audit}"
    healthy = datamodule.healthy if datamodule.multilabel else []
    labels = judged_labels(records, datamodule.multilabel)
    kind_of = dict.fromkeys(healthy, list(records[0].labels)[-1])
    kind_of |= {name: kind for kind, name in usual_healthy(datamodule.source.records, healthy).items()}
    kind_of |= {name: kind for kind, names in datamodule.vocabulary.items() for name in names}
    kind_of |= {name: kind for kind, names in labels.kinds.items() for name in names}
    gone = dict.fromkeys(datamodule.source.unlabelled, "it has no label now")
    gone |= dict.fromkeys(datamodule.unreadable, "it cannot be read now")
    decisions, undecided = read_decisions(audit, records, labels, gone)
    wanted = settle(decisions, records, kind_of, healthy, not datamodule.multilabel, where)
    given = {record.path: record.labels for record in records}
    changed = {path: names for path, names in wanted.items() if not _same(names, given[path])}
    revision = revise(datamodule, linked, changed)
    summary = {
        "audit": audit.as_posix(),
        "photos": len(records),
        "changed": sum(names is not None for names in revision.after.values()),
        "left_out": sum(names is None for names in revision.after.values()),
        "confirmed": len(wanted) - len(revision.after),
        "rows_decided": len(decisions),
        "rows_undecided": undecided,
        "decisions": dict(sorted(Counter(decision.word for decision in decisions).items())),
        "labels": _tally(revision, datamodule.source.records),
    }
    refuse_to_replace(folder, APPLIED)
    write_whole(folder / CHANGES, _changes(decisions, records, kind_of, revision))
    write_whole(folder / SUMMARY, (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    if revision.split is not None:
        write_whole(folder / SPLIT, revision.split)
    write_whole(folder / TABLE, revision.table)
    return summary


def told(summary: Mapping[str, Any]) -> str:
    """Return what was done, in a few lines for the console."""
    lines = [
        f"{summary['changed']} photos changed, {summary['left_out']} left out, "
        f"{summary['confirmed']} confirmed; {summary['rows_undecided']} rows without a decision"
    ]
    for label, count in summary["labels"].items():
        left = f", {count['left_out']} left out" if count["left_out"] else ""
        change = f"+{count['added']} -{count['removed']}{left}"
        lines.append(f"  {label}: {count['before']} -> {count['after']} photos ({change})")
    return "\n".join(lines)


def _same(names: Labels | None, given: Labels) -> bool:
    """Whether a photo's labels are those that it has."""
    if names is None:
        return False
    return all(set(names.get(kind, ())) == set(given.get(kind, ())) for kind in {**names, **given})


def _tally(revision: Revision, records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Return per label how many photos gained it, lost it, are left out with it, carried it, carry it now."""
    before, added, removed, left_out = Counter(), Counter(), Counter(), Counter()
    for record in records:
        old = {name for names in record.labels.values() for name in names}
        before.update(old)
        if record.path not in revision.after:
            continue
        if (labels := revision.after[record.path]) is None:
            left_out.update(old)
            continue
        new = {name for names in labels.values() for name in names}
        added.update(new - old)
        removed.update(old - new)
    return {
        name: {
            "added": added[name],
            "removed": removed[name],
            "left_out": left_out[name],
            "before": before[name],
            "after": before[name] + added[name] - removed[name] - left_out[name],
        }
        for name in sorted({*added, *removed, *left_out})
    }


def _changes(
    decisions: Sequence[Decision], records: Sequence[Record], kind_of: Mapping[str, str], revision: Revision
) -> bytes:
    """Return `changes.csv`: for each decided row and kind, what the photo's labels were and are."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["ID", "path", "kind", "before", "after", "row", "list", "decision", "comment"])
    record_of = {record.path: record for record in records}
    for decision in decisions:
        record = record_of[decision.path]
        old = revision.before.get(record.path, record.labels)
        new = revision.after.get(record.path, old)
        named = {kind_of[name] for name in (*decision.add, *decision.remove) if name in kind_of}
        kinds = [k for k in old if decision.word in ("set", "exclude") or not named or k in named]
        for kind in kinds:
            said = f"set {';'.join(decision.labels)}" if decision.word == "set" else decision.word
            cells = [";".join((names or {}).get(kind, ())) for names in (old, new)]
            writer.writerow(
                [record.id, record.path, kind, *cells, decision.row, decision.list, said, decision.comment]
            )
    return buffer.getvalue().encode()
