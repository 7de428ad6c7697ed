"""Losses of softmax and sigmoid heads, and the mixing of training photos."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf

SOFTMAX = ("cross_entropy", "focal")
SIGMOID = ("bce", "focal", "asymmetric", "partial_bce")
HARD = ("focal", "asymmetric")  # losses of hard labels: without label smoothing
FOCUS = 2.0  # gamma of the focal loss
NEGATIVE_FOCUS, MARGIN = 4.0, 0.05  # of the asymmetric loss
UNKNOWN = -1.0  # target of a label that nobody has looked for on a photo


def softmax_losses(
    name: str, logits: Tensor, classes: Tensor, weight: Tensor | None, smoothing: float
) -> Tensor:
    """Return the loss of each photo, float `[N]`, times the weight of its class.

    Args:
        name: `cross_entropy`; or `focal`, which gives a photo the factor (1 - p)^2, where p is the
            probability of its class (Lin et al., 2017, Focal loss for dense object detection).
        logits: `[N, classes]`.
        classes: int64 `[N]`.
        weight: of the classes, `[classes]`; None: all 1.
        smoothing: share of each target spread over all classes; 0 for `focal`.
    """
    options = {"weight": weight, "reduction": "none", "label_smoothing": smoothing}
    losses = nnf.cross_entropy(logits, classes, **options)
    if name == "focal":
        right = logits.softmax(1).gather(1, classes[:, None])[:, 0]
        losses = losses * (1 - right) ** FOCUS
    return losses


def sigmoid_losses(name: str, logits: Tensor, target: Tensor, pos_weight: Tensor | None) -> Tensor:
    """Return the loss of each label of each photo, float `[N, labels]`; positives times their weight.

    Args:
        name: `bce` or `partial_bce`: binary cross-entropy; `focal`: with the factor (1 - p)^2 for a positive
            and p^2 for a negative; `asymmetric`: for a negative p is lowered by 0.05 and has the factor p^4
            (Ridnik et al., 2021, Asymmetric loss for multi-label classification).
        logits: `[N, labels]`.
        target: `[N, labels]`, from 0 to 1.
        pos_weight: of the labels, `[labels]`; None: all 1.
    """
    if name != "asymmetric":
        options = {"pos_weight": pos_weight, "reduction": "none"}
        losses = nnf.binary_cross_entropy_with_logits(logits, target, **options)
        if name == "focal":
            p = logits.sigmoid()
            losses = losses * (target * (1 - p) + (1 - target) * p) ** FOCUS
        return losses
    p = logits.sigmoid()
    lowered = (p - MARGIN).clamp(min=0)
    positive = -nnf.logsigmoid(logits)
    negative = -torch.log1p(-lowered.clamp(max=1 - 1e-7)) * lowered**NEGATIVE_FOCUS
    return target * positive * (1 if pos_weight is None else pos_weight) + (1 - target) * negative


def loss_shares(local: Sequence[int], total: Sequence[int], world: int) -> list[float]:
    """Return this process's share of each mean of the loss, times the number of processes; 0 without photos.

    DDP averages gradients over processes as if each had the same number of photos. A mean over this process's
    photos, times its share, averages to the mean over all photos.

    Args:
        local: photos in each mean here.
        total: photos in each mean over all processes.
        world: the number of processes.
    """
    return [world * here / max(1, all_) for here, all_ in zip(local, total, strict=True)]


def mixed(
    batch: Mapping[str, Tensor], mixup: float, cutmix: float
) -> tuple[dict[str, Tensor], Tensor | None, float]:
    """Return a batch of pairs of its photos, the partner of each, and the share of the first photo.

    The loss is that share of the loss for the first photo's target, and the rest for its partner's. Random
    numbers come from torch's global generator. Sources: Zhang et al., 2018, mixup; Yun et al., 2019, CutMix.

    Args:
        batch: with `image` `[B, 3, H, W]` or `features` `[B, F]`.
        mixup: both parameters of the beta distribution of the share; 0: no mixing of values.
        cutmix: the same for a rectangle of the partner that is pasted in; with `mixup`, each has half of the
            batches. Needs `image`.
    """
    both = mixup > 0 and cutmix > 0
    cut = cutmix > 0 and not (both and torch.rand(()) < 0.5)
    if not cut and mixup <= 0:
        return dict(batch), None, 1.0
    alpha = torch.tensor(cutmix if cut else mixup)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    name = "image" if "image" in batch else "features"
    values = batch[name]
    partner = torch.randperm(len(values)).to(values.device)
    if cut:
        values, share = _pasted(values, partner, share)
    else:
        values = values.float() * share + values[partner].float() * (1 - share)
    return {**batch, name: values}, partner, share


def _pasted(image: Tensor, partner: Tensor, share: float) -> tuple[Tensor, float]:
    """Return photos with a rectangle of their partners, and the share of the area that is their own."""
    height, width = image.shape[-2:]
    high, wide = (round(side * (1 - share) ** 0.5) for side in (height, width))
    middle = [int(torch.randint(side, ())) for side in (height, width)]
    top, bottom = (min(max(middle[0] + end * high // 2, 0), height) for end in (-1, 1))
    left, right = (min(max(middle[1] + end * wide // 2, 0), width) for end in (-1, 1))
    image = image.clone()
    image[..., top:bottom, left:right] = image[partner][..., top:bottom, left:right]
    return image, 1 - (bottom - top) * (right - left) / (height * width)
