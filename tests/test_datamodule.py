import logging
import pickle
from collections import Counter
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from src.datamodules import inspection, record_datamodule
from src.datamodules.dataset import LostPhoto
from src.datamodules.folders import FolderDataModule
from src.datamodules.records import Record
from src.datamodules.split_figures import Weighting, class_weights, label_table, pair_table
from src.datamodules.table import TableDataModule
from src.errors import InputError
from src.labels import LabelSpace
from tests.made import run_script
from tests.test_splits import SHARES, where

COMMON = {
    "preprocess": {"image_size": [8, 10]},
    "splits": SHARES,
    "healthy": ["Intact"],
    "batch_size": 4,
    "num_workers": 0,
    "seed": 3,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_tree):
    """Four folders of ten photos, two photos of each asset."""
    folders = ("Pipe_Leaks", "Pipe_Intact", "Wall_Leaks", "Wall_Crack")
    paths = [f"{f}/A{10 * j + i // 2}_{i}.jpg" for j, f in enumerate(folders) for i in range(10)]
    return make_tree(tmp_path_factory.mktemp("photos"), *paths)


def folders(root, task="dual_head", **options):
    module = FolderDataModule(root=str(root), task=task, **COMMON | {"group": r"^(A\d+)_"} | options)
    module.setup()
    return module


def table(root, text, task="multilabel", **options):
    (root / "t.csv").write_text(text)
    module = TableDataModule(csv=str(root / "t.csv"), task=task, **COMMON | options)
    module.setup()
    return module


def test_explore_and_training_read_a_photo_once(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    assert run_script(monkeypatch, "explore", f"data.root={root}", cache, "output=seen") == 0
    monkeypatch.setattr(inspection, "inspect_photo", None)
    assert folders(root, cache_dir=str(tmp_path / "cache")).splits["train"]
    assert run_script(monkeypatch, "explore", f"data.root={root}", cache, "output=again") == 0
    seen, again = (next((tmp_path / name).glob("*.json")).read_text() for name in ("seen", "again"))
    assert seen == again


def test_batches_are_uint8_with_target_and_index(root):
    module = folders(root)
    assert module.labels.as_dict() == {"component": ["Pipe", "Wall"], "defect": ["Crack", "Intact", "Leaks"]}
    batch = next(iter(module.train_dataloader()))
    assert set(batch) == {"image", "target", "index"}
    assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (4, 3, 8, 10)
    assert batch["target"].dtype == torch.int64 and batch["target"].shape == (4, 2)
    for target, index in zip(batch["target"], batch["index"], strict=True):
        wanted = module.splits["train"][index].labels
        assert module.labels.kinds["component"][target[0]] == wanted["component"][0]
        assert module.labels.kinds["defect"][target[1]] == wanted["defect"][0]


def test_folders_feed_multilabel_with_healthy_as_nothing_wrong(root):
    module = folders(root, "multilabel")
    assert module.labels.as_dict() == {"component": ["Pipe", "Wall"], "defect": ["Crack", "Leaks"]}
    targets = module.dataset("train").targets
    healthy = ["Intact" in r.path for r in module.splits["train"]]
    assert targets.dtype == torch.float32 and any(healthy)
    assert (targets[healthy] == torch.tensor([1.0, 0, 0, 0])).all()


def test_evaluation_keeps_the_order_and_the_pixels(root):
    module = folders(root)
    batches = list(module.val_dataloader())
    assert torch.cat([b["index"] for b in batches]).tolist() == list(range(len(module.splits["val"])))
    first = module.splits["val"][0]
    expected = module.preprocess(module.root / first.path)
    assert np.array_equal(batches[0]["image"][0].permute(1, 2, 0).numpy(), expected)


def epochs(module, workers, wanted):
    module.num_workers = workers
    loader = module.train_dataloader()
    seen = {}
    for epoch in wanted:
        loader.sampler.set_epoch(epoch)
        seen[epoch] = [(b["index"].tolist(), b["image"]) for b in loader]
    return seen


def same(a, b):
    return [i for i, _ in a] == [i for i, _ in b] and all(
        torch.equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("preset", ["light", "color", "randaugment", "trivial"])
def test_order_and_augmentation_depend_on_seed_epoch_and_index_only(root, preset):
    module = folders(root, augment={"preset": preset, "horizontal_flip": 0.5, "rotation": 10.0})
    alone = epochs(module, 0, (0, 1, 2))
    torch.manual_seed(99)
    assert same(alone[2], epochs(module, 0, (2,))[2])
    workers = epochs(module, 2, (1, 2))
    assert same(alone[1], workers[1]) and same(alone[2], workers[2])
    assert not same(alone[1], alone[2])
    assert sorted(i for index, _ in alone[1] for i in index) == list(range(len(module.splits["train"])))
    assert not same(alone[1], epochs(folders(root, seed=4, augment={"rotation": 10.0}), 0, (1,))[1])


def test_balanced_batches_show_rare_labels_as_often_as_frequent_ones(root):
    module = folders(root, balanced=True, class_weights=None)
    train = module.splits["train"]
    rare = [i for i, r in enumerate(train) if r.labels["defect"] == ("Leaks",)][:2]
    module.splits["train"] = [r for i, r in enumerate(train) if r.labels["defect"] != ("Leaks",) or i in rare]
    names = [r.labels["defect"][0] for r in module.splits["train"]]
    drawn = epochs(module, 0, range(40))
    seen = Counter(names[i] for batches in drawn.values() for index, _ in batches for i in index)
    assert names.count("Leaks") / len(names) < 0.2 and seen["Leaks"] / seen.total() == pytest.approx(
        1 / 3, abs=0.06
    )
    again = epochs(module, 0, (3,))
    assert same(again[3], drawn[3])
    with pytest.raises(InputError, match="set that to null"):
        folders(root, balanced=True, class_weights={"sqrt": True})


def test_views_leave_the_random_generator_alone(root):
    dataset = folders(root, augment={"horizontal_flip": 0.5, "rotation": 10.0}).dataset("train")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for index in range(8):
        dataset[0, index]
    assert torch.equal(torch.rand(3), expected)


def test_loaders_stay_pinned_persistent_and_without_a_last_batch_of_one(root):
    module = folders(root, num_workers=2)
    count = len(module.splits["train"])
    module.batch_size = next(n for n in range(2, count) if count % n == 1)
    loader = module.train_dataloader()
    assert loader.persistent_workers and loader.pin_memory == torch.cuda.is_available()
    assert len(loader) == count // module.batch_size and len(loader.sampler) == count - 1
    module.batch_size, module.num_workers = len(module.splits["val"]) - 1, 0
    loader = module.val_dataloader()
    assert len(loader) == 2 and not loader.persistent_workers


@pytest.mark.parametrize(
    ("device", "allowed", "paid", "processes", "devices", "wanted"),
    [("cpu", 12, None, 1, 1, 4), ("cuda", 128, None, 1, 8, 16), ("cuda", 64, None, 1, 8, 8),
     ("cuda", 12, None, 1, 20, 1), ("cuda", 16, None, 4, 4, 16), ("cuda", 16, None, "torchrun", 4, 4),
     ("cuda", 64, 8, 1, 4, 2), ("cuda", 64, 8, 4, 4, 2), ("cuda", 64, 2, 4, 4, 1), ("cuda", 4, 8, 1, 1, 4)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_cores_are_shared_out_once(root, monkeypatch, device, allowed, paid, processes, devices, wanted):
    """Among the GPUs of a process that srun or torchrun started, within the container's time."""
    monkeypatch.delenv("RANK", raising=False)
    if processes == "torchrun":
        monkeypatch.setenv("RANK", "0")
        processes = devices
    for name, value in {"allowed_cores": allowed, "quota": paid, "launched": processes, "cores": 12}.items():
        monkeypatch.setattr(record_datamodule, name, lambda value=value: value)
    monkeypatch.setattr(record_datamodule.os, "cpu_count", lambda: 128)
    data = folders(root, num_workers=None)
    strategy = Mock(root_device=torch.device(device))
    data.trainer = Mock(global_rank=0, world_size=1, num_devices=devices, strategy=strategy)
    assert data.train_dataloader().num_workers == wanted
    data.num_workers = 0
    assert data.train_dataloader().num_workers == 0


def test_workers_can_be_spawned(root):
    dataset = folders(root, augment={"rotation": 10.0}).dataset("train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[1, 2]["image"], dataset[1, 2]["image"])
    loader = DataLoader(dataset, 2, sampler=[(0, 0), (0, 1)], num_workers=1, multiprocessing_context="spawn")
    (batch,) = loader
    assert torch.equal(batch["image"][1], dataset[0, 1]["image"])


def test_a_photo_lost_in_the_middle_is_one_line(make_tree, tmp_path):
    make_tree(tmp_path, *(f"{f}/{i}.jpg" for f in ("A_X", "B_Y") for i in range(5)))
    module = folders(tmp_path, group=None, num_workers=1)
    lost = tmp_path / module.splits["val"][0].path
    lost.unlink()
    with pytest.raises(LostPhoto) as caught:
        list(module.val_dataloader())
    assert str(caught.value) == f"{lost} cannot be read any more: no such file"


def test_a_missing_kind_is_minus_one(make_tree, tmp_path):
    make_tree(tmp_path, *(f"{i}.jpg" for i in range(12)))
    rows = "".join(f"{i},{'Pipe' if i % 2 else 'Wall'},{('', 'Leaks', 'Crack')[i % 3]}\n" for i in range(12))
    module = table(tmp_path, f"ID,component,defect\n{rows}", "dual_head")
    targets = module.dataset("train").targets
    for r, (_, defect) in zip(module.splits["train"], targets.tolist(), strict=True):
        assert (defect == -1) == (not r.labels["defect"])
    assert (targets[:, 1] == -1).any()


def test_several_labels_of_a_kind(make_tree, tmp_path, caplog):
    make_tree(tmp_path, *(f"{i}.jpg" for i in range(12)))
    rows = "".join(f"{i},{'ok' if i % 2 else 'bad'}\n" for i in range(11)) + "11,bad;ok\n"
    text = f"ID,label\n{rows}"
    with pytest.raises(InputError, match=r"1 photos have .*11 \(bad\+ok\).*=multilabel, or data.multiple="):
        table(tmp_path, text, "multiclass")
    first = where(table(tmp_path, text, "multiclass", multiple="first").splits)
    assert len(first) == 12
    assert set(first) - set(where(table(tmp_path, text, "multiclass", multiple="drop").splits)) == {"11"}
    assert "Left out 1 photos with several labels" in caplog.text
    assert len(where(table(tmp_path, text, "multilabel").splits)) == 12


@pytest.mark.parametrize("kind", ["run", "id", "path"])
def test_a_frozen_split_is_used_again(root, tmp_path, kind, caplog):
    module = folders(root, splits={"train": 0.5, "val": 0.3, "test": 0.2})
    module.write_metadata(tmp_path)
    first = module.splits["val"][0]
    asset, kinds = (
        first.path.split("/")[1].split("_")[0],
        (first.labels["component"][0], first.labels["defect"][0]),
    )
    lines = (tmp_path / "val_metadata.csv").read_text().splitlines()
    assert lines[0] == "ID,path,group,component,defect"
    assert lines[1] == ",".join((first.id, first.path, asset, *kinds))
    split_file = tmp_path
    if kind != "run":
        split_file = tmp_path / "split.csv"
        pairs = [f"{getattr(r, kind)},{name}\n" for name, records in module.splits.items() for r in records]
        split_file.write_text("ID,split\n" + "".join(pairs))
    again = folders(root, split_file=str(split_file), seed=77)
    assert where(again.splits) == where(module.splits) and again.split_hash == module.split_hash
    assert again.certificate["given"] and again.certificate["asked"] != SHARES
    assert not caplog.text


def test_a_split_file_and_photos_that_differ(root, tmp_path, caplog):
    module = folders(root)
    lines = [f"{id_},{split}" for id_, split in where(module.splits).items()]
    (tmp_path / "s.csv").write_text("\n".join(["ID,split", *lines[1:], "gone,train"]))
    again = folders(root, split_file=str(tmp_path / "s.csv"))
    assert len(where(again.splits)) == 39
    assert "Left out 1 photos that the split file does not name" in caplog.text
    assert "1 rows of the split file have no photo now: gone" in caplog.text
    (tmp_path / "s.csv").write_text("ID,split\nother,train\n")
    with pytest.raises(InputError, match="none of its 1 IDs"):
        folders(root, split_file=str(tmp_path / "s.csv"))


@pytest.mark.parametrize(
    ("task", "names", "message"),
    [
        ("multiclass", ("A",), "only one label, 'A'"),
        ("dual_head", ("A_X", "B_X"), "only one defect, 'X'"),
        ("multilabel", ("A_X",), r"every training photo carries the same labels \(A, X\)"),
        ("multilabel", ("A_Intact",), r"every training photo carries the same labels \(A\)"),
    ],
)
def test_labels_that_cannot_be_learned(make_tree, tmp_path, task, names, message):
    with pytest.raises(InputError, match=message):
        folders(make_tree(tmp_path, *(f"{n}/{i}.jpg" for n in names for i in range(6))), task, group=None)


def test_copies_are_reported_and_stay_together(make_tree, tmp_path, caplog):
    make_tree(tmp_path, *(f"{f}/{i}.jpg" for f in ("A_X", "B_Y") for i in range(8)))
    for i in range(6):
        (tmp_path / "B_Y" / f"copy{i}.jpg").write_bytes((tmp_path / "A_X" / f"{i}.jpg").read_bytes())
    with caplog.at_level(logging.INFO):
        split = where(folders(tmp_path, group=None).splits)
    assert all(split[f"B_Y/copy{i}"] == split[f"A_X/{i}"] for i in range(6))
    assert "6 photos are byte-identical copies" in caplog.text
    assert "12 photos have byte-identical copies" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "multilable"}, "task=multilable: did you mean 'multilabel'"),
        ({"multiple": "frist"}, "data.multiple=frist: did you mean 'first'"),
        ({"batch_size": 0}, "data.batch_size=0: needs a number from 1 on"),
        ({"augment": {"rotaton": 3}}, "unknown key 'data.augment.rotaton': did you mean 'rotation'"),
        ({"augment": {"horizontal_flip": 2}}, "data.augment.horizontal_flip=2"),
        ({"class_weights": {"sqr": True}}, "unknown key 'data.class_weights.sqr': did you mean 'sqrt'"),
        ({"preprocess": {"image_sise": 3}}, "unknown key 'preprocess.image_sise': did you mean 'image_size'"),
        ({"task": "multiclass", "components": ["A"]}, "model=multiclass has one kind"),
        ({"root": None}, "data.root is not set"),
        ({"separator": ""}, "data.separator is empty"),
        ({"near_duplicates": 12}, "needs a number from 0 to 7"),
        ({"fold": 2}, "data.fold=2 needs data.folds"),
        ({"folds": 3, "fold": 3}, "data.fold=3: from 0 to 2"),
        ({"folds": 3, "split_file": "a.csv"}, "leave out data.split_file"),
        ({"cache": "image"}, "did you mean 'images'"),
        ({"cache": "images", "cache_dir": None}, "data.cache=images needs a folder"),
        ({"views": 0}, "data.views=0: needs a number from 1 on"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(InputError, match=message):
        FolderDataModule(**{"root": "x", "task": "dual_head", **COMMON, **options})


SPACE = LabelSpace({"component": ("A", "B"), "defect": ("X", "Y", "Z")})


def pairs(*names):
    """Records of a component, `-` for none, and defects, a letter each."""
    kinds = [{"component": tuple(name[0].strip("-")), "defect": tuple(name[1:])} for name in names]
    return [Record(str(i), f"{i}.jpg", labels) for i, labels in enumerate(kinds)]


def test_class_weights_of_heads_are_inverse_frequencies():
    weights = class_weights(pairs("AX", "AX", "AY", "BZ", "-X"), SPACE, False, Weighting())
    assert weights["component"] == pytest.approx([4 / 6, 2], abs=1e-6)
    assert weights["defect"] == pytest.approx([5 / 9, 5 / 3, 5 / 3], abs=1e-6)


def test_class_weights_of_labels_are_negatives_over_positives():
    records = pairs(*["AX"] * 90, *["BY"] * 9, "BZ")
    plain = class_weights(records, SPACE, True, Weighting())
    assert plain["component"] == pytest.approx([1 / 9, 9], abs=1e-6)
    assert plain["defect"] == pytest.approx([1 / 9, 91 / 9, 99], abs=1e-6)
    clipped = class_weights(records, SPACE, True, Weighting(sqrt=True, clip=[1, 8]))
    assert clipped == {"component": [1, 3], "defect": pytest.approx([1, (91 / 9) ** 0.5, 8], abs=1e-6)}
    with pytest.raises(InputError, match="clip"):
        class_weights(records, SPACE, True, Weighting(clip=[3, 1]))


def test_class_weights_come_from_train_and_may_be_off(root, caplog):
    assert folders(root, class_weights=None).class_weights() is None
    module = folders(root, "multilabel", class_weights={"sqrt": True, "clip": [1.0, 20.0]})
    wanted = class_weights(module.splits["train"], module.labels, True, Weighting(True, [1.0, 20.0]))
    assert module.class_weights() == wanted
    with caplog.at_level(logging.INFO):
        module.log_tables()
    assert "weight" in caplog.text and "train %" in caplog.text and "Pairs:" in caplog.text


def test_tables_count_labels_and_pairs_per_split():
    splits = {"train": pairs("AX", "AXY", "B"), "val": pairs("AX"), "test": []}
    counts = label_table(splits, SPACE).set_index("label")
    assert counts.loc["A"].tolist() == ["component", 2, 66.7, 1, 100.0, 0, 0.0]
    rows = pair_table(splits, SPACE).set_index(["component", "defect"])
    assert rows["train"].to_dict() == {("A", "X"): 2, ("A", "Y"): 1, ("B", "(none)"): 1}
    assert rows.loc[("A", "X"), "train %"] == 66.7
