import numpy as np
import pytest

from src.datamodules.stratify import split_groups

SHARES = np.array([0.7, 0.15, 0.15])


def table(photos, largest, seed, labels=12):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest + 1, photos)
    groups = np.repeat(np.arange(photos), sizes)[:photos]
    own = rng.random((groups.max() + 1, labels)) < np.geomspace(0.4, 0.01, labels)
    return np.where(own[groups], rng.random((photos, labels)) < 0.8, False), groups


def deviations(targets, chosen, shares=SHARES):
    counts = np.stack([targets[chosen == split].sum(0) for split in range(len(shares))], axis=1)
    return np.abs(counts / counts.sum(1, keepdims=True).clip(1) - shares)[counts.sum(1) > 0]


@pytest.mark.parametrize("seed", range(5))
def test_single_photos_are_divided_as_exactly_as_whole_photos_can_be(seed):
    targets, groups = table(3000, 1, seed)
    chosen = split_groups(targets, groups, SHARES, seed)
    counts = np.stack([targets[chosen == split].sum(0) for split in range(3)], axis=1)
    assert (np.abs(counts - SHARES * counts.sum(1, keepdims=True)) < 1).all()
    assert (np.abs(np.bincount(chosen) - 3000 * SHARES) < 1).all()


def test_pairs_count_where_labels_do_not_care():
    targets = np.zeros((400, 4), bool)
    rows = np.arange(400)
    targets[rows, rows % 2], targets[rows, 2 + rows // 2 % 2] = True, True
    pairs = np.stack([targets[:, i] & targets[:, j] for i in (0, 1) for j in (2, 3)], axis=1)
    groups = np.repeat(np.arange(100), 4)[np.random.default_rng(0).permutation(400)]
    apart = [
        deviations(pairs, split_groups(targets, groups, SHARES, seed, pairs=given)).mean()
        for given in (pairs, None)
        for seed in range(5)
    ]
    assert np.mean(apart[:5]) < np.mean(apart[5:])


def test_folds_are_equal_and_may_lack_a_label_that_few_groups_carry():
    targets, groups = table(1000, 4, 1)
    targets[:, -1] = groups == 3
    folds = split_groups(targets, groups, [1.0] * 5, 0, required=None)
    assert (np.abs(np.bincount(folds) - 200) <= 2).all()
    assert len(set(folds[groups == 3])) == 1
    for column in targets.T:
        if len(set(groups[column])) >= 5:
            assert set(folds[column]) == set(range(5))
