"""What the labels of a photo say about each other: pairs of two kinds, parts and wholes, severity.

Arrays of the first kind (components) are `[photos, A]`, of the second (defects) `[photos, B]`, of pairs
`[A, B]`.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from src.errors import InputError, did_you_mean
from src.labels import LabelSpace

PSEUDO = 1.0  # photos that are added to the found and to the expected number of each pair
SEVERITY = ("Hairline", "Surface", "Light", "Minor", "Moderate", "Major", "Heavy", "Severe")  # mild to grave


def pair_ratios(first: np.ndarray, second: np.ndarray, pseudo: float = PSEUDO) -> np.ndarray:
    """Return how many times more often each pair occurs than two kinds without a relation would have it.

    `(found + pseudo) / (expected + pseudo)`: a pair that could not be expected yet has a ratio near 1, one
    that was never seen stays above 0. It is the posterior mean of a Gamma prior; a Dirichlet prior on the
    defects of a component would turn down pairs that a few photos say nothing about.

    Args:
        first: 0 or 1 for the labels of the first kind, of photos that carry labels of both kinds.
        second: The same of the second kind.
        pseudo: see `PSEUDO`.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise ValueError(f"labels {first.shape} and {second.shape}: not [photos, A] and [photos, B]")
    expected = np.outer(first.sum(0), second.sum(0)) / max(len(first), 1)
    return (first.T @ second + pseudo) / (expected + pseudo)


def impossible_pairs(labels: LabelSpace, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
    """Return the pairs that the user calls impossible, booleans `[A, B]` of the first two kinds.

    Raises:
        InputError: for fewer than two kinds, a pair that is none, or a label that its kind does not have.
    """
    kinds = list(labels.kinds.items())[:2]
    if len(kinds) < 2:
        raise InputError(f"impossible pairs need two kinds of labels, not only '{kinds[0][0]}'")
    found = np.zeros([len(names) for _, names in kinds], bool)
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"impossible pair {pair!r}: needs a {kinds[0][0]} and a {kinds[1][0]}")
        for label, (kind, names) in zip(pair, kinds, strict=True):
            if label not in names:
                raise InputError(f"impossible pair: unknown {kind} '{label}': {did_you_mean(label, names)}")
        found[tuple(names.index(label) for label, (_, names) in zip(pair, kinds, strict=True))] = True
    if found.all():
        raise InputError("every pair is marked impossible: nothing could be predicted")
    return found


def joint(
    first: np.ndarray,
    second: np.ndarray,
    ratios: np.ndarray,
    strength: float = 1.0,
    impossible: np.ndarray | None = None,
) -> np.ndarray:
    """Return the probability of each pair of two heads, `[photos, A, B]`, that of impossible ones 0.

    Args:
        first: Softmax probabilities of the first head.
        second: Those of the second.
        ratios: From `pair_ratios`, on training photos.
        strength: Power of the ratios; 0: the heads are independent.
        impossible: From `impossible_pairs`; it holds at any strength.
    """
    _check_strength(strength)
    blended = np.asarray(first, np.float64)[:, :, None] * np.asarray(second, np.float64)[:, None]
    blended *= ratios**strength * (1 if impossible is None else ~impossible)
    total = blended.sum((1, 2), keepdims=True)
    return np.divide(blended, total, out=np.zeros_like(blended), where=total > 0)


def best_pairs(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest pair of each photo, class indices `[photos, 2]`, and its probability."""
    flat = pairs.reshape(len(pairs), -1)
    return np.stack(np.unravel_index(flat.argmax(1), pairs.shape[1:]), 1), flat.max(1)


def related(
    first: np.ndarray,
    second: np.ndarray,
    ratios: np.ndarray,
    strength: float = 1.0,
    impossible: np.ndarray | None = None,
) -> np.ndarray:
    """Return sigmoid scores of the second kind, moved by what the first kind's say; float32 `[photos, B]`.

    The log-odds of a defect gain `strength` times the logarithm of its mean ratio over the components of the
    photo, each with its probability; no component at all has a ratio of 1. Components with which it is
    impossible take their share of its odds away, at any strength.

    Args:
        first: Scores of the first kind.
        second: Scores of the second kind.
        ratios: From `pair_ratios`, on training photos.
        strength: 0: scores stay as they are.
        impossible: From `impossible_pairs`.
    """
    _check_strength(strength)
    if strength == 0 and impossible is None:
        return np.asarray(second, np.float32)
    first = np.asarray(first, np.float64)
    none = np.prod(1 - first, axis=1, keepdims=True)
    weights = np.concatenate([first, none], 1) / (first.sum(1, keepdims=True) + none)
    moved = strength * np.log(weights @ np.concatenate([ratios, np.ones((1, ratios.shape[1]))]))
    if impossible is not None:
        moved += np.log(np.maximum(1 - weights[:, :-1] @ impossible, 1e-6))
    cut = np.clip(np.asarray(second, np.float64), 1e-7, 1 - 1e-7)
    return (1 / (1 + np.exp(-(np.log(cut) - np.log1p(-cut) + moved)))).astype(np.float32)


def pair_figures(
    predicted: tuple[np.ndarray, np.ndarray],
    true: tuple[np.ndarray, np.ndarray],
    impossible: np.ndarray | None = None,
) -> dict[str, float]:
    """Return precision, recall and F1 of pairs, and the share of predicted pairs that are impossible.

    The pairs of a photo are all its components with all its defects. NaN where a share is of nothing.

    Args:
        predicted: Decisions on both kinds, booleans.
        true: Labels of both kinds.
        impossible: Pairs that cannot be, or that were never seen (`first.T @ second == 0`).
    """
    (a, b), (c, d) = ([np.asarray(part, np.float64) for part in both] for both in (predicted, true))
    right = ((a * c).sum(1) * (b * d).sum(1)).sum()
    found, present = (a.sum(1) * b.sum(1)).sum(), (c.sum(1) * d.sum(1)).sum()
    wrong = np.nan if impossible is None else ((a.T @ b) * impossible).sum()
    with np.errstate(invalid="ignore"):
        shares = [right / found, right / present, 2 * right / (found + present), wrong / found]
    return dict(zip(("precision", "recall", "f1", "impossible_rate"), map(float, shares), strict=True))


def wholes(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return positions of parts and of the labels they imply (`Bracket-Bolt`: `Bracket`), longest first."""
    at = {name: position for position, name in enumerate(names)}
    pairs = [(name, parent) for name in names if (parent := name.rpartition("-")[0]) in at]
    return [(at[name], at[parent]) for name, parent in sorted(pairs, key=lambda pair: -pair[0].count("-"))]


def with_wholes(values: np.ndarray, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return scores or decisions `[..., labels]` in which no whole is below one of its parts."""
    values = np.array(values)
    for part, whole in pairs:
        values[..., whole] = np.maximum(values[..., whole], values[..., part])
    return values


def severities(names: Sequence[str]) -> list[list[int]]:
    """Return positions of labels that differ in a last word of `SEVERITY` alone, mild to grave."""
    families: dict[str, list[str]] = {}
    for name in names:
        parent, _, word = name.rpartition("-")
        if parent and word in SEVERITY:
            families.setdefault(parent, []).append(word)
    orders = [(parent, sorted(words, key=SEVERITY.index)) for parent, words in families.items()]
    return [[names.index(f"{parent}-{word}") for word in words] for parent, words in orders if len(words) > 1]


def gravest(decisions: np.ndarray, orders: Iterable[Sequence[int]]) -> np.ndarray:
    """Return decisions `[..., labels]` with the gravest label alone of each order, mild to grave."""
    decisions = np.array(decisions, bool)
    for order in orders:
        for place, mild in enumerate(order):
            decisions[..., mild] &= ~decisions[..., list(order[place + 1 :])].any(-1)
    return decisions


def hierarchical_f1(decisions: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> float:
    """Return micro-F1 over labels and their ancestors, so that a wrong severity is half right.

    The ancestors of `Corrosion-Heavy` are the names before a `-` that are labels, or that two labels share
    (Kiritchenko et al., 2006, Learning and evaluation in the presence of class hierarchies). NaN of nothing.
    """
    above = {name: [name[:at] for at, sign in enumerate(name) if sign == "-"] for name in names}
    every = [parent for parents in above.values() for parent in parents]
    added = sorted({parent for parent in every if every.count(parent) > 1 or parent in names} - set(names))
    columns = [*names, *added]
    member = np.array([[one == name or one in above[name] for one in columns] for name in names])
    predicted, true = ((np.asarray(table, int) @ member) > 0 for table in (decisions, targets))
    total = predicted.sum() + true.sum()
    return float(2 * (predicted & true).sum() / total) if total else float("nan")


def _check_strength(strength: float) -> None:
    """Refuse a strength that is negative or no number."""
    if not 0 <= strength < np.inf:
        raise InputError(f"strength={strength}: needs 0 (off) or more")
