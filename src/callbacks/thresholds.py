"""Tunes the decision thresholds on the validation split, before the checkpoint of the epoch is written."""

import lightning as L
import torch

from src.decisions.thresholds import tune_thresholds


class TuneThresholds(L.Callback):
    """Writes the F1-optimal threshold of each label into the module's `thresholds` buffer.

    Runs at each validation end of a fit on scores gathered from all processes; never on the test split, and
    not when a finished checkpoint is validated again.

    Args:
        method: `pr_curve` (exact) or `grid` (41 steps).
        clamp_above: thresholds above it become `clamp_to`; null: none do.
        clamp_to: see `clamp_above`.
    """

    def __init__(self, method: str = "pr_curve", clamp_above: float | None = None, clamp_to: float = 0.5):
        self.options = {"method": method, "clamp_above": clamp_above, "clamp_to": clamp_to}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tune on the scores that the module collected."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        scores, targets = pl_module.scores_of("val")
        if not torch.isfinite(scores).all():  # a diverged fit: the run itself ends with that
            return
        thresholds = tune_thresholds(scores.numpy(), targets.numpy(), **self.options)
        pl_module.thresholds.copy_(torch.from_numpy(thresholds))
