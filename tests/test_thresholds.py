from fractions import Fraction

import numpy as np
import pytest

from src.decisions.thresholds import GRID, METHODS, tune_thresholds, with_room
from src.errors import InputError
from src.labels import apply_thresholds


def f1(scores, targets, threshold):
    """F1 as an exact fraction, counted photo by photo."""
    yes = [score >= threshold for score in scores]
    both = sum(1 for y, t in zip(yes, targets, strict=True) if y and t)
    return Fraction(2 * both, sum(yes) + int(sum(targets))) if sum(yes) + sum(targets) else Fraction(0)


def brute_force(scores, targets, candidates):
    """The rule of `tune_thresholds` in its slowest words."""
    best = max(f1(scores, targets, t) for t in candidates)
    winners = [float(t) for t in candidates if f1(scores, targets, t) == best]
    near = min(abs(t - 0.5) for t in winners)
    return max(t for t in winners if abs(t - 0.5) == near)


def column(*values):
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("levels", [2, 5, 100, None])
def test_equals_brute_force(method, levels):
    rng = np.random.default_rng(levels or 7)
    for _ in range(25):
        rows = int(rng.integers(2, 40))
        scores = rng.random((rows, 4)) if levels is None else rng.integers(0, levels + 1, (rows, 4)) / levels
        scores = scores.astype(np.float32)
        targets = (rng.random(scores.shape) < 0.2 + 0.5 * scores).astype(np.int64)
        tuned = tune_thresholds(scores, targets, method)
        assert tuned.dtype == np.float32
        for label in range(4):
            s, t = scores[:, label], targets[:, label]
            candidates = GRID if method == "grid" else np.unique(s)
            expected = brute_force(s, t, candidates) if 0 < t.sum() < rows else 0.5
            assert tuned[label] == expected


def test_labels_with_few_positives_keep_the_default():
    scores = np.array([[0.9, 0.9], [0.8, 0.8], [0.7, 0.1], [0.1, 0.05]], np.float32)
    targets = np.array([[1, 1], [1, 1], [1, 0], [0, 0]])
    assert tune_thresholds(scores, targets, min_positives=2).tolist() == np.float32([0.7, 0.8]).tolist()
    assert tune_thresholds(scores, targets, min_positives=3).tolist() == [np.float32(0.7), 0.5]
    assert tune_thresholds(scores, targets, min_positives=4).tolist() == [0.5, 0.5]


def test_room_changes_no_decision_and_lets_other_last_digits_pass():
    rng = np.random.default_rng(1)
    scores = np.round(rng.random((200, 6)), 3).astype(np.float32)
    scores[::7] += 1e-6  # neighbours that are nearly equal
    thresholds = tune_thresholds(scores, rng.random(scores.shape) < scores)
    lowered = with_room(thresholds, scores)
    assert np.array_equal(apply_thresholds(scores, lowered), apply_thresholds(scores, thresholds))
    assert (lowered <= thresholds).all() and (thresholds - lowered <= 1.001e-4).all()
    set_by = np.array([(own == t).any() and t != 0.5 for own, t in zip(scores.T, thresholds, strict=True)])
    assert set_by.sum() >= 5 and (lowered < thresholds)[set_by].all()
    alone = with_room(np.float32([0.7, 0.5, 0.3]), np.float32([[0.7, 0.5, 0.1], [0.2, 0.4, 0.6]]))
    assert alone.tolist() == pytest.approx([0.6999, 0.5, 0.3], abs=1e-6)
    above = np.nextafter(np.float32(0.7), np.float32(1))
    assert with_room(np.array([above]), np.array([[0.7], [above]], np.float32)).tolist() == [above]


def test_ties_in_f1_go_to_the_nearest_to_a_half_then_to_the_higher():
    # At 0.9: 1 of 1 right, 1 of 2 found. At 0.4: 2 of 4 right, 2 of 2 found. Both F1 = 2/3.
    scores, targets = column(0.9, 0.7, 0.6, 0.4, 0.1), column(1, 0, 0, 1, 0)
    assert tune_thresholds(scores, targets)[0] == np.float32(0.4)
    scores = column(0.75, 0.7, 0.6, 0.25, 0.1)
    assert tune_thresholds(scores, targets)[0] == 0.75
    assert tune_thresholds(column(0.99, 0.01), column(1, 0), "grid")[0] == 0.5
    # cutting between the two 0.6 would be perfect and cannot be done; the grid never says yes to everything
    assert tune_thresholds(column(0.6, 0.6, 0.2), column(1, 0, 0))[0] == np.float32(0.6)
    assert tune_thresholds(column(0, 0, 0.01, 0.02), column(1, 1, 1, 0), "grid")[0] > 0


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_say_nothing_get_a_half(method):
    scores = np.array([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]], np.float32)
    tuned = tune_thresholds(scores, np.array([[0, 1, 0], [0, 1, 1]]), method)
    assert tuned[:2].tolist() == [0.5, 0.5] and tuned[2] > 0.3
    assert tune_thresholds(np.empty((0, 3)), np.empty((0, 3)), method).tolist() == [0.5] * 3
    assert tune_thresholds(np.empty((4, 0)), np.empty((4, 0)), method).shape == (0,)


def test_clamp():
    scores, targets = np.array([[0.95, 0.8, 0.3], [0.1, 0.2, 0.1]]), np.array([[1, 1, 1], [0, 0, 0]])
    assert tune_thresholds(scores, targets).tolist() == np.float32([0.95, 0.8, 0.3]).tolist()
    clamped = tune_thresholds(scores, targets, clamp_above=0.8)
    assert clamped.tolist() == np.float32([0.5, 0.8, 0.3]).tolist()  # 0.8 is not above 0.8
    assert tune_thresholds(scores, targets, clamp_above=0.8, clamp_to=0.6)[0] == np.float32(0.6)


def test_float64_scores_count_as_the_float32_they_come_from():
    scores, targets = column(0.1, 0.7, 0.3), column(0, 1, 0)
    assert tune_thresholds(scores.astype(np.float64), targets) == tune_thresholds(scores, targets)
    tuned = [float(t) for t in tune_thresholds(scores, targets)]  # through JSON
    assert apply_thresholds(scores.astype(np.float64), tuned)[:, 0].tolist() == [False, True, False]


def test_bad_input():
    ones = np.ones((2, 2))
    with pytest.raises(InputError, match="did you mean 'pr_curve'"):
        tune_thresholds(ones, ones, "pr-curve")
    for scores, targets in [(ones, np.ones((2, 3))), (np.ones(2), np.ones(2)), (ones * np.nan, ones)]:
        with pytest.raises(ValueError, match="labels"):
            tune_thresholds(scores, targets)
    for thresholds in ([0.5], 0.5, [[0.5, 0.5]]):
        with pytest.raises(ValueError, match="differ in their labels"):
            apply_thresholds(ones, thresholds)
    assert apply_thresholds([0.5, 0.4], [0.5, 0.5]).tolist() == [True, False]
