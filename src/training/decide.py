"""What turns the scores of a trained model into decisions: calibration, thresholds, limits for a person."""

import logging
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from src.analysis.evaluation import calibrated as tables
from src.analysis.evaluation.scored import Scored
from src.callbacks.checkpointing import AtomicCheckpointIO, epochs_done
from src.callbacks.finetuning import AveragedWeights
from src.callbacks.history import scored_split
from src.datamodules.photo_datamodule import PhotoDataModule
from src.decisions import calibration, routing
from src.decisions.thresholds import Evidence, Objective, evidence, objectives_for
from src.errors import InputError, did_you_mean, listed
from src.labels import DEFAULT
from src.models.checkpoint import read_checkpoint
from src.models.classifiers import PhotoClassifier
from src.training.held_out import folds_of, scores_of_folds

log = logging.getLogger(__name__)
SOURCES = ("folds", "val", "epoch")


def check_thresholds(cfg: DictConfig, model: PhotoClassifier, datamodule: PhotoDataModule) -> None:
    """Refuse settings below `thresholds.` that cannot work, before the training."""
    given = cfg.thresholds
    for name, choices in (("source", (None, *SOURCES)), ("calibration", calibration.METHODS)):
        if given[name] not in choices:
            nearest = did_you_mean(str(given[name]), [choice or "null" for choice in choices])
            raise InputError(f"thresholds.{name}={given[name]}: {nearest}")
    kept = model.hparams["freeze_backbone"] if model.reads == "text" else datamodule.cache == "features"
    if given.source == "folds" and not kept:
        raise InputError(
            "thresholds.source=folds refits heads on cached features: it needs a frozen backbone and "
            "data.cache=features; take thresholds.source=val"
        )
    whole, own = _objectives(cfg, model), model.task == "multilabel"
    if (not own or given.source == "epoch") and any(one != Objective() for one in whole):
        what = "thresholds.source=epoch keeps those of the epoch" if own else f"{model.task} has none"
        raise InputError(f"thresholds.objective and thresholds.labels are for thresholds: {what}")
    if own and given.by_class:
        raise InputError("thresholds.by_class=true is for heads; each label of multilabel has a limit anyway")


def _objectives(cfg: DictConfig, model: PhotoClassifier) -> list[Objective]:
    given = OmegaConf.to_container(cfg.thresholds, resolve=True)
    own = given["labels"] or {}
    if not isinstance(own, dict) or not all(isinstance(one, dict) for one in own.values()):
        raise InputError(f"thresholds.labels={own}: needs labels with objectives: {{Loose: {{name: cost}}}}")
    whole = objectives_for(["objective"], Objective(), {"objective": given["objective"]})[0]
    return objectives_for(model.labels.names, whole, own)


class Decisions:
    """Sets calibration, thresholds and limits of a trained model, in the module and in `best.ckpt`.

    They rest on scores of photos that the heads have not learned from: heads are fitted again for folds of
    train and val where the backbone is frozen, otherwise the scores are those of validation, which has chosen
    the epoch.

    Args:
        cfg: The run's configuration.
        trainer: After a fit and an evaluation of `best.ckpt`.
        best: The checkpoint, written anew.

    Attributes:
        source: `folds`, `val`, or `epoch`, which leaves scores and thresholds as the best epoch had them.
        held: The photos that all of it rests on, with calibrated scores.
        evidence: Of the thresholds; None for heads, and for `epoch`.
    """

    def __init__(self, cfg: DictConfig, trainer: L.Trainer, best: Path):
        self.cfg, self.model, self.datamodule = cfg, trainer.lightning_module, trainer.datamodule
        model, content = self.model, read_checkpoint(best)
        model.calibration.copy_(torch.tensor(model.uncalibrated))  # as a run that ended here has left it
        self.splits = ["val", *(["test"] if self.datamodule.splits["test"] else [])]
        for split in self.splits:
            model.rescore(split)
        self.before = scored_split(model, self.datamodule, self.splits[-1])
        self.source, self.held = self._held_out(trainer, epochs_done(content))
        self.unfitted = self._calibrate() if self.source != "epoch" else {}
        self.evidence = self._tune() if self.held.multilabel and self.source != "epoch" else None
        limits = routing.limits(
            self.held.scores, self.held.truth, model.labels, not self.held.multilabel, cfg.thresholds.by_class
        )
        model.limits.copy_(torch.from_numpy(limits))
        own = model.state_dict()
        for name in ("calibration", "limits", *(["thresholds"] if self.held.multilabel else [])):
            content["state_dict"][name] = own[name].cpu()
        AtomicCheckpointIO().save_checkpoint(content, best)
        for split in self.splits:
            model.rescore(split)

    def _held_out(self, trainer: L.Trainer, epochs: int) -> tuple[str, Scored]:
        """Return where the scores come from, and uncalibrated scores."""
        given, folds, why = self.cfg.thresholds.source, None, ""
        if given in (None, "folds") and self.datamodule.features:
            folds, why = folds_of(self.datamodule, self.cfg.seed), "too few groups for folds"
            origin = self.model.provenance
            for reason, holds in {
                "there are several processes": trainer.world_size > 1,
                "a plateau needs validation": self.cfg.model.get("schedule") == "plateau",
                "the backbone has learned, too": origin.get("backbone_trained"),
                "the heads began with those of another run": origin.get("initialised"),
                "weights are averaged": any(isinstance(c, AveragedWeights) for c in trainer.callbacks),
                "its weights come from validation": self.model.reads == "both",
                "epochs are cut short": trainer.limit_train_batches not in (None, 1.0),
            }.items():
                folds, why = (None, reason) if holds else (folds, why)
        if folds is not None:
            log.info("Heads are fitted again for %d folds, for thresholds and calibration", folds.max() + 1)
            held = scores_of_folds(self.cfg, self.model, self.datamodule, folds, epochs)
            if np.isfinite(held.scores).all():
                return "folds", held
            why = "heads of folds diverged"
        if why:
            log.warning(
                "Thresholds and calibration come from validation, which has chosen the epoch: %s", why
            )
        return given if given == "epoch" else "val", scored_split(self.model, self.datamodule, "val")

    def _calibrate(self) -> dict[str, str]:
        """Fit the calibration, and return why labels or heads were left as they were.

        A head's temperature, a single number, comes from validation: heads of folds, which have seen even
        fewer photos of rare classes, would make it too unsure.
        """
        model, method, held = self.model, self.cfg.thresholds.calibration, self.held
        names, heads = (
            (model.labels.names, ()) if held.multilabel else (model.labels.kinds, model.labels.slices)
        )
        if held.multilabel:
            if model.partial and method != "none":
                log.info("Not calibrated: labels that nobody has looked for would count as absent")
                method = "none"
            weights = [model.weight_of(kind) for kind in model.labels.kinds]
            weights = None if None in weights else torch.cat(weights).cpu().numpy()
            found = calibration.fit(held.scores, held.truth, method, weights)
        elif method == "none":
            return {}
        else:
            val = scored_split(model, self.datamodule, "val")
            found = calibration.fit_heads(val.scores, val.targets, model.labels)
        model.calibration.copy_(torch.from_numpy(found.parameters))
        parts = [model.labels.slices[kind] for kind in heads]
        self.held = replace(held, scores=calibration.apply(held.scores, found.parameters, parts))
        unfitted = {name: why for name, why in zip(names, found.unfitted, strict=True) if why}
        if unfitted and method != "none":
            log.info("Not calibrated: %s", listed((f"{name} ({why})" for name, why in unfitted.items()), 30))
        return unfitted

    def _tune(self) -> Evidence:
        """Set the thresholds of `multilabel`."""
        held = self.held
        half = np.full(len(held.labels), DEFAULT)  # of the scores that the model was trained for
        now = calibration.apply(half, self.model.calibration.cpu().numpy())
        objectives, groups = _objectives(self.cfg, self.model), np.asarray(held.groups)
        found = evidence(held.scores, held.truth, groups, objectives, now=now)
        self.model.thresholds.copy_(torch.from_numpy(found.threshold))
        self.held = replace(held, thresholds=self.model.thresholds.cpu().numpy())
        return found

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of the run's evaluation, by file name; figures are of the test split, or else of val."""
        after = scored_split(self.model, self.datamodule, self.splits[-1])
        found = {
            "held_out": tables.held_out_table(self.held, self.source),
            "calibration": tables.calibration_table(self.before, after, self.unfitted),
            "reliability": tables.reliability_table(self.before, after),
            "suspected_noisy_labels": tables.noisy_labels(self.held),
        }
        limits = self.model.limits.cpu().numpy()
        rows = routing.workload(limits, after.scores, after.truth, after.labels, after.thresholds)
        found["workload"] = pd.DataFrame(rows)
        return found

    @property
    def thresholds(self) -> pd.DataFrame:
        """`thresholds.csv`: each label's threshold and what it rests on."""
        found = self.evidence
        known = found or Evidence(*[self.model.thresholds.cpu().numpy(), *[np.nan] * 6], "")
        columns = {"label": self.model.labels.names, **vars(known), "positives": self.held.truth.sum(0)}
        columns["objective"] = [one.name for one in _objectives(self.cfg, self.model)] if found else ""
        columns |= {"state": columns.pop("state"), "source": self.source}
        return pd.DataFrame(columns)
