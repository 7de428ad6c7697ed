"""A label audit and its files: the page, the CSV of suspects, the agreement of a table's rows."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from src.analysis.agreement import agreement, agreement_csv
from src.analysis.audit.evidence import unjudgeable
from src.analysis.audit.page import TITLES, Audit, audit_page
from src.analysis.audit.suspects import find_suspects, nearest_labelled, suggestion
from src.config import build
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.records import Record, label_space
from src.datamodules.splits import split_folds
from src.errors import InputError, listed
from src.files import make_folder, user_path, write_whole
from src.inference.features import extract_features
from src.labels import LabelSpace
from src.models import PhotoClassifier, load_model
from src.models.linear import out_of_fold
from src.runs import find_checkpoint

log = logging.getLogger(__name__)
FILES = PAGE, LIST, ROWS = "audit.html", "audit.csv", "agreement.csv"
CONTENT = "content "  # before a digest, which a spreadsheet would else take for a number
GIVEN = "given_"  # before a kind's name: the column of the labels that were judged


def claim(folder: Path, datamodule: PhotoDataModule, names: Sequence[str]) -> None:
    """Make the output folder.

    Raises:
        InputError: for one that holds a file of these names, lies among the photos, or cannot be written.
    """
    photos = user_path(getattr(datamodule, "images", None) or datamodule.root)
    if folder.resolve().is_relative_to(photos.resolve()):
        raise InputError(f"output={folder}: lies among the photos in {photos}; name a folder outside")
    make_folder(folder)
    if there := [name for name in names if (folder / name).exists()]:
        raise InputError(f"output={folder}: it holds {listed(there)} already; name another folder")


def find_label_errors(cfg: DictConfig, datamodule: PhotoDataModule) -> Audit:
    """Judge every label by heads that were trained on other groups, and list the doubtful ones.

    Args:
        cfg: of `scripts/audit.py`.
        datamodule: not collected yet.
    """
    linked, multilabel = datamodule.collect(), datamodule.multilabel
    labels, folds = judged_labels(linked.records, multilabel), split_folds(linked, cfg.folds, cfg.seed)
    model, origin, notes = feature_model(cfg, labels, linked.records)
    kept = datamodule.cache_dir if datamodule.cache == "features" else None
    features = extract_features(model, datamodule.root, linked.records, cfg.device, cache_dir=kept)
    encode = labels.encode if multilabel else labels.encode_classes
    targets = np.stack([encode(record.labels) for record in linked.records])
    probabilities = out_of_fold(features, targets, folds, labels, multilabel)
    return Audit(
        name="/".join(datamodule.root.absolute().parts[-2:]),
        root=datamodule.root,
        records=linked.records,
        groups=linked.groups,
        labels=labels,
        suspects=find_suspects(linked, labels, multilabel, probabilities),
        unjudged=unjudgeable(linked, labels),
        nearest=nearest_labelled(features, linked.groups),
        features=origin,
        notes=notes,
    )


def judged_labels(records: Sequence[Record], multilabel: bool) -> LabelSpace:
    """Return the label space of all photos.

    Raises:
        InputError: where there is nothing to confuse: one label only, or the same on every photo.
    """
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
    """Return the model whose backbone gives the features, its origin in words, and warnings.

    Args:
        cfg: `ckpt`, else `model` and `seed`.
        labels: all labels.
        records: the audited photos.
    """
    if cfg.model.get("init_from"):
        raise InputError("model.init_from: an audit trains no model; name the checkpoint with ckpt=")
    if cfg.ckpt:
        path = find_checkpoint(cfg.ckpt)
        model = load_model(path)
        origin = f"the backbone of {path.as_posix()} ({model.hparams['backbone']})"
        note = _seen(model, records)
    else:
        torch.manual_seed(cfg.seed)
        model = build(cfg.model, labels=labels.as_dict(), class_weights=None)
        weights, note = cfg.model.weights, ""
        origin = f"{cfg.model.backbone} with the weights {weights or 'of a random start'}"
        if weights is None:
            note = (
                "The backbone has random weights (model.weights=null), so the lists are little better than "
                "chance: name a trained one with ckpt= or model.weights=."
            )
    if note:
        log.warning("%s", note)
    return model, f"Features: {origin}", [note] if note else []


def _seen(model: PhotoClassifier, records: Sequence[Record]) -> str:
    """Return a warning where the backbone was trained on some of the photos, with their labels."""
    trained_on = set(model.provenance.get("train_digests", ()))
    seen = sum(record.digest in trained_on for record in records)
    if not (seen and model.provenance.get("backbone_trained", not model.hparams["freeze_backbone"])):
        return ""
    return (
        f"The backbone was trained on {seen:,} of these {len(records):,} photos with their labels, so it may "
        "have learned their errors, and these are harder to find: a frozen backbone has not seen them."
    )


def write_audit(found: Audit, datamodule: PhotoDataModule, folder: Path, top: int, command: str) -> None:
    """Write `audit.html`, `audit.csv` and, where a photo has several rows, `agreement.csv`.

    Args:
        found: by the audit, without agreements.
        datamodule: after `collect()`.
        folder: to write into.
        top: photos of each list on the page.
        command: that takes the decisions back, as typed in a shell.
    """
    multilabel, rows = datamodule.multilabel, datamodule.source.annotations
    healthy = datamodule.healthy if multilabel else ()
    several = [record for record in found.records if len(rows.get(record.path, ())) > 1]
    agreements = agreement(several, rows, found.labels, healthy, not multilabel) if several else []
    if agreements:
        write_whole(folder / ROWS, agreement_csv(agreements))
    write_whole(folder / PAGE, audit_page(replace(found, agreements=agreements), top, command))
    write_whole(folder / LIST, audit_csv(found))


def audit_csv(found: Audit) -> bytes:
    """Return the content of `audit.csv`: every list whole, in order, with an empty `decision`.

    It is UTF-8 with a mark, by which spreadsheets know it.
    """
    kinds, rows = list(found.labels.kinds), []
    for name, suspects in found.suspects.items():
        for rank, suspect in enumerate(suspects, 1):
            record = found.records[suspect.position]
            near = [found.records[i] for i in found.nearest[suspect.position].tolist() if i >= 0]
            other = "" if suspect.other is None else _described(found.records[suspect.other])
            rows.append(
                [name, rank, record.id, record.path]
                + [";".join(record.labels.get(kind, ())) for kind in kinds]
                + [suggestion(suspect.add, suspect.remove), f"{suspect.probability:.4f}", other]
                + [" | ".join(map(_described, near)), "", "", f"{CONTENT}{record.digest}"]
            )
    columns = ["list", "rank", "ID", "path", *(f"{GIVEN}{kind}" for kind in kinds), "suggestion",
               "probability", "other", "nearest", "decision", "comment", "photo"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n").encode("utf-8-sig")


def _described(record: Record) -> str:
    """Return a photo's ID and labels in one cell."""
    names = [name for names in record.labels.values() for name in names]
    return f"{record.id} ({', '.join(names) or 'no label'})"


def summary_text(found: Audit) -> str:
    """Return the length of each list, for the console."""
    lines = [f"{len(suspects):6,}  {TITLES[name][0]} ({name})" for name, suspects in found.suspects.items()]
    lines += [f"cannot be judged: {listed(found.unjudged, 30)}"] if found.unjudged else []
    return "\n".join(lines)
