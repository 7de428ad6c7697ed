"""The label space: ordered label names by kind."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from src.errors import InputError, did_you_mean, listed

TASKS = ("dual_head", "multiclass", "multilabel")
SPLITS = ("train", "val", "test")
MISSING = -1  # class index of a kind that a photo has no label for
DEFAULT = 0.5  # threshold of a sigmoid score
# rates that `decisions.routing` has limits for
MISSES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
NO_PROMISE = 2.0  # the limit of a label with too few photos: above all scores


@dataclass(frozen=True)
class LabelSpace:
    """The ordered label names of each kind.

    Every array whose last axis is "labels" follows `names`: the labels of the first kind, then of the
    second, ... Fixed from the training split and saved in the checkpoint, so that labels are joined by
    name, never by position.

    Args:
        kinds: `{kind: (label, ...)}` in order. A kind is a Python identifier.

    Raises:
        InputError: for a label that stands twice, is empty, or has `${` (an interpolation) or `;` (between
            labels in tables) in it; for a kind without labels, or with a name that is no identifier.
    """

    kinds: Mapping[str, tuple[str, ...]]

    def __post_init__(self):
        object.__setattr__(self, "kinds", {kind: tuple(labels) for kind, labels in self.kinds.items()})
        if not self.kinds:
            raise InputError("no labels at all: the training photos carry none")
        seen: dict[str, str] = {}
        for kind, labels in self.kinds.items():
            if not kind.isidentifier():
                raise InputError(f"'{kind}' cannot name a kind of labels: use letters, digits and _")
            if not labels:
                raise InputError(f"kind '{kind}' has no labels: the training photos carry none of it")
            for label in labels:
                if not label or "${" in label or ";" in label or "\n" in label or "\r" in label:
                    raise InputError(
                        f"label '{label}' of kind '{kind}': empty, or with '${{', ';' or a line break"
                    )
                if label in seen:
                    raise InputError(
                        f"label '{label}' stands twice ({seen[label]}, {kind}): names must be unique; "
                        "data.components or data.defects can say which kind it is of"
                    )
                seen[label] = kind

    @classmethod
    def from_labels(cls, labels: Mapping[str, Iterable[str]]) -> "LabelSpace":
        """Build the space from the labels of training photos: unique and sorted within each kind."""
        return cls({kind: tuple(sorted(set(names))) for kind, names in labels.items()})

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All labels, kind by kind."""
        return tuple(label for labels in self.kinds.values() for label in labels)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each kind lies on the label axis."""
        ends = accumulate(map(len, self.kinds.values()))
        return {
            kind: slice(end - len(self.kinds[kind]), end) for kind, end in zip(self.kinds, ends, strict=True)
        }

    def __len__(self) -> int:
        return len(self.names)

    def as_dict(self) -> dict[str, list[str]]:
        """Return `{kind: [labels]}`, the content of `classes.json` and of a checkpoint."""
        return {kind: list(labels) for kind, labels in self.kinds.items()}

    def position(self, label: str) -> int:
        """Return the index of `label` on the label axis; `InputError` with the nearest one if unknown."""
        if label not in self.names:
            raise InputError(f"unknown label '{label}': {did_you_mean(label, self.names)}")
        return self.names.index(label)

    def encode(self, labels: Mapping[str, Iterable[str]]) -> np.ndarray:
        """Return the multi-hot vector of one photo's labels, float32 of shape `[labels]`."""
        hot = np.zeros(len(self), np.float32)
        for names in labels.values():
            for name in names:
                hot[self.position(name)] = 1
        return hot

    def encode_classes(self, labels: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Return one class index per kind, int64 of shape `[kinds]`; `MISSING` where a kind has no label.

        Raises:
            InputError: if a kind has several labels, or an unknown one.
        """
        classes = []
        for kind, known in self.kinds.items():
            names = tuple(labels.get(kind, ()))
            if len(names) > 1:
                raise InputError(f"several labels of kind '{kind}' on one photo: {listed(names)}")
            if names and names[0] not in known:
                raise InputError(f"unknown {kind} '{names[0]}': {did_you_mean(names[0], known)}")
            classes.append(known.index(names[0]) if names else MISSING)
        return np.array(classes, np.int64)

    def decode(self, hot: np.ndarray) -> dict[str, list[str]]:
        """Return the labels of each kind that a boolean vector of shape `[labels]` names."""
        return {
            kind: [label for label, on in zip(labels, hot[self.slices[kind]], strict=True) if on]
            for kind, labels in self.kinds.items()
        }


def apply_thresholds(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return `scores >= thresholds`, both as float32: the one comparison, wherever decisions are made.

    Args:
        scores: Probabilities of shape `[..., labels]`.
        thresholds: Shape `[labels]`.

    Returns:
        Booleans of the shape of `scores`.

    Raises:
        ValueError: if the number of labels differs.
    """
    scores, thresholds = np.asarray(scores, np.float32), np.asarray(thresholds, np.float32)
    if thresholds.ndim != 1 or scores.shape[-1:] != thresholds.shape:
        raise ValueError(f"scores {scores.shape} and thresholds {thresholds.shape} differ in their labels")
    return scores >= thresholds
