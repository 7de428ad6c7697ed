import hashlib
import random

import numpy as np
import pytest

from src.datamodules.groups import assign_groups, link_records
from src.datamodules.records import Record, Source
from src.datamodules.split_file import split_by_file
from src.datamodules.splits import SPLITS, data_hash, split_hash
from src.datamodules.splits import split_records as split_linked
from src.errors import InputError

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def split_records(records, *arguments, **options):
    return split_linked(link_records(records, None), *arguments, **options)


def record(id_, labels=("x",), group=None, digest=None):
    content = hashlib.md5(id_.encode()).hexdigest()[:16] if digest is None else digest
    return Record(id_, f"{id_}.jpg", {"label": tuple(labels)}, group or id_, content)


def made(count, seed=0, largest=4, labels=8):
    """Make records in groups of 1 to `largest`, with labels from frequent to rare."""
    rng = np.random.default_rng(seed)
    chance = np.geomspace(0.6, 2 / count, labels)
    records, group = [], 0
    while len(records) < count:
        base = rng.random(labels) < chance
        for _ in range(int(rng.integers(1, largest + 1))):
            names = [f"L{i}" for i in np.flatnonzero(base ^ (rng.random(labels) < chance / 5))]
            records.append(record(f"p{len(records):05d}", names, f"g{group}"))
        group += 1
    return records


def where(splits):
    return {r.id: name for name, records in splits.items() for r in records}


def groups_with(records, name):
    return {r.group for r in records if name in r.labels["label"]}


@pytest.mark.parametrize("seed", range(6))
def test_groups_and_identical_photos_stay_in_one_split(seed):
    records = made(300, seed)
    rng = random.Random(seed)
    records = [record(r.id, r.labels["label"], r.group, f"d{rng.randrange(250)}") for r in records]
    splits = split_records(records, SHARES, seed)
    assert sorted(where(splits)) == [r.id for r in records]
    for key in ("group", "digest"):
        held = [{getattr(r, key) for r in splits[name]} for name in SPLITS]
        assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])


@pytest.mark.parametrize("seed", range(6))
def test_shares_are_kept_for_photos_and_every_frequent_label(seed):
    records = made(2000, seed)
    splits = split_records(records, SHARES, seed)
    labels = {n for r in records for n in r.labels["label"]}
    for name, share in SHARES.items():
        assert len(splits[name]) / len(records) == pytest.approx(share, abs=0.01)
        for label in (label for label in labels if len(groups_with(records, label)) >= 50):
            part, whole = (sum(label in r.labels["label"] for r in some) for some in (splits[name], records))
            assert part / whole == pytest.approx(share, abs=0.02), (label, name)


@pytest.mark.parametrize("seed", range(20))
def test_rare_labels_stand_in_train_first_and_with_three_groups_everywhere(seed):
    records = made(200, seed, largest=5, labels=20)
    splits = split_records(records, SHARES, seed)
    for label in {n for r in records for n in r.labels["label"]}:
        carrying = groups_with(records, label)
        held = {name for name in SPLITS if groups_with(splits[name], label)}
        assert "train" in held, label
        if len(carrying) >= 3:
            assert held == set(SPLITS), label


def test_one_group_of_a_label_is_trained_on_even_if_it_is_large():
    big = [record(f"big{i}", ["big"], "G") for i in range(80)]
    splits = split_records([*big, *(record(f"s{i}", ["small"]) for i in range(20))], SHARES, 0)
    assert set(where(splits).items()) >= {(r.id, "train") for r in big}
    assert splits["val"] and splits["test"]


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    records = made(300)
    straight = split_records(records, SHARES, 5)
    shuffled = random.Random(0).sample(records, len(records))
    assert split_records(shuffled, SHARES, 5) == straight == split_records(records, SHARES, 5)
    assert where(split_records(records, SHARES, 6)) != where(straight)
    assert split_hash(straight) == split_hash({name: r[::-1] for name, r in straight.items()})
    assert data_hash(shuffled) == data_hash(records) and len(data_hash(records)) == 16


def test_hashes_depend_on_ids_labels_contents_and_splits():
    records = [record("a", ["x", "y"]), record("b")]
    assert data_hash(records) == data_hash([record("b"), record("a", ["y", "x"])])
    for other in (record("a", ["x"]), record("c", ["x", "y"]), record("a", ["x", "y"], digest="other")):
        assert data_hash([other, record("b")]) != data_hash(records)
    assert split_hash({"train": records}) != split_hash({"train": records[:1], "val": records[1:]})


@pytest.mark.parametrize(
    ("records", "shares", "message"),
    [
        ([record("a", group="g"), record("b", group="g")], SHARES, r"2 photos in 1 group\(s\) are too few"),
        ([record("a", digest="d"), record("b", digest="d")], SHARES, r"2 photos in 1 group\(s\) are too few"),
        ([record("a")], SHARES, "1 photos in 1 group"),
        ([], SHARES, "no photo is left to split"),
        ([record("a")], {"train": 0.7, "vall": 0.3}, "unknown split 'vall': did you mean 'val'"),
        ([record("a")], {"train": 1.0}, "train and val need a share above 0"),
        ([record("a")], {"train": 0.9, "val": 0.3, "test": -0.2}, "train and val need a share"),
    ],
)
def test_what_cannot_be_split_is_one_line(records, shares, message):
    with pytest.raises(InputError, match=message):
        split_records(records, shares, 0)


def test_three_photos_are_enough_and_a_split_may_be_left_out():
    splits = split_records([record(name) for name in "abc"], SHARES, 0)
    assert [len(splits[name]) for name in SPLITS] == [1, 1, 1]
    splits = split_records([record(f"p{i}") for i in range(20)], {"train": 80, "val": 20}, 0)
    assert [len(splits[name]) for name in SPLITS] == [16, 4, 0]
    unlabelled = [record(f"p{i}", []) for i in range(20)] + [record(f"q{i}") for i in range(20)]
    assert sum(not r.labels["label"] for r in split_records(unlabelled, SHARES, 0)["train"]) == 14


def test_a_given_split_is_never_altered_and_crossing_groups_are_reported(caplog):
    records = made(60)
    given = {r.id: SPLITS[i % 3] for i, r in enumerate(records)}
    assert where(split_records(records, SHARES, 0, given)) == given
    assert "LEAK" in caplog.text and "several of the given splits" in caplog.text
    caplog.clear()
    kept = {r.id: SPLITS[int(r.group[1:]) % 3] for r in records}
    assert where(split_records(records, SHARES, 0, kept)) == kept and "LEAK" not in caplog.text


def test_only_what_a_given_split_lacks_is_taken_from_train(caplog):
    records = made(300)
    given = {r.id: "test" if int(r.group[1:]) % 4 == 0 else "train" for r in records}
    splits = split_records(records, SHARES, 0, given)
    assert {r.id for r in splits["test"]} == {id_ for id_, name in given.items() if name == "test"}
    assert not {r.group for r in splits["val"]} & {r.group for r in splits["train"]}
    left = len(splits["val"]) + len(splits["train"])
    assert len(splits["val"]) / left == pytest.approx(0.15 / 0.85, abs=0.03)
    assert "no val: taken from its train photos" in caplog.text
    with pytest.raises(InputError, match="no train photos"):
        split_records(records, SHARES, 0, dict.fromkeys(given, "test"))


def splits_in(path):
    records = [Record(name, f"{name}.jpg", {}) for name in "abcd"]
    return split_by_file(path, path.parent, records, [])[1]


def test_split_files(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("ID;split\n a ;Train\nb;valid\nc;test\n")
    assert splits_in(path) == {"a": "train", "b": "val", "c": "test"}
    for name, rows in {"train": "a,a.jpg\nd,d.jpg\n", "val": "b,b.jpg\n", "test": ""}.items():
        (tmp_path / f"{name}_metadata.csv").write_text(f"ID,path\n{rows}")
    assert splits_in(tmp_path) == {"a": "train", "d": "train", "b": "val"}
    (tmp_path / "val_metadata.csv").write_text("ID,path\na,a.jpg\n")
    with pytest.raises(InputError, match="IDs in two splits: a"):
        splits_in(tmp_path)
    (tmp_path / "train_metadata.csv").unlink()
    for gone in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(InputError, match=r"data.split_file=.*(gone|train_metadata).csv: no such file"):
            splits_in(gone)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,split\na,train\nb,vall\n", "row 3: unknown split 'vall': did you mean 'val'"),
        ("ID,split\na,train\n\na,val\n", r"IDs in two splits: a \(row 2 train, row 4 val\)"),
        ("ID,part\na,train\n", "no column 'split': it has"),
        ("Nr,split\na,train\n", "no column 'ID': it has"),
    ],
)
def test_bad_split_files_are_one_line(tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        splits_in(tmp_path / "s.csv")


def named(*names):
    return Source(None, [Record(f"id/{n}", f"s/{n}.jpg", {}) for n in names])


def groups_of(source, group):
    return [r.group for r in assign_groups(source, group)]


def test_group_by_the_first_capture_that_is_not_empty(caplog):
    assert groups_of(named("a1_x", "a1_y"), None) == ["id/a1_x", "id/a1_y"]
    source = named("a1_x", "a1_y", "zzz", "_q")
    assert groups_of(source, r"^(a\d)?_?|(q)") == ["a1", "a1", "id/zzz", "id/_q"]
    assert "2 of 4 photos; the others are groups of their own" in caplog.text
    assert groups_of(named("b_7", "c-7"), r"b_(\d)|c-(\d)\.jpg$") == ["7", "7"]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (r"^a\d", "neither a column nor a regular expression with a capture"),
        ("(a", "not a regular expression"),
        (r"^(b\d)", "names no group, for example in a1_x.jpg, a1_y.jpg, zzz.jpg"),
    ],
)
def test_bad_groups_are_one_line(group, message):
    with pytest.raises(InputError, match=message):
        groups_of(named("a1_x", "a1_y", "zzz", "more"), group)


def test_group_by_a_column(caplog):
    source = named("a", "b", "c", "d", "e")
    source.rows = ["id/a", "id/b", "id/b", "", "id/c", "id/d", "id/e"]
    source.columns = {"asset": [" S1 ", "", "S1", "S9", "nan", "S2", "S2"]}
    assert groups_of(source, "asset") == ["S1", "S1", "id/c", "S2", "S2"]
    assert "4 of 5 photos" in caplog.text
    with pytest.raises(InputError, match="did you mean 'asset'"):
        groups_of(source, "aset")
    source.columns = {"name": ["S1-a", "", "S1-b", "S9-a", "x", "S2-a", "S2-b"]}
    assert groups_of(source, r"name:^(S\d)-") == ["S1", "S1", "id/c", "S2", "S2"]
    for wrong, message in (("name:^S", "with a capture"), ("name:^(Q)", "names no group")):
        with pytest.raises(InputError, match=message):
            groups_of(source, wrong)
    source.columns = {"asset": ["", "", "", "S1", "nan", "", ""]}
    with pytest.raises(InputError, match="'asset' names no group"):
        groups_of(source, "asset")


def test_a_photo_of_two_groups_joins_them(caplog):
    source = named("a", "b", "c")
    source.rows, source.columns = ["id/a", "id/b", "id/b", "id/c"], {"asset": ["S1", "S1", "S2", "S2"]}
    assert groups_of(source, "asset") == ["S1", "S1", "S1"]
    assert "join their groups into one: S1 + S2" in caplog.text
