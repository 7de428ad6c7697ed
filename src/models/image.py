"""Classifiers of photos: a backbone of convolutions with the normalisation inside."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from src.errors import InputError, first_line
from src.models.backbones import backbone_defaults, build_backbone
from src.models.base import Classifier
from src.preprocess import Preprocess


class PhotoClassifier(Classifier):
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

    Attributes:
        needs_two: whether a BatchNorm sees one pixel of a photo, so that a batch needs two photos.
    """

    needs_two = False

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
        hyperparameters = {
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
        }
        super().__init__(hyperparameters, init_from)
        pixels = Preprocess.from_dict(preprocess)
        self.backbone = build_backbone(backbone, weights).to(memory_format=torch.channels_last)
        self.backbone.requires_grad_(not freeze_backbone)
        self.add_heads(self._count_features(pixels.size))
        for name in ("mean", "std"):
            values = torch.tensor(getattr(pixels, name), dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def _count_features(self, size: tuple[int, int]) -> int:
        """Return the number of features; refuse an image size that the backbone cannot take."""
        self.backbone.eval()
        norms = [part for part in self.backbone.modules() if isinstance(part, _BatchNorm)]
        hooks = [norm.register_forward_pre_hook(self._see_pixels) for norm in norms]
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
        finally:
            for hook in hooks:
                hook.remove()
        self.train()
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise InputError(f"model.backbone={self.hparams['backbone']}: gives no features [photos, number]")
        return found.shape[1]

    def _see_pixels(self, norm: _BatchNorm, given: tuple[Tensor, ...]) -> None:
        """Note a BatchNorm that gets a single value of a channel from a photo, and cannot train on one."""
        self.needs_two |= given[0].numel() == given[0].shape[1]

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

    def features_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the features `[B, F]` of a batch: those of the cache, else of its photos."""
        return batch["features"] if "features" in batch else self.features(batch["image"])
