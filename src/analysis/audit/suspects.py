"""Suspected label errors in four ranked lists.

They rest on probabilities of heads that have not seen the photo that they judge (`linear.out_of_fold`). How
well the lists rank is measured in `benchmarks/label_errors.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import logit

from src.analysis.audit.evidence import Evidence
from src.datamodules.groups import Linked, identical_sets
from src.labels import LabelSpace

LISTS = ("missing_label", "wrong_label", "unseen_pair", "near_duplicates")
HEARSAY = 3.0  # nats by which the photos of its group may speak for a label that a photo itself does not show
MISSING_FLOOR = 0.4  # probability; of what the demo set has between 0.3 and that, four in ten are missing
WRONG_FLOOR = 1.0  # nats; of what the demo set has between 0.5 and that, one in seven is wrong
BELIEVED = 1.5  # doubt in nats; on a photo where a label has more, it stands for no pair
NEAREST = 3  # photos of other groups to look at with a suspect
BLOCK = 256  # photos that are compared with all others at once
RIVALRY, STRONGEST = 0.5, 3.0  # what the log-odds of the most probable rival count, and up to where


@dataclass(frozen=True)
class Suspect:
    """A photo whose labels may be wrong, and the change to make.

    Attributes:
        position: of the record among `linked.records`.
        probability: out-of-fold, that the suggestion rests on: of the added label, for a pure removal that
            the removed one is absent.
        score: the key of its list, highest first; log-odds, not comparable between lists.
        other: of near duplicates, the position of the photo that disagrees.
    """

    position: int
    add: tuple[str, ...]
    remove: tuple[str, ...]
    probability: float
    score: float
    other: int | None = None

    @property
    def suggestion(self) -> str:
        """The change as text, such as `remove Drummy; add Leaks`; labels hold no semicolon."""
        changes = [f"remove {label}" for label in self.remove] + [f"add {label}" for label in self.add]
        return "; ".join(changes)


def find_suspects(
    linked: Linked, labels: LabelSpace, multilabel: bool, probabilities: np.ndarray
) -> dict[str, list[Suspect]]:
    """Return the four lists, see docs/audit.md, each sorted by score, then by path.

    A label that `wrong_label` puts in another one's place is in `missing_label` too: often both are there.
    `unseen_pair` does not count photos that `wrong_label` doubts one of the two on. Labels that `unjudgeable`
    names are neither added nor removed by the first three. `multilabel` photos carry any combination of
    labels, others one of each kind at most. `probabilities` are out of fold, float `[records, labels]`.
    """
    evidence = Evidence(linked, labels, multilabel, probabilities)
    makers = (_missing_labels, _wrong_labels, _unseen_pairs, _disagreeing)

    def rank(suspect: Suspect) -> tuple:
        other = -1 if suspect.other is None else suspect.other
        return -suspect.score, linked.records[suspect.position].path, suspect.add, suspect.remove, other

    return {name: sorted(make(evidence), key=rank) for name, make in zip(LISTS, makers, strict=True)}


def nearest_labelled(features: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the most similar photos of other groups, int64 `[N, NEAREST]`, -1 where there are too few.

    The cosine of `features`, float `[N, F]`, orders them, then the position.
    """
    features = np.asarray(features, np.float32)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norms > 0, norms, 1)
    found = np.full((len(unit), NEAREST), -1, np.int64)
    kept = min(NEAREST, len(unit))
    for begin in range(0, len(unit) if kept else 0, BLOCK):
        part = slice(begin, begin + BLOCK)
        similar = unit[part] @ unit.T
        similar[groups[part, None] == groups] = -np.inf
        best = np.argpartition(-similar, kept - 1, axis=1)[:, :kept]
        values = np.take_along_axis(similar, best, 1)
        order = np.lexsort((best, -values), axis=1)
        best, values = np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
        found[part, :kept] = np.where(np.isfinite(values), best, -1)
    return found


def _suspect(
    evidence: Evidence,
    position: int,
    add: list[int],
    remove: list[int],
    score: float,
    other: int | None = None,
) -> Suspect:
    """Return a suggestion; it rests on its most probable added label, or least probable removed one."""
    there = evidence.probabilities[position]
    probability = there[add].max() if add else 1 - there[remove].min()
    names = [tuple(evidence.labels.names[label] for label in labels) for labels in (add, remove)]
    return Suspect(int(position), *names, float(probability), float(score), other)


def _wrong_labels(evidence: Evidence) -> Iterator[Suspect]:
    """Yield given labels that are doubted, with what takes their place.

    A label that was written down by mistake lacks another one: an absent label of its kind that is probable
    speaks against it, too.
    """
    for part in evidence.labels.slices.values():
        kind = np.arange(part.start, part.stop)
        rivals = np.clip(evidence.addable[:, part].max(1, keepdims=True), -STRONGEST, STRONGEST)
        scores = evidence.doubt[:, part] + RIVALRY * rivals
        for position, label in np.argwhere(evidence.given[:, part] & (scores > WRONG_FLOOR)).tolist():
            score = scores[position, label]
            label += part.start
            instead = evidence.best(position, kind, kind)
            better = instead is not None and evidence.log_odds[position, [label, instead]].argmax() == 1
            if better or evidence.multilabel:
                add = [instead] if better else []
                yield _suspect(evidence, position, add, [label], score)


def _missing_labels(evidence: Evidence) -> Iterator[Suspect]:
    """Yield absent labels that are probable; for heads one of each kind that the photo has no label of."""
    likely = np.minimum(evidence.addable, evidence.seen + HEARSAY)
    probable = likely > logit(MISSING_FLOOR)
    if not evidence.multilabel:
        for part in evidence.labels.slices.values():
            highest = likely[:, part].max(1, keepdims=True)
            lacking = ~evidence.given[:, part].any(1, keepdims=True)
            probable[:, part] &= lacking & (likely[:, part] == highest)
    for position, label in np.argwhere(probable):
        score = likely[position, label]
        yield _suspect(evidence, position, [label], [], score)


def _unseen_pairs(evidence: Evidence) -> Iterator[Suspect]:
    """Yield pairs of labels of two kinds that are seen nowhere else, as far as something speaks against one.

    A pair is as suspicious as its strongest explanation: the second label is wrong, all of the first kind
    are, or (`multilabel`) one of the first kind is missing that is seen with the second elsewhere.
    """
    groups = evidence.linked.groups
    kinds = [np.arange(part.start, part.stop) for part in evidence.labels.slices.values()]
    for first, second in combinations(kinds, 2):
        shown = _shown_pairs(evidence, first, second)
        total = shown.sum(0)
        both = evidence.given[:, first].any(1) & evidence.given[:, second].any(1)
        for position in np.flatnonzero(both).tolist():
            seen = total > shown[groups[position]]
            partners = evidence.given[position, first]
            found = [
                _explained(evidence, position, label, first, second, seen)
                for label in second[evidence.given[position, second]].tolist()
                if not seen[partners, label - second[0]].any()
            ]
            yield from {(s.add, s.remove): s for s in found if s is not None}.values()


def _shown_pairs(evidence: Evidence, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the pairs of labels, none doubted, that each group shows, bool `[groups, first, second]`."""
    believed, groups = evidence.given & ~(evidence.doubt > BELIEVED), evidence.linked.groups
    shown = np.zeros((groups.max(initial=-1) + 1, len(first), len(second)), bool)
    for group, labels in zip(groups, believed, strict=True):
        shown[group] |= np.outer(labels[first], labels[second])
    return shown


def _explained(
    evidence: Evidence, position: int, label: int, first: np.ndarray, second: np.ndarray, seen: np.ndarray
) -> Suspect | None:
    """Return the strongest explanation of a pair that is seen nowhere else; None where nothing speaks for it.

    `label` is of the second kind; `first` and `second` are all labels of the two kinds, and `seen` the pairs
    that other groups show, bool `[first, second]`.
    """
    doubt, addable = evidence.doubt[position], evidence.addable[position]
    partners = first[evidence.given[position, first]]
    with_label = first[seen[:, label - second[0]]]
    with_partners = second[seen[partners - first[0]].any(0)]
    fitting = with_label[[addable[with_label].argmax()]] if len(with_label) else with_label
    explanations = [
        (doubt[label], [label], evidence.best(position, with_partners, second)),
        (doubt[partners].min(), partners.tolist(), evidence.best(position, with_label, first)),
    ]
    if evidence.multilabel and len(fitting):
        explanations.append((addable[fitting[0]], [], int(fitting[0])))
    score, remove, instead = max(explanations, key=lambda explanation: explanation[0])
    if score <= 0 or (instead is None and not evidence.multilabel):
        return None
    return _suspect(evidence, position, [] if instead is None else [instead], remove, score)


def _disagreeing(evidence: Evidence) -> Iterator[Suspect]:
    """Yield near duplicates with different labels, each photo of a pair that the suggestion changes.

    The pixels of both photos decide; a label that cannot be judged, and stands on one photo only, was
    forgotten on the other one. Heads get the best supported label of each kind that either photo has one of.
    """
    for a, b in _alike(evidence.linked):
        either = evidence.given[a] | evidence.given[b]
        support = np.where(evidence.judged, evidence.seen[[a, b]].mean(0) - evidence.share, 0.0)
        if evidence.multilabel:
            wanted = evidence.given[a] & evidence.given[b] | either & (support >= 0)
        else:
            wanted = np.zeros_like(either)
            for part in evidence.labels.slices.values():
                best = np.where(either[part], support[part], -np.inf).argmax()
                wanted[part.start + best] = either[part].any()
        for position, other in ((a, b), (b, a)):
            add = np.flatnonzero(wanted & ~evidence.given[position]).tolist()
            remove = np.flatnonzero(~wanted & evidence.given[position]).tolist()
            if add or remove:
                yield _suspect(evidence, position, add, remove, np.abs(support[add + remove]).max(), other)


def _alike(linked: Linked) -> list[tuple[int, int]]:
    position = {record.path: i for i, record in enumerate(linked.records)}
    copies = {
        (position[one.path], position[other.path])
        for one, *others in identical_sets(linked.records)
        for other in others
    }
    return sorted(copies | set(map(tuple, linked.pairs.tolist())))
