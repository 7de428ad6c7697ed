import numpy as np
import pytest

from src.decisions.calibration import (
    LEAST,
    METHODS,
    RIDGE,
    apply,
    brier,
    calibration_error,
    fit,
    fit_heads,
    fit_logistic,
    reliability,
)
from src.errors import InputError
from src.labels import LabelSpace

HEADS = LabelSpace({"component": ("Bolt", "Joint"), "defect": ("Drummy", "Leaks", "Missing")})


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits)))


def logit(scores):
    return np.log(scores) - np.log1p(-np.asarray(scores))


def drawn(photos=4000, shares=(0.5, 0.2, 0.05), seed=0):
    """True probabilities that two normal distributions give, and targets."""
    rng = np.random.default_rng(seed)
    targets = rng.random((photos, len(shares))) < shares
    return sigmoid(2 * (rng.normal(size=targets.shape) + 2 * targets) - 2 + logit(np.array(shares))), targets


def test_apply_on_numbers_made_by_hand():
    parameters = np.array([[1, 1, 0], [1, 1, -np.log(3)], [2, 0.5, 0.1]])
    scores = np.array([[0.3, 0.75, 0.4]])
    expected = [0.3, 0.5, sigmoid(2 * np.log(0.4) - 0.5 * np.log(0.6) + 0.1)]
    assert apply(scores, parameters)[0] == pytest.approx(expected, abs=1e-6)
    assert apply(scores, parameters).dtype == np.float32
    assert apply(scores[0], parameters).shape == (3,)  # one photo
    heads = [slice(0, 3)]
    sharper = np.array([0.3, 0.5, 0.2]) ** 2
    tempered = apply([0.3, 0.5, 0.2], [[2, 0, 0]] * 3, heads)
    assert tempered == pytest.approx(sharper / sharper.sum(), abs=1e-6)


def test_any_parameters_keep_the_order_and_scores_of_0_and_1_stay_finite():
    scores = np.sort(np.r_[0, 1, np.random.default_rng(0).random(500)])[:, None].astype(np.float32)
    for parameters in ([1, 1, 0], [0, 2, 1], [3, 0, -9], [0.2, 5, 40]):
        found = apply(scores, [parameters])[:, 0]
        assert np.isfinite(found).all() and (np.diff(found) >= 0).all()
        assert found[0] >= 0 and found[-1] <= 1


def test_a_pos_weight_is_undone_in_closed_form():
    truth, targets = drawn()
    weights = np.array([1, 4, 19])
    scores = sigmoid(logit(truth) + np.log(weights))
    undone = fit(scores, targets, "none", weights)
    assert np.allclose(apply(scores, undone.parameters), truth, atol=1e-5)
    assert undone.parameters.tolist() == [[1, 1, -np.log(w)] for w in weights]
    few = fit(scores[:40], targets[:40] & [True, True, False], "beta", weights)
    assert few.parameters[2].tolist() == undone.parameters[2].tolist()
    assert few.unfitted[0] == "" and few.unfitted[2] == "0 positives and 40 negatives"


@pytest.mark.parametrize("method", METHODS[1:])
def test_scores_that_are_off_become_probabilities(method):
    truth, targets = drawn(20_000)
    for off in (sigmoid(logit(truth) - 2), sigmoid(0.5 * logit(truth) + 1), truth):
        found = fit(off, targets, method)
        assert found.unfitted == ("", "", "")
        calibrated = apply(off, found.parameters)
        assert np.abs(calibrated - truth).mean() < 0.01
        assert (brier(calibrated, targets) <= brier(off, targets) + 1e-4).all()
        assert max(calibration_error(c, t) for c, t in zip(calibrated.T, targets.T, strict=True)) < 0.02


def test_beta_finds_its_own_parameters_and_platt_has_one_slope():
    rng = np.random.default_rng(3)
    scores = rng.random((200_000, 1))
    targets = rng.random(scores.shape) < apply(scores, [[1.6, 0.5, 0.3]])
    assert fit(scores, targets, "beta").parameters[0] == pytest.approx([1.6, 0.5, 0.3], abs=0.05)
    a, b, _ = fit(scores, targets, "platt").parameters[0]
    assert a == b
    one_sided = rng.random(scores.shape) < apply(scores, [[-0.5, 2, 0.3]])  # needs a < 0 to be followed
    a, b, _ = fit(scores, one_sided, "beta").parameters[0]
    assert a == 0 and b > 0


def test_the_fit_is_the_minimum_of_the_penalised_log_loss():
    rng = np.random.default_rng(4)
    features = np.stack([rng.normal(size=80), np.ones(80)], 1)
    targets, weights = rng.random(80), rng.integers(1, 4, 80)
    start, ridge = np.array([1.0, -1.0]), np.array([4.0, 0.5])
    theta = fit_logistic(features, targets, start, ridge, weights)

    def loss(at):
        shares = sigmoid(features @ at)
        each = targets * np.log(shares) + (1 - targets) * np.log1p(-shares)
        return -(weights * each).sum() + (ridge * (at - start) ** 2).sum() / 2

    moved = [loss(theta + step) for step in 1e-3 * rng.normal(size=(50, 2))]
    assert loss(theta) < min(moved)
    repeated = np.repeat(np.arange(80), weights)
    assert np.allclose(theta, fit_logistic(features[repeated], targets[repeated], start, ridge))
    apart = np.array([[-9.0, 1], [9, 1]])  # separable: the prior keeps it finite
    assert np.isfinite(fit_logistic(apart, np.array([0, 1]), start, ridge)).all()


def test_few_photos_move_parameters_little_and_too_few_not_at_all():
    truth, targets = drawn(60, (0.3,), seed=1)
    moved = np.abs(fit(truth, targets).parameters[0] - [1, 1, 0])
    assert 0 < moved[0] < 0.5 and moved[2] < 1
    order = np.argsort(~targets[:, 0])
    few = order[: LEAST - 1].tolist() + order[-30:].tolist()  # 4 positives
    kept = fit(truth[few], targets[few])
    assert kept.parameters.tolist() == [[1, 1, 0]]
    assert kept.unfitted == ("4 positives and 30 negatives",)
    assert fit(truth, np.ones_like(targets)).unfitted == ("60 positives and 0 negatives",)
    backwards = fit(1 - drawn(2000, (0.3,))[0], drawn(2000, (0.3,))[1])
    assert backwards.unfitted == ("scores that do not rank",) and backwards.parameters.tolist() == [[1, 1, 0]]


def test_temperature_of_each_head():
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 2, (20_000, 5))
    truth = apply(sigmoid(logits), [[1, 1, 0]] * 5)  # any scores
    for own in HEADS.slices.values():
        raised = np.exp(logits[:, own])
        truth[:, own] = raised / raised.sum(1, keepdims=True)
    classes = np.stack(
        [(truth[:, own].cumsum(1) < rng.random((len(truth), 1))).sum(1) for own in HEADS.slices.values()], 1
    )
    classes[::5, 1] = -1  # photos without a defect label
    slices = list(HEADS.slices.values())
    off = apply(truth, [[2, 0, 0]] * 2 + [[0.5, 0, 0]] * 3, slices)  # too sure, and not sure enough
    found = fit_heads(off, classes, HEADS)
    assert found.unfitted == ("", "")
    assert found.parameters[:, 0] == pytest.approx([0.5] * 2 + [2] * 3, rel=0.05)
    assert np.abs(apply(off, found.parameters, slices) - truth).max() < 0.03
    few = fit_heads(off[:20], np.where(np.arange(20)[:, None] < [20, 3], classes[:20], -1), HEADS)
    assert few.unfitted[0] == "" and few.unfitted[1] in ("2 labelled", "3 labelled")
    assert few.parameters[2:].tolist() == [[1, 0, 0]] * 3


def test_the_temperature_is_that_of_a_fine_grid():
    rng = np.random.default_rng(8)
    one = LabelSpace({"label": ("A", "B", "C")})
    scores, classes = rng.dirichlet([1, 1, 1], 50), rng.integers(0, 3, (50, 1))

    def loss(factor):
        tempered = apply(scores, [[factor, 0, 0]] * 3, [slice(0, 3)]).astype(np.float64)
        return -np.log(tempered[np.arange(50), classes[:, 0]]).sum() + RIDGE[0] * (factor - 1) ** 2 / 2

    grid = np.linspace(0.01, 3, 1000)
    best = grid[np.argmin([loss(factor) for factor in grid])]
    assert fit_heads(scores, classes, one).parameters[0, 0] == pytest.approx(best, abs=0.01)


def test_reliability_on_numbers_made_by_hand():
    scores, targets = [0.1, 0.2, 0.3, 0.9], [0, 0, 1, 1]
    photos, score, share = reliability(scores, targets, 2)
    assert photos.tolist() == [2, 2] and score == pytest.approx([0.15, 0.6]) and share.tolist() == [0, 1]
    assert calibration_error(scores, targets, 2) == pytest.approx((0.15 + 0.4) / 2)
    assert brier(scores, targets) == pytest.approx((0.01 + 0.04 + 0.49 + 0.01) / 4)
    photos, score, _ = reliability([0.5] * 7 + [0.9], [1] * 8, 4)
    assert photos.tolist() == [7, 1] and score.tolist() == [0.5, 0.9]  # equal scores share a bin
    assert np.isnan(calibration_error([], []))
    assert calibration_error(*(column[:, 0] for column in drawn(50_000, (0.3,)))) < 0.01


def test_bad_input():
    ones = np.ones((9, 2))
    with pytest.raises(InputError, match="did you mean 'platt'"):
        fit(ones, ones, "plat")
    for scores, targets in ((ones, ones[1:]), (ones[0], ones[0]), (ones * np.nan, ones)):
        with pytest.raises(ValueError, match="without NaN"):
            fit(scores, targets)
