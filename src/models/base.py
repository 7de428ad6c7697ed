"""What both classifiers share: backbone, one linear head per kind, one step for three loops."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from src.errors import InputError, did_you_mean, first_line, listed
from src.labels import LabelSpace
from src.models.backbones import backbone_defaults, build_backbone
from src.models.metrics import Collected
from src.models.precision import full_precision
from src.models.shares import loss_shares
from src.preprocess import Preprocess
from src.seeds import mixed_seed

log = logging.getLogger(__name__)
SCHEMA = 2


class WarmCosine:
    """Factor of the learning rate at a step: linear from 0.1 over the first twentieth, then a cosine to zero.

    A pure function of the step and the run's length, so that a resumed run with more epochs follows the
    longer curve from where it stands.
    """

    def __init__(self, steps: int):
        self.steps, self.warm = steps, max(1, steps // 20)

    def __call__(self, step: int) -> float:
        """Return the factor."""
        if step < self.warm:
            return 0.1 + 0.9 * step / self.warm
        done = min(1.0, (step - self.warm) / max(1, self.steps - self.warm))
        return 0.5 * (1 + math.cos(math.pi * done))


class PhotoClassifier(L.LightningModule, ABC):
    """A classifier of photos, built from primitives alone.

    Args:
        task: `dual_head`, `multiclass` or `multilabel`.
        labels: `{kind: [labels]}`.
        preprocess: arguments of `preprocess.Preprocess`; mean and standard deviation (of values in 0..1) are
            applied here, resizing before.
        class_weights: `{kind: [weights]}` of the loss, or null.
        backbone: a key of `backbones.BACKBONES`, or `timm/NAME`.
        weights: see `build_backbone`; no hyperparameter, so that loading a checkpoint never downloads.
        init_from: a checkpoint to start from, kept for `checkpoint.init_from`; no hyperparameter either.
        freeze_backbone: train the heads only; the backbone stays in eval mode, its BatchNorm statistics
            untouched.
        label_smoothing: share of each target that is spread over all answers (Szegedy et al., 2016,
            Rethinking the Inception architecture).
        lr: learning rate of Adam.
        backbone_lr_factor: factor of `lr` for a backbone that learns.
        weight_decay: decoupled from the gradient (Loshchilov and Hutter, 2019); Adam where it is 0.
        schedule: `constant`, or `cosine` (down to zero over the run, after a linear warm-up over its first
            twentieth).
        seed: of the dropout masks.
    """

    tasks: tuple[str, ...]

    def __init__(
        self,
        task: str,
        labels: Mapping[str, list[str]],
        preprocess: Mapping[str, Any],
        class_weights: Mapping[str, list[float]] | None = None,
        backbone: str = "efficientnet_lite0",
        weights: str | None = None,
        init_from: str | None = None,
        freeze_backbone: bool = False,
        label_smoothing: float = 0.0,
        lr: float = 5e-4,
        backbone_lr_factor: float = 1.0,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        seed: int = 42,
    ):
        super().__init__()
        self._check(task, schedule, label_smoothing, lr, weight_decay)
        if not 0 < backbone_lr_factor < math.inf:
            raise InputError(f"model.backbone_lr_factor={backbone_lr_factor}: needs a number above 0")
        self.save_hyperparameters(
            {
                "task": task,
                "labels": {kind: list(names) for kind, names in labels.items()},
                "preprocess": dict(preprocess),
                "class_weights": class_weights,
                "backbone": backbone,
                "freeze_backbone": freeze_backbone,
                "label_smoothing": label_smoothing,
                "lr": lr,
                "backbone_lr_factor": backbone_lr_factor,
                "weight_decay": weight_decay,
                "schedule": schedule,
                "seed": seed,
            },
            logger=False,
        )
        self.labels = LabelSpace(labels)
        self.init_from = init_from
        self.provenance: dict[str, Any] = {}
        pixels = Preprocess.from_dict(preprocess)
        self.backbone = build_backbone(backbone, weights).to(memory_format=torch.channels_last)
        self.backbone.requires_grad_(not freeze_backbone)
        self.num_features = self._count_features(pixels.size)
        for kind, names in self.labels.kinds.items():
            self.add_module(f"head_{kind}", nn.Linear(self.num_features, len(names)))
        for name in ("mean", "std"):
            values = torch.tensor(getattr(pixels, name), dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        for kind, values in (class_weights or {}).items():
            self.register_buffer(
                f"weight_{kind}", torch.tensor(values, dtype=torch.float32), persistent=False
            )
        self.collected = {split: Collected() for split in ("train", "val", "test")}
        self.figures: dict[str, dict[str, Any]] = {}
        self.scored: dict[str, tuple[Tensor, Tensor]] = {}
        self._taught: set[str] = set()  # kinds with a label in the batches since the optimizer's last step

    def _check(
        self, task: str, schedule: str, label_smoothing: float, lr: float, weight_decay: float
    ) -> None:
        """Refuse arguments that are of the right type and make no sense."""
        schedules = ("constant", "cosine")
        if schedule not in schedules:
            raise InputError(f"model.schedule={schedule}: {did_you_mean(schedule, schedules)}")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"model.label_smoothing={label_smoothing}: needs a number from 0 to below 1")
        if not 0 < lr < math.inf:
            raise InputError(f"model.lr={lr}: needs a number above 0")
        if not 0 <= weight_decay < math.inf:
            raise InputError(f"model.weight_decay={weight_decay}: needs a number from 0 on")
        if task not in self.tasks:
            raise InputError(
                f"task={task}: {type(self).__name__} is for {listed(self.tasks)}; choose with model="
            )

    def _count_features(self, size: tuple[int, int]) -> int:
        """Return the number of features; refuse an image size that the backbone cannot take."""
        self.backbone.eval()
        try:
            with torch.inference_mode():
                found = self.backbone(torch.zeros(1, 3, *size))
        except (RuntimeError, AssertionError, ValueError) as error:
            name = self.hparams["backbone"]
            own = backbone_defaults(name)["image_size"]
            raise InputError(
                f"preprocess.image_size={list(size)} does not fit {name} ({first_line(error)}): "
                f"its own size is {own}"
            ) from error
        self.train()
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise InputError(f"model.backbone={self.hparams['backbone']}: gives no features [photos, number]")
        return found.shape[1]

    @property
    def logged(self) -> list[str]:
        """The names of what each split logs, without the split."""
        return ["loss", "f1", *self.extra_figures]

    @property
    def task(self) -> str:
        """The task's name, the key of the registry that rebuilds this module."""
        return self.hparams["task"]

    def weight_of(self, kind: str) -> Tensor | None:
        """Return the loss weights of a kind, or None."""
        return getattr(self, f"weight_{kind}", None)

    def normalised(self, image: Tensor) -> Tensor:
        """Return what the backbone takes, float32 `[B, 3, H, W]`, of a uint8 batch of that shape."""
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std

    def features(self, image: Tensor) -> Tensor:
        """Return features `[B, F]` of a uint8 batch `[B, 3, H, W]`, normalised here."""
        image = self.normalised(image.contiguous(memory_format=torch.channels_last))
        frozen = self.hparams["freeze_backbone"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.backbone(image)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return logits `{kind: [B, labels of the kind]}` of a uint8 batch `[B, 3, H, W]`."""
        return self.classify(self.features(image))

    def classify(self, features: Tensor) -> dict[str, Tensor]:
        """Return logits `{kind: [B, labels of the kind]}` of features `[B, F]`."""
        return {kind: self.get_submodule(f"head_{kind}")(features) for kind in self.labels.kinds}

    @abstractmethod
    def probabilities(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Return the scores `[B, labels]` of logits by kind, in the order of `labels.names`."""

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
        """Return the figures that are logged beside loss and F1: `{name: value}`."""

    def train(self, mode: bool = True) -> "PhotoClassifier":
        """Set training mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.hparams["freeze_backbone"]:
            self.backbone.eval()
        return self

    def _step(self, batch: Mapping[str, Tensor], split: str) -> dict[str, Tensor]:
        """Collect and return a batch's logits; but for training in full precision, as predictions are."""
        with nullcontext() if split == "train" else full_precision(self.device):
            logits = self.classify(batch["features"]) if "features" in batch else self(batch["image"])
        self.collected[split].update(
            torch.cat([logits[kind] for kind in self.labels.kinds], 1), batch["target"], batch["index"]
        )
        return logits

    def scores_of(self, split: str) -> tuple[Tensor, Tensor]:
        """Return scores `[N, labels]` and targets of what has been collected of a split."""
        logits, targets = self.collected[split].compute()
        return self.probabilities(self._by_kind(logits)), targets

    def _by_kind(self, logits: Tensor) -> dict[str, Tensor]:
        """Return joined logits `[N, labels]` as `{kind: [N, labels of the kind]}`."""
        return {kind: logits[:, part] for kind, part in self.labels.slices.items()}

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch; of several processes, what averages to that of all their photos."""
        photos, shares = self._shares(batch["target"])
        loss = self.loss(self._step(batch, "train"), batch["target"], shares)
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
        if scheduler is not None:
            for group, base, factor in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["lr"] = base * factor(scheduler.last_epoch)

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
        """Log the figures of a whole split; the loss, but for training's, as if it were one batch."""
        self.scored[split] = self.scores_of(split)
        logits, targets = self.collected[split].compute()
        if split != "train":
            on_device = self._by_kind(logits.to(self.device))
            loss = self.loss(on_device, targets.to(self.device))
            self.log(f"{split}/loss", loss, prog_bar=split == "val", sync_dist=True)
        self.collected[split].reset()
        figures = self.evaluate(*self.scored[split])
        self.figures[split] = figures
        named = {"f1": figures["f1_macro"], **self.accuracy_of(figures)}
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
        """Return AdamW over what is trained, with the schedule stepped per batch."""
        lr, factor = self.hparams["lr"], self.hparams["backbone_lr_factor"]
        learned = {name: p for name, p in self.named_parameters() if p.requires_grad}
        backbone = [p for name, p in learned.items() if name.startswith("backbone.") and factor != 1]
        rest = [p for name, p in learned.items() if not name.startswith("backbone.") or factor == 1]
        groups = [{"params": rest}]
        if backbone:
            groups.append({"params": backbone, "lr": lr * factor})
        optimizer = torch.optim.AdamW(groups, lr, weight_decay=self.hparams["weight_decay"])
        if self.hparams["schedule"] == "constant":
            return optimizer
        factor = WarmCosine(max(2, int(self.trainer.estimated_stepping_batches)))
        # a plain function: an object's attributes, the old length among them, would be restored
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the file describe itself."""
        checkpoint["schema"] = SCHEMA
        checkpoint["task"] = self.task
        checkpoint["provenance"] = self.provenance
