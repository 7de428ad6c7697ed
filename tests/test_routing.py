import numpy as np
import pandas as pd
import pytest

from src.decisions.routing import asked, limits, limits_at, needed, reason, workload
from src.errors import InputError
from src.labels import MISSES, NO_PROMISE, LabelSpace

LABELS = LabelSpace({"defect": ("A", "B", "C")})
HALF = np.full(3, 0.5, np.float32)
SPLITS = 300


def drawn(rng, photos, shares=(0.5, 0.2, 0.03)):
    """Scores of a poor model, in steps of 0.01, so that some are equal."""
    truth = rng.random((photos, len(shares))) < shares
    logits = rng.normal(size=truth.shape) + 1.2 * truth - 0.8
    return np.round(1 / (1 + np.exp(-logits)), 2).astype(np.float32), truth


def head(rng, photos):
    """Scores of three classes, a rare one among them, and the classes."""
    truth = np.arange(3) == rng.choice(3, photos, p=[0.6, 0.35, 0.05])[:, None]
    raised = np.exp(rng.normal(size=(photos, 3)) + 1.5 * truth)
    return (raised / raised.sum(1, keepdims=True)).astype(np.float32), truth


def test_the_photos_that_a_promise_takes():
    assert [needed(miss) for miss in (0.01, 0.05, 0.07, 0.1, 0.2, 1 / 3, 0.5, 0.9)] == [
        99,
        19,
        14,
        9,
        4,
        2,
        1,
        1,
    ]
    for miss in (0, 1, -0.1, 5, 0.001, float("nan")):
        with pytest.raises(InputError, match=r"from 0\.01 to below 1"):
            needed(miss)


def test_limits_and_who_is_asked_on_numbers_made_by_hand():
    scores = np.linspace(0.05, 0.95, 19, dtype=np.float32)[:, None].repeat(3, 1)
    truth = np.ones((19, 3), bool)
    truth[-1, 1], truth[:, 2] = False, False
    table = limits(scores, truth, LABELS, heads=False)
    assert limits_at(table, 0.05).tolist() == [scores[0, 0], NO_PROMISE, NO_PROMISE]  # 19, 18 and 0 photos
    assert limits_at(table, 0.1).tolist() == [scores[1, 0], scores[0, 1], NO_PROMISE]
    assert limits_at(table, 0.06).tolist() == limits_at(table, 0.05).tolist()  # the stricter of the two
    low, photos = limits_at(table, 0.05), np.array([[0.04, 0.49, 0.5], [0.05, 0.5, 0.49], [0.5, 0.04, 0.04]])
    sent = asked(photos, low, LABELS, HALF)
    assert sent.tolist() == [[False] * 3, [True, False, False], [False] * 3]
    assert reason(sent[1], photos[1], LABELS) == "A:0.0500" and reason(sent[0], photos[0], LABELS) == ""


@pytest.mark.parametrize("miss", [0.05, 0.1, 0.2])
def test_misses_of_a_label_keep_the_promise_over_many_splits(miss):
    rng, lost, promised = np.random.default_rng(0), [], []
    high = np.full(3, 0.9, np.float32)  # as from a model that is too cautious
    for _ in range(SPLITS):
        low = limits_at(limits(*drawn(rng, 200), LABELS, heads=False), miss)
        scores, truth = drawn(rng, 2000)
        absent = (scores < high) & ~asked(scores, low, LABELS, high)
        lost.append((absent & truth).sum(0) / truth.sum(0))
        promised.append(low < NO_PROMISE)
    lost, promised = np.array(lost), np.array(promised)
    assert promised[:, :2].mean() > 0.99
    for label in range(3):
        own = lost[promised[:, label], label]
        assert len(own) == 0 or own.mean() <= miss + 2 * own.std() / np.sqrt(len(own))
    assert lost[:, 0].mean() > miss - 0.04  # and photos are not sent to a person for nothing
    assert miss > 0.1 or lost[~promised[:, 2], 2].mean() > miss  # a label without a promise does not keep it


@pytest.mark.parametrize("by_class", [False, True])
def test_sets_of_a_head_hold_the_true_class_as_often_as_promised(by_class):
    rng, covered, of_class = np.random.default_rng(1), [], []
    for _ in range(SPLITS):
        low = limits_at(limits(*head(rng, 600), LABELS, True, by_class), 0.1)
        scores, truth = head(rng, 3000)
        inside = (scores >= low) & truth
        covered.append(inside.any(1).mean())
        of_class.append(inside.sum(0) / truth.sum(0))
    if by_class:
        own = np.array(of_class)
        assert (own.mean(0) >= 0.9 - 2 * own.std(0) / np.sqrt(SPLITS)).all()
    else:
        assert 0.9 - 2 * np.std(covered) / np.sqrt(SPLITS) <= np.mean(covered) <= 0.91
        assert np.mean(of_class, axis=0)[2] < 0.9  # all photos together promise nothing for the rare class


def test_limits_by_class_keep_their_promise_where_the_best_label_is_outside_its_set():
    two, rng = LabelSpace({"component": ("A", "B")}), np.random.default_rng(3)

    def scored(photos):
        truth = np.arange(2) == (rng.random(photos) < 0.1)[:, None].astype(int)
        wrong = np.where(truth[:, 1], 0.6, 0.95) + rng.normal(0, 0.05, photos)  # B is rare and taken for A
        a = np.clip(wrong, 0.01, 0.99)
        return np.stack([a, 1 - a], 1).astype(np.float32), truth

    table = limits(*scored(4000), two, True, by_class=True)
    curve = pd.DataFrame(workload(table, *scored(4000), two, None)).set_index(["miss", "label"])
    assert curve.loc[(0.05, "B"), "missed"] < 0.1 and curve.loc[(0.05, "all"), "missed"] < 0.07


def test_the_limits_and_sets_of_a_head_on_numbers_made_by_hand():
    two = LabelSpace({"component": ("A", "B")})
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.5, 0.5]], np.float32)
    truth = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, 0]], bool)
    assert limits_at(limits(scores, truth, two, True), 0.2) == pytest.approx([0.4, 0.4])
    assert limits_at(limits(scores, truth, two, True, by_class=True), 0.3) == pytest.approx([0.4, 0.4])
    assert (limits_at(limits(scores, truth, two, True), 0.1) == NO_PROMISE).all()
    photos = np.array([[0.45, 0.55], [0.9, 0.1], [0.3, 0.35]])  # two labels, one, none of them
    assert asked(photos, [0.4, 0.4], two, None).tolist() == [[True, True], [False, False], [False, False]]
    assert not asked(photos, [NO_PROMISE, NO_PROMISE], two, None).any()


@pytest.mark.parametrize("heads", [False, True])
def test_the_workload_falls_as_more_misses_are_allowed(heads):
    rng, draw, thresholds = np.random.default_rng(2), head if heads else drawn, None if heads else HALF
    table, (scores, truth) = limits(*draw(rng, 20_000), LABELS, heads), draw(rng, 20_000)
    curve = pd.DataFrame(workload(table, scores, truth, LABELS, thresholds))
    whole = curve[curve["label"] == "all"]
    assert whole["miss"].tolist() == list(MISSES) and whole["promise"].all()
    assert (np.diff(whole["reviewed"]) <= 0).all() and (np.diff(whole["missed"]) >= 0).all()
    assert whole["reviewed"].iloc[0] > 0.5 > whole["reviewed"].iloc[-1] and whole["missed"].iloc[0] < 0.02
    sent = asked(scores, limits_at(table, 0.1), LABELS, thresholds)
    chosen = scores == scores.max(1, keepdims=True) if heads else scores >= HALF
    unseen = ~sent.any(1, keepdims=True) if heads else ~sent
    row = curve[(curve["miss"] == 0.1) & (curve["label"] == "B")].iloc[0]
    assert row["reviewed"] == sent[:, 1].mean()
    assert row["missed"] == pytest.approx((unseen & ~chosen)[:, [1]][truth[:, 1]].mean() if not heads else
                                          (unseen[:, 0] & ~chosen[:, 1])[truth[:, 1]].mean())  # fmt: skip
    empty = pd.DataFrame(workload(table, np.empty((0, 3)), np.empty((0, 3), bool), LABELS, thresholds))
    assert empty["missed"].isna().all()


def test_bad_input():
    scores, truth = drawn(np.random.default_rng(4), 50)
    for wrong in ((scores * np.nan, truth), (scores, truth[1:])):
        with pytest.raises(ValueError, match="scores"):
            limits(*wrong, LABELS, heads=False)
