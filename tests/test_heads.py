import numpy as np
import pytest

from src.labels import MISSING, LabelSpace
from src.models.linear import fit_heads, out_of_fold

LABELS = LabelSpace({"component": ("a", "b", "c"), "defect": ("x", "y")})


def made(count: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 `[N, 12]` that tell the classes int64 `[N, 2]` of both kinds."""
    rng = np.random.default_rng(seed)
    classes = np.column_stack([rng.integers(0, 3, count), rng.integers(0, 2, count)])
    centres = rng.normal(0, 3, (2, 3, 12))
    seen = centres[0, classes[:, 0]] + centres[1, classes[:, 1]] + rng.normal(0, 1, (count, 12))
    return (seen * np.logspace(-3, 3, 12)).astype(np.float32), classes


def hot(classes: np.ndarray) -> np.ndarray:
    return np.hstack([np.eye(3)[classes[:, 0]], np.eye(2)[classes[:, 1]]]).astype(np.float32)


def test_softmax_heads_sum_to_one_in_each_kind():
    features, classes = made()
    found = fit_heads(features[:160], classes[:160], LABELS, False).probabilities(features[160:])
    np.testing.assert_allclose(found[:, :3].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found[:, 3:].sum(1), 1, atol=1e-5)
    assert (found[:, :3].argmax(1) == classes[160:, 0]).mean() > 0.97
    assert (found[:, 3:].argmax(1) == classes[160:, 1]).mean() > 0.97


def test_photos_without_a_label_of_a_kind_do_not_change_its_head():
    features, classes = made()
    classes[::3, 1] = MISSING
    altered, filled = classes.copy(), np.where(classes == MISSING, 0, classes)
    altered[::3, 0] = 0  # the other kind's labels of these photos

    def defects(targets):
        return fit_heads(features, targets, LABELS, False).probabilities(features)[:, 3:]

    np.testing.assert_array_equal(defects(classes), defects(altered))
    assert np.isfinite(defects(classes)).all() and not np.allclose(defects(classes), defects(filled))


def test_labels_that_all_or_none_carry_get_their_base_rate():
    features, classes = made()
    targets = hot(classes)
    targets[:, 0], targets[:, 4] = 1, 0
    found = fit_heads(features, targets, LABELS, True).probabilities(features)
    assert (found[:, 0] == 1).all() and (found[:, 4] == 0).all() and 0 < found[0, 1] < 1


def test_classes_that_do_not_occur_get_nothing_and_a_lone_one_everything():
    features, classes = made()
    classes[:, 0], classes[:, 1] = np.where(classes[:, 0] == 1, 0, classes[:, 0]), 1
    found = fit_heads(features, classes, LABELS, False).probabilities(features)
    assert (found[:, 1] == 0).all() and (found[:, 3] == 0).all() and (found[:, 4] == 1).all()
    np.testing.assert_allclose(found[:, :3].sum(1), 1, atol=1e-5)
    assert (found[:, :3].argmax(1) == classes[:, 0]).mean() > 0.97
    classes[:, 1] = MISSING
    assert (fit_heads(features, classes, LABELS, False).probabilities(features)[:, 3:] == 0.5).all()


def test_out_of_fold_is_deterministic_and_finds_what_can_be_learnt():
    features, classes = made()
    folds = np.arange(len(features)) % 5
    found = out_of_fold(features, hot(classes), folds, LABELS, True)
    assert found.tobytes() == out_of_fold(features, hot(classes), folds, LABELS, True).tobytes()
    assert ((found > 0.5) == (hot(classes) > 0)).mean() > 0.97


def test_labels_of_a_fold_do_not_reach_its_own_probabilities():
    features, classes = made(seed=1)
    folds = np.arange(len(features)) // 48
    before = out_of_fold(features, classes, folds, LABELS, False)
    turned = classes.copy()
    turned[folds == 2, 0] = (turned[folds == 2, 0] + 1) % 3
    after = out_of_fold(features, turned, folds, LABELS, False)
    np.testing.assert_array_equal(before[folds == 2], after[folds == 2])
    assert np.abs(before - after)[folds != 2].max() > 0.1


def test_shapes_that_do_not_fit_and_features_that_are_no_numbers_are_refused():
    for features, targets, folds, words in (
        (np.zeros((4, 3)), np.zeros((4, 4)), [0, 0, 1, 1], "targets"),
        (np.zeros((4, 3)), np.zeros((4, 5)), [0, 0, 0, 0], "1 numbers"),
        (np.full((4, 3), np.nan), np.eye(4, 5), [0, 0, 1, 1], "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            out_of_fold(features, targets, np.array(folds), LABELS, True)
