"""Scores of labelled photos, and the decisions that they lead to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from src.errors import InputError, listed
from src.labels import MISSING, LabelSpace, apply_thresholds


@dataclass(frozen=True)
class Scored:
    """`N` labelled photos with their scores.

    Attributes:
        paths: POSIX, relative to the data root.
        groups: the asset that each photo shows.
        scores: probabilities, float32 `[N, labels]`.
        targets: multi-hot `[N, labels]` (`multilabel`; below 0 where nobody has looked, which counts as
            absent) or class indices `[N, kinds]`, `MISSING` where a photo has no label of a kind.
        thresholds: `[labels]` for `multilabel`, else None.
    """

    task: str
    labels: LabelSpace
    ids: Sequence[str]
    paths: Sequence[str]
    groups: Sequence[str]
    scores: np.ndarray
    targets: np.ndarray
    thresholds: np.ndarray | None = None

    @property
    def multilabel(self) -> bool:
        """Whether a photo may carry any combination of labels."""
        return self.task == "multilabel"

    def check_finite(self) -> None:
        """Refuse scores that are NaN or infinite: each figure from them would be wrong."""
        if len(broken := np.flatnonzero(~np.isfinite(self.scores).all(1))):
            named = listed((self.paths[i] for i in broken), 5)
            raise InputError(f"the model's scores of {len(broken)} photos are not finite: {named}")

    @cached_property
    def known(self) -> np.ndarray:
        """Whether a photo counts for a label, bool `[N, labels]`: for heads, with a label of that kind."""
        if self.multilabel:
            return np.ones(self.scores.shape, bool)
        return np.repeat(self.targets != MISSING, [len(names) for names in self.labels.kinds.values()], 1)

    @cached_property
    def truth(self) -> np.ndarray:
        """The labels of each photo, bool `[N, labels]`."""
        return self.targets > 0 if self.multilabel else self._one_hot(self.targets)

    @cached_property
    def decided(self) -> np.ndarray:
        """The predicted labels of each photo, bool `[N, labels]`; of a head, none where it does not count."""
        if self.multilabel:
            return apply_thresholds(self.scores, self.thresholds)
        best = [self.scores[:, part].argmax(1) for part in self.labels.slices.values()]
        return self._one_hot(np.stack(best, 1)) & self.known

    def _one_hot(self, classes: np.ndarray) -> np.ndarray:
        sizes = [len(names) for names in self.labels.kinds.values()]
        return np.concatenate([classes[:, [k]] == np.arange(n) for k, n in enumerate(sizes)], 1)


def co_predictions(scored: Scored) -> np.ndarray:
    """Return the photos with each pair of a true label (row) and a predicted one, `[labels, labels]`."""
    truth, decided = scored.truth.astype(np.float32), scored.decided.astype(np.float32)
    return (truth.T @ decided).astype(np.int64)


def confusion_matrices(scored: Scored) -> dict[str, np.ndarray]:
    """Return `{kind: counts [labels, labels]}` of heads; rows are truth, columns predictions."""
    counts = co_predictions(scored)
    return {kind: counts[part, part] for kind, part in scored.labels.slices.items()}


def label_outcomes(scored: Scored) -> dict[str, tuple[int, int, int, int]]:
    """Return hits, misses, false alarms and correct rejections of each label."""
    truth, decided = scored.truth, scored.decided
    outcomes = [decided & truth, ~decided & truth, decided & ~truth, ~decided & ~truth]
    counts = np.stack([outcome.sum(0) for outcome in outcomes], 1).tolist()
    return {name: tuple(row) for name, row in zip(scored.labels.names, counts, strict=True)}
