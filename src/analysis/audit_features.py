"""Whose backbone an audit looks through, and what a reader has to know of it."""

import logging
from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from src.config import build
from src.datamodules.records import Record
from src.errors import InputError
from src.labels import LabelSpace
from src.models import PhotoClassifier, load_model
from src.runs import find_checkpoint

log = logging.getLogger(__name__)


def feature_model(
    cfg: DictConfig, labels: LabelSpace, records: Sequence[Record]
) -> tuple[PhotoClassifier, str, list[str]]:
    """Return the model whose backbone gives the features, where it comes from in words, and warnings.

    Args:
        cfg: `ckpt`, else `model` and `seed`.
        labels: all labels.
        records: the photos that are audited.

    Raises:
        InputError: see `load_model` and `build_backbone`.
    """
    if cfg.model.get("init_from"):
        raise InputError("model.init_from: an audit trains no model; name the checkpoint with ckpt=")
    notes = []
    if cfg.ckpt:
        path = find_checkpoint(cfg.ckpt)
        model = load_model(path)
        origin = f"Features: the backbone of {path.as_posix()} ({model.hparams['backbone']})"
        trained_on = set(model.provenance.get("train_digests", ()))
        seen = sum(record.digest in trained_on for record in records)
        if seen and model.provenance.get("backbone_trained", not model.hparams["freeze_backbone"]):
            notes.append(
                f"The backbone of {path.as_posix()} was trained on {seen:,} of these {len(records):,} photos "
                "with their labels, so it may have learned their errors, and these are harder to find: a "
                "backbone that was frozen has not seen them."
            )
    else:
        torch.manual_seed(cfg.seed)
        model = build(cfg.model, labels=labels.as_dict(), class_weights=None)
        weights = cfg.model.weights
        origin = f"Features: {cfg.model.backbone} with the weights {weights or 'of a random start'}"
        if weights is None:
            notes.append(
                "The backbone has random weights (model.weights=null), so the lists are little better than "
                "chance: name a trained one with ckpt= or model.weights=."
            )
    for note in notes:
        log.warning("%s", note)
    return model, origin, notes
