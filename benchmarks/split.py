"""Splits: ours beside iterative-stratification, and beside whole groups dealt out at random."""

from collections.abc import Callable
from functools import partial

import numpy as np
from iterstrat.ml_stratifiers import IterativeStratification

from benchmarks.harness import Work
from src.datamodules.stratify import split_groups

SHARES = np.array([0.7, 0.15, 0.15])
POSITIVES = (326, 253, 221, 214, 211, 162, 151, 139, 101, 66, 49, 23, 21, 19, 17, 17, 11, 10, 6, 6)  # of 911
FREQUENCIES = np.array(POSITIVES) / 911  # of the labels of a real team's photos
SMALL, ASSETS, DRAWS = 1300, 450, 100


def table(photos: int, grouped: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return random targets `[photos, 20]` and groups `[photos]`.

    Groups have 1 to 50 photos, most of them few (Zipf's law), and their photos share most of their labels.
    """
    rng = np.random.default_rng(seed)
    if not grouped:
        return rng.random((photos, len(FREQUENCIES))) < FREQUENCIES, np.arange(photos)
    sizes = np.minimum(rng.zipf(1.6, photos), 50)
    count = int(np.searchsorted(sizes.cumsum(), photos)) + 1
    groups = np.repeat(np.arange(count), sizes[:count])[:photos]
    return _of_groups(groups, rng), groups


def _of_groups(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return targets whose labels agree within a group: 0.8 of the group's own, a few strange ones."""
    own = rng.random((groups.max() + 1, len(FREQUENCIES))) < FREQUENCIES
    draw = rng.random((len(groups), len(FREQUENCIES)))
    return np.where(own[groups], draw < 0.8, draw < 0.05 * FREQUENCIES)


def figures(given: tuple[np.ndarray, np.ndarray], chosen: np.ndarray) -> dict:
    """Return mean and worst deviation of a label's share from the asked one, and the groups that cross."""
    targets, groups = given
    counts = np.stack([targets[chosen == split].sum(0) for split in range(len(SHARES))], axis=1)
    apart = np.abs(counts / np.maximum(counts.sum(1, keepdims=True), 1) - SHARES)
    lowest, highest = np.full(groups.max() + 1, len(SHARES)), np.full(groups.max() + 1, -1)
    np.minimum.at(lowest, groups, chosen)
    np.maximum.at(highest, groups, chosen)
    return {
        "mean_deviation": round(float(apart.mean()), 7),
        "worst_deviation": round(float(apart.max()), 7),
        "crossing_groups": int((lowest != highest).sum()),
    }


def ours(given: tuple[np.ndarray, np.ndarray], seed: int = 0) -> np.ndarray:
    """Split as Corbel does."""
    return split_groups(*given, SHARES, seed)


def iterative(given: tuple[np.ndarray, np.ndarray], seed: int = 0) -> np.ndarray:
    """Split the photos with iterative-stratification, which knows no groups."""
    return IterativeStratification(given[0], SHARES, np.random.RandomState(seed))


def random_groups(given: tuple[np.ndarray, np.ndarray], seed: int = 0) -> np.ndarray:
    """Deal whole groups out at random."""
    groups = given[1]
    return np.random.default_rng(seed).choice(3, groups.max() + 1, p=SHARES)[groups]


Way = Callable[[tuple[np.ndarray, np.ndarray], int], np.ndarray]


def each(way: Way, draws: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Split every draw."""
    return [way(given, seed) for seed, given in enumerate(draws)]


def rare(draws: list[tuple[np.ndarray, np.ndarray]], splits: list[np.ndarray]) -> dict:
    """Count how often each label that three or more groups carry stands in every split."""
    possible, present, crossing = np.zeros(len(FREQUENCIES)), np.zeros(len(FREQUENCIES)), 0
    for (targets, groups), chosen in zip(draws, splits, strict=True):
        enough = np.array([len(np.unique(groups[column])) >= 3 for column in targets.T])
        stands = np.stack([targets[chosen == split].any(0) for split in range(3)]).all(0)
        possible += enough
        present += enough & stands
        crossing += figures((targets, groups), chosen)["crossing_groups"] > 0
    return {
        "photos": np.mean([targets.sum(0) for targets, _ in draws], axis=0).round(1).tolist(),
        "in_every_split": (present / np.maximum(possible, 1)).round(3).tolist(),
        "draws_with_three_groups": possible.astype(int).tolist(),
        "draws_with_crossing_groups": crossing,
    }


def small() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return draws of 1,300 photos of 450 assets with the labels of a real team."""
    draws = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        groups = np.concatenate([np.arange(ASSETS), rng.integers(0, ASSETS, SMALL - ASSETS)])
        draws.append((_of_groups(np.sort(groups), rng), np.sort(groups)))
    return draws


def no_worse(naive: dict, other: dict) -> bool:
    """Whether our mean deviation is not above theirs."""
    return other["mean_deviation"] <= naive["mean_deviation"]


def holds(naive: dict, other: dict) -> bool:
    """Whether no group crosses and the deviations are as small as asked."""
    small_enough = other["mean_deviation"] < 0.001 and other["worst_deviation"] < 0.005
    return other["crossing_groups"] == 0 and small_enough


def everywhere(naive: dict, other: dict) -> bool:
    """Whether each label with three groups stands in every split in every draw, and no group crosses."""
    stands = [
        share == 1
        for share, possible in zip(other["in_every_split"], other["draws_with_three_groups"], strict=True)
        if possible
    ]
    return all(stands) and other["draws_with_crossing_groups"] == 0


GOAL = "0 crossing, mean < 0.001, worst < 0.005"
BESIDE = ("numpy", "iterative-stratification")
WORKS = [
    Work(
        "split 1e5 photos x 20 labels, beside iterative-stratification",
        "mean deviation no worse",
        partial(table, 100_000, False), iterative, ours, figures, no_worse, goal_cpu=10, packages=BESIDE,
    ),
    Work(
        "split 1e5 photos in groups, beside random groups",
        GOAL, partial(table, 100_000, True), random_groups, ours, figures, holds, most_cpu_s=2,
    ),
    Work(
        "split 1e6 photos in groups, beside random groups",
        GOAL, partial(table, 1_000_000, True), random_groups, ours, figures, holds, most_cpu_s=25,
    ),
    Work(
        "100 splits of 1,300 photos of 450 assets, beside iterative-stratification",
        "every label with 3 groups in every split",
        small, partial(each, iterative), partial(each, ours), rare, everywhere, rounds=1, packages=BESIDE,
    ),
    Work(
        "100 splits of 1,300 photos of 450 assets, beside random groups",
        "every label with 3 groups in every split",
        small, partial(each, random_groups), partial(each, ours), rare, everywhere, rounds=1,
    ),
]  # fmt: skip


def remarks(rows: list[dict]) -> list[str]:
    """Return the deviations, and how often each rare label stands in every split, as Markdown."""
    lines = ["| work | | mean deviation | worst deviation | groups that cross |", "|---|---|---|---|---|"]
    for row in rows[:3]:
        for side in ("naive", "ours"):
            found = row[side]["result"]
            lines.append(
                f"| {row['work']} | {side} | {found['mean_deviation']:.6f} | {found['worst_deviation']:.6f} "
                f"| {found['crossing_groups']:,} |"
            )
    theirs, mine = rows[3]["naive"]["result"], rows[3]["ours"]["result"]
    chance = rows[4]["naive"]["result"]
    lines += [
        "",
        "| photos with the label (mean of 1,300) | draws with 3 groups | in every split: random groups "
        "| iterative-stratification | ours |",
        "|---|---|---|---|---|",
    ]
    columns = (
        theirs["photos"],
        theirs["draws_with_three_groups"],
        *(side["in_every_split"] for side in (chance, theirs, mine)),
    )
    for photos, possible, *shares in zip(*columns, strict=True):
        if min(shares) < 1:
            lines.append(
                f"| {photos} | {possible} | " + " | ".join(f"{share:.1%}" for share in shares) + " |"
            )
    crossing = [str(side["draws_with_crossing_groups"]) for side in (chance, theirs, mine)]
    lines.append(f"| draws in which groups cross | {DRAWS} | " + " | ".join(crossing) + " |")
    return lines
