"""The figures of a split, always over the whole split, in the shape of `metrics.json`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import classification as F

from src.labels import DEFAULT, MISSING, LabelSpace, apply_thresholds


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


def multilabel_figures(
    scores: Tensor, targets: Tensor, thresholds: Tensor, labels: LabelSpace
) -> dict[str, Any]:
    """Return the figures of sigmoid scores `[N, L]` against multi-hot targets `[N, L]`.

    A label without positives counts as F1 0 where nothing is undefined otherwise (`zero_division=0`) in the
    F1 means, and is left out of `map`, as average precision is not defined for it.
    """
    count, targets = len(labels), targets.int()
    decided, half = (
        torch.from_numpy(apply_thresholds(scores.numpy(), values)).int()
        for values in (thresholds.numpy(), np.full(count, DEFAULT))
    )
    options = {"num_labels": count, "zero_division": 0}
    f1 = {
        how: F.multilabel_f1_score(decided, targets, average=how, **options)
        for how in ("micro", "macro", "weighted", None)
    }
    support = targets.sum(0)
    ap, held = torch.full((count,), torch.nan), support > 0
    if held.any():
        ap[held] = F.multilabel_average_precision(
            scores[:, held], targets[:, held], num_labels=int(held.sum()), average=None
        ).reshape(-1)
    return {
        "hamming_loss": number((decided != targets).float().mean()),
        "exact_match": number((decided == targets).all(1).float().mean()),
        **{f"f1_{how}": number(value) for how, value in f1.items() if how},
        "f1_macro_at_0.5": number(F.multilabel_f1_score(half, targets, average="macro", **options)),
        "map": number(ap[held].mean() if held.any() else torch.nan),
        "per_class": per_class(
            labels.names,
            support,
            f1=f1[None],
            precision=F.multilabel_precision(decided, targets, average=None, **options),
            recall=F.multilabel_recall(decided, targets, average=None, **options),
            ap=ap,
            threshold=thresholds,
        ),
    }


def heads_figures(scores: Tensor, targets: Tensor, labels: LabelSpace) -> dict[str, Any]:
    """Return the figures of softmax scores `[N, L]`, kind by kind, against class indices `[N, kinds]`.

    A photo without a label of a kind (-1) is left out of that kind's figures, and out of `exact_match`. A
    class that neither occurs nor is predicted is left out of the F1 means; `f1_macro` is the mean over
    kinds.
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
        "exact_match": number(right[complete].float().mean()) if complete.any() else None,
        "f1_macro": sum(macros) / len(macros) if macros else None,
        **figures,
    }


def _head_figures(predicted: Tensor, truth: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the figures of one kind from class indices `[N]`."""
    if not len(truth):
        return {"accuracy": None, "f1_macro": None, "f1_weighted": None, "per_class": {}}
    options = {"num_classes": len(names), "zero_division": 0}
    f1 = {
        how: F.multiclass_f1_score(predicted, truth, average=how, **options)
        for how in ("macro", "weighted", None)
    }
    return {
        "accuracy": number((predicted == truth).float().mean()),
        "f1_macro": number(f1["macro"]),
        "f1_weighted": number(f1["weighted"]),
        "per_class": per_class(
            names,
            torch.bincount(truth, minlength=len(names)),
            f1=f1[None],
            precision=F.multiclass_precision(predicted, truth, average=None, **options),
            recall=F.multiclass_recall(predicted, truth, average=None, **options),
        ),
    }
