"""Fine-tuning in phases, and averaged weights."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from src.config_check import check_number
from src.errors import InputError, did_you_mean
from src.files import write_json
from src.models.learning import Phase

log = logging.getLogger(__name__)
METHODS = ("two_phase", "progressive")


class FinetuningPhases(L.Callback):
    """Lets the heads learn first, then the backbone: all of it at once, or stage by stage from its end.

    Which layers learn is a function of the epoch, so a resumed run goes on as if it had never ended. Early
    stopping counts its patience anew in each phase.

    Args:
        path: of the JSON file that lists the phases.
        method: `two_phase`, or `progressive` (Howard and Ruder, 2018, gradual unfreezing).
        head_epochs: epochs in which only the heads learn.
        lr_factor: of all learning rates after these.
        stage_epochs: epochs between one stage and the next, for `progressive`.
    """

    def __init__(
        self,
        path: str,
        method: str = "two_phase",
        head_epochs: int = 5,
        lr_factor: float = 0.1,
        stage_epochs: int = 1,
    ):
        if method not in METHODS:
            raise InputError(f"callbacks.finetuning.method={method}: {did_you_mean(method, METHODS)}")
        self.path, self.method, self.head_epochs = Path(path), method, head_epochs
        self.lr_factor, self.stage_epochs = lr_factor, stage_epochs

    def phases(self, stages: int) -> tuple[Phase, ...]:
        """Return the phases for a backbone of a number of stages."""
        heads = Phase(0, stages)
        if self.method == "two_phase":
            return heads, Phase(self.head_epochs, 0, self.lr_factor)
        later = enumerate(range(stages - 1, -1, -1))
        return heads, *(
            Phase(self.head_epochs + i * self.stage_epochs, stage, self.lr_factor) for i, stage in later
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the module its phases, before its optimizer is made."""
        if stage != "fit":
            return
        if pl_module.hparams["freeze_backbone"]:
            raise InputError("callbacks.finetuning: the backbone has to learn: model.freeze_backbone=false")
        if trainer.world_size > 1:  # DDP synchronises the gradients that there are when it begins
            raise InputError(f"finetune={self.method} trains on one device: trainer.devices=1")
        pl_module.phases = self.phases(len(pl_module.stages))
        log.info("Fine-tuning: %d stages of the backbone", len(pl_module.stages))
        write_json(self.path, [self._row(pl_module, phase) for phase in pl_module.phases])

    @staticmethod
    def _row(module: L.LightningModule, phase: Phase) -> dict[str, Any]:
        """Return a phase as the file lists it."""
        names = {id(part): name for name, part in module.backbone.named_modules()}
        frozen, learning = (
            [part for stage in stages for part in stage]
            for stages in (module.stages[: phase.first_stage], module.stages[phase.first_stage :])
        )
        return {
            "first_epoch": phase.epoch + 1,
            "lr_factor": phase.lr_factor,
            "learns": ["heads", *(names[id(part)] for part in learning)],
            "frozen": [names[id(part)] for part in frozen],
            "frozen_parameters": sum(p.numel() for part in frozen for p in part.parameters()),
        }

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log a phase that begins, and let early stopping count anew."""
        for number, phase in enumerate(pl_module.phases):
            if phase.epoch == trainer.current_epoch:
                stages = len(pl_module.stages) - phase.first_stage
                log.info(
                    "Phase %d: the heads and the last %d of %d stages of the backbone learn, learning rates "
                    "times %g", number + 1, stages, len(pl_module.stages), phase.lr_factor,
                )  # fmt: skip
                for callback in trainer.callbacks:
                    if isinstance(callback, EarlyStopping):
                        callback.wait_count = 0

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn where the training ended before the backbone learned."""
        if trainer.current_epoch <= self.head_epochs:
            log.warning(
                "The training ended after epoch %d, before the backbone learned: a larger "
                "callbacks.early_stopping.patience, or fewer callbacks.finetuning.head_epochs",
                trainer.current_epoch,
            )


class AveragedWeights(WeightAveraging):
    """Validates and saves the exponential moving average of the weights (Polyak and Juditsky, 1992).

    The averaged weights are in place until validation has ended, thresholds and figures included; the saved
    ones are what is evaluated, predicted with and exported.

    Args:
        decay: of the average, per optimizer step.
    """

    def __init__(self, decay: float = 0.99):
        check_number("callbacks.ema.decay", decay)
        self.decay = decay
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # exact for what does not change

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the weights that learn from a checkpoint that training goes on from, and from no other."""
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn where the average has hardly left the weights that the fit began with."""
        if (share := self.decay**trainer.global_step) > 0.1:
            words = "The averaged weights are %.0f %% those of the start: lower callbacks.ema.decay (now %g)"
            log.warning(words, 100 * share, self.decay)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the averaged weights in place; after training they are."""
        if trainer.state.fn == "fit":
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the averaged weights in place: thresholds and figures come after this."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the weights that learn back."""
        if trainer.state.fn == "fit":
            super().on_validation_epoch_end(trainer, pl_module)
