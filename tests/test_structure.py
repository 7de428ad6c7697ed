from itertools import product

import numpy as np
import pytest

from src.decisions.structure import (
    best_pairs,
    gravest,
    hierarchical_f1,
    impossible_pairs,
    joint,
    pair_figures,
    pair_ratios,
    related,
    severities,
    wholes,
    with_wholes,
)
from src.errors import InputError
from src.labels import LabelSpace

LABELS = LabelSpace({"component": ("Bracket", "Grout Hole"), "defect": ("Corrosion", "Drummy", "Leaks")})
COMPONENTS = np.array([[1, 0]] * 60 + [[0, 1]] * 39 + [[1, 1]])
DEFECTS = np.array([[1, 0, 0]] * 60 + [[0, 0, 1]] * 38 + [[0, 1, 0], [0, 0, 0]])
RATIOS = pair_ratios(COMPONENTS, DEFECTS)


def logit(scores):
    return np.log(scores) - np.log1p(-np.asarray(scores))


def test_ratios_on_numbers_made_by_hand():
    assert RATIOS[0] == pytest.approx([61 / (61 * 0.6 + 1), 1 / 1.61, 1 / (61 * 0.38 + 1)])
    assert RATIOS[1] == pytest.approx([1 / (40 * 0.6 + 1), 2 / 1.4, 39 / (40 * 0.38 + 1)])
    assert (RATIOS > 0).all()  # never seen is not impossible
    assert pair_ratios(np.empty((0, 2)), np.empty((0, 3))).tolist() == [[1, 1, 1]] * 2
    rng = np.random.default_rng(0)
    unrelated = pair_ratios(rng.random((20_000, 2)) < 0.3, rng.random((20_000, 3)) < 0.4)
    assert unrelated == pytest.approx(np.ones((2, 3)), abs=0.05)
    with pytest.raises(ValueError, match="photos"):
        pair_ratios(COMPONENTS, DEFECTS[1:])


@pytest.mark.parametrize("strength", [0, 0.5, 2])
def test_joint_decoding_equals_every_pair_tried(strength):
    rng = np.random.default_rng(1)
    first, second = rng.dirichlet([1, 1], 50), rng.dirichlet([1, 1, 1], 50)
    for impossible in (None, impossible_pairs(LABELS, [("Bracket", "Leaks")])):
        pairs = joint(first, second, RATIOS, strength, impossible)
        chosen, confidence = best_pairs(pairs)
        assert pairs.sum((1, 2)) == pytest.approx(np.ones(50))
        for photo in range(50):
            weights = {
                (a, b): first[photo, a] * second[photo, b] * RATIOS[a, b] ** strength
                for a, b in product(range(2), range(3))
                if impossible is None or (a, b) != (0, 2)
            }
            best = max(weights, key=weights.get)
            assert tuple(chosen[photo]) == best
            assert confidence[photo] == pytest.approx(weights[best] / sum(weights.values()))
    off, confidence = best_pairs(joint(first, second, RATIOS, 0))
    assert (off == np.stack([first.argmax(1), second.argmax(1)], 1)).all()
    assert confidence == pytest.approx(first.max(1) * second.max(1))


def test_relations_raise_exact_match_of_heads_where_defects_follow_components():
    rng = np.random.default_rng(2)

    def drawn(photos):
        component = rng.integers(0, 2, photos)
        defect = np.where(rng.random(photos) < 0.9, 2 * component, 1)
        heads = []
        for classes, count in ((component, 2), (defect, 3)):
            raised = np.exp(2.2 * (np.arange(count) == classes[:, None]) + rng.normal(size=(photos, count)))
            heads.append(raised / raised.sum(1, keepdims=True))
        return component, defect, *heads

    component, defect, *_ = drawn(500)
    ratios = pair_ratios(np.eye(2)[component], np.eye(3)[defect])
    component, defect, *heads = drawn(4000)
    exact = [
        (best_pairs(joint(*heads, ratios, strength))[0] == np.stack([component, defect], 1)).all(1).mean()
        for strength in (0, 1)
    ]
    assert exact[1] > exact[0] + 0.03


def test_related_scores_on_numbers_made_by_hand():
    first, second = np.array([[0.9, 0.2], [0, 0]]), np.array([[0.3, 0.5, 0.6], [0.3, 0.5, 0.6]])
    none = 0.1 * 0.8
    mean = (0.9 * RATIOS[0] + 0.2 * RATIOS[1] + none) / (1.1 + none)
    found = related(first, second, RATIOS, 0.5)
    assert found.dtype == np.float32
    assert logit(found[0]) == pytest.approx(logit(second[0]) + 0.5 * np.log(mean), abs=1e-5)
    assert found[1] == pytest.approx(second[1])  # no component says nothing
    assert np.array_equal(related(first, second, RATIOS, 0), second.astype(np.float32))
    impossible = impossible_pairs(LABELS, [("Bracket", "Leaks")])
    moved = related(first, second, RATIOS, 0, impossible)
    assert moved[0, :2] == pytest.approx(second[0, :2])
    assert logit(moved[0, 2]) == pytest.approx(logit(0.6) + np.log(1 - 0.9 / (1.1 + none)), abs=1e-5)
    assert related([[1, 0]], [[0.5, 0.5, 0.99]], RATIOS, 0, impossible)[0, 2] < 1e-3
    assert np.isfinite(related([[1, 1]], [[0, 1, 1]], RATIOS, 3)).all()


def test_pair_figures_on_numbers_made_by_hand():
    predicted = np.array([[1, 1], [1, 0]]), np.array([[1, 0, 0], [0, 0, 1]])
    true = np.array([[1, 0], [1, 0]]), np.array([[1, 1, 0], [0, 1, 0]])
    impossible = impossible_pairs(LABELS, [("Grout Hole", "Corrosion")])
    figures = pair_figures(predicted, true, impossible)  # 3 pairs predicted, 3 true, 1 in both
    assert figures == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "impossible_rate": 1 / 3}
    )
    nothing = pair_figures((predicted[0] * 0, predicted[1]), true)
    assert np.isnan([nothing["precision"], nothing["impossible_rate"]]).all() and nothing["recall"] == 0


def test_a_part_implies_its_whole():
    names = ["Bracket-Bolt-Nut", "Bracket", "Joint-Seal", "Bracket-Bolt", "Joint"]
    pairs = wholes(names)
    assert pairs[0] == (0, 3) and set(pairs) == {(0, 3), (3, 1), (2, 4)}
    assert with_wholes([[0.9, 0.1, 0.2, 0.3, 0.5]], pairs).tolist() == [[0.9, 0.9, 0.2, 0.9, 0.5]]
    assert with_wholes(np.array([True, False, False, False, False]), pairs).tolist() == [1, 1, 0, 1, 0]
    assert wholes(["Corrosion-Heavy", "Corrosion-Surface"]) == []


def test_the_gravest_of_an_order_stays():
    names = [
        "Corrosion-Heavy",
        "Drummy",
        "Corrosion-Surface",
        "Crack-Minor",
        "Bracket-Bolt",
        "Corrosion-Light",
    ]
    assert severities(names) == [[2, 5, 0]]
    decisions = np.array([[1, 1, 1, 1, 1, 0], [0, 0, 1, 0, 0, 1], [0, 1, 1, 0, 0, 0]], bool)
    kept = gravest(decisions, severities(names)).astype(int)
    assert kept.tolist() == [[1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0]]


def test_a_wrong_severity_is_half_right():
    names = ["Corrosion-Heavy", "Corrosion-Surface", "Drummy"]
    heavy, surface, drummy = np.eye(3, dtype=bool)
    assert hierarchical_f1([heavy], [heavy], names) == 1
    assert hierarchical_f1([heavy], [surface], names) == 0.5  # both name the parent Corrosion
    assert hierarchical_f1([drummy], [surface], names) == 0
    assert hierarchical_f1([heavy | drummy], [surface], names) == pytest.approx(2 / 5)
    assert np.isnan(hierarchical_f1([heavy & drummy], [heavy & drummy], names))
    part = ["Bracket", "Bracket-Bolt"]
    assert hierarchical_f1([[0, 1]], [[1, 0]], part) == pytest.approx(2 / 3)  # 1 of 2, and 1 of 1


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("Braket", "Leaks")], "unknown component 'Braket': did you mean 'Bracket'"),
        ([("Leaks", "Bracket")], "unknown component 'Leaks'"),
        (["Bracket_Leaks"], "needs a component and a defect"),
        (list(product(*LABELS.kinds.values())), "every pair"),
    ],
)
def test_impossible_pairs_that_make_no_sense(pairs, said):
    with pytest.raises(InputError, match=said):
        impossible_pairs(LABELS, pairs)


def test_bad_input():
    with pytest.raises(InputError, match="two kinds"):
        impossible_pairs(LabelSpace({"label": ("A", "B")}), [])
    for way, strength in product((joint, related), (-1, float("nan"))):
        with pytest.raises(InputError, match="needs 0"):
            way(np.ones((1, 2)), np.ones((1, 3)), RATIOS, strength)
