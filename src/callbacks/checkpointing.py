"""Atomic checkpoints `best.ckpt` and `last.ckpt`, and early stopping that a resumed run remembers."""

import io
import logging
import os
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
        """Write `best.ckpt` where the epoch improved, and `last.ckpt` unless that has just been done."""
        before = self.best_model_score
        super().on_train_epoch_end(trainer, pl_module)
        improved = self.best_model_score is not before
        last_one = trainer.should_stop or trainer.current_epoch + 1 >= trainer.max_epochs
        early = WRITING * (time.perf_counter() - self._written) < self._took
        wanted = improved or last_one or trainer.received_sigterm or not early
        if trainer.strategy.broadcast(wanted):
            self._save_last(trainer, improved)

    def _save_last(self, trainer: L.Trainer, improved: bool = False) -> None:
        """Write the state of now, from all processes, unless the fit only tries the loops.

        Where `best.ckpt` holds it already, `last.ckpt` is a second name of that file: both are only ever
        replaced, never written into.
        """
        if trainer.fast_dev_run:
            return
        last = Path(self.dirpath) / LAST
        begun = time.perf_counter()
        linked = improved and trainer.is_global_zero and _link(last.with_name(BEST), last)
        if not trainer.strategy.broadcast(linked):
            trainer.save_checkpoint(last)
            self._took = time.perf_counter() - begun
        self._written = time.perf_counter()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, with paths in today's folder."""
        best = str(Path(self.dirpath) / BEST)
        scores = list(state_dict["best_k_models"].values())
        kept = {best: scores[-1]} if scores else {}
        paths = {
            "dirpath": self.dirpath,
            "best_model_path": best if kept else "",
            "kth_best_model_path": best if kept else "",
            "last_model_path": "",
            "best_k_models": kept,
        }
        super().load_state_dict({**state_dict, **paths})


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name in the place of another one; False where the disk knows no such thing."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


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
