"""A range test of the learning rate (Smith, 2017, Cyclical learning rates for training neural networks)."""

import math
from typing import Any

import lightning as L
import numpy as np
import pandas as pd

from src.errors import InputError

SMOOTHING = 0.9  # weight of the earlier losses in the running mean
TOO_HIGH = 4.0  # times the lowest running mean: the test ends there
FEWEST = 12  # steps that a suggestion needs


class LearningRateRange(L.Callback):
    """Raises all learning rates from step to step, in their proportions, until the loss explodes.

    A step has several batches where gradients are accumulated.

    Args:
        low: the first `model.lr`.
        high: the last one.
        steps: of the optimizer, from one to the other.

    Attributes:
        rows: `lr`, `loss` and the running mean `smooth` of each step.
    """

    def __init__(self, low: float, high: float, steps: int):
        if not 0 < low < high or steps < FEWEST:
            raise InputError(f"low={low} high={high} steps={steps}: low below high, steps from {FEWEST} on")
        self.low, self.high, self.steps = low, high, steps
        self.rows: list[dict[str, float]] = []
        self._losses: list[float] = []  # of this step's batches
        self._mean = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note how the learning rates of the groups relate to `model.lr`."""
        (optimizer,), lr = trainer.optimizers, pl_module.hparams["lr"]
        self._shares = [group.get("initial_lr", group["lr"]) / lr for group in optimizer.param_groups]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rates of this step."""
        done = len(self.rows) / (self.steps - 1)
        self._lr = self.low * (self.high / self.low) ** done
        for group, share in zip(trainer.optimizers[0].param_groups, self._shares, strict=True):
            group["lr"] = self._lr * share

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss of a step, and end the test where it explodes."""
        self._losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if trainer.global_step == len(self.rows):
            return
        loss, seen = float(np.mean(self._losses)), len(self.rows) + 1
        self._losses.clear()
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        smooth = self._mean / (1 - SMOOTHING**seen)
        best = min([smooth, *(row["smooth"] for row in self.rows)])
        if math.isfinite(loss):
            self.rows.append({"lr": self._lr, "loss": loss, "smooth": smooth})
        if not math.isfinite(loss) or smooth > TOO_HIGH * best or seen >= self.steps:
            trainer.should_stop = True

    @property
    def table(self) -> pd.DataFrame:
        """Learning rates and losses."""
        return pd.DataFrame(self.rows)

    @property
    def suggestion(self) -> float:
        """The learning rate at which the running mean falls fastest over its logarithm.

        Raises:
            InputError: for too few steps.
        """
        if len(self.rows) < FEWEST:
            raise InputError(f"the loss exploded within {len(self.rows)} steps: a lower low=")
        table = self.table.iloc[FEWEST // 2 : -1]  # the first running means are those of few batches
        slope = np.gradient(table["smooth"], np.log(table["lr"]))
        return float(table["lr"].iloc[int(slope.argmin())])
