"""A label audit and its files: the page, the CSV of suspects, the agreement of a table's rows."""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from src.analysis.audit.conflicts import NAME, find_conflicts, notes_of
from src.analysis.audit.evidence import unjudgeable
from src.analysis.audit.suspects import Suspect, find_suspects, nearest_labelled
from src.analysis.pages import LISTED, label_names, render, thumbnail
from src.config import build
from src.datamodules.groups import Linked
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.records import Record, label_space
from src.datamodules.splits import split_folds
from src.decisions.predictions import kept_from_running
from src.errors import InputError, listed
from src.files import user_path, write_whole
from src.inference.features import extract_features
from src.labels import LabelSpace
from src.models.checkpoint import load_model
from src.models.classifiers import PhotoClassifier
from src.models.linear import out_of_fold
from src.runs import find_checkpoint

log = logging.getLogger(__name__)
FILES = PAGE, LIST, ROWS = "audit.html", "audit.csv", "agreement.csv"
CONTENT = "content "  # before a digest, which a spreadsheet would else take for a number
Rows = Sequence[Mapping[str, Sequence[str]]]
GIVEN = "given_"  # before a kind's name: the column of the labels that were judged
TITLES = {
    "missing_label": "A label may be missing",
    "wrong_label": "A label may be wrong",
    "unseen_pair": "Labels that meet nowhere else",
    "near_duplicates": "Look-alikes with different labels",
    "note_disagrees": "Note and picture disagree",
}


@dataclass
class Audit:
    """The findings of an audit.

    Attributes:
        suspects: the lists, each with the most suspicious first.
        unjudged: `{label: reason why it cannot be judged}`.
        texts: `{path: note}` of the photos with one.
        nearest: positions of the most similar photos of other groups, int `[records, count]`, -1 for none.
        features: the origin of the features, in words.
        notes: cautions for readers of the lists.
        sample_bits: see `open_image`.
    """

    root: Path
    linked: Linked
    labels: LabelSpace
    suspects: Mapping[str, Sequence[Suspect]]
    unjudged: Mapping[str, str]
    nearest: np.ndarray
    features: str = ""
    notes: Sequence[str] = ()
    sample_bits: int | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


def find_label_errors(cfg: DictConfig, datamodule: PhotoDataModule) -> Audit:
    """Judge every label by heads that were trained on other groups, and list the doubtful ones."""
    linked, multilabel = datamodule.collect(), datamodule.multilabel
    labels, folds = judged_labels(linked.records, multilabel), split_folds(linked, cfg.folds, cfg.seed)
    model, origin, notes = feature_model(cfg, labels, linked.records)
    kept = datamodule.cache_dir if datamodule.cache == "features" else None
    features = extract_features(model, datamodule.root, linked.records, cfg.device, cache_dir=kept)
    encode = labels.encode if multilabel else labels.encode_classes
    targets = np.stack([encode(record.labels) for record in linked.records])
    probabilities = out_of_fold(features, targets, folds, labels, multilabel)
    suspects = find_suspects(linked, labels, multilabel, probabilities)
    texts = notes_of(user_path(cfg.notes), linked.records, datamodule.root) if cfg.notes else {}
    if texts:
        given = texts, labels, datamodule.task, probabilities, targets, folds
        suspects[NAME] = find_conflicts(linked.records, *given)
    unjudged, nearest = unjudgeable(linked, labels), nearest_labelled(features, linked.groups)
    notes = [*map(str, datamodule.source.findings), *notes]
    bits = datamodule.preprocess.sample_bits
    return Audit(datamodule.root, linked, labels, suspects, unjudged, nearest, origin, notes, bits, texts)


def judged_labels(records: Sequence[Record], multilabel: bool) -> LabelSpace:
    """Return the label space of all photos; refuse one label only, or the same labels on every photo."""
    labels = label_space(records)
    for kind, names in labels.kinds.items():
        if len(names) < 2 and not multilabel:
            raise InputError(f"only one {kind}, '{names[0]}': there is no other to take it for")
    if all(set(labels.names) == set().union(*r.labels.values()) for r in records):
        raise InputError(f"every photo carries the same labels ({listed(labels.names)}): nothing to compare")
    return labels


def feature_model(
    cfg: DictConfig, labels: LabelSpace, records: Sequence[Record]
) -> tuple[PhotoClassifier, str, list[str]]:
    """Return the model whose backbone gives the features, its origin in words, and warnings."""
    if cfg.model.get("init_from"):
        raise InputError("model.init_from: an audit trains no model; name the checkpoint with ckpt=")
    notes = []
    if cfg.ckpt:
        path = find_checkpoint(cfg.ckpt)
        model = load_model(path)
        if model.reads != "photo":
            raise InputError(f"ckpt={cfg.ckpt}: not a model of photos, whose backbone could give features")
        origin = f"the backbone of {path.as_posix()} ({model.hparams['backbone']})"
        trained_on = set(model.provenance.get("train_digests", ()))
        seen = sum(record.digest in trained_on for record in records)
        if seen and model.provenance.get("backbone_trained", not model.hparams["freeze_backbone"]):
            notes.append(
                f"The backbone was trained on {seen:,} of these {len(records):,} photos with their labels, "
                "so it may have learned their errors, and these are harder to find: a frozen backbone has "
                "not seen them."
            )
    else:
        torch.manual_seed(cfg.seed)
        model = build(cfg.model, labels=labels.as_dict(), class_weights=None)
        origin = f"{cfg.model.backbone} with the weights {cfg.model.weights or 'of a random start'}"
        if cfg.model.weights is None:
            notes.append(
                "The backbone has random weights (model.weights=null), so the lists are little better than "
                "chance: name a trained one with ckpt= or model.weights=."
            )
    for note in notes:
        log.warning("%s", note)
    return model, f"Features: {origin}", notes


def write_audit(found: Audit, datamodule: PhotoDataModule, folder: Path, top: int, command: str) -> None:
    """Write `audit.html`, `audit.csv` and, where a photo has several rows, `agreement.csv`.

    The page shows the first `top` photos of each list, and the shell command that takes the decisions back.
    """
    multilabel, rows = datamodule.multilabel, datamodule.source.annotations
    healthy, agreements = datamodule.healthy if multilabel else (), []
    several = [record for record in found.linked.records if len(rows.get(record.path, ())) > 1]
    if several:
        table = agreement(several, rows, found.labels, healthy, not multilabel)
        write_whole(folder / ROWS, agreement_csv(table))
        agreements = table.to_dict("records")
    write_whole(folder / PAGE, audit_page(found, agreements, top, command))
    write_whole(folder / LIST, audit_csv(found))


def audit_page(audit: Audit, agreements: Sequence[Mapping], top: int, command: str) -> bytes:
    """Return `audit.html`: self-contained, without scripts; the same audit gives the same bytes.

    Each list shows `top` photos; `agreements` are rows of `lists.agreement`, and `command` is the shell
    command that applies the decisions.
    """
    kinds = ", ".join(f"{len(names)} of kind {kind}" for kind, names in audit.labels.kinds.items())
    name = "/".join(audit.root.absolute().parts[-2:])
    reasons = defaultdict(list)
    for label, why in audit.unjudged.items():
        reasons[why].append(label)
    unjudged = [f"Cannot be judged: {listed(names, LISTED)} ({why})." for why, names in reasons.items()]
    return render(
        "audit.html",
        title=f"Label audit of {name}",
        eyebrow=["Corbel", "label audit"],
        name=name,
        about=f"{len(audit.linked.records):,} labelled photos; labels: {kinds}",
        details=audit.features,
        scores=[(TITLES[name], len(found)) for name, found in audit.suspects.items()],
        digits=0,
        notes=[*audit.notes, *unjudged],
        command=command,
        kinds=list(audit.labels.kinds),
        picture=cache(lambda path, *size: thumbnail(audit.root, path, *size, sample_bits=audit.sample_bits)),
        lists=[
            (name, TITLES[name], len(found), [_card(audit, suspect) for suspect in found[:top]])
            for name, found in audit.suspects.items()
        ],
        agreements=[a for a in agreements if a["in_all_rows"] or a["in_some_rows"] or a["cannot_tell"]],
    )


def _card(audit: Audit, suspect: Suspect) -> dict:
    records = audit.linked.records
    return {
        "suspect": suspect,
        "photo": records[suspect.position],
        "other": None if suspect.other is None else records[suspect.other],
        "note": audit.texts.get(records[suspect.position].path, ""),
        "group": _group_votes(audit, suspect),
        "nearest": [records[i] for i in audit.nearest[suspect.position].tolist() if i >= 0],
    }


def _group_votes(audit: Audit, suspect: Suspect) -> str:
    """Return how many other photos of the group carry the label in question; the ranking weighs that too."""
    label, groups = (*suspect.add, *suspect.remove)[0], audit.linked.groups
    others = np.flatnonzero(groups == groups[suspect.position]).tolist()
    others = [audit.linked.records[i] for i in others if i != suspect.position]
    carrying = sum(any(label in names for names in record.labels.values()) for record in others)
    return f"{carrying} of {len(others)} other photos of its group carry {label}" if others else ""


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


def audit_csv(found: Audit) -> bytes:
    """Return the content of `audit.csv`: every list whole, in order, with an empty `decision`.

    It is UTF-8 with a mark, by which spreadsheets know it; a cell that one would run begins with `'`.
    """
    kinds, records, rows = list(found.labels.kinds), found.linked.records, []
    for name, suspects in found.suspects.items():
        for rank, suspect in enumerate(suspects, 1):
            record = records[suspect.position]
            near = [_described(records[i]) for i in found.nearest[suspect.position].tolist() if i >= 0]
            other = "" if suspect.other is None else _described(records[suspect.other])
            given = [";".join(record.labels.get(kind, ())) for kind in kinds]
            change = [suspect.suggestion, f"{suspect.probability:.4f}", other, " | ".join(near)]
            content = f"{CONTENT}{record.digest}"
            rows.append([name, rank, record.id, record.path, *given, *change, "", "", content])
    columns = ["list", "rank", "ID", "path", *(f"{GIVEN}{kind}" for kind in kinds), "suggestion",
               "probability", "other", "nearest", "decision", "comment", "photo"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns).map(kept_from_running)
    return table.to_csv(index=False, lineterminator="\n").encode("utf-8-sig")


def _described(record: Record) -> str:
    return f"{record.id} ({', '.join(label_names(record.labels)) or 'no label'})"


def summary_text(found: Audit) -> str:
    """Return the length of each list, for the console."""
    lines = [f"{len(suspects):6,}  {TITLES[name]} ({name})" for name, suspects in found.suspects.items()]
    lines += [f"cannot be judged: {listed(found.unjudged, 30)}"] if found.unjudged else []
    return "\n".join(lines)
