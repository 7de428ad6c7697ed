"""From rows with decisions to the labels that each photo is to have; what contradicts itself is refused."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from src.analysis.audit_table import Decision, same_labels
from src.datamodules.records import Record
from src.errors import InputError, did_you_mean

Labels = Mapping[str, tuple[str, ...]]


def settle(
    decisions: Sequence[Decision],
    records: Sequence[Record],
    kind_of: Mapping[str, str],
    healthy: Collection[str],
    one_per_kind: bool,
    where: str,
) -> dict[str, Labels | None]:
    """Return the labels that each decided photo is to have, by path; None for one that is left out.

    Args:
        decisions: the rows.
        records: the photos as they are now.
        kind_of: `{label: kind}` of all labels that a photo may get.
        healthy: those of them that mean "nothing wrong" and are no label of a record.
        one_per_kind: whether a photo has at most one label of a kind.
        where: the file, for messages.

    Raises:
        InputError: labels that have changed since the audit, unknown labels, decisions that contradict each
            other, several labels where one is allowed, or none at all.
    """
    record_of = {record.path: record for record in records}
    rows: dict[str, list[Decision]] = {}
    for decision in decisions:
        _check_given(decision, record_of[decision.path], where)
        rows.setdefault(decision.path, []).append(_with_known_labels(decision, kind_of, where))
    settled: dict[str, Labels | None] = {}
    for path, found in rows.items():
        _check_together(found, record_of[path], where)
        if any(decision.word == "exclude" for decision in found):
            settled[path] = None
            continue
        labels = _changed(found, record_of[path], kind_of)
        _check_labels(found, record_of[path], labels, healthy, one_per_kind, where)
        settled[path] = labels
    return settled


def _check_given(decision: Decision, record: Record, where: str) -> None:
    """Refuse a row whose photo has other labels than when it was judged."""
    for kind, then in (decision.given or {}).items():
        now = record.labels.get(kind, ())
        if not same_labels(then, now):
            raise InputError(
                f"{where}, row {decision.row}: the labels of {record.id} have changed since the audit: "
                f"{kind} from '{';'.join(then)}' to '{';'.join(now)}': apply to the labels as audited, "
                "or audit again"
            )


def _with_known_labels(decision: Decision, kind_of: Mapping[str, str], where: str) -> Decision:
    """Return the decision with its labels spelt as the label space does."""
    folded: dict[str, list[str]] = {}
    for label in kind_of:
        folded.setdefault(label.casefold(), []).append(label)

    def known(label: str) -> str:
        alike = folded.get(label.casefold(), [])
        if label not in kind_of and len(alike) != 1:
            hint = "; labels are separated by ';'" if "," in label else ""
            choices = did_you_mean(label, kind_of)
            raise InputError(f"{where}, row {decision.row}: unknown label '{label[:60]}': {choices}{hint}")
        return label if label in kind_of else alike[0]

    names = {"set": ("labels",), "accept": ("add", "remove")}.get(decision.word, ())
    return replace(decision, **{name: tuple(map(known, getattr(decision, name))) for name in names})


def _claims(decision: Decision) -> dict[str, bool]:
    """Return `{label: whether the photo carries it}` of what a row says, without what `set` leaves out."""
    if decision.word == "set":
        return dict.fromkeys(decision.labels, True)
    if decision.word == "exclude":
        return {}
    adds = decision.word == "accept"
    return dict.fromkeys(decision.add, adds) | dict.fromkeys(decision.remove, not adds)


def _check_together(found: Sequence[Decision], record: Record, where: str) -> None:
    """Refuse two rows of a photo that cannot both hold."""
    for one, other in combinations(found, 2):
        words, claims = (one.word, other.word), (_claims(one), _claims(other))
        wrong = "exclude" in words and bool({"accept", "set"} & set(words))
        if not wrong and "exclude" not in words:
            for label in claims[0].keys() | claims[1].keys():
                said = {
                    claim.get(label, False if word == "set" else None)
                    for word, claim in zip(words, claims, strict=True)
                }
                wrong |= {True, False} <= said
        if wrong:
            raise InputError(f"{where}: of {record.id}, {one} and {other}: both cannot hold, change one")


def _changed(found: Sequence[Decision], record: Record, kind_of: Mapping[str, str]) -> Labels:
    """Return a photo's labels after the decisions on it."""
    chosen = [decision for decision in found if decision.word == "set"]
    labels = {kind: [] if chosen else list(names) for kind, names in record.labels.items()}
    accepted = [decision for decision in found if decision.word == "accept"] if not chosen else []
    gone = {label for decision in accepted for label in decision.remove}
    labels = {kind: [name for name in names if name not in gone] for kind, names in labels.items()}
    for label in [n for d in chosen[:1] for n in d.labels] + [n for d in accepted for n in d.add]:
        names = labels.setdefault(kind_of[label], [])
        if label not in names:
            names.append(label)
    return {kind: tuple(names) for kind, names in labels.items()}


def _check_labels(
    found: Sequence[Decision],
    record: Record,
    labels: Labels,
    healthy: Collection[str],
    one_per_kind: bool,
    where: str,
) -> None:
    """Refuse labels that a photo cannot have: several of a kind for a head, healthy and not, none at all."""
    deciding = [decision for decision in found if decision.word != "keep"]
    if not deciding:
        return
    rows = f"{where}, row{'s' * (len(deciding) > 1)} {' and '.join(str(d.row) for d in deciding)}"
    for kind, names in labels.items():
        if one_per_kind and len(names) > 1:
            raise InputError(
                f"{rows}: {record.id} would have several labels of kind {kind} ({'; '.join(names)}), where "
                "one is allowed: write set with one of them"
            )
        if len(names) > 1 and set(names) & set(healthy):
            raise InputError(
                f"{rows}: {record.id} would be {'; '.join(names)}, which is nothing wrong and something"
            )
    if not any(labels.values()) and not healthy:
        raise InputError(
            f"{rows}: {record.id} would have no label at all, which counts as unlabelled: write exclude, or "
            "set with its labels"
        )
