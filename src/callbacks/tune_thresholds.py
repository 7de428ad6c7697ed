"""Tunes the decision thresholds on the validation split, before the checkpoint of the epoch is written."""

import logging
from collections.abc import Sequence

import lightning as L
import torch

from src.config_check import check_number
from src.decisions.thresholds import METHODS, tune_thresholds, with_room
from src.errors import InputError, did_you_mean, listed

log = logging.getLogger(__name__)


class TuneThresholds(L.Callback):
    """Writes an F1-optimal threshold of each label into the module's `thresholds` buffer.

    Runs at each validation end of a fit on scores gathered from all processes; never on the test split, and
    not when a finished checkpoint is validated again.

    Args:
        method: `pr_curve` (exact) or `grid` (41 steps).
        min_positives: a label with fewer positive validation photos keeps 0.5, and is named once.
        clamp_above: thresholds above it become `clamp_to`; null: none do.
        clamp_to: see `clamp_above`.
    """

    def __init__(
        self,
        method: str = "pr_curve",
        min_positives: int = 5,
        clamp_above: float | None = None,
        clamp_to: float = 0.5,
    ):
        if method not in METHODS:
            raise InputError(f"callbacks.thresholds.method={method}: {did_you_mean(method, METHODS)}")
        if min_positives < 1:
            key = f"callbacks.thresholds.min_positives={min_positives}"
            raise InputError(f"{key}: needs a whole number from 1 on")
        check_number("callbacks.thresholds.clamp_above", 0 if clamp_above is None else clamp_above)
        check_number("callbacks.thresholds.clamp_to", clamp_to)
        self.options = {"method": method, "min_positives": min_positives}
        self.options |= {"clamp_above": clamp_above, "clamp_to": clamp_to}
        self._named = False

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tune on the scores that the module collected."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        scores, targets = pl_module.scores_of("val")
        if not torch.isfinite(scores).all():  # a diverged fit: the run itself ends with that
            return
        self._log_untuned(pl_module.labels.names, targets.sum(0).tolist())
        thresholds = tune_thresholds(scores.numpy(), targets.numpy(), **self.options)
        pl_module.thresholds.copy_(torch.from_numpy(with_room(thresholds, scores.numpy())))

    def _log_untuned(self, names: Sequence[str], positives: Sequence[float]) -> None:
        """Name the labels that keep 0.5, once in a fit."""
        least = self.options["min_positives"]
        few = [f"{name} ({count:g})" for name, count in zip(names, positives, strict=True) if count < least]
        if few and not self._named:
            log.info("Threshold 0.5, for fewer than %d positives in validation: %s", least, listed(few, 30))
        self._named = True
