import os
import random
import shutil
import unicodedata

import pytest

from src.datamodules.folders import FolderDataModule, parse_pair
from src.datamodules.records import list_photos
from src.errors import InputError
from tests.made import told

COMPONENTS = ["Grout Hole", "Centre Support", "Centre Support-Bolt", "Channel Bracket"]
DEFECTS = ["Corrosion-Heavy", "Heavy", "Missing", "Partially_Missing", "Loose"]


def read(root, task="dual_head", **options):
    common = {"preprocess": {}, "splits": {}, "healthy": ["Intact"]}
    return FolderDataModule(root=str(root), task=task, **common, **options).read()


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("Grout Hole-Corrosion-Heavy", ("Grout Hole", "Corrosion-Heavy")),
        ("Grout Hole_Corrosion-Heavy", ("Grout Hole", "Corrosion-Heavy")),
        ("Grout Hole - Heavy", ("Grout Hole", "Heavy")),
        ("Centre Support-Bolt_Missing", ("Centre Support-Bolt", "Missing")),
        ("Centre Support_Missing", ("Centre Support", "Missing")),
        ("Channel Bracket_Partially_Missing", ("Channel Bracket", "Partially_Missing")),
        (" Channel Bracket_Loose ", ("Channel Bracket", "Loose")),
        ("Channel Bracket++Loose", ("Channel Bracket", "Loose")),
        ("Channel BracketLoose", None),
        ("Channel Bracket_Rusty", None),
    ],
)
def test_parse_with_both_vocabularies(name, pair):
    separator = "++" if "++" in name else "_"
    assert parse_pair(name, separator, COMPONENTS, DEFECTS) == pair
    assert parse_pair(name, separator, COMPONENTS[::-1], DEFECTS[::-1]) == pair


def test_parse_with_one_vocabulary_leaves_the_rest_to_the_other_kind():
    assert parse_pair("Grout Hole-Corrosion-Heavy", "_", COMPONENTS) == ("Grout Hole", "Corrosion-Heavy")
    assert parse_pair("Centre Support-Bolt_X_Y", "_", COMPONENTS) == ("Centre Support-Bolt", "X_Y")
    assert parse_pair("Any-Part-Corrosion-Heavy", "_", (), DEFECTS) == ("Any-Part", "Corrosion-Heavy")
    assert parse_pair("Any Part_Loose", "_", (), DEFECTS) == ("Any Part", "Loose")
    assert parse_pair("_Loose", "_", (), DEFECTS) is None
    assert parse_pair("Grout Hole_", "_", COMPONENTS) is None


@pytest.mark.parametrize(
    ("name", "separator", "pair"),
    [
        ("Channel Bracket_Corrosion-Heavy", "_", ("Channel Bracket", "Corrosion-Heavy")),
        ("A_B_C", "_", ("A_B", "C")),
        ("A__B", "__", ("A", "B")),
        ("A - B - C", " - ", ("A - B", "C")),
        ("A-B", "_", None),
        ("_B", "_", None),
    ],
)
def test_parse_without_vocabulary_cuts_at_the_last_separator(name, separator, pair):
    assert parse_pair(name, separator) == pair


def test_healthy_labels_belong_to_the_known_defects(make_tree, tmp_path):
    root = make_tree(tmp_path / "p", "Grout Hole-Intact/a.jpg", "Grout Hole-Heavy/a.jpg")
    labels = [r.labels for r in read(root, components=COMPONENTS, defects=DEFECTS).records]
    assert [label["defect"] for label in labels] == [("Heavy",), ("Intact",)]


def test_unparsed_folders_are_listed_with_counts_or_refused(make_tree, tmp_path):
    root = make_tree(tmp_path / "p", "A_B/1.jpg", "Mixed/1.jpg", "Mixed/deep/2.jpg", "old stuff/1.jpg")
    source = read(root)
    assert [r.path for r in source.records] == ["A_B/1.jpg"]
    assert "2 folders do not parse" in told(source)
    assert "'Mixed' (2 photos), 'old stuff' (1 photos)" in told(source)
    shutil.rmtree(root / "A_B")
    with pytest.raises(InputError, match=r"2 folders do not parse .*model=multiclass"):
        read(root)


@pytest.mark.parametrize(
    "tops",
    [
        {"train": "train", "val": "val", "test": "test"},
        {"Train": "train", "VALID": "val", "Testing": "test"},
        {"training": "train", "validation": "val"},
        {"train": "train"},
    ],
)
def test_a_tree_that_is_split_already_is_kept(make_tree, tmp_path, tops):
    root = make_tree(tmp_path / "p", *(f"{top}/A_B/{i}.jpg" for top in tops for i in range(2)))
    source = read(root)
    assert source.given == {f"{top}/A_B/{i}": split for top, split in tops.items() for i in range(2)}
    assert all(r.labels == {"component": ("A",), "defect": ("B",)} for r in source.records)


def test_photos_beside_the_splits_are_reported(make_tree, tmp_path):
    root = make_tree(tmp_path / "p", "train/A_B/1.jpg", "test/A_B/1.jpg", "extra/A_B/1.jpg", "test/loose.jpg")
    source = read(root)
    assert len(source.records) == 2
    assert "Left out 2 photos that lie in no label's folder: extra/A_B/1.jpg, test/loose.jpg" in told(source)


def test_multiclass_takes_the_whole_name_and_a_class_may_be_named_train(make_tree, tmp_path):
    root = make_tree(tmp_path / "p", "train/1.jpg", "A_B/1.jpg")
    source = read(root, "multiclass")
    assert source.given is None and [r.labels["label"] for r in source.records] == [("A_B",), ("train",)]


def test_which_files_are_photos(make_tree, tmp_path):
    names = ["a.jpg", "b.JPG", "c.jpeg", "d.Png", "e.bmp", "f.tif", "g.TIFF", "h.webp", "deep/er/i.jpg"]
    root = make_tree(
        tmp_path / "p", *(f"A_B/{n}" for n in names), "A_B/.hidden.jpg", ".git/x.jpg", "in root.jpg"
    )
    (root / "A_B" / "notes.txt").write_text("no photo")
    (root / "Empty_Class").mkdir()
    source = read(root)
    assert [r.path for r in source.records] == sorted(f"A_B/{name}" for name in names)
    assert "A_B/deep/er/i" in {r.id for r in source.records}
    assert "Left out 1 photos that lie in no label's folder: in root.jpg" in told(source)
    assert "Folders without a photo: Empty_Class" in told(source)


def test_names_with_spaces_and_other_letters(make_tree, tmp_path):
    folder = unicodedata.normalize("NFD", "Brücke alt_Riß")
    root = make_tree(tmp_path / "Prüf fotos", f"{folder}/Foto 1 süd.jpg", "橋_錆/写真.jpg")
    records = {r.labels["component"][0]: r for r in read(root).records}
    assert records["Brücke alt"].labels["defect"] == ("Riß",)
    assert (root / records["Brücke alt"].path).is_file()
    assert records["橋"].id == "橋_錆/写真"


def test_two_extensions_of_one_name_keep_their_ids_apart(make_tree, tmp_path):
    root = make_tree(tmp_path / "p", "A_B/a.jpg", "A_B/a.png", "A_B/b.c.jpg")
    assert [r.id for r in read(root).records] == ["A_B/a.jpg", "A_B/a.png", "A_B/b.c"]


def test_the_order_does_not_depend_on_the_file_system(make_tree, tmp_path, monkeypatch):
    root = make_tree(tmp_path / "p", *(f"{f}_X/{i}.jpg" for f in "CAB" for i in range(5)))
    straight = read(root)
    walk = os.walk

    def shuffled(*args, **kwargs):
        for folder, subfolders, files in walk(*args, **kwargs):
            random.Random(1).shuffle(subfolders)
            random.Random(2).shuffle(files)
            yield folder, subfolders, files

    monkeypatch.setattr(os, "walk", shuffled)
    assert read(root).records == straight.records


def test_linked_folders_are_read_once(make_tree, tmp_path):
    store = make_tree(tmp_path / "store", "1.jpg")
    root = make_tree(tmp_path / "p", "A_B/1.jpg")
    (root / "C_D").symlink_to(store)
    (root / "A_B" / "up").symlink_to(root)
    assert list_photos(root).paths == ["A_B/1.jpg", "C_D/1.jpg"]


def test_missing_root_names_the_folders_beside(make_tree, tmp_path):
    make_tree(tmp_path / "photos", "A_B/1.jpg")
    with pytest.raises(InputError, match=r"data.root=.*photo: no such folder; folders next to it: photos"):
        read(tmp_path / "photo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no photo in it"):
        read(tmp_path / "empty")
    with pytest.raises(InputError, match="lie in no folder that names a label"):
        read(make_tree(tmp_path / "flat", "1.jpg"))
