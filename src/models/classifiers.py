"""The tasks: one softmax per kind, or one sigmoid per label, with the classifiers of photos for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from src.config_check import check_number
from src.errors import InputError, did_you_mean, listed
from src.labels import MISSING
from src.models.base import Classifier
from src.models.image import PhotoClassifier
from src.models.metrics import heads_figures, multilabel_figures


class SoftmaxHeads(Classifier):
    """One softmax head per kind: one label of each kind. With one kind it is `multiclass`.

    Args:
        head_weights: `{kind: factor}` of each head's loss in the sum; a kind that is not named counts 1.
        **common: of the classifier that gives the features.
    """

    tasks = ("dual_head", "multiclass")

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
        return torch.cat([logits[kind].softmax(1) for kind in self.labels.kinds], 1)

    def counted(self, target: Tensor) -> Tensor:
        """Return how many photos have a label of each kind."""
        return (target != MISSING).sum(0)

    def loss(
        self, logits: Mapping[str, Tensor], target: Tensor, shares: Sequence[float] | None = None
    ) -> Tensor:
        """Return the weighted sum of the heads' cross-entropies.

        Each head's is the mean over the photos that have a label of its kind, weighted by class: the
        weights are not divided out, so that a batch of rare classes counts for more.
        """
        total = target.new_zeros((), dtype=torch.float32)
        for k, kind in enumerate(self.labels.kinds):
            known = target[:, k] != MISSING
            factor = (self.hparams["head_weights"] or {}).get(kind, 1.0) * (shares[k] if shares else 1.0)
            if known.any():
                losses = nnf.cross_entropy(
                    logits[kind][known],
                    target[known, k],
                    weight=self.weight_of(kind),
                    reduction="none",
                    label_smoothing=self.hparams["label_smoothing"] if self.training else 0.0,
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

    The decision thresholds are a buffer, `thresholds` `[labels]`, 0.5 until a callback tunes them; they
    travel with the weights.

    Args:
        **common: of the classifier that gives the features.
    """

    tasks = ("multilabel",)

    def __init__(self, **common: Any):
        super().__init__(**common)
        self.register_buffer("thresholds", torch.full((len(self.labels),), 0.5))

    def probabilities(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Return sigmoid scores `[B, labels]`."""
        return torch.cat([logits[kind] for kind in self.labels.kinds], 1).sigmoid()

    def counted(self, target: Tensor) -> Tensor:
        """Return the number of photos, for each kind: a photo without a label of one says "none of them"."""
        return torch.full((len(self.labels.kinds),), len(target), device=target.device)

    def loss(
        self, logits: Mapping[str, Tensor], target: Tensor, shares: Sequence[float] | None = None
    ) -> Tensor:
        """Return the binary cross-entropy with weighted positives, mean over photos and labels."""
        weights = [self.weight_of(kind) for kind in self.labels.kinds]
        pos_weight = torch.cat(weights) if all(w is not None for w in weights) else None
        joined = torch.cat([logits[kind] for kind in self.labels.kinds], 1)
        smoothing = self.hparams["label_smoothing"] if self.training else 0.0
        target = target * (1 - smoothing) + smoothing / 2
        loss = nnf.binary_cross_entropy_with_logits(joined, target, pos_weight=pos_weight)
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
            "map": figures["map"],
        }


class DualHeadClassifier(SoftmaxHeads, PhotoClassifier):
    """A classifier of photos for `dual_head` and `multiclass`."""


class MultiLabelClassifier(SigmoidHeads, PhotoClassifier):
    """A classifier of photos for `multilabel`."""
