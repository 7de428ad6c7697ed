"""The tasks: one softmax per kind, or one sigmoid per label, with the classifiers of photos for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from src.config_check import check_number
from src.errors import InputError, did_you_mean, first_line, listed
from src.labels import MISSING
from src.models.backbones import backbone_defaults, build_backbone
from src.models.base import Classifier
from src.models.losses import SIGMOID, SOFTMAX, UNKNOWN, sigmoid_losses, softmax_losses
from src.models.metrics import heads_figures, multilabel_figures
from src.preprocess import Preprocess


class SoftmaxHeads(Classifier):
    """One softmax head per kind: one label of each kind. With one kind it is `multiclass`.

    Args:
        head_weights: `{kind: factor}` of each head's loss in the sum; a kind that is not named counts 1.
        **common: of the classifier that gives the features.
    """

    tasks = ("dual_head", "multiclass")
    losses = SOFTMAX
    uncalibrated = (1.0, 0.0, 0.0)

    def __init__(self, head_weights: dict[str, float] | None = None, **common: Any):
        super().__init__(**common)
        if self.task == "multiclass" and len(self.labels.kinds) != 1:
            kinds = listed(self.labels.kinds)
            raise InputError(f"task=multiclass has one kind of labels, not {kinds}: choose model=dual_head")
        self.save_hyperparameters({"head_weights": head_weights}, logger=False)
        for kind in head_weights or {}:
            if kind not in self.labels.kinds:
                raise InputError(f"model.head_weights.{kind}: {did_you_mean(kind, self.labels.kinds)}")
            check_number(
                "model.head_weights", head_weights[kind], f"model.head_weights.{kind}={head_weights[kind]}"
            )

    def probabilities(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Return softmax scores `[B, labels]`, each kind summing to 1."""
        slope, _, shift = self.calibration.T
        parts = self.labels.slices.items()
        return torch.cat([(slope[own] * logits[k] + shift[own]).softmax(1) for k, own in parts], 1)

    def counted(self, target: Tensor) -> Tensor:
        """Return how many photos have a label of each kind."""
        return (target != MISSING).sum(0)

    def loss(
        self, logits: Mapping[str, Tensor], target: Tensor, shares: Sequence[float] | None = None
    ) -> Tensor:
        """Return the weighted sum of the heads' losses.

        Each head's is the mean over the photos that have a label of its kind, weighted by class: the
        weights are not divided out, so that a batch of rare classes counts for more.
        """
        total = target.new_zeros((), dtype=torch.float32)
        for k, kind in enumerate(self.labels.kinds):
            known = target[:, k] != MISSING
            factor = (self.hparams["head_weights"] or {}).get(kind, 1.0) * (shares[k] if shares else 1.0)
            if known.any():
                losses = softmax_losses(
                    self.hparams["loss"] or "cross_entropy",
                    logits[kind][known],
                    target[known, k],
                    self.weight_of(kind),
                    self.hparams["label_smoothing"] if self.training else 0.0,
                )
                total = total + factor * losses.mean()
            elif shares:
                total = total + 0.0 * logits[kind].sum()  # DDP waits for a gradient of each head
        return total

    def evaluate(self, scores: Tensor, target: Tensor) -> dict[str, Any]:
        """Return accuracy and F1 per kind, exact match and the mean macro-F1."""
        return heads_figures(scores, target, self.labels)

    @property
    def extra_figures(self) -> list[str]:
        """The names that `accuracy_of` returns."""
        return ["accuracy", *(f"{kind}_accuracy" for kind in self.labels.kinds)]

    def accuracy_of(self, figures: Mapping[str, Any]) -> dict[str, float | None]:
        """Return `accuracy` (all kinds right) and each kind's own."""
        kinds = {f"{kind}_accuracy": figures[kind]["accuracy"] for kind in self.labels.kinds}
        return {"accuracy": figures["exact_match"], **kinds}


class SigmoidHeads(Classifier):
    """One sigmoid per label: any combination of labels.

    `calibration` holds a, b and c of each label: the calibrated logit of a score s is `a log s - b log(1 - s)
    + c` (Kull et al., 2017, Beta calibration). The decision thresholds are a buffer, `thresholds` `[labels]`,
    0.5 until a callback tunes them. Both travel with the weights.

    Args:
        **common: of the classifier that gives the features.
    """

    tasks = ("multilabel",)
    losses = SIGMOID
    uncalibrated = (1.0, 1.0, 0.0)

    def __init__(self, **common: Any):
        super().__init__(**common)
        self.register_buffer("thresholds", torch.full((len(self.labels),), 0.5))
        self.partial = self.hparams["loss"] == "partial_bce"

    def probabilities(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Return sigmoid scores `[B, labels]`."""
        joined = torch.cat([logits[kind] for kind in self.labels.kinds], 1)
        up, down, shift = self.calibration.T
        return (up * logsigmoid(joined) - down * logsigmoid(-joined) + shift).sigmoid()

    def truth(self, targets: Tensor) -> Tensor:
        """Return targets in which an unknown label counts as absent."""
        return targets.clamp(min=0)

    def counted(self, target: Tensor) -> Tensor:
        """Return the number of known labels, for each kind: the loss is one mean over them all.

        A photo without a label of a kind says "none of them", unless the loss is `partial_bce`.
        """
        return (target != UNKNOWN).sum().expand(len(self.labels.kinds))

    def loss(
        self, logits: Mapping[str, Tensor], target: Tensor, shares: Sequence[float] | None = None
    ) -> Tensor:
        """Return the mean over photos and labels of the loss with weighted positives."""
        weights = [self.weight_of(kind) for kind in self.labels.kinds]
        pos_weight = torch.cat(weights) if all(w is not None for w in weights) else None
        joined = torch.cat([logits[kind] for kind in self.labels.kinds], 1)
        smoothing = self.hparams["label_smoothing"] if self.training else 0.0
        soft = self.truth(target) * (1 - smoothing) + smoothing / 2
        losses = sigmoid_losses(self.hparams["loss"] or "bce", joined, soft, pos_weight)
        if self.partial:
            known = target != UNKNOWN
            loss = (losses * known).sum() / known.sum().clamp(min=1)
        else:
            loss = losses.mean()
        return loss * shares[0] if shares else loss

    def evaluate(self, scores: Tensor, target: Tensor) -> dict[str, Any]:
        """Return Hamming loss, exact match, F1 and average precision at the thresholds of now."""
        return multilabel_figures(scores, target, self.thresholds.cpu(), self.labels)

    @property
    def extra_figures(self) -> list[str]:
        """The names that `accuracy_of` returns."""
        return ["accuracy", "hamming_loss", "map"]

    def accuracy_of(self, figures: Mapping[str, Any]) -> dict[str, float | None]:
        """Return `accuracy` (exact match), Hamming loss and mean average precision."""
        return {
            "accuracy": figures["exact_match"],
            "hamming_loss": figures["hamming_loss"],
            "map": figures["map"] or 0.0,
        }


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
        head: `linear`, or `mlp`: two layers with normalisation and dropout before the linear ones.
        loss: one of `losses.SOFTMAX`, or for `multilabel` of `losses.SIGMOID`; null: the first of them.
        freeze_backbone: train the heads only; the backbone stays in eval mode, its BatchNorm statistics
            untouched.
        train_bn: whether BatchNorm of a backbone that learns normalises by the batch, and counts it in.
        label_smoothing: share of each target that is spread over all answers (Szegedy et al., 2016,
            Rethinking the Inception architecture).
        mixup: see `losses.mixed`; 0: off.
        cutmix: see `losses.mixed`; 0: off.
        lr: learning rate.
        backbone_lr_factor: factor of `lr` for a backbone that learns.
        layer_decay: factor of the learning rate from each stage of the backbone to the one before it.
        optimizer: `adamw`, `adam` or `sgd`, see `learning.make_optimizer`.
        weight_decay: of the optimizer; `adamw` decouples it from the gradient (Loshchilov and Hutter, 2019).
        schedule: of the learning rate, see `learning.schedule_factor`; `plateau`: a tenth after three epochs
            without a lower `val/loss`.
        seed: of the dropout masks.
    """

    def __init__(
        self,
        task: str,
        labels: Mapping[str, list[str]],
        preprocess: Mapping[str, Any],
        class_weights: Mapping[str, list[float]] | None = None,
        backbone: str = "efficientnet_lite0",
        weights: str | None = None,
        init_from: str | None = None,
        head: str = "linear",
        loss: str | None = None,
        freeze_backbone: bool = False,
        train_bn: bool = True,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        lr: float = 5e-4,
        backbone_lr_factor: float = 1.0,
        layer_decay: float = 1.0,
        optimizer: str = "adamw",
        weight_decay: float = 0.0,
        schedule: str = "constant",
        seed: int = 42,
    ):
        given, apart = locals(), ("self", "__class__", "weights", "init_from")
        hyperparameters = {name: value for name, value in given.items() if name not in apart}
        hyperparameters["labels"] = {kind: list(names) for kind, names in labels.items()}
        hyperparameters["preprocess"] = dict(preprocess)
        super().__init__(hyperparameters, init_from)
        pixels = Preprocess.from_dict(preprocess)
        self.views = len(pixels.views)
        self.add_backbone(build_backbone(backbone, weights).to(memory_format=torch.channels_last))
        self.add_heads(self._count_features(pixels.size))
        for name in ("mean", "std"):
            values = torch.tensor(getattr(pixels, name), dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

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

    def normalised(self, image: Tensor) -> Tensor:
        """Return what the backbone takes, float32 `[B, 3, H, W]`, of a uint8 batch of that shape."""
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std

    def features(self, image: Tensor) -> Tensor:
        """Return features `[B, F]` of a uint8 batch `[B, 3, H, W]`, normalised here."""
        image = self.normalised(image.contiguous(memory_format=torch.channels_last))
        learns = self.first_stage < len(self.stages)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.seen(image)

    def seen(self, image: Tensor) -> Tensor:
        """Return features `[B, views * F]` of normalised photos `[B, 3, views * H, W]`."""
        if self.views == 1:
            return self.backbone(image)
        height, width = image.shape[2] // self.views, image.shape[3]
        parts = image.reshape(image.shape[0], 3, self.views, height, width).transpose(1, 2)
        return self.backbone(parts.reshape(-1, 3, height, width)).reshape(image.shape[0], -1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return logits `{kind: [B, labels of the kind]}` of a uint8 batch `[B, 3, H, W]`."""
        return self.classify(self.features(image))

    def features_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the features `[B, F]` of a batch: those of the cache, else of its photos."""
        return batch["features"] if "features" in batch else self.features(batch["image"])


class DualHeadClassifier(SoftmaxHeads, PhotoClassifier):
    """A classifier of photos for `dual_head` and `multiclass`."""


class MultiLabelClassifier(SigmoidHeads, PhotoClassifier):
    """A classifier of photos for `multilabel`."""
