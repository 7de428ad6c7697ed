"""Late fusion of a classifier of photos and one of notes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.models.base import Classifier
from src.models.classifiers import DualHeadClassifier, MultiLabelClassifier, SigmoidHeads, SoftmaxHeads
from src.models.text_classifier import FIXED, TextClassifier, TfidfHeads, TfidfLabels
from src.models.transformer import TransformerHeads, TransformerLabels

NOTES = {
    "text_tfidf": (TfidfHeads, TfidfLabels),
    "text_transformer": (TransformerHeads, TransformerLabels),
}
TINY = 1e-6  # a probability nearer to 0 or 1 counts as that near
PULL = 1.0  # of the weights to 1, in photos that say so
STEPS = 100


class PhotoAndNote(Classifier):
    """Two classifiers that do not learn any more, and how much each of them counts.

    Of a photo with a note, the logit of a label is `a * photo + b * note - c * prior`: logits (of heads:
    logarithms) of the calibrated probabilities and of the label's share of the training photos. With a = b =
    c = 1 that is Bayes' rule for evidence that is independent given the label. The three numbers of each kind
    are fitted to validation. With a photo or a note alone its own probabilities count.

    Features are float32 `[B, 2 * labels + 2]`: probabilities of photo and note, and whether each is there.

    Args:
        task: of both classifiers.
        labels: of the photos' classifier.
        photo: hyperparameters of the photos' classifier.
        note: hyperparameters of the notes' classifier.
        note_kind: its kind, a key of `NOTES`.
        seed: of the run.
    """

    kind = "photo_and_note"
    reads = "both"

    def __init__(
        self,
        task: str,
        labels: Mapping[str, list[str]],
        photo: Mapping[str, Any],
        note: Mapping[str, Any],
        note_kind: str,
        seed: int = 42,
    ):
        self.given = {n: v for n, v in locals().items() if n not in ("self", "__class__")}
        super().__init__(FIXED | self.given | {"class_weights": None})
        self.add_backbone(nn.Identity())
        several = task == "multilabel"
        self.photo: Classifier = (MultiLabelClassifier if several else DualHeadClassifier)(**photo)
        self.note: TextClassifier = NOTES[note_kind][several](**note)
        self.photo.requires_grad_(False)
        self.note.requires_grad_(False)
        self.mix = nn.Parameter(torch.ones(len(self.labels.kinds), 3))
        self.register_buffer("prior", torch.full((len(self.labels),), 0.5))

    def train(self, mode: bool = True) -> "PhotoAndNote":
        """Set training mode; both classifiers stay in eval mode."""
        super().train(mode)
        self.photo.eval()
        self.note.eval()
        return self

    def features_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the features of a batch, which are computed before the fit."""
        return batch["features"]

    def classify(self, features: Tensor) -> dict[str, Tensor]:
        """Return logits `{kind: [B, labels of the kind]}` of features `[B, 2 * labels + 2]`."""
        count, found = len(self.labels), {}
        photo, note, has_photo, has_note = features.split([count, count, 1, 1], 1)
        for weights, (kind, own) in zip(self.mix, self.labels.slices.items(), strict=True):
            terms = torch.stack([self._logits(part[..., own]) for part in (photo, note)])
            prior = self._logits(self.prior[own])
            joined = weights[0] * terms[0] + weights[1] * terms[1] - weights[2] * prior
            alone = torch.where(has_photo > 0, terms[0], terms[1])
            found[kind] = torch.where(has_photo * has_note > 0, joined, alone)
        return found

    def _logits(self, probabilities: Tensor) -> Tensor:
        kept = probabilities.clamp(TINY, 1 - TINY)
        return kept.logit() if self.task == "multilabel" else kept.log()

    def with_prior(self, note: np.ndarray) -> np.ndarray:
        """Return the notes' probabilities `[N, labels of the notes]` in the order of the photos' labels.

        A label that the notes' classifier does not know has its share of the training photos.
        """
        names, known = self.labels.names, self.note.labels.names
        ours = [i for i, name in enumerate(names) if name in known]
        prior = self.prior.cpu().numpy()
        found = np.repeat(prior[None], len(note), 0).astype(np.float32)
        found[:, ours] = note[:, [known.index(names[i]) for i in ours]]
        return found

    def on_train_start(self) -> None:
        """Fit the weights to validation; the epoch that follows measures them."""
        data = self.trainer.datamodule
        features = torch.from_numpy(data.features["val"][0].values).to(self.device)
        target = data.targets("val").to(self.device)
        optimizer = torch.optim.LBFGS([self.mix], max_iter=STEPS, line_search_fn="strong_wolfe")

        def measured() -> Tensor:
            optimizer.zero_grad()
            pull = PULL * ((self.mix - 1) ** 2).sum() / len(target)
            loss = self.loss(self.classify(features), target) + pull
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(measured)
        self.mix.grad = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer that changes nothing: Lightning counts its steps."""
        return torch.optim.SGD([self.mix], lr=0.0)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the notes' classifier take its sizes from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"].items()
        own = {name.removeprefix("note."): value for name, value in state if name.startswith("note.")}
        self.note.on_load_checkpoint({"state_dict": own})


class FusedHeads(SoftmaxHeads, PhotoAndNote):
    """The fusion for `dual_head` and `multiclass`."""


class FusedLabels(SigmoidHeads, PhotoAndNote):
    """The fusion for `multilabel`."""
