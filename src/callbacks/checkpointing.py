"""Atomic checkpoints `best.ckpt` and `last.ckpt`, and early stopping that a resumed run remembers."""

import io
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from src.errors import InputError, reason
from src.files import write_whole
from src.runs import BEST, LAST

log = logging.getLogger(__name__)
WRITING = 0.1  # of the time of training that goes to `last.ckpt` at most, where epochs are short


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a file whole or not at all: a full disk or a kill leaves the previous one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`; raise `InputError` where the disk refuses it."""
        path, content = Path(path), io.BytesIO()  # torch's writer hides the error of a file
        torch.save(checkpoint, content)
        try:
            write_whole(path, content.getbuffer())
        except OSError as error:
            kept = "the previous one stays" if path.exists() else "there is none yet"
            raise InputError(f"{path} could not be written ({reason(error)}); {kept}") from error


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt` (by `monitor`) and `last.ckpt`, the latter from before the first step on.

    So a run that is killed at any point resumes from the end of a whole epoch, or from its start. That is the
    last epoch, except where an epoch takes little longer than writing, as with heads on cached features: such
    a kill loses at most ten times as long as one writing takes. A run folder that has been moved or renamed
    keeps its best score.

    Args:
        dirpath: the folder.
        monitor: the logged figure to minimise or maximise.
        mode: `min` or `max`.
    """

    def __init__(self, dirpath: str, monitor: str = "val/loss", mode: str = "min"):
        super().__init__(
            dirpath=dirpath,
            filename=Path(BEST).stem,
            monitor=monitor,
            mode=mode,
            save_last=False,  # Lightning's writes it only in epochs that improve
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._written, self._took = 0.0, 0.0  # when `last.ckpt` was, on a clock, and how long it took

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the state before the first step, unless the fit continues one."""
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path is None:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `best.ckpt` where the epoch improved, and `last.ckpt` unless that was done just before."""
        super().on_train_epoch_end(trainer, pl_module)
        last_one = trainer.should_stop or trainer.current_epoch + 1 >= trainer.max_epochs
        early = WRITING * (time.perf_counter() - self._written) < self._took
        if trainer.strategy.broadcast(last_one or trainer.received_sigterm or not early):
            self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        """Write the state of now, from all processes, unless the fit only tries the loops."""
        if not trainer.fast_dev_run:
            begun = time.perf_counter()
            trainer.save_checkpoint(Path(self.dirpath) / LAST)
            self._written = time.perf_counter()
            self._took = self._written - begun

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, with paths in today's folder."""
        best = str(Path(self.dirpath) / BEST)
        scores = list(state_dict["best_k_models"].values())
        kept = {best: scores[-1]} if scores else {}
        paths = dict.fromkeys(("best_model_path", "kth_best_model_path"), best if kept else "")
        paths |= {"dirpath": self.dirpath, "last_model_path": "", "best_k_models": kept}
        super().load_state_dict({**state_dict, **paths})


class StopEarly(EarlyStopping):
    """Early stopping that a resumed run remembers: one that had stopped does not train another epoch."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once where the resumed fit had already ended."""
        if self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED:
            log.info("Early stopping had ended this run: nothing left to train")
            trainer.should_stop = True


def epochs_done(checkpoint: Mapping[str, Any]) -> int:
    """Return how many whole epochs a checkpoint's fit has behind it."""
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
