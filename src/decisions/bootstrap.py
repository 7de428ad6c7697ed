"""Bootstrap by group: how much a figure would vary with other assets in the test split."""

from collections.abc import Iterator, Sequence

import numpy as np


def group_weights(groups: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """Return how often each resample draws each photo, float32 `[resamples, N]` of whole numbers.

    A resample draws as many groups as there are, with replacement, and each with all its photos: photos of
    one asset resemble each other, so drawing photo by photo would give intervals that are too narrow (Field
    and Welsh, 2007, Bootstrapping clustered data).

    Args:
        groups: of each photo, `N` names.
        resamples: number of rows.
        seed: of the draws.
    """
    names, group_of = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    weights = np.empty((resamples, len(group_of)), np.float32)
    for row, drawn in zip(weights, resampled(group_of, len(names), resamples, seed), strict=True):
        row[:] = drawn
    return weights


def resampled(group_of: np.ndarray, count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows of `group_weights` in float64, from the number of each photo's group, below `count`."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(max(count, 1), size=count), minlength=count)
        yield drawn[group_of].astype(np.float64)
