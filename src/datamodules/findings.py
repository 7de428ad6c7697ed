"""Findings: what can be read and yet looks wrong in labels, each with its count, examples and the cure."""

import json
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from src.datamodules.records import EXAMPLES, Finding, Record, tidy
from src.errors import InputError, counted, listed
from src.overrides import typed, typed_list

log = logging.getLogger(__name__)
REMARKS = 2000  # labels; more are no longer compared with each other
MANY = 20  # labels; more of them than half the photos are no labels
LISTING = (";", ",", "|", "\n", "\t", "、", "\uff0c", "\uff1b")  # marks that hardly stand in a label's name
SEPARATORS = (*LISTING, "/", "+", "#", "&", "\\", ":", " and ", " und ",
              " et ", " y ", " or ", " u. ", "->", "~", " - ", "-", "_", " ")  # fmt: skip
_NO_LABEL = """n/a na n.a. n.a #n/a nan <na> nat null nil none unknown unk unclear undefined unspecified
    unlabeled unlabelled unsorted unclassified untitled tbd tbc todo ? ?? ??? - -- --- \u2013 \u2014 _ . .. x?
    * / #value! #ref! #name? #div/0! #null! #num! k.a. unbekannt inconnu desconocido sconosciuto
    (blank) keine_angabe #wert! #bezug! #n/v #nv tba
    not_available not_labeled not_labelled not_annotated no_label no_data to_do to_sort new_folder"""
_NO_DEFECT = """ok okay i.o. io good normal intact healthy clean fine pass passed sound undamaged flawless
    faultless none no_defect no_defects no_damage no_damages no_crack no_cracks no_fault no_issue no_issues
    no_problem no_anomaly nothing not_damaged not_defective non_defective without_defect without_defects
    defect_free damage_free good_condition no_visible_defect no_visible_defects no_visible_damage negative
    ohne_befund in_ordnung fehlerfrei kein_schaden keine_schäden unbeschädigt keine ras sain aucun
    sans_défaut sin_daño sin_defecto ninguno nessuno senza_difetti no_finding no_findings 正常 норма"""
MISSING, HEALTHY = frozenset(_NO_LABEL.split()), frozenset(_NO_DEFECT.split())
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf\u0152-\u2122]|\ufffd")
DASHES = re.compile(r"[\s_\-\u2010-\u2015\u2212\u00ad]+")


def report_findings(findings: Sequence[Finding], strict: bool) -> None:
    """Log a line for each finding; stop with all of them if `strict`."""
    if findings and strict:
        shown = " | ".join(map(str, findings))
        raise InputError(f"data.strict=true and {len(findings)} findings in the data: {shown}")
    for finding in findings:
        log.warning("%s", str(finding).replace("\n", "\\n"))


def quoted(names: Iterable[str], counts: Mapping[str, int], limit: int = EXAMPLES) -> str:
    """Return names in quotes with their counts; letters that cannot be seen as escapes."""
    return counted({visible(name): counts[name] for name in names}, limit)


def visible(name: str) -> str:
    """Return a name in quotes; as ASCII where some of its letters cannot be seen."""
    return f"'{name}'" if name.isprintable() else ascii(name)


def same_to_a_reader(name: str) -> str:
    """Return a text that two names share where a reader takes them for one label.

    Letter case, blanks, dashes, invisible letters, zeros that do not change a number (`01`, `1.0`), and marks
    at the end make no difference.
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())
    text = re.sub(r"(?<!\w)[-\u2212](?=\d)", "minus", text)
    text = DASHES.sub(" ", text).strip(" .:!;,'\"")
    text = re.sub(r"(?<!\d) | (?!\d)", "", text)  # a blank matters only between digits
    return re.sub(r"(?<![\d.])0*(\d+?)(?:[.,]0+)?(?![\d.,])", r"\1", text)


def number(text: str) -> float | None:
    """Return the number that a text is, with a decimal point or comma; None for any other text."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None


def word(label: str) -> str:
    """Return a label as in `MISSING` and `HEALTHY`: lower case, `_` for blanks and dashes within it."""
    text = label.strip().casefold()
    return DASHES.sub("_", text) if any(c.isalnum() for c in text) else text


def renames(pairs: Sequence[str]) -> dict[str, str]:
    """Return `{old name: new name}` from texts `OLD=NEW`."""
    found = {}
    for pair in pairs:
        old, _, new = map(tidy, str(pair).rpartition("="))
        if not (old and new):
            raise InputError(f"data.rename: '{pair}' is not OLD=NEW, as data.rename=['crack=Crack']")
        found[old] = new
    return found


def listed_labels(cell: str) -> list[str] | None:
    """Return the labels of a cell that is a serialised list, as of Python, NumPy or JSON; None for any other.

    Such lists are `["Crack", "Leak"]`, `['Crack' 'Leak']`, `[Crack, Leak]`, and `{"choices": ["Crack"]}` of
    annotation tools.
    """
    text = cell.strip()
    if text[:1] + text[-1:] not in ("[]", "{}", "()") or (text[0] == "(" and "," not in text):
        return None
    try:
        return _leaves(json.loads(text))
    except (ValueError, RecursionError):
        inner = text[1:-1]
    inner = re.sub(r"(?<![\w'\"])(?:None|nan|NaN|null)(?![\w'\"])", "", inner)  # a missing label
    quotes = [a or b for a, b in QUOTED.findall(inner)]
    found = quotes if quotes and not QUOTED.sub("", inner).strip(" ,;\n") else inner.split(",")
    numbers = any(found) and None not in map(number, found)
    if numbers or any(mark in "".join(found) for mark in "[]{}():'\""):
        return None
    return [name for name in found if name.strip()]


def _leaves(content: object) -> list[str] | None:
    """Return the labels in JSON; None where it is not clear which texts are labels."""
    if isinstance(content, dict):
        content = content.get("choices", 0)
    if content is None or content != content:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return None
    parts = [_leaves(item) for item in content]
    return None if None in parts else [name for part in parts for name in part]


def check_labels(
    records: Sequence[Record], healthy: Sequence[str], multilabel: bool, table: bool
) -> list[Finding]:
    """Return the findings in the labels of all records, of a `table` or of folders.

    For `multilabel` a `healthy` label, which means "nothing wrong", is none.
    """
    counts: Counter[tuple[str, str]] = Counter()
    totals: Counter[str] = Counter()
    first: dict[str, str] = {}
    for record in records:
        for kind, names in record.labels.items():
            counts.update((kind, name) for name in names)
            totals.update(names)
            for name in names:
                first.setdefault(name, record.path)

    def finding(name: str, text: str, cure: str, labels: Sequence[str], shown: str = "") -> Finding:
        paths = tuple(first[label] for label in labels[:EXAMPLES])
        text = f"{text}: {shown or quoted(labels, totals)}"
        return Finding(name, text, cure, sum(totals[label] for label in labels), paths)

    named = {word(name) for name in healthy}
    missing = [name for name in totals if word(name) in MISSING - named]
    harmless = MISSING | named if multilabel else MISSING - named  # told below, or no label
    alike = [names for names in spellings(totals) if not harmless.issuperset(map(word, names))]
    found = []
    if alike:
        pairs = [f"{name}={names[0]}" for names in alike for name in names[1:]]
        sets = [quoted(names, totals) for names in alike]
        shown = "; ".join(sets[:MANY]) + (f" and {len(sets) - MANY} more" if len(sets) > MANY else "")
        both = [name for names in alike for name in names]
        cure = f"if they are one, use {typed_list('data.rename', pairs)}"
        found.append(finding("labels_alike", "Labels that read the same", cure, both, shown))
    for separator, names in _lists(totals).items():
        cure = f"use {typed('data.separator', separator)}" if table else "a table can hold lists: data=table"
        found.append(finding("labels_listed", "Labels that are made of several labels", cure, names))
    if missing:
        cure = f"if they are none, use {typed_list('data.missing', missing)}"
        found.append(finding("labels_missing", "Labels that look like a missing one", cure, missing))
    unnamed = [name for kind, name in counts if kind != "component" and word(name) in HEALTHY - named]
    if multilabel and unnamed:
        text = "Labels that sound like nothing wrong and count as defects"
        cure = f"use {typed_list('data.healthy', [*healthy, *unnamed])}"
        found.append(finding("labels_healthy", text, cure, unnamed))
    told = {*missing, *(name for names in alike for name in names)}
    if garbled := [name for name in totals if MOJIBAKE.search(name) and name not in told]:
        cure = "name it: data.encoding="
        found.append(finding("labels_garbled", "Labels in a wrong encoding", cure, garbled))
    return found + _too_many(counts, records) + _contradictions(records, named)


def spellings(totals: Mapping[str, int]) -> list[list[str]]:
    """Return the sets of names that a reader takes for one, the commonest spelling first."""
    sets: dict[str, list[str]] = defaultdict(list)
    for name in sorted(totals, key=lambda name: (-totals[name], len(name), name.isupper(), name)):
        sets[same_to_a_reader(name)].append(name)
    return [names for names in sets.values() if len(names) > 1]


def _lists(totals: Mapping[str, int]) -> dict[str, list[str]]:
    """Return `{separator: names}` of names that are made of other labels."""
    if len(totals) > REMARKS:
        return {}  # told as too many, and slow
    plain = {same_to_a_reader(name) for name in totals}
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for separator in SEPARATORS:
        rest = [name for name in totals if name not in taken and separator in name]
        parts = {name: [*filter(None, map(same_to_a_reader, name.split(separator)))] for name in rest}
        parts = {n: cut for n, cut in parts.items() if len(cut) > 1 and None in map(number, cut)}
        times = Counter(part for cut in parts.values() for part in set(cut))
        several = {part for part, n in times.items() if n > 1 and separator in LISTING and len(parts) > 2}
        if names := [name for name, cut in parts.items() if (plain | several).issuperset(cut)]:
            found[separator] = names
            taken.update(names)
    return found


def _too_many(counts: Mapping[tuple[str, str], int], records: Sequence[Record]) -> list[Finding]:
    """Return a finding for each kind that has nearly as many labels as photos: a remark, or an ID."""
    labels = Counter(kind for kind, _ in counts)
    return [
        Finding(
            "labels_unique",
            f"{n:,} different labels of kind '{kind}' on {len(records):,} {records[0].noun}s",
            f"check that its column or folder names labels, not {records[0].noun}s or remarks",
            n,
        )
        for kind, n in labels.items()
        if n > MANY and 2 * n > len(records)
    ]


def _contradictions(records: Sequence[Record], healthy: set[str]) -> list[Finding]:
    paths = [
        record.path
        for record in records
        for names in record.labels.values()
        if len(names) > 1 and 0 < sum(word(name) in healthy for name in names) < len(names)
    ]
    if not paths:
        return []
    which = f"{len(paths)} {records[0].noun}s carry a label for nothing wrong"
    text = f"{which} next to another: {listed(paths, EXAMPLES)}"
    cure = "correct them; the other label counts"
    return [Finding("labels_contradict", text, cure, len(paths), tuple(paths[:EXAMPLES]))]
