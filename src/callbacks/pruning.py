"""Ends trials of a study early that fall behind the others."""

import math
from pathlib import Path

import lightning as L
import optuna
from optuna.storages.journal import JournalFileBackend

STUDY = "study.journal"  # in the folder of the sweep


def open_study(folder: Path, warmup: int = 3, startup: int = 5) -> optuna.Study:
    """Return the study in the folder of a sweep, made where there is none; higher scores are better."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY)))
    pruner = optuna.pruners.MedianPruner(startup, warmup)
    names = {"study_name": "sweep", "storage": storage, "direction": "maximize", "load_if_exists": True}
    return optuna.create_study(pruner=pruner, **names)


class PruneTrial(L.Callback):
    """Stops a fit whose best `val/loss` is behind the median of earlier trials; the run ends as any other.

    Args:
        folder: of the run, named by the number of its trial, in the folder of the sweep.
        warmup: epochs that every trial has.
        startup: trials that have to be complete before one is stopped.
    """

    def __init__(self, folder: str, warmup: int = 3, startup: int = 5):
        study = open_study(Path(folder).parent, warmup, startup)
        number = int(Path(folder).name)
        self._trial = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    @property
    def pruned(self) -> bool:
        """Whether the trial was stopped, in an earlier process too."""
        return bool(self._trial.user_attrs.get("pruned"))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the loss of the epoch; the pruner takes it negative, for the study's score is maximised."""
        if math.isfinite(loss := float(trainer.callback_metrics["val/loss"])):
            self._trial.report(-loss, trainer.current_epoch)
            if self._trial.should_prune():
                self._trial.set_user_attr("pruned", True)
                trainer.should_stop = True
