"""The parts of a backbone that learn, their learning rates, and the optimizer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant", "step", "one_cycle", "plateau")
FIRST, RISE = 0.04, 0.3  # of `one_cycle`: factor at its start, share of the steps in which it rises
DROPS, DROP = 3, 0.1  # `step`: parts of equal length, and the factor from one to the next
PATIENCE = 3  # epochs without a lower val/loss, after which `plateau` drops by `DROP`


@dataclass(frozen=True)
class Phase:
    """A part of a training in which the same layers learn.

    Attributes:
        epoch: the first one.
        first_stage: of the backbone that learns, an index of `stages_of`; as many as there are: none.
        lr_factor: of all learning rates.
    """

    epoch: int
    first_stage: int
    lr_factor: float = 1.0


def stages_of(backbone: nn.Module) -> list[list[nn.Module]]:
    """Return the layers of a backbone from first to last, in stages that can be frozen one by one.

    A stage is one block of a container with most of the weights (`layer4` of a ResNet, `blocks.6` of an
    EfficientNet), or the layers between such blocks.
    """
    stages: list[list[nn.Module]] = []
    _collect(backbone, stages, sum(p.numel() for p in backbone.parameters()))
    return [stage for stage in stages if any(True for part in stage for _ in part.parameters())]


def _collect(module: nn.Module, stages: list[list[nn.Module]], total: int) -> None:
    """Add the stages of a module's children."""
    loose = False  # whether the last stage takes further layers
    for child in module.children():
        size = sum(p.numel() for p in child.parameters())
        block = isinstance(child, nn.Sequential | nn.ModuleList)
        if size > total / 2 and len(list(child.children())) > 1:
            _collect(child, stages, size)
            loose = False
        elif block or len(list(child.children())) > 1:
            stages.append([child])
            loose = False
        elif loose:
            stages[-1].append(child)
        else:
            stages.append([child])
            loose = True


def parameter_groups(module: nn.Module, lr: float, backbone_factor: float, layer_decay: float) -> list[dict]:
    """Return the groups of an optimizer: the heads that learn, then the backbone from last to first stage.

    Args:
        module: with a `backbone`.
        lr: of the heads.
        backbone_factor: of `lr`, for the last stage of the backbone.
        layer_decay: factor from each stage to the one before it (Howard and Ruder, 2018).
    """
    learned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    backbone = [p for name, p in learned.items() if name.startswith("backbone.")]
    if not backbone or backbone_factor == layer_decay == 1:
        return [{"params": list(learned.values()), "lr": lr}]
    heads = [p for name, p in learned.items() if not name.startswith("backbone.")]
    groups, factor = [{"params": heads, "lr": lr}], backbone_factor
    if layer_decay == 1:
        return [*groups, {"params": backbone, "lr": lr * factor}]
    left = {id(p): p for p in backbone}
    for stage in reversed(stages_of(module.backbone)[1:]):
        own = [left.pop(id(p)) for part in stage for p in part.parameters()]
        groups.append({"params": own, "lr": lr * factor})
        factor *= layer_decay
    return [*groups, {"params": list(left.values()), "lr": lr * factor}]  # also what lies in no layer


def make_optimizer(name: str, groups: list[dict], weight_decay: float) -> torch.optim.Optimizer:
    """Return `adamw` (decoupled decay), `adam` (decay in the gradient) or `sgd` (momentum 0.9)."""
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, weight_decay=weight_decay)


def schedule_factor(name: str, step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step of a phase of `steps`.

    `cosine`: linear from 0.1 over the first twentieth, then a cosine to zero; `one_cycle`: a cosine from 0.04
    up over three tenths, then down to zero (Smith, 2018; the momentum is left alone); `step`: a tenth after
    each third; `constant` and `plateau`: 1.
    """
    if name == "cosine":
        warm = max(1, steps // 20)
        if step < warm:
            return 0.1 + 0.9 * step / warm
        return _half_cosine((step - warm) / max(1, steps - warm))
    if name == "one_cycle":
        rise = max(1, int(steps * RISE))
        if step < rise:
            return FIRST + (1 - FIRST) * (1 - _half_cosine(step / rise))
        return _half_cosine((step - rise) / max(1, steps - rise))
    if name == "step":
        return DROP ** min(DROPS - 1, DROPS * step // max(1, steps))
    return 1.0


def _half_cosine(done: float) -> float:
    """Return 1 at 0, and 0 at 1 and beyond."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def phase_schedule(
    name: str, phases: Sequence[Phase], epochs: int, total_steps: int
) -> Callable[[int], float]:
    """Return the factor of all learning rates as a function of the step: the schedule anew in each phase.

    A pure function of the step and the run's length, so that a resumed run with more epochs follows the
    longer curve from its step on.
    """
    starts = [round(total_steps * phase.epoch / epochs) for phase in phases]
    ends = [*starts[1:], total_steps]

    def factor(step: int) -> float:
        index = max(i for i, start in enumerate(starts) if start <= step)
        length = max(2, ends[index] - starts[index])
        return phases[index].lr_factor * schedule_factor(name, step - starts[index], length)

    return factor
