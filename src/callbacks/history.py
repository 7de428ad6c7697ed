"""Figures of a fit while it runs: lines in the log, `history.csv`, TensorBoard."""

import csv
import io
import logging
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import TQDMProgressBar
from matplotlib.figure import Figure

from src.analysis import figures as fig
from src.analysis.drawing import lettered
from src.analysis.evaluation.evaluation_folder import confusion_figure
from src.analysis.evaluation.scored import Scored
from src.datamodules.split_figures import label_table
from src.errors import InputError
from src.files import write_whole
from src.parallel import ProgressLines

COLUMNS = {
    f"{split}_{name}": f"{split}/{name}" for name in ("loss", "accuracy", "f1") for split in ("train", "val")
}
log = logging.getLogger(__name__)


class History(L.Callback):
    """Appends each epoch's figures; a resumed run first cuts the rows after its checkpoint.

    Args:
        path: of the CSV.
    """

    def __init__(self, path: str):
        self.path = Path(path)
        self._begun = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the header, or keep the rows of the epochs that the checkpoint has seen."""
        if not trainer.is_global_zero:
            return
        by_epoch = {}
        if trainer.ckpt_path is not None and self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                by_epoch = {int(row["epoch"]): row for row in csv.DictReader(file)}
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", *COLUMNS, "lr", "seconds"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(by_epoch[epoch] for epoch in sorted(by_epoch) if epoch <= trainer.current_epoch)
        write_whole(self.path, text.getvalue().encode())

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._begun = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the epoch's first learning rate, which the module has set by now."""
        if batch_idx == 0:
            self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append the epoch's row."""
        if not trainer.is_global_zero:
            return
        logged = trainer.callback_metrics
        figures = [f"{float(logged[name]):.6f}" if name in logged else "" for name in COLUMNS.values()]
        seconds = f"{time.perf_counter() - self._begun:.2f}"
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            row = [trainer.current_epoch + 1, *figures, f"{self._lr:.6g}", seconds]
            csv.writer(file, lineterminator="\n").writerow(row)


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


class TensorBoardFigures(L.Callback):
    """Draws the validation split after each epoch, the class distribution at the start.

    Args:
        every: epochs between drawings; the distribution is drawn once.
        samples: photos in the sample grid.
    """

    def __init__(self, every: int = 1, samples: int = 12):
        if every < 1 or samples < 1:
            raise InputError(f"callbacks.figures: every={every}, samples={samples}: both need at least 1")
        self.every, self.samples = every, samples

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw how many photos each label has in each split."""
        if not trainer.is_global_zero:
            return
        table = label_table(trainer.datamodule.splits, pl_module.labels).set_index("label")
        figure = fig.class_distribution_figure(table[["kind", "train", "val", "test"]])
        self._show(trainer, "class_distribution", figure)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the figures of this epoch's validation."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if not fitting or trainer.current_epoch % self.every or not trainer.is_global_zero:
            return
        scored = scored_split(pl_module, trainer.datamodule, "val")
        self._show(trainer, "val/confusion", confusion_figure(scored))
        figures = pl_module.figures["val"]
        kinds = [figures] if "per_class" in figures else [figures[kind] for kind in pl_module.labels.kinds]
        per_class = {label: values for part in kinds for label, values in part["per_class"].items()}
        self._show(trainer, "val/f1_per_label", fig.label_f1_figure(per_class))
        if trainer.datamodule.reads == "photo":
            self._show(trainer, "val/samples", self._sample_grid(trainer, scored))

    def _sample_grid(self, trainer: L.Trainer, scored: Scored) -> Figure:
        """Draw photos from all over the validation split with their predicted and true labels."""
        dataset, count = trainer.datamodule.dataset("val"), len(scored.ids)
        chosen = np.linspace(0, count - 1, min(self.samples, count)).round().astype(int)
        height = dataset.preprocess.size[0]  # of the first view, the whole photo
        photos = np.stack([dataset[0, int(i)]["image"].permute(1, 2, 0).numpy()[:height] for i in chosen])
        names = np.array(scored.labels.names)
        truth, predicted = (
            [", ".join(names[row]) or "nothing" for row in hot[chosen]]
            for hot in (scored.truth, scored.decided)
        )
        right = [a == b for a, b in zip(truth, predicted, strict=True)]
        return fig.sample_grid_figure(photos, truth, predicted, right)

    def _show(self, trainer: L.Trainer, name: str, figure: Figure) -> None:
        """Hand a figure to every logger that takes figures."""
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_figure"):
                with lettered(figure):
                    logger.experiment.add_figure(name, figure, global_step=max(0, trainer.global_step - 1))


def scored_split(module: L.LightningModule, datamodule: L.LightningDataModule, split: str) -> Scored:
    """Return the scores of a split's last evaluation; of the first photos, where its batches are limited."""
    scores, targets = (part.numpy() for part in module.scored[split])
    records = datamodule.splits[split][: len(scores)]
    names = zip(*((r.id, r.shown, r.group) for r in records), strict=True)
    thresholds = module.thresholds.cpu().numpy() if module.task == "multilabel" else None
    return Scored(module.task, module.labels, *names, scores, targets, thresholds)
