"""Evidence for and against each label of each photo: its pixels, and the other photos of its group.

Measured by `benchmarks/label_errors.py`: an absent label is missed by its probability alone; a given one is
doubted by how improbable it is for its share of the photos, to the power of a half. Labels of the nearest
photos, and how often labels go together, add little or nothing.
"""

from functools import cached_property

import numpy as np
from scipy.special import expit, logit

from src.datamodules.groups import Linked
from src.decisions.calibration import fit_logistic
from src.labels import LabelSpace

MIN_POSITIVES = 3  # photos, and groups, that a label needs to be judged
PULL = 10.0  # nats; a few groups, and the errors in them, are to move the weights of their votes little
CLIP = 1e-4  # probabilities nearer to 0 or 1 are not told apart


def unjudgeable(linked: Linked, labels: LabelSpace) -> dict[str, str]:
    """Return `{label: reason}` of the labels that too few photos, or too few groups, carry to be judged.

    A label of one group is never seen by the heads that judge that group. From three photos on, lists of the
    demo set lost by leaving labels out.
    """
    reasons = {}
    for name, given in zip(labels.names, _given(linked, labels).T, strict=True):
        photos, groups = int(given.sum()), len(np.unique(linked.groups[given]))
        if photos < MIN_POSITIVES:
            reasons[name] = f"{photos} photos carry it, {MIN_POSITIVES} are needed"
        elif groups < MIN_POSITIVES:
            reasons[name] = f"{photos} photos in {groups} groups carry it, {MIN_POSITIVES} groups are needed"
    return reasons


def _given(linked: Linked, labels: LabelSpace) -> np.ndarray:
    """Return which labels each photo carries, bool `[N, labels]`."""
    hot = [labels.encode(record.labels) for record in linked.records]
    return np.array(hot, np.float32).reshape(-1, len(labels)) > 0


class Evidence:
    """The evidence for and against each label on each photo; arrays `[N, labels]`; see `find_suspects`.

    Attributes:
        given: which labels each photo carries.
        seen: log-odds by the photo alone.
        log_odds: that the label is given, by the photo and the others of its group.
        share: `[labels]`, log-odds of the label's share of the photos.
        judged: bool `[labels]`.
    """

    def __init__(self, linked: Linked, labels: LabelSpace, multilabel: bool, probabilities: np.ndarray):
        self.linked, self.labels, self.multilabel = linked, labels, multilabel
        self.given, self.probabilities = _given(linked, labels), np.asarray(probabilities, float)
        few = unjudgeable(linked, labels)
        self.judged = np.array([name not in few for name in labels.names], bool)
        self.seen = logit(np.clip(self.probabilities, CLIP, 1 - CLIP))
        self.log_odds, self.share = self.seen.copy(), np.zeros(len(labels))
        for part in labels.slices.values():
            given, seen = self.given[:, part], self.seen[:, part]
            known = np.ones(len(given), bool) if multilabel else given.any(1)
            self.share[part] = logit((given[known].sum(0) + 0.5) / (known.sum() + 1))
            others, votes = _votes(linked.groups, given, known, expit(self.share[part]))
            voted = others > 0
            weights = _agreement(seen[known & voted], votes[known & voted], given[known & voted])
            weighted = weights[0] * seen + weights[1] * votes + weights[2]
            self.log_odds[:, part] = np.where(voted[:, None], weighted, seen)

    @cached_property
    def doubt(self) -> np.ndarray:
        """How improbable each label is for its share, in nats; -inf for labels that are not judged."""
        return np.where(self.judged, self.share / 2 - self.log_odds, -np.inf)

    @cached_property
    def addable(self) -> np.ndarray:
        """The log-odds of labels that could be added; -inf for given ones and labels not judged."""
        return np.where(self.judged & ~self.given, self.log_odds, -np.inf)

    def best(self, position: int, fitting: np.ndarray, kind: np.ndarray) -> int | None:
        """Return the label that takes another one's place, or None.

        It is the most probable one of `fitting`; for `multilabel` one that is more probable than not, for
        heads, which need one, else of the whole `kind`. Both hold positions on the label axis.
        """
        floor = 0.0 if self.multilabel else -np.inf
        for among in (fitting, fitting if self.multilabel else kind):
            if (self.addable[position, among] > floor).any():
                return int(among[self.addable[position, among].argmax()])
        return None


def _votes(
    groups: np.ndarray, given: np.ndarray, known: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many other photos of its group each has, `[N]`, and what they say, `[N, labels of a kind]`.

    That is the log of how much the odds of a label among them, with one photo of the whole set's `share`
    added, exceed those in the set. Photos that are not `known` say nothing.
    """
    count = int(groups.max(initial=-1)) + 1
    held = np.zeros((count, given.shape[1]))
    np.add.at(held, groups[known], given[known])
    others = np.bincount(groups[known], minlength=count)[groups] - known
    rate = (held[groups] - given * known[:, None] + share) / (others + 1)[:, None]
    return others, logit(np.clip(rate, CLIP, 1 - CLIP)) - logit(share)


def _agreement(seen: np.ndarray, votes: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return the weights of `seen`, of `votes` and of 1 under which they predict `given` best.

    A logistic regression over all labels of a kind. Its penalty pulls towards the photo alone, (1, 0, 0):
    groups that mean nothing for a kind of labels get no say.
    """
    columns = np.stack([seen.ravel(), votes.ravel(), np.ones(seen.size)], 1)
    return fit_logistic(columns, given.ravel(), np.array([1.0, 0.0, 0.0]), np.full(3, 2 * PULL))
