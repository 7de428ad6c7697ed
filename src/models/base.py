"""The parts of a classifier that do not depend on its input: heads, one step for three loops, optimiser."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.config_check import check_number
from src.errors import InputError, did_you_mean, listed
from src.labels import MISSES, NO_PROMISE, LabelSpace
from src.models.learning import (
    DROP,
    OPTIMIZERS,
    PATIENCE,
    SCHEDULES,
    Phase,
    make_optimizer,
    parameter_groups,
    phase_schedule,
    stages_of,
)
from src.models.losses import HARD, loss_shares, mixed
from src.models.metrics import Collected
from src.parallel import mixed_seed

SCHEMA = 3


def set_full_precision() -> None:
    """Compute in float32 in this process: no TF32 in convolutions on NVIDIA's GPUs.

    A script calls it once at its start, so that scores agree with those of a CPU except for the last digits:
    TF32 has a mantissa of ten bits.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


SHARP = 3.0  # of the maximum over views: 0 is the mean of their logits
NECK = (512, 128, 0.4)  # widths of the layers of `head=mlp`, share of the last one's outputs that are dropped


class Classifier(L.LightningModule, ABC):
    """Heads, one per kind, on the features of `self.backbone`, which a subclass builds.

    Args:
        hyperparameters: primitives that rebuild the module: `task`, `labels`, `class_weights`, `head`,
            `loss`, `freeze_backbone`, `train_bn`, `lr`, `backbone_lr_factor`, `layer_decay`,
            `optimizer`, `weight_decay`, `schedule`, `seed`, `label_smoothing`, `mixup`, `cutmix`, and
            those of the subclass.
        init_from: a checkpoint to start from, kept for `checkpoint.init_from`.

    Attributes:
        calibration: `[labels, 3]`, see `decisions.calibration`; fitted after training.
        limits: `[labels, rates]`, the scores below which a label is absent, see `decisions.routing`.
        phases: of the training, each with the layers that learn; a callback may set others before it begins.
        first_stage: of the backbone that learns now, an index of `learning.stages_of`.
    """

    kind, reads, needs_two = "photo", "photo", False  # key of the registry, content and least of a batch
    tasks: tuple[str, ...]
    losses: tuple[str, ...]
    uncalibrated: tuple[float, float, float]  # the row of `calibration` that changes nothing
    views = 1  # of a photo, each seen by the backbone by itself
    partial = False  # whether labels that nobody has looked for stay out of the loss
    backbone: nn.Module
    given: dict[str, Any] | None = None  # what rebuilds it, where that is not `hparams`

    def __init__(self, hyperparameters: Mapping[str, Any], init_from: str | None = None):
        super().__init__()
        self.save_hyperparameters(dict(hyperparameters), logger=False)
        self._check()
        self.labels = LabelSpace(self.hparams["labels"])
        self.init_from = init_from
        self.provenance: dict[str, Any] = {}
        for kind, values in (self.hparams["class_weights"] or {}).items():
            weights = torch.tensor(values, dtype=torch.float32)
            self.register_buffer(f"weight_{kind}", weights, persistent=False)
        self.register_buffer("calibration", torch.tensor(self.uncalibrated).repeat(len(self.labels), 1))
        self.register_buffer("limits", torch.full((len(self.labels), len(MISSES)), NO_PROMISE))
        self.collected = {split: Collected() for split in ("train", "val", "test")}
        self.figures: dict[str, dict[str, Any]] = {}
        self.logits: dict[str, tuple[Tensor, Tensor]] = {}
        self.scored: dict[str, tuple[Tensor, Tensor]] = {}
        self._taught: set[str] = set()  # kinds with a label in the batches since the optimizer's last step

    def _check(self) -> None:
        """Refuse arguments of the right type without sense."""
        given = self.hparams
        choices = {"schedule": SCHEDULES, "optimizer": OPTIMIZERS, "head": ("linear", "mlp")}
        for name, known in (choices | {"loss": (None, *self.losses)}).items():
            if given[name] not in known:
                nearest = did_you_mean(given[name], [choice or "null" for choice in known])
                raise InputError(f"model.{name}={given[name]}: {nearest}")
        for name in ("label_smoothing", "lr", "weight_decay", "backbone_lr_factor", "layer_decay",
                     "mixup", "cutmix"):  # fmt: skip
            check_number(f"model.{name}", given[name])
        if given["loss"] in HARD and given["label_smoothing"]:
            raise InputError(f"model.loss={given['loss']} takes hard labels: model.label_smoothing=0")
        if given["task"] not in self.tasks:
            raise InputError(
                f"task={given['task']}: {type(self).__name__} is for {listed(self.tasks)}; choose with model="
            )

    def add_backbone(self, backbone: nn.Module) -> None:
        """Add the backbone, frozen or not, and find its stages."""
        self.backbone, self.stages = backbone, stages_of(backbone)
        self.first_stage = len(self.stages) if self.hparams["freeze_backbone"] else 0
        self.phases: tuple[Phase, ...] = (Phase(0, self.first_stage),)
        backbone.requires_grad_(not self.hparams["freeze_backbone"])

    def add_heads(self, num_features: int) -> None:
        """Add a head for each kind, on `num_features` features, and what all of them share."""
        self.num_features, self.neck = num_features * self.views, nn.Identity()
        if self.hparams["head"] == "mlp":  # LayerNorm, for BatchNorm fails on a last batch of one photo
            first, second, dropped = NECK
            self.neck = nn.Sequential(
                nn.LayerNorm(num_features), nn.Linear(num_features, first), nn.ReLU(),
                nn.LayerNorm(first), nn.Linear(first, second), nn.ReLU(),
                nn.LayerNorm(second), nn.Dropout(dropped),
            )  # fmt: skip
            num_features = second
        for kind, names in self.labels.kinds.items():
            self.add_module(f"head_{kind}", nn.Linear(num_features, len(names)))

    def learn_from(self, first_stage: int) -> None:
        """Freeze the backbone's stages before `first_stage`, and let the others learn."""
        self.first_stage = first_stage
        self.backbone.requires_grad_(first_stage == 0)  # also what lies in no layer
        for stage in self.stages[first_stage:]:
            for part in stage:
                part.requires_grad_(True)
        self.train(self.training)

    @property
    def logged(self) -> list[str]:
        """The names of the figures that each split logs, without the split."""
        return ["loss", "f1", *self.extra_figures]

    @property
    def task(self) -> str:
        """The task's name, the key of the registry that rebuilds this module."""
        return self.hparams["task"]

    def weight_of(self, kind: str) -> Tensor | None:
        """Return the loss weights of a kind, or None."""
        return getattr(self, f"weight_{kind}", None)

    @abstractmethod
    def features_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the features `[B, F]` of a batch of the datamodule."""

    def _of_views(self, features: Tensor) -> dict[str, Tensor]:
        """Return logits `{kind: [B, views, labels of the kind]}` of features `[B, views * F]`."""
        features = self.neck(features.reshape(features.shape[0], self.views, -1))
        return {kind: self.get_submodule(f"head_{kind}")(features) for kind in self.labels.kinds}

    def classify(self, features: Tensor) -> dict[str, Tensor]:
        """Return logits `{kind: [B, labels of the kind]}` of features `[B, views * F]`.

        Those of several views are pooled label by label: a smooth maximum, the logarithm of the mean of
        their exponentials (Pinheiro and Collobert, 2015).
        """
        if self.views == 1:
            features = self.neck(features)
            return {kind: self.get_submodule(f"head_{kind}")(features) for kind in self.labels.kinds}
        pooled = {
            kind: (SHARP * logits.float()).logsumexp(1) for kind, logits in self._of_views(features).items()
        }
        return {kind: (logits - math.log(self.views)) / SHARP for kind, logits in pooled.items()}

    def scored_views(self, features: Tensor) -> Tensor:
        """Return scores `[B, labels]`; of several views, followed by the view that carried each label."""
        scores = self.probabilities(self.classify(features))
        if self.views == 1:
            return scores
        carriers = torch.cat(list(self._of_views(features).values()), 2).argmax(1)
        return torch.cat([scores, carriers.to(scores.dtype)], 1)

    @abstractmethod
    def probabilities(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Return the calibrated scores `[B, labels]` of logits by kind, in the order of `labels.names`."""

    @abstractmethod
    def loss(
        self, logits: Mapping[str, Tensor], target: Tensor, shares: Sequence[float] | None = None
    ) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            logits: `{kind: [B, labels of the kind]}`.
            target: `[B, ...]`.
            shares: where the batch is one process's part of a larger one: `loss_shares` of `counted`.
        """

    @abstractmethod
    def counted(self, target: Tensor) -> Tensor:
        """Return how many photos of a batch the loss of each kind is a mean over, int64 `[kinds]`."""

    @abstractmethod
    def evaluate(self, scores: Tensor, target: Tensor) -> dict[str, Any]:
        """Return the figures of a whole split, in the shape of `metrics.json`."""

    @property
    @abstractmethod
    def extra_figures(self) -> list[str]:
        """The names that `accuracy_of` returns."""

    @abstractmethod
    def accuracy_of(self, figures: Mapping[str, Any]) -> dict[str, float | None]:
        """Return the figures that are logged with loss and F1: `{name: value}`."""

    def train(self, mode: bool = True) -> "Classifier":
        """Set training mode; what is frozen stays in eval mode, its BatchNorm statistics untouched."""
        super().train(mode)
        if self.first_stage == len(self.stages):
            self.backbone.eval()
        for stage in self.stages[: self.first_stage]:
            for part in stage:
                part.eval()
        if not self.hparams["train_bn"]:
            for part in self.backbone.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()
        return self

    def _step(self, batch: Mapping[str, Tensor], split: str) -> dict[str, Tensor]:
        """Collect and return a batch's logits, in full precision but for training."""
        full = torch.autocast(self.device.type, enabled=False)
        with nullcontext() if split == "train" else full:
            logits = self.classify(self.features_of(batch))
        self.collected[split].update(
            torch.cat([logits[kind] for kind in self.labels.kinds], 1), batch["target"], batch["index"]
        )
        return logits

    def scores_of(self, split: str) -> tuple[Tensor, Tensor]:
        """Return the scores `[N, labels]` and targets collected of a split."""
        return self._scored(*self.collected[split].compute())

    def _scored(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.probabilities(self._by_kind(logits.to(self.device))).cpu(), self.truth(targets)

    def truth(self, targets: Tensor) -> Tensor:
        """Return the targets that scores are compared with."""
        return targets

    def rescore(self, split: str) -> dict[str, Any]:
        """Score a split's logits again with the calibration and thresholds of now; return its figures."""
        self.scored[split] = self._scored(*self.logits[split])
        self.figures[split] = self.evaluate(*self.scored[split])
        return self.figures[split]

    def _by_kind(self, logits: Tensor) -> dict[str, Tensor]:
        """Return joined logits `[N, labels]` as `{kind: [N, labels of the kind]}`."""
        return {kind: logits[:, part] for kind, part in self.labels.slices.items()}

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch; of several processes, what averages to that of all their photos."""
        photos, shares = self._shares(batch["target"])
        batch, partner, share = mixed(batch, self.hparams["mixup"], self.hparams["cutmix"])
        target = batch["target"]
        other = target if partner is None else target[partner]
        logits = self._step({**batch, "target": target if share >= 0.5 else other}, "train")
        loss = self.loss(logits, target, shares)
        if partner is not None:
            loss = share * loss + (1 - share) * self.loss(logits, other, shares)
        # the shares are in the loss, so each process weighs it with the photos of all
        options = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": True}
        self.log("train/loss", loss, batch_size=photos, **options)
        return loss

    def _shares(self, target: Tensor) -> tuple[int, list[float] | None]:
        """Return the photos of all processes and this one's share of each kind's loss; note taught kinds."""
        world = self.trainer.world_size
        if world == 1:
            return len(target), None
        local = self.counted(target)
        everywhere = torch.cat([local.new_tensor([len(target)]), local])
        photos, *total = self.trainer.strategy.reduce(everywhere, reduce_op="sum").tolist()
        self._taught |= {kind for kind, count in zip(self.labels.kinds, total, strict=True) if count}
        return photos, loss_shares(local.tolist(), total, world)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave a head alone that no photo taught: DDP gives it zeros, and Adam would move it by momentum."""
        if self.trainer.world_size > 1:
            for kind in set(self.labels.kinds) - self._taught:
                for parameter in self.get_submodule(f"head_{kind}").parameters():
                    parameter.grad = None
            self._taught.clear()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Collect the scores of a batch."""
        self._step(batch, "val")

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Collect the scores of a batch."""
        self._step(batch, "test")

    def on_train_start(self) -> None:
        """Set the learning rate to the schedule's: a checkpoint holds that of its own length."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            for group, base, factor in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["lr"] = base * factor(scheduler.last_epoch)

    def on_train_epoch_start(self) -> None:
        """Let the layers of this epoch's phase learn, all others not."""
        index = max(i for i, phase in enumerate(self.phases) if phase.epoch <= self.current_epoch)
        phase = self.phases[index]
        self.learn_from(phase.first_stage)
        if self.hparams["schedule"] == "plateau" and phase.epoch == self.current_epoch:
            for group in self.optimizers().param_groups:  # any other schedule has the factor in it
                group["lr"] = group["initial_lr"] * phase.lr_factor
            self.lr_schedulers()._reset()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make dropout a function of (seed, epoch, batch), so that a resumed run draws the same masks.

        Of several processes each draws its own, those of the first as if it were alone.
        """
        rank = [self.global_rank] if self.global_rank else []
        seed = mixed_seed(self.hparams["seed"], self.current_epoch, batch_idx, *rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":  # else torch.manual_seed would queue, and keep, a call in every step
            torch.manual_seed(seed)

    def _finish(self, split: str) -> None:
        """Log the figures of a whole split; the loss, but for training's, as if it were one batch.

        A plateau is looked for here: Lightning would do so after the checkpoint, and a resumed run never.
        """
        self.logits[split] = logits, targets = self.collected[split].compute()
        if split != "train":
            on_device = self._by_kind(logits.to(self.device))
            loss = self.loss(on_device, targets.to(self.device))
            self.log(f"{split}/loss", loss, prog_bar=split == "val", sync_dist=True)
            if split == "val" and self.hparams["schedule"] == "plateau" and self.trainer.state.fn == "fit":
                self.lr_schedulers().step(loss)
        self.collected[split].reset()
        figures = self.rescore(split)
        # without a positive label there is no F1: a monitor gets 0, metrics.json null
        named = {"f1": figures["f1_macro"] or 0.0, **self.accuracy_of(figures)}
        for name, value in named.items():
            if value is not None:
                shown = (split, name) == ("val", "f1")
                self.log(f"{split}/{name}", value, prog_bar=shown, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of validation, its thresholds tuned by then, and of the training before it.

        Those of training are as seen through augmentation while learning.
        """
        self._finish("val")
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._finish("train")

    def on_test_epoch_end(self) -> None:
        """Log the test split's figures."""
        self._finish("test")

    def configure_optimizers(self) -> Any:
        """Return the optimizer over all that learns in any phase, with the schedule stepped per batch."""
        given = self.hparams
        groups = parameter_groups(self, given["lr"], given["backbone_lr_factor"], given["layer_decay"])
        optimizer = make_optimizer(given["optimizer"], groups, given["weight_decay"])
        if given["schedule"] == "plateau":
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=DROP, patience=PATIENCE)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}
        if given["schedule"] == "constant" and len(self.phases) == 1:
            return optimizer
        steps, epochs = max(2, int(self.trainer.estimated_stepping_batches)), self.trainer.max_epochs
        factor = phase_schedule(given["schedule"], self.phases, epochs, steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule, but for a plateau, see `_finish`."""
        if self.hparams["schedule"] != "plateau":
            super().lr_scheduler_step(scheduler, metric)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what checkpoints before schema 3 lack: their scores are not calibrated and promise nothing."""
        for name in ("calibration", "limits"):
            checkpoint["state_dict"].setdefault(name, getattr(self, name))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the file describe itself; hyperparameters are those that rebuild the model."""
        checkpoint["schema"] = SCHEMA
        checkpoint["task"], checkpoint["model"] = self.task, self.kind
        checkpoint["provenance"] = self.provenance
        if self.given is not None:
            checkpoint["hyper_parameters"] = self.given
