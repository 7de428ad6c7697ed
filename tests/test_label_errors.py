from dataclasses import replace

import numpy as np
import pytest

from benchmarks import label_errors as benchmark
from src.analysis.audit import suspects
from src.analysis.audit.evidence import unjudgeable
from src.analysis.audit.suspects import LISTS, find_suspects, nearest_labelled
from src.datamodules.groups import Linked
from src.datamodules.records import Record
from src.labels import LabelSpace

LABELS = LabelSpace({"component": ("Bolt", "Hole"), "defect": ("Leaks", "Loose")})
PAIRS = ("Bolt", "Loose"), ("Hole", "Leaks")


def linked_of(carried: list[tuple[str, ...]], groups=None, pairs=(), digests=None) -> Linked:
    """Records with labels as told; the names are in the order of the positions."""
    records = [
        Record(
            f"{i:03d}",
            f"{i:03d}.jpg",
            {kind: tuple(n for n in found if n in names) for kind, names in LABELS.kinds.items()},
            digest=digests[i] if digests else f"{i:x}",
        )
        for i, found in enumerate(carried)
    ]
    groups = np.arange(len(records)) if groups is None else np.asarray(groups)
    pairs = np.array(pairs, np.int64).reshape(-1, 2)
    return Linked(records, groups, pairs, np.zeros(len(pairs), np.int64))


def ordinary(count: int = 40) -> list[tuple[str, ...]]:
    """Photos of two pairs, in turn."""
    return [PAIRS[i % 2] for i in range(count)]


def likely(carried: list[tuple[str, ...]], sure: float = 0.95) -> np.ndarray:
    """Probabilities of a model that sees what is given."""
    given = np.array([[name in found for name in LABELS.names] for found in carried])
    return np.where(given, sure, 1 - sure)


def brief(suspects) -> list[tuple]:
    return [(s.position, s.add, s.remove) for s in suspects]


def test_missing_labels_are_ranked_by_probability_down_to_the_floor():
    carried = ordinary()
    seen = likely(carried)
    carried[4], carried[7], carried[9] = ("Bolt",), ("Hole",), ("Hole",)
    seen[4, 3], seen[7, 2], seen[9, 2] = 0.7, 0.9, 0.3
    found = find_suspects(linked_of(carried), LABELS, True, seen)
    assert [name for name, suspects in found.items() if suspects] == ["missing_label"]
    assert brief(found["missing_label"]) == [(7, ("Leaks",), ()), (4, ("Loose",), ())]
    first = found["missing_label"][0]
    assert first.probability == pytest.approx(0.9) and first.other is None
    assert first.score == pytest.approx(np.log(9), abs=0.01)


def test_a_wrong_label_is_replaced_where_another_one_is_seen_and_removed_where_none_is():
    carried = ordinary()
    seen = likely(carried)
    carried[3] = ("Hole", "Loose")  # Leaks, in truth
    carried[8] = ("Bolt", "Hole", "Loose")  # no Hole
    found = find_suspects(linked_of(carried), LABELS, True, seen)
    assert brief(found["wrong_label"]) == [(3, ("Leaks",), ("Loose",)), (8, (), ("Hole",))]
    replaced, removed = found["wrong_label"]
    assert replaced.probability == pytest.approx(0.95) and removed.probability == pytest.approx(0.95)
    assert replaced.score > removed.score > 1  # a rival that is absent makes the doubt greater
    assert (3, ("Leaks",), ()) in brief(found["missing_label"])


def test_heads_replace_a_wrong_label_and_miss_one_only_of_a_kind_without_any():
    carried = ordinary()
    seen = likely(carried)
    carried[3], carried[11] = ("Hole", "Loose"), ("Hole",)
    seen[10, :2] = 0.45, 0.55  # nearly undecided: below the floor
    seen[5, :2] = 0.03, 0.04  # improbable, but nothing else is more probable
    found = find_suspects(linked_of(carried), LABELS, False, seen)
    assert brief(found["wrong_label"]) == [(3, ("Leaks",), ("Loose",))]
    assert brief(found["missing_label"]) == [(11, ("Leaks",), ())]


def test_what_the_group_carries_counts_as_much_as_it_agrees():
    carried = ordinary(60)
    groups = [i % 2 + 2 * (i // 6) for i in range(60)]  # three alike photos a group
    seen = np.full((60, 4), 0.5)
    carried[0] = ("Bolt", "Leaks")
    alone = find_suspects(linked_of(carried), LABELS, False, seen)
    assert alone["wrong_label"] == []
    together = find_suspects(linked_of(carried, groups), LABELS, False, seen)
    assert brief(together["wrong_label"])[:1] == [(0, ("Loose",), ("Leaks",))]
    rng = np.random.default_rng(0)
    mixed = find_suspects(linked_of(carried, rng.permutation(groups)), LABELS, False, likely(carried))
    assert mixed["wrong_label"] == []  # groups that mean nothing overrule nothing


def test_a_pair_of_no_other_group_is_found_with_its_likeliest_explanation():
    carried = ordinary()
    seen = likely(carried)
    carried[2], seen[2] = ("Bolt", "Leaks"), (0.9, 0.1, 0.3, 0.6)
    (pair,) = find_suspects(linked_of(carried), LABELS, True, seen)["unseen_pair"]
    assert (pair.position, pair.add, pair.remove) == (2, ("Loose",), ("Leaks",))
    assert pair.probability == pytest.approx(0.6)
    seen[2] = 0.05, 0.2, 0.9, 0.1  # no Bolt, nor anything else
    (pair,) = find_suspects(linked_of(carried), LABELS, True, seen)["unseen_pair"]
    assert (pair.add, pair.remove) == ((), ("Bolt",)) and pair.probability == pytest.approx(0.95)
    seen[2] = 0.9, 0.8, 0.9, 0.1  # a Hole was forgotten, which Leaks goes with
    (pair,) = find_suspects(linked_of(carried), LABELS, True, seen)["unseen_pair"]
    assert (pair.add, pair.remove) == (("Hole",), ())
    seen[2] = 0.99, 0.01, 0.99, 0.01  # rare, but as it is
    assert find_suspects(linked_of(carried), LABELS, True, seen)["unseen_pair"] == []


def test_a_pair_counts_as_seen_on_believed_photos_of_other_groups_alone():
    carried = ordinary()
    seen = likely(carried)
    for position in (2, 6):
        carried[position], seen[position] = ("Bolt", "Leaks"), (0.9, 0.1, 0.02, 0.98)
    seen[6] = 0.9, 0.1, 0.9, 0.1  # believed: so the pair exists
    assert find_suspects(linked_of(carried), LABELS, False, seen)["unseen_pair"] == []
    groups = np.arange(40)
    groups[6] = 2  # but it is another photo of the same asset
    found = find_suspects(linked_of(carried, groups), LABELS, False, seen)["unseen_pair"]
    assert 2 in [s.position for s in found]
    seen[6] = 0.95, 0.05, 0.01, 0.99  # or a mistake itself
    found = find_suspects(linked_of(carried), LABELS, False, seen)["unseen_pair"]
    assert brief(found) == [(6, ("Loose",), ("Leaks",)), (2, ("Loose",), ("Leaks",))]


def test_near_duplicates_that_disagree_are_listed_once_for_each_photo_to_change():
    carried = ordinary()
    carried[0], carried[20] = ("Bolt", "Loose"), ("Bolt",)
    carried[1], carried[21] = ("Hole", "Leaks"), ("Hole", "Loose")
    linked = linked_of(carried, pairs=[(0, 20), (1, 21), (2, 22)])
    seen = likely(ordinary())
    seen[21] = seen[1]
    found = find_suspects(linked, LABELS, True, seen)["near_duplicates"]
    assert sorted(brief(found)) == [(20, ("Loose",), ()), (21, ("Leaks",), ("Loose",))]
    assert {s.position: s.other for s in found} == {20: 0, 21: 1}
    found = find_suspects(linked, LABELS, False, seen)["near_duplicates"]
    assert sorted(brief(found)) == [(20, ("Loose",), ()), (21, ("Leaks",), ("Loose",))]
    carried = ordinary()  # byte-identical photos are near duplicates, without a perceptual hash too
    carried[4] = ("Bolt", "Leaks")
    digests = ["same" if i in (0, 4) else f"{i:x}" for i in range(40)]
    found = find_suspects(linked_of(carried, digests=digests), LABELS, False, likely(ordinary()))
    assert brief(found["near_duplicates"]) == [(4, ("Loose",), ("Leaks",))]


def test_labels_of_too_few_photos_or_groups_are_named_and_left_alone():
    carried = ordinary()
    carried[0] = carried[2] = ("Bolt", "Loose")
    space = LabelSpace({"component": ("Bolt", "Hole"), "defect": ("Leaks", "Loose", "Rare", "Tied")})
    linked = linked_of(carried)
    records = list(linked.records)
    for position, name in ((0, "Rare"), (2, "Rare"), (4, "Tied"), (6, "Tied"), (8, "Tied")):
        records[position] = replace(records[position], labels={"component": ("Bolt",), "defect": (name,)})
    groups = np.arange(40)
    groups[[4, 6, 8]] = 4
    linked = Linked(records, groups, linked.pairs, linked.distances)
    assert unjudgeable(linked, space) == {
        "Rare": "2 photos carry it, 3 are needed",
        "Tied": "3 photos in 1 groups carry it, 3 groups are needed",
    }
    seen = np.hstack([likely(carried), np.full((40, 2), 0.001)])
    seen[12, 4:] = 0.99
    found = find_suspects(linked, space, True, seen)
    touched = {name for s in found["wrong_label"] + found["missing_label"] for name in s.add + s.remove}
    assert touched == {"Loose"}  # which the five photos lack


def test_one_kind_has_no_pairs_and_no_records_have_no_suspects():
    space = LabelSpace({"label": ("a", "b")})
    records = [Record(str(i), f"{i}.jpg", {"label": ("ab"[i % 2],)}) for i in range(10)]
    linked = Linked(records, np.arange(10), np.empty((0, 2), np.int64), np.empty(0, np.int64))
    seen = np.tile([[0.9, 0.1], [0.1, 0.9]], (5, 1))
    seen[4] = 0.05, 0.95
    found = find_suspects(linked, space, False, seen)
    assert brief(found["wrong_label"]) == [(4, ("b",), ("a",))] and found["unseen_pair"] == []
    empty = Linked([], np.empty(0, np.int64), np.empty((0, 2), np.int64), np.empty(0, np.int64))
    assert find_suspects(empty, space, False, np.empty((0, 2))) == {name: [] for name in LISTS}


def test_nearest_photos_are_those_of_brute_force(monkeypatch):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(61, 8)).astype(np.float32)
    groups = rng.integers(0, 20, 61)
    monkeypatch.setattr(suspects, "BLOCK", 7)
    found = nearest_labelled(features, groups)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for i in range(61):
        others = [j for j in range(61) if groups[j] != groups[i]]
        wanted = sorted(others, key=lambda j: (-float(unit[i].astype(float) @ unit[j].astype(float)), j))
        assert found[i].tolist() == wanted[:3]


def test_too_few_photos_of_other_groups_are_minus_one():
    features = np.array([[1, 0], [1, 0.1], [0, 0], [1, 0.2]], np.float32)
    found = nearest_labelled(features, np.array([0, 0, 0, 1]))
    assert found.tolist() == [[3, -1, -1], [3, -1, -1], [3, -1, -1], [1, 0, 2]]
    assert nearest_labelled(np.empty((0, 2)), np.empty(0, int)).shape == (0, 3)


def test_the_benchmark_knows_what_it_planted_and_where_each_list_finds_it():
    linked = linked_of(ordinary(400), pairs=[(0, 2), (1, 3)])
    changed, kept, truth = benchmark.plant(linked, 1)
    assert repr(changed) == repr(benchmark.plant(linked, 1)[0]) and len(kept) == len(changed.records) < 400
    case = benchmark.audited(changed, truth, True, np.eye(400, dtype=np.float32)[kept, :20])
    planted = case.planted()
    assert 100 < len(planted["missing"]) < 180 and 25 < len(planted["wrong"]) < 60
    for photo, label in planted["wrong"]:
        assert case.given[photo, label] and not case.true[photo, label]
    for (photo,) in planted["impossible pair"]:
        assert tuple(np.array(LABELS.names)[case.given[photo]]) not in PAIRS
    perfect = replace(case, probabilities=np.where(case.true, 0.99, 0.01))
    rows = {row["kind"]: row for row in benchmark.measured("made", [perfect]) if row["method"] == "audit"}
    assert rows["missing"]["p@planted"] == rows["wrong"]["p@planted"] == 1
    assert rows["impossible pair"]["p@planted"] == 1 and rows["wrong"]["planted"] == len(planted["wrong"])
    assert benchmark.markdown(list(rows.values())).count("\n") == 4
