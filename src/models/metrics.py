"""The figures of a split, always over the whole split, in the shape of `metrics.json`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from src.labels import DEFAULT, MISSING, LabelSpace, apply_thresholds


class Collected(Metric):
    """Keeps logits, targets and photo indices of a split; `compute` gathers them from all processes."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        for name in ("logits", "targets", "indices"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor, indices: Tensor) -> None:
        """Add a batch: logits `[B, labels]`, targets `[B, ...]`, indices `[B]`."""
        self.logits.append(logits.detach().float())
        self.targets.append(targets.detach())
        self.indices.append(indices.detach())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return logits and targets in the order of the photos, each photo once, on the CPU."""
        indices = dim_zero_cat(self.indices).cpu()
        order = torch.unique(indices, return_inverse=True)[1]
        first = torch.full((int(order.max()) + 1,), len(order)).scatter_reduce(
            0, order, torch.arange(len(order)), reduce="amin"
        )
        return dim_zero_cat(self.logits).cpu()[first], dim_zero_cat(self.targets).cpu()[first]


def number(value: Tensor | float) -> float | None:
    """Return a plain float, or None for NaN, which JSON has no word for."""
    value = float(value)
    return None if value != value else value


def per_class(names: Sequence[str], support: Tensor, **figures: Tensor) -> dict[str, dict[str, Any]]:
    """Return `{label: {figure: value}}` from tensors `[labels]`, with the number of positives."""
    return {
        name: {**{key: number(values[i]) for key, values in figures.items()}, "support": int(support[i])}
        for i, name in enumerate(names)
    }


def f1_figures(hits: Tensor, said: Tensor, support: Tensor, names: Sequence[str], **more: Tensor) -> dict:
    """Return the F1 means over the labels with positives, the number of these, and each label's figures.

    A label without positives has no F1 and no recall, whether it is predicted or not, so that a mean is over
    the same labels in each epoch and for each model; scikit-learn gives it with `labels=` of those labels.

    Args:
        hits: true positives of each label, int64 `[labels]`.
        said: predictions of each label.
        support: positives of each label.
        names: of the labels.
        **more: further figures of each label, `[labels]`.
    """
    held = support > 0
    hits, said, positives = hits.double(), said.double(), support.double()
    f1 = torch.where(held, 2 * hits / (said + positives), torch.nan)
    return {
        "f1_macro": number(f1[held].mean()),
        "f1_weighted": number((f1 * positives)[held].sum() / positives.sum()),
        "labels_evaluated": int(held.sum()),
        "labels_total": len(names),
        "per_class": per_class(
            names, support, f1=f1, precision=hits / said.clamp(min=1), recall=hits / positives, **more
        ),
    }


def multilabel_figures(
    scores: Tensor, targets: Tensor, thresholds: Tensor, labels: LabelSpace
) -> dict[str, Any]:
    """Return the figures of sigmoid scores `[N, L]` against multi-hot targets `[N, L]`.

    A label without positives is left out of `map` and of the F1 means (see `f1_figures`); its false alarms
    count in `f1_micro`, `hamming_loss` and `exact_match`.
    """
    targets = targets.bool()
    decided, half = (
        torch.from_numpy(apply_thresholds(scores.numpy(), values))
        for values in (thresholds.numpy(), np.full(len(labels), DEFAULT))
    )
    support = targets.sum(0)
    ap, held = torch.full((len(labels),), torch.nan), support > 0
    for i in held.nonzero().flatten().tolist():
        ap[i] = _average_precision(scores[:, i].numpy(), targets[:, i].numpy())
    hits, said = (decided & targets).sum(0), decided.sum(0)
    at_half = f1_figures((half & targets).sum(0), half.sum(0), support, labels.names)
    f1 = f1_figures(hits, said, support, labels.names, ap=ap, threshold=thresholds)
    return {
        "hamming_loss": number((decided != targets).float().mean()),
        "exact_match": number((decided == targets).all(1).float().mean()),
        "f1_micro": number(2 * hits.sum() / (said.sum() + support.sum())),
        "f1_macro": f1.pop("f1_macro"),
        "f1_weighted": f1.pop("f1_weighted"),
        "f1_macro_at_0.5": at_half["f1_macro"],
        "map": number(ap[held].mean()),
        **f1,
    }


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the average precision of one label, as scikit-learn's: equal scores are one step."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each score
    hits = np.cumsum(truth[order])[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1])


def heads_figures(scores: Tensor, targets: Tensor, labels: LabelSpace) -> dict[str, Any]:
    """Return the figures of softmax scores `[N, L]`, kind by kind, against class indices `[N, kinds]`.

    A photo without a label of a kind (-1) is left out of that kind's figures, and out of `exact_match`. A
    class without photos is left out of the F1 means (see `f1_figures`); where it is predicted, the class of
    that photo is missed. `f1_macro` is the mean over kinds.
    """
    figures: dict[str, Any] = {}
    right = torch.ones(len(targets), dtype=torch.bool)
    for k, (kind, names) in enumerate(labels.kinds.items()):
        part, truth = scores[:, labels.slices[kind]], targets[:, k]
        known = truth != MISSING
        predicted = part.argmax(1)
        right &= predicted == truth
        figures[kind] = _head_figures(predicted[known], truth[known], names)
    complete = (targets != MISSING).all(1)
    macros = [figures[kind]["f1_macro"] for kind in labels.kinds if figures[kind]["f1_macro"] is not None]
    return {
        "exact_match": number(right[complete].float().mean()),
        "f1_macro": sum(macros) / len(macros) if macros else None,
        **{key: sum(f[key] for f in figures.values()) for key in ("labels_evaluated", "labels_total")},
        **figures,
    }


def _head_figures(predicted: Tensor, truth: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the figures of one kind from class indices `[N]`."""
    right = predicted == truth
    hits, said, support = (
        torch.bincount(found, minlength=len(names)) for found in (truth[right], predicted, truth)
    )
    return {"accuracy": number(right.float().mean()), **f1_figures(hits, said, support, names)}
