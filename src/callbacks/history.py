"""`history.csv`: a row per epoch, counted from 1."""

import csv
import io
import time
from pathlib import Path

import lightning as L

from src.errors import InputError
from src.files import write_whole

COLUMNS = {
    "train_loss": "train/loss",
    "val_loss": "val/loss",
    "train_accuracy": "train/accuracy",
    "val_accuracy": "val/accuracy",
    "train_f1": "train/f1",
    "val_f1": "val/f1",
}


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
                try:
                    by_epoch = {int(row["epoch"]): row for row in csv.DictReader(file)}
                except (KeyError, ValueError, TypeError, csv.Error):
                    raise InputError(f"{self.path}: damaged; mend or delete it, then resume again") from None
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", *COLUMNS, "lr", "seconds"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(by_epoch[epoch] for epoch in sorted(by_epoch) if epoch <= trainer.current_epoch)
        write_whole(self.path, text.getvalue().encode())

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock and note its learning rate."""
        self._begun = time.perf_counter()
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
