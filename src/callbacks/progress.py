"""Progress: a bar where somebody watches, and one line per epoch everywhere."""

import logging
import sys

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

log = logging.getLogger(__name__)


class Progress(TQDMProgressBar):
    """A progress bar on a terminal; the epoch's figures as one line in the log, on a terminal or not."""

    def __init__(self):
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0, leave=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        logged = trainer.callback_metrics
        named = ("train/loss", "val/loss", "train/f1", "val/f1", "val/accuracy")
        figures = "  ".join(f"{name} {float(logged[name]):.4f}" for name in named if name in logged)
        log.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, figures)
