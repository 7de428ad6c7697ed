"""Stratification of groups with several labels: splits in which all labels keep their shares."""

from collections.abc import Sequence

import numpy as np

SIZE_WEIGHT = 2.0  # what keeping the split's size counts against keeping one label's share
PAIR_WEIGHT = 0.1  # what keeping one pair's share counts
FEW_GROUPS, PASSES = 20_000, 3  # most groups for placing each again, and the passes of it
SPREADS = 4  # turns that each label has at standing in every split
CANDIDATES = 512  # groups of each split among which an exchange is looked for
EXCHANGES = 200  # at most


def split_groups(
    targets: np.ndarray,
    groups: np.ndarray,
    shares: Sequence[float],
    seed: int,
    required: int | None = 0,
    pairs: np.ndarray | None = None,
) -> np.ndarray:
    """Assign whole groups to splits so that the photos and every label keep the asked shares.

    Iterative stratification (Sechidis et al., 2011, On the stratification of multi-label data) carried over
    to groups.

    1. Groups of several photos come one by one, large ones first and among these the rarest labels first,
       each to where the cost grows least: the sum over splits and labels of the squared deviation from the
       share, relative to the share. Where there are few groups, they are taken out and placed again.
    2. Photos that are a group of their own fill up what each split lacks, label by label, the rarest first.
    3. A label that at least as many groups carry as there are splits gets one in each, unless that would
       leave more gaps than it fills, and every label one in `required`.
    4. Groups change places, in pairs or alone, as long as the cost falls and 3 holds.

    Args:
        targets: `[photos, labels]`, which labels each photo carries.
        groups: `[photos]`, group numbers from 0, none left out.
        shares: the share of photos that each split should get; they are scaled to sum to 1.
        seed: of the order among groups of about the same size.
        required: the split that no label is absent from; None: there is none.
        pairs: `[photos, pairs]`, further columns whose shares count for little and that 3 leaves alone.

    Returns:
        the split's index per photo, `[photos]`.
    """
    rng = np.random.default_rng(seed)
    shares = np.asarray(shares, float) / np.sum(shares)
    labels, count = targets.shape[1], int(groups.max()) + 1
    columns = [np.ones(len(targets), bool), *targets.T, *(() if pairs is None else pairs.T)]
    held = np.stack([np.bincount(groups[column], minlength=count) for column in columns]).astype(float)
    weights = np.repeat([SIZE_WEIGHT, 1, PAIR_WEIGHT], [1, labels, len(columns) - 1 - labels])
    totals = held.sum(1)
    unit = np.sqrt(weights) / np.maximum(totals, 1)  # what one photo counts in a column
    several = np.flatnonzero(held[0] > 1)
    spread = (held[1 : 1 + labels] > 0).sum(1)
    rarity = np.where(held[1 : 1 + labels, several].T > 0, spread, count).min(1, initial=count)
    several = several[np.lexsort((rng.random(len(several)), rarity, -np.ceil(np.log2(held[0, several]))))]
    assigned = np.full(count, -1, np.int64)
    _place(held, unit, assigned, several, shares, PASSES if count <= FEW_GROUPS else 1)
    _fill(held, 1 + np.argsort(totals[1 : 1 + labels], kind="stable"), assigned, shares, rng)
    carries = held[1 : 1 + labels].T > 0
    _spread_rare(assigned, carries, held[0], np.flatnonzero(shares > 0).tolist(), required)
    _exchange(held, unit, assigned, carries, shares, rng)
    return assigned[groups]


def _fill(
    held: np.ndarray, order: np.ndarray, assigned: np.ndarray, shares: np.ndarray, rng: np.random.Generator
) -> None:
    """Assign, in place, the photos that are left so that each column's counts are as asked, in `order`.

    The photos of one label are dealt out evenly along a row in which those that carry the same stand
    together, so that their other labels are divided as well.
    """
    left = np.flatnonzero(assigned < 0)
    likeness = rng.random(len(held)) @ (held if len(left) == len(assigned) else held[:, left])
    left = left[np.argsort(likeness + 1e-9 * rng.random(len(left)))]
    for column in [*order, 0]:
        lacking = shares * held[column].sum()
        placed = assigned >= 0
        if not placed.all():
            lacking -= np.bincount(assigned[placed], held[column, placed], len(shares))
        mine = left[(held[column, left] > 0) & (assigned[left] < 0)]
        assigned[mine] = _dealt(len(mine), lacking, shares)


def _dealt(count: int, wanted: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return a split for each of `count` photos in a row, as many of each as `wanted`, evenly mixed."""
    wanted = np.maximum(wanted, 0)
    wanted = (wanted if wanted.sum() else shares) * (count / (wanted.sum() or 1))
    whole = np.floor(wanted + 1e-9).astype(np.int64)
    whole[np.argsort(whole - wanted, kind="stable")[: count - whole.sum()]] += 1
    splits = np.repeat(np.arange(len(whole)), whole)
    rank = np.arange(count) - np.repeat(whole.cumsum() - whole, whole)
    return splits[np.argsort((rank + 0.5) / whole[splits], kind="stable")]


def _sums(held: np.ndarray, assigned: np.ndarray, splits: int) -> np.ndarray:
    return (assigned == np.arange(splits)[:, None]).astype(float) @ held.T


def _place(
    held: np.ndarray,
    unit: np.ndarray,
    assigned: np.ndarray,
    order: np.ndarray,
    shares: np.ndarray,
    passes: int,
) -> None:
    """Assign, in place, the groups in `order`, each to where the cost grows least.

    Plain lists: a group has few labels, for which they are faster than arrays.
    """
    over = [[0.0] * len(unit) for _ in shares]  # what each split has beyond its share of what is placed
    splits = [(split, share) for split, share in enumerate(shares.tolist()) if share > 0]
    chosen = assigned.tolist()
    part = held[:, order].T * unit
    rows = [[(column, row[column]) for column in np.flatnonzero(row).tolist()] for row in part.tolist()]

    def move(row: list[tuple[int, float]], split: int, sign: int) -> None:
        for column, value in row:
            value *= sign
            for other, share in splits:
                over[other][column] -= value * share
            over[split][column] += value

    for _ in range(passes):
        for group, row in zip(order.tolist(), rows, strict=True):
            if chosen[group] >= 0:
                move(row, chosen[group], -1)
            square = sum([value * value for _, value in row])
            lowest = float("inf")
            for split, share in splits:
                there = over[split]
                cost = (
                    2 * sum([value * there[column] for column, value in row]) + square * (1 - share)
                ) / share
                if cost < lowest:
                    chosen[group], lowest = split, cost
            move(row, chosen[group], 1)
    assigned[:] = chosen


def _spread_rare(
    assigned: np.ndarray, carries: np.ndarray, sizes: np.ndarray, splits: list[int], required: int | None
) -> None:
    """Move small groups, in place, until each label stands in `required`, and with enough groups everywhere.

    A move must fill more gaps than it makes, and only one into `required` may take a label's last group away
    from another split. Later moves can make room for earlier labels, so all labels have several turns.
    """
    counts = _sums(carries.T.astype(float), assigned, max(splits) + 1)
    spread = carries.sum(0)
    enough = spread >= len(splits)
    first = [] if required is None else [required]
    wanted = [*first, *(split for split in splits if split != required)]
    for label in [*np.argsort(spread, kind="stable")] * SPREADS:
        if (counts[splits, label] > 0).all():
            continue
        members = np.flatnonzero(carries[:, label])
        for split in wanted if enough[label] else first:
            if counts[split, label] or not len(members):
                continue
            last = carries[members] & (counts[assigned[members]] == 1)
            lost = (last & enough).sum(1) + len(enough) * (last.any(1) & (assigned[members] == required))
            filled = (carries[members] & enough & (counts[split] == 0)).sum(1)
            best = np.lexsort((sizes[members], lost - filled))[0]
            if lost[best] >= max(filled[best], 1) and split != required:
                continue
            group = members[best]
            counts[assigned[group]] -= carries[group]
            counts[split] += carries[group]
            assigned[group] = split


def _exchange(
    held: np.ndarray,
    unit: np.ndarray,
    assigned: np.ndarray,
    carries: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Let groups of two splits change places, or one of them move, in place, as long as the cost falls.

    The cost is the sum over splits of |what it has beyond its share|^2 / share. Exchanging groups with the
    rows g (from a) and h (from b) changes it by, with d = g - h,
    `|d|^2 (1/share_a + 1/share_b) - 2 d . (over_a / share_a - over_b / share_b)`.
    A group that is a label's last one in its split stays. Splits that are off by less than a photo of each
    label are left alone: that is rounding.
    """
    labels = carries.shape[1]
    splits = np.flatnonzero(shares > 0)
    sums = _sums(held, assigned, len(shares))
    over = sums - shares[:, None] * sums.sum(0)  # photos of each split beyond its share, [splits, columns]
    counts = _sums(carries.T.astype(float), assigned, len(shares))
    couples = [(a, b) for a in splits for b in splits if a < b]
    tired = 0
    for turn in range(EXCHANGES):
        a, b = couples[turn % len(couples)]
        tired += 1
        if (np.abs(over[[a, b], : 1 + labels]) >= 1).any():
            sides = [_movable(assigned, carries, counts[split], split, rng) for split in (a, b)]
            g, h = (np.vstack([np.zeros(len(unit)), held[:, side].T * unit]) for side in sides)
            slope = 2 * unit * (over[a] / shares[a] - over[b] / shares[b])
            square = (g**2).sum(1)[:, None] + (h**2).sum(1) - 2 * g @ h.T
            change = square * (1 / shares[a] + 1 / shares[b]) - (g @ slope)[:, None] + h @ slope
            i, j = np.unravel_index(change.round(12).argmin(), change.shape)  # alike on every machine
            if change[i, j] < -1e-12:
                tired = 0
                moves = [(sides[0][i - 1], a, b)] if i else []
                moves += [(sides[1][j - 1], b, a)] if j else []
                for group, here, there in moves:
                    assigned[group] = there
                    over[here] -= held[:, group]
                    over[there] += held[:, group]
                    counts[here] -= carries[group]
                    counts[there] += carries[group]
        if tired == len(couples):
            return


def _movable(
    assigned: np.ndarray, carries: np.ndarray, counts: np.ndarray, split: int, rng: np.random.Generator
) -> np.ndarray:
    """Return groups of a split, where they are many some of them, without those that hold a label's last."""
    groups = np.flatnonzero(assigned == split)
    groups = groups if len(groups) <= CANDIDATES else rng.choice(groups, CANDIDATES, replace=False)
    return groups[~(carries[groups] & (counts == 1)).any(1)]
