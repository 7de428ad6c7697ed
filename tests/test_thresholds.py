from fractions import Fraction

import numpy as np
import pytest

from src.decisions.thresholds import (
    GRID,
    LEAST,
    METHODS,
    OBJECTIVES,
    TRUST,
    Objective,
    evidence,
    objectives_for,
    prior_thresholds,
    tune_thresholds,
    with_room,
)
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


CHOICES = {
    "f1": [Objective()],
    "fbeta": [Objective("fbeta", beta=2), Objective("fbeta", beta=0.5)],
    "precision_at_recall": [Objective("precision_at_recall", floor=f) for f in (0.3, 0.75, 1)],
    "recall_at_precision": [Objective("recall_at_precision", floor=f) for f in (0.3, 0.75, 1)],
    "cost": [Objective("cost", false_positive=1, false_negative=n) for n in (0.25, 1, 8)],
}


def worth(objective, scores, targets, threshold):
    """What an objective says about a threshold, in exact fractions: larger is better."""
    yes = scores >= threshold
    right, predicted, positives = int((yes & targets).sum()), int(yes.sum()), int(targets.sum())
    if objective.name == "cost":
        miss, alarm = Fraction(objective.false_negative), Fraction(objective.false_positive)
        return -miss * (positives - right) - alarm * (predicted - right), 0
    if objective.name in ("f1", "fbeta"):
        square = Fraction(objective.beta) ** 2
        return (1 + square) * right / (predicted + square * positives), 0
    precision = Fraction(right, predicted) if predicted else Fraction(0)
    recall, floor = Fraction(right, positives), Fraction(str(objective.floor))
    if objective.name == "precision_at_recall":
        return (precision, recall) if recall >= floor else (recall - 2, 0)
    return (recall, precision) if precision >= floor else (precision - 2, recall)


def slowest(objective, scores, targets, candidates):
    """The best of the candidates by the rule of `tune_thresholds`, one by one."""
    values = {float(t): worth(objective, scores, targets, t) for t in candidates}
    winners = [t for t, value in values.items() if value == max(values.values())]
    near = min(abs(t - objective.default) for t in winners)
    return max(t for t in winners if abs(t - objective.default) == near)


def above_all(objective, scores):
    """The candidate of `cost` that says no to everything."""
    nothing = max(np.nextafter(scores.max(), np.float32(2)), np.float32(objective.default))
    return [nothing] if objective.name == "cost" else []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_equals_brute_force_over_all_scores(name):
    rng = np.random.default_rng(0)
    for objective in CHOICES[name]:
        for levels in (3, 9, 1000):
            scores = (rng.integers(0, levels + 1, (30, 12)) / levels).astype(np.float32)
            targets = rng.random(scores.shape) < 0.1 + 0.4 * scores
            tuned = tune_thresholds(scores, targets, objective=objective)
            for own, positive, found in zip(scores.T, targets.T, tuned, strict=True):
                candidates = [*np.unique(own), *above_all(objective, own)]
                expected = slowest(objective, own, positive, candidates) if positive.any() else None
                assert found == np.float32(objective.default if expected is None else expected)


def test_objectives_on_numbers_made_by_hand():
    scores, targets = column(0.9, 0.8, 0.7, 0.6, 0.5, 0.1), column(1, 0, 1, 1, 0, 0)

    def tuned(*given, **options):
        return float(tune_thresholds(scores, targets, objective=Objective(*given, **options))[0])

    assert tuned("f1") == tuned("fbeta", beta=2) == pytest.approx(0.6)
    assert tuned("fbeta", beta=0.2) == pytest.approx(0.9)
    assert tuned("precision_at_recall", floor=0.3) == pytest.approx(0.9)
    assert tuned("precision_at_recall", floor=0.5) == pytest.approx(0.6)  # 3 of 4 beats 2 of 3
    assert tuned("recall_at_precision", floor=0.8) == pytest.approx(0.9)
    assert tuned("recall_at_precision", floor=0.75) == pytest.approx(0.6)
    assert tuned("cost", false_negative=9) == pytest.approx(0.6)
    assert tuned("cost", false_positive=9) == pytest.approx(0.9)
    wrong = column(*[1 - t for t in targets[:, 0]])  # no threshold reaches the floor: the highest precision
    best = tune_thresholds(scores, wrong, objective=Objective("recall_at_precision", floor=0.9))
    assert best == scores[5]
    never = tune_thresholds(column(0.9, 0.2), column(0, 1), objective=Objective("cost", false_positive=9))
    assert never > 0.9 and not apply_thresholds(scores, never).any()
    unknown = tune_thresholds(scores, targets * 0, objective=Objective("cost", false_negative=3))
    assert unknown == 0.25  # the threshold of least cost for a probability


def test_each_label_may_have_its_own_objective():
    strict = {"Loose": {"name": "precision_at_recall", "floor": 0.95}}
    objectives = objectives_for(["Bolt", "Loose"], Objective("cost", false_negative=5), strict)
    assert [one.name for one in objectives] == ["cost", "precision_at_recall"]
    assert objectives[0].false_negative == 5 and objectives[1].floor == 0.95
    with pytest.raises(InputError, match="unknown label 'Lose': did you mean 'Loose'"):
        objectives_for(["Bolt", "Loose"], Objective(), {"Lose": {}})
    with pytest.raises(InputError, match="did you mean 'false_negative'"):
        objectives_for(["Bolt"], Objective(), {"Bolt": {"false_negatives": 3}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "f-beta"}, "did you mean 'fbeta'"),
        ({"name": "fbeta", "beta": 0}, "beta=0 is not a number above 0"),
        ({"name": "cost", "false_negative": float("nan")}, "false_negative=nan"),
        ({"name": "precision_at_recall", "floor": 1.2}, "floor=1.2 is not a number between 0 and 1"),
    ],
)
def test_objectives_that_make_no_sense(options, said):
    with pytest.raises(InputError, match=said):
        Objective(**options)


def photos_of(groups=60, labels=3, seed=0, level=0.3):
    """Scores, targets and groups of photos whose label's score is higher; groups of 1 to 4 photos."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(groups), rng.integers(1, 5, groups))
    targets = rng.random((len(groups), labels)) < level
    logits = rng.normal(size=targets.shape) + 2 * targets - 2
    return (1 / (1 + np.exp(-logits))).astype(np.float32), targets, groups


@pytest.mark.parametrize("name", OBJECTIVES)
def test_evidence_equals_resamples_of_groups_written_out_photo_by_photo(name):
    objective, (scores, targets, groups) = CHOICES[name][0], photos_of()
    scores = np.round(scores, 2)  # ties
    found = evidence(scores, targets, np.char.add("bolt ", groups.astype(str)), objective, 15, seed=3)
    prior = prior_thresholds(scores, objective)
    names, place = np.unique(np.char.add("bolt ", groups.astype(str)), return_inverse=True)
    rng = np.random.default_rng(3)
    resamples = [
        np.concatenate([np.flatnonzero(place == one) for one in rng.integers(0, len(names), len(names))])
        for _ in range(15)
    ]
    for label, (own, positive) in enumerate(zip(scores.T, targets.T, strict=True)):
        candidates = [*np.unique(own[positive]), *above_all(objective, own)]
        best = [slowest(objective, own[rows], positive[rows], candidates) for rows in resamples]
        best = [(one + max([0, *own[own < one]])) / 2 for one in best]
        low, middle, high = np.quantile(best, (0.05, 0.5, 0.95))
        carriers = len(set(place[positive]))
        cut = np.clip([middle, prior[label]], 1e-6, 1 - 1e-6)
        logit = np.log(cut / (1 - cut)) @ [carriers, TRUST] / (carriers + TRUST)
        threshold = np.float32(1 / (1 + np.exp(-logit)))
        assert found.threshold[label] == pytest.approx(threshold, abs=1e-6)
        assert found.low[label] == pytest.approx(min(low, threshold), abs=1e-6)
        assert found.high[label] == pytest.approx(max(high, threshold), abs=1e-6)
        each = [float(f1(own[rows], positive[rows], found.threshold[label])) for rows in resamples]
        assert found.f1_low[label] == pytest.approx(np.quantile(each, 0.05))
        assert found.f1[label] == pytest.approx(float(f1(own, positive, found.threshold[label])))
    assert found.positives.tolist() == targets.sum(0).tolist()


def test_states_count_groups_not_photos():
    scores, targets, groups = photos_of(400, 6)
    targets[:, 1] = False
    targets[:, 2] = True
    targets[:, 3] = groups == 7  # several photos, one group
    targets[:, 4] = np.isin(np.arange(len(groups)), np.flatnonzero(targets[:, 5])[: LEAST - 1])
    found = evidence(scores, targets, groups)
    assert found.state == ("ok", *["no_evidence"] * 4, "ok")
    none = [1, 2, 3, 4]
    assert np.isnan(found.low[none]).all() and np.isnan(found.high[none]).all()
    prior = prior_thresholds(scores).astype(np.float32)
    assert np.allclose(found.threshold[none], prior[none], atol=1e-6)
    assert np.isnan(found.f1[1]) and found.f1[2] > 0.5
    few = np.arange(200)[:, None] < 8  # and scores that hardly rank
    overlapping = np.random.default_rng(1).normal(size=few.shape) + few
    assert evidence(1 / (1 + np.exp(-overlapping)), few).state == ("wide",)
    nothing = evidence(np.empty((0, 2)), np.empty((0, 2)))
    assert nothing.threshold.tolist() == [0.5, 0.5] and nothing.state == ("no_evidence",) * 2
    useless = evidence(np.full((50, 1), 0.3), np.arange(50)[:, None] % 2)
    assert useless.threshold[0] == pytest.approx(0.3, abs=0.15)


def test_the_prior_is_half_of_the_attainable_f1():
    rng = np.random.default_rng(5)
    truth = rng.beta(0.3, 3, (20_000, 4)) * [1, 0.8, 0.5, 0.3]
    targets = rng.random(truth.shape) < truth
    attainable = [
        max(float(f1(s, t, c)) for c in np.linspace(0.02, 0.6, 59))
        for s, t in zip(truth.T, targets.T, strict=True)
    ]
    assert np.allclose(prior_thresholds(truth), np.array(attainable) / 2, atol=0.02)


def test_thresholds_of_training_are_the_prior_unless_others_are_clearly_better():
    scores, targets, groups = photos_of(80, 4, level=0.1)
    odds = scores / (1 - scores) * np.exp(1.6)  # about calibrated
    calibrated = odds / (1 + odds)
    plain = evidence(calibrated, targets, groups)
    right = plain.threshold * 0.97
    kept = evidence(calibrated, targets, groups, now=right)
    moved = evidence(calibrated, targets, groups, now=np.full(4, 0.99))
    assert (moved.threshold == plain.threshold).all() and not (kept.threshold == plain.threshold).any()
    nobody = evidence(calibrated[:30], targets[:30] & False, now=right)
    assert nobody.threshold == pytest.approx(right)
    mixed = [Objective("cost", false_negative=9), *[Objective()] * 3]
    assert (evidence(calibrated, targets, groups, mixed, now=right).threshold[1:] == kept.threshold[1:]).all()
    other = evidence(calibrated, targets, groups, Objective("cost", false_negative=9), now=right)
    assert (
        other.threshold
        == evidence(calibrated, targets, groups, Objective("cost", false_negative=9)).threshold
    ).all()


def test_bad_evidence():
    scores, targets, _ = photos_of()
    with pytest.raises(ValueError, match="without NaN"):
        evidence(scores * np.nan, targets)
