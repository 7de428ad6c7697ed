import numpy as np
import pytest

from src.decisions.routing import (
    ABSENT,
    MISSES,
    PRESENT,
    REVIEW,
    head_limits,
    head_sets,
    head_workload,
    limits,
    needed,
    route,
    workload,
)
from src.errors import InputError

HALF = np.full(3, 0.5, np.float32)
SPLITS = 300


def drawn(rng, photos, shares=(0.5, 0.2, 0.03)):
    """Scores of a poor model, in steps of 0.01, so that some are equal."""
    targets = rng.random((photos, len(shares))) < shares
    logits = rng.normal(size=targets.shape) + 1.2 * targets - 0.8
    return np.round(1 / (1 + np.exp(-logits)), 2).astype(np.float32), targets


def head(rng, photos):
    """Scores of three classes, a rare one among them, and the classes."""
    classes = rng.choice(3, photos, p=[0.6, 0.35, 0.05])
    logits = rng.normal(size=(photos, 3)) + 1.5 * (np.arange(3) == classes[:, None])
    raised = np.exp(logits)
    return (raised / raised.sum(1, keepdims=True)).astype(np.float32), classes


def test_the_photos_that_a_promise_takes():
    rates = (0.01, 0.05, 0.07, 0.1, 0.2, 1 / 3, 0.5, 0.9)
    assert [needed(miss) for miss in rates] == [99, 19, 14, 9, 4, 2, 1, 1]
    for miss in (0, 1, -0.1, 5, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            needed(miss)


def test_limits_and_states_on_numbers_made_by_hand():
    scores = np.linspace(0.05, 0.95, 19, dtype=np.float32)[:, None].repeat(3, 1)
    targets = np.ones((19, 3), int)
    targets[-1, 1], targets[:, 2] = 0, 0
    found = limits(scores, targets, HALF, 0.05)
    assert found.needed == 19 and found.photos.tolist() == [19, 18, 0]
    assert found.promise.tolist() == [True, False, False]
    assert found.low.tolist() == [scores[0, 0], 0.5, 0.5]
    assert limits(scores, targets, HALF, 0.1).low.tolist() == [scores[1, 0], scores[0, 1], 0.5]
    assert limits(scores, targets, HALF, 0.9).low[0] == 0.5  # never above the threshold
    states = route([[0.04, 0.49, 0.5], [0.05, 0.5, 0.49], [0.5, 0.04, 0.04]], HALF, found.low)
    expected = [[ABSENT, ABSENT, PRESENT], [REVIEW, PRESENT, ABSENT], [PRESENT, ABSENT, ABSENT]]
    assert states.tolist() == expected


@pytest.mark.parametrize("miss", [0.05, 0.1, 0.25])
def test_misses_of_a_label_keep_the_promise_over_many_splits(miss):
    rng, lost, promised = np.random.default_rng(0), [], []
    high = np.full(3, 0.9, np.float32)  # as from a model that is too cautious
    for _ in range(SPLITS):
        found = limits(*drawn(rng, 200), high, miss)
        scores, targets = drawn(rng, 2000)
        absent = route(scores, high, found.low) == ABSENT
        lost.append((absent & targets).sum(0) / targets.sum(0))
        promised.append(found.promise)
    lost, promised = np.array(lost), np.array(promised)
    assert promised[:, :2].mean() > 0.99
    for label in range(3):
        own = lost[promised[:, label], label]
        assert len(own) == 0 or own.mean() <= miss + 2 * own.std() / np.sqrt(len(own))
    assert lost[:, 0].mean() > miss - 0.04  # and photos are not sent to a person for nothing
    assert miss > 0.1 or lost[~promised[:, 2], 2].mean() > miss  # a label without a promise does not keep it


@pytest.mark.parametrize("by_class", [False, True])
def test_sets_of_a_head_hold_the_true_class_as_often_as_promised(by_class):
    rng, covered, of_class, promised, sizes = np.random.default_rng(1), [], [], [], []
    for _ in range(SPLITS):
        found = head_limits(*head(rng, 300), 0.1, by_class)
        scores, classes = head(rng, 3000)
        sets = head_sets(scores, found.low)
        right = sets[np.arange(len(classes)), classes]
        covered.append(right.mean())
        of_class.append([right[classes == index].mean() for index in range(3)])
        promised.append(found.promise)
        sizes.append(sets.sum(1).mean())
    if by_class:
        promised, of_class = np.array(promised), np.array(of_class)
        for index in range(3):
            own = of_class[promised[:, index], index]
            assert len(own) > SPLITS / 2 and own.mean() >= 0.9 - 2 * own.std() / np.sqrt(len(own))
    else:
        assert 0.9 - 2 * np.std(covered) / np.sqrt(SPLITS) <= np.mean(covered) <= 0.9 + 0.01
        assert np.all(promised)
        assert np.mean(of_class, axis=0)[2] < 0.9  # all photos together promise nothing for the rare class
    assert 1 < np.mean(sizes) < 2


def test_limits_of_a_head_on_numbers_made_by_hand():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.5, 0.5]], np.float32)
    classes = np.array([0, 0, 1, 0, -1])
    assert head_limits(scores, classes, 0.2).low == pytest.approx([0.4, 0.4])
    by_class = head_limits(scores, classes, 0.25, by_class=True)
    assert by_class.low == pytest.approx([0.4, 0.4])  # class 1 has one photo: the limit of all
    assert by_class.promise.tolist() == [True, False] and by_class.photos.tolist() == [3, 1]
    few = head_limits(scores, classes, 0.1)
    assert not few.promise.any() and head_sets(scores, few.low).all()
    assert head_sets([[0.45, 0.55], [0.9, 0.1], [0.3, 0.3]], [0.4, 0.4]).sum(1).tolist() == [2, 1, 0]


def test_the_workload_falls_as_more_misses_are_allowed():
    rng = np.random.default_rng(2)
    calibration, measured = drawn(rng, 20_000), drawn(rng, 20_000)
    points = workload(calibration, measured, HALF)
    reviewed, missed = ([point[key] for point in points] for key in ("reviewed", "missed"))
    assert [point["miss"] for point in points] == list(MISSES)
    assert (np.diff(reviewed) <= 0).all() and (np.diff(missed) >= 0).all()
    assert reviewed[0] > 0.5 > reviewed[-1] and missed[0] < 0.02
    point = points[MISSES.index(0.1)]
    states = route(measured[0], HALF, limits(*calibration, HALF, 0.1).low)
    assert point["reviewed"] == np.mean([(row == REVIEW).any() for row in states])
    assert point["label_reviewed"][1] == np.mean(states[:, 1] == REVIEW)
    assert point["label_missed"][2] == np.mean(states[measured[1][:, 2], 2] == ABSENT)
    assert point["missed"] == (measured[1] & (states == ABSENT)).sum() / measured[1].sum()
    (empty,) = workload(calibration, (np.empty((0, 3)), np.empty((0, 3))), HALF, [0.1])
    assert np.isnan(empty["missed"]) and np.isnan(empty["label_missed"]).all()


def test_the_workload_of_a_head():
    rng = np.random.default_rng(3)
    calibration, (scores, classes) = head(rng, 5000), head(rng, 5000)
    classes[:10] = -1
    points = head_workload(calibration, (scores, classes), by_class=True)
    assert points[0]["reviewed"] > points[3]["reviewed"] and points[0]["missed"] < points[3]["missed"] < 0.05
    sets = head_sets(scores, head_limits(*calibration, MISSES[3], by_class=True).low)[10:]
    alone = sets.sum(1) == 1
    wrong = alone & (sets.argmax(1) != classes[10:])
    assert points[3]["missed"] == wrong.mean() and points[3]["reviewed"] == pytest.approx(1 - alone.mean())
    assert points[3]["label_missed"][1] == wrong[classes[10:] == 1].mean()


def test_bad_input():
    scores, targets = drawn(np.random.default_rng(4), 50)
    with pytest.raises(InputError, match="miss=0"):
        limits(scores, targets, HALF, 0)
    for wrong in ((scores * np.nan, targets, HALF), (scores, targets[1:], HALF), (scores, targets, HALF[1:])):
        with pytest.raises(ValueError, match="scores"):
            limits(*wrong)
    with pytest.raises(ValueError, match="limits"):
        route(scores, HALF, HALF[1:])
    with pytest.raises(ValueError, match="classes"):
        head_limits(scores, targets)
