import json
from dataclasses import replace

import numpy as np
import pytest

from src.datamodules.folders import FolderDataModule
from src.datamodules.groups import link_records
from src.datamodules.records import Record
from src.datamodules.split_figures import certify
from src.datamodules.splits import SPLITS, split_folds, split_hash, split_records
from tests.made import make_folders

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def record(i, component="C", defect="D", group=None, phash=None, digest=None):
    labels = {"component": (component,), "defect": (defect,) if defect else ()}
    return Record(f"p{i:03d}", f"p{i:03d}.jpg", labels, group or f"g{i}", digest or f"d{i}", phash)


def made(count=120):
    records = [
        record(i, "AB"[i % 2], "XYZ"[i % 3], f"g{i // 2}", i * 0x9E3779B97F4A7C15 % 2**64)
        for i in range(count)
    ]
    records[7] = replace(records[7], labels={"component": ("Rare",), "defect": ()})
    return records


def where(splits):
    return {r.id: name for name, found in splits.items() for r in found}


def certified(records, given=None, near=4):
    linked = link_records(records, near)
    splits = split_records(linked, SHARES, 0, given)
    return certify(linked, splits, None if given else SHARES, near), splits


def test_it_says_what_the_split_is():
    found, splits = certified(made())
    assert found["hash"] == split_hash(splits) and found["asked"] == SHARES and not found["given"]
    assert found["photos"] == {name: len(splits[name]) for name in SPLITS}
    assert found["groups"] == {name: len({r.group for r in splits[name]}) for name in SPLITS}
    rows = {row["label"]: row for row in found["labels"]}
    for name in SPLITS:
        assert rows["X"][name] == sum(r.labels["defect"] == ("X",) for r in splits[name])
    assert rows["Rare"]["groups"] == 1 and rows["Rare"]["kind"] == "component"
    assert found["not_evaluable"] == {"Rare": "no photo in val and test: 1 group(s) carry it"}
    assert found["crossing"]["groups"] == found["crossing"]["near_duplicate_pairs"] == 0
    json.dumps(found)


def test_deviations_are_those_of_the_counts():
    found, _ = certified(made())
    apart = {
        (row["label"], name): abs(row[name] / sum(row[n] for n in SPLITS) - SHARES[name])
        for row in found["labels"]
        for name in SPLITS
    }
    worst = found["deviation"]["worst_label"], found["deviation"]["worst_split"]
    assert found["deviation"]["worst"] == pytest.approx(max(apart.values()), abs=1e-6)
    assert apart[worst] == pytest.approx(max(apart.values()))
    assert found["deviation"]["mean"] == pytest.approx(sum(apart.values()) / len(apart), abs=1e-6)


def test_near_duplicates_stay_together_and_the_closest_pair_that_is_left_is_named():
    records = made()
    base = records[0].phash
    records += [record(200 + i, phash=base ^ (1 << i)) for i in range(6)]
    records += [record(300, phash=base ^ 0b1111110000000), record(301, digest="d0")]
    found, splits = certified(records)
    split_of = where(splits)
    assert len({split_of[f"p{i}"] for i in (200, 201, 202, 203, 204, 205)} | {split_of["p000"]}) == 1
    assert split_of["p301"] == split_of["p000"]
    assert found["near_duplicates"]["pairs"] >= 6 and found["crossing"]["near_duplicate_pairs"] == 0
    assert 4 < found["closest"]["distance"] < 64
    one, other = found["closest"]["photos"]
    assert one["split"] != other["split"] and split_of[one["path"][:4]] == one["split"]


def test_what_crosses_a_given_split_is_counted():
    records = made()
    records[1] = replace(records[1], phash=records[0].phash ^ 1, group="other")
    records[3] = replace(records[3], digest=records[2].digest, group="another")
    given = {r.id: "train" for r in records}
    given |= {"p001": "test", "p003": "val", "p004": "test", "p010": "val"}
    found, splits = certified(records, given)
    assert where(splits) == given and found["given"]
    assert found["crossing"]["groups"] == 2  # of p004 and p005, p010 and p011
    assert found["crossing"]["identical_photos"] == 1
    assert found["crossing"]["near_duplicate_pairs"] == 1
    pair = found["crossing"]["examples"]["near_duplicate_pairs"][0]
    assert pair == [{"path": "p000.jpg", "split": "train"}, {"path": "p001.jpg", "split": "test"}]


def test_photos_without_contrast_are_counted_and_join_nothing():
    records = [replace(r, phash=None) if i % 4 == 0 else r for i, r in enumerate(made(80))]
    found, _ = certified(records)
    assert found["near_duplicates"]["without_contrast"] == 20
    assert found["near_duplicates"]["groups_joined"] == found["near_duplicates"]["groups_of_the_user"] == 40


def test_without_near_duplicates_only_identical_photos_are_joined():
    records = made(40)
    records[3] = replace(records[3], phash=records[0].phash)
    assert len(set(link_records(records, None).groups)) == 20
    assert len(set(link_records(records, 0).groups)) == 19


def test_the_folds_of_a_cross_validation_test_every_photo_once():
    records = made()
    records += [record(200, "A", "X", phash=0b101), record(201, "A", "X", digest="d0")]
    linked, tested = link_records(records, 4), []
    for fold in range(5):
        splits = split_records(linked, SHARES, 0, fold=(fold, 5))
        groups = [{r.group for r in splits[name]} for name in SPLITS]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
        assert any("Rare" in r.labels["component"] for r in splits["train"])
        share = len(splits["val"]) / (len(splits["val"]) + len(splits["train"]))
        assert share == pytest.approx(0.15 / 0.85, abs=0.03)
        tested += [r.id for r in splits["test"]]
    assert len(tested) == len(set(tested)) == 120  # but for the one group that alone carries a label
    folds = split_folds(linked, 5, 0)
    assert set(folds.tolist()) == set(range(5)) and len(set(linked.groups[[0, 120, 121]])) == 1
    assert all(len(set(folds[linked.groups == group])) == 1 for group in linked.groups)


@pytest.mark.parametrize("seed", range(20))
def test_no_fold_tests_all_photos_of_a_label(seed):
    rng = np.random.default_rng(seed)
    names = [["plain"] for _ in range(60)]
    for label in range(12):
        for photo in rng.choice(10, 2, replace=False):
            names[photo].append(f"d{label}")
    records = [replace(record(i), labels={"defect": tuple(found)}) for i, found in enumerate(names)]
    for fold in range(5):
        splits = split_records(link_records(records, None), SHARES, seed, fold=(fold, 5))
        assert len({name for r in splits["train"] for name in r.labels["defect"]}) == 13


def test_the_certificate_of_a_fold_knows_what_was_asked(tmp_path):
    root = make_folders(tmp_path / "photos", each=4)
    options = {"task": "dual_head", "preprocess": {}, "splits": SHARES, "root": str(root)}
    module = FolderDataModule(**options, folds=4, fold=1)
    module.setup()
    assert not module.certificate["given"]
    assert module.certificate["asked"] == pytest.approx({"train": 0.617647, "val": 0.132353, "test": 0.25})
    whole = FolderDataModule(**options)
    whole.setup()
    assert whole.certificate["asked"] == SHARES and not whole.certificate["given"]


def test_a_group_of_more_than_half_the_photos_is_said(caplog):
    records = [record(i, "AB"[i % 2], group="big" if i < 60 else None) for i in range(100)]
    certified(records)
    assert "One group holds 60 of 100 photos (big) and stays in one split" in caplog.text
