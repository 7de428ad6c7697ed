"""Splits: ours against iterative-stratification, and against whole groups dealt out at random."""

from functools import partial

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import IterativeStratification

from benchmarks.harness import Work
from src.datamodules.stratify import split_groups

SHARES = np.array([0.7, 0.15, 0.15])
POSITIVES = (326, 253, 221, 214, 211, 162, 151, 139, 101, 66, 49, 23, 21, 19, 17, 17, 11, 10, 6, 6)  # of 911
FREQUENCIES = np.array(POSITIVES) / 911  # of the labels of a real team's photos
SMALL, ASSETS, DRAWS = 1300, 450, 100
Table = tuple[np.ndarray, np.ndarray]  # targets [photos, 20], groups [photos]


def table(photos: int, grouped: bool) -> Table:
    """Return random targets and groups of 1 to 50 photos (Zipf's law), which share most of their labels."""
    rng = np.random.default_rng(0)
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


def draws(count: int = DRAWS) -> list[Table]:
    """Return draws of 1,300 photos of 450 assets with the labels of a real team."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        groups = np.sort(np.concatenate([np.arange(ASSETS), rng.integers(0, ASSETS, SMALL - ASSETS)]))
        found.append((_of_groups(groups, rng), groups))
    return found


def ours(given: Table, seed: int = 0) -> np.ndarray:
    """Split as Corbel does."""
    return split_groups(*given, SHARES, seed)


def iterative(given: Table, seed: int = 0) -> np.ndarray:
    """Split the photos with iterative-stratification, which knows no groups."""
    return IterativeStratification(given[0], SHARES, np.random.RandomState(seed))


def random_groups(given: Table, seed: int = 0) -> np.ndarray:
    """Deal whole groups out at random."""
    groups = given[1]
    return np.random.default_rng(seed).choice(3, groups.max() + 1, p=SHARES)[groups]


def each(way, given: list[Table]) -> list[np.ndarray]:
    """Split every draw."""
    return [way(one, seed) for seed, one in enumerate(given)]


def figures(given: Table, chosen: np.ndarray) -> dict:
    """Return mean and worst deviation of a label's share from the asked one, and the groups that cross."""
    targets, groups = given
    counts = np.stack([targets[chosen == split].sum(0) for split in range(3)], axis=1)
    apart = np.abs(counts / np.maximum(counts.sum(1, keepdims=True), 1) - SHARES)
    crossing = pd.Series(chosen).groupby(groups).nunique()
    mean, worst = (round(float(value), 7) for value in (apart.mean(), apart.max()))
    return {"mean": mean, "worst": worst, "crossing": int((crossing > 1).sum())}


def rare(given: list[Table], splits: list[np.ndarray]) -> dict:
    """Return the share of draws in which each label that three or more groups carry is in every split."""
    possible, present, crossing = np.zeros(len(FREQUENCIES)), np.zeros(len(FREQUENCIES)), 0
    for (targets, groups), chosen in zip(given, splits, strict=True):
        enough = np.array([len(np.unique(groups[column])) >= 3 for column in targets.T])
        possible += enough
        present += enough & np.stack([targets[chosen == split].any(0) for split in range(3)]).all(0)
        crossing += figures((targets, groups), chosen)["crossing"] > 0
    photos = np.mean([targets.sum(0) for targets, _ in given], axis=0)
    shares = (present / np.maximum(possible, 1)).round(3)
    return {"photos": photos.round(1).tolist(), "in every split": shares.tolist(), "crossing": crossing}


def no_worse(results: dict[str, dict]) -> bool:
    """Whether our mean deviation is not above that of the others."""
    return results["ours"]["mean"] <= results["naive"]["mean"]


def exact(results: dict[str, dict]) -> bool:
    """Whether no group crosses and deviations are small."""
    found = results["ours"]
    return found["crossing"] == 0 and found["mean"] < 0.001 and found["worst"] < 0.005


def everywhere(results: dict[str, dict]) -> bool:
    """Whether each label with three groups is in every split of every draw, and no group crosses."""
    return min(results["ours"]["in every split"]) == 1 and results["ours"]["crossing"] == 0


WORKS = [
    Work(
        "split 1e5 photos x 20 labels, against iterative-stratification", partial(table, 100_000, False),
        {"naive": iterative, "ours": ours}, no_worse, figures,
    ),
    *(
        Work(
            f"split {photos:,} photos in groups, against random groups", partial(table, photos, True),
            {"naive": random_groups, "ours": ours}, exact, figures,
        )
        for photos in (100_000, 1_000_000)
    ),
    Work(
        "100 splits of 1,300 photos of 450 assets, against iterative-stratification", draws,
        {"naive": partial(each, iterative), "random groups": partial(each, random_groups),
         "ours": partial(each, ours)}, everywhere, rare, rounds=1,
    ),
]  # fmt: skip
