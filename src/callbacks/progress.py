"""Progress of a fit: a bar on a terminal, lines in the log."""

import logging
import sys

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from src.parallel import ProgressLines

log = logging.getLogger(__name__)


class Progress(TQDMProgressBar):
    """A progress bar on a terminal; in the log a line per epoch, and some within one that takes long."""

    def __init__(self):
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0, leave=False)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count the batches of the epoch."""
        super().on_train_epoch_start(trainer, pl_module)
        name = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._lines = ProgressLines(name, int(trainer.num_training_batches), "batches")

    def on_train_batch_end(self, *arguments: object) -> None:
        """Count a batch."""
        super().on_train_batch_end(*arguments)
        self._lines.update()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        logged = trainer.callback_metrics
        named = ("train/loss", "val/loss", "train/f1", "val/f1", "val/accuracy")
        figures = "  ".join(f"{name} {float(logged[name]):.4f}" for name in named if name in logged)
        log.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, figures)
