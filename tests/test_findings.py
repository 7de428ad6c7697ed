"""What can be read and yet looks wrong in labels and folders is told, with the cure."""

from collections import Counter

import pytest

from src.datamodules.folders import FolderDataModule
from src.datamodules.table import TableDataModule
from src.errors import InputError
from tests.made import make_folders, run_script

COMMON = {"preprocess": {}, "splits": {}, "healthy": ["Intact", "None"]}


@pytest.fixture
def read_cells(make_photo, tmp_path):
    """Read a table of one column of labels, a row per cell; return the labels and the findings."""

    def read(cells, task="multilabel", **options):
        for i in range(len(cells)):
            make_photo(tmp_path / "images" / f"{i}.png")
        lines = ["ID,label", *(f'{i},"{cell}"' for i, cell in enumerate(cells))]
        (tmp_path / "image_data.csv").write_text("\n".join(lines), encoding="utf-8")
        source = TableDataModule(root=str(tmp_path), task=task, **COMMON, **options).read()
        labels = Counter(name for record in source.records for name in record.labels["label"])
        return labels, {finding.name: str(finding) for finding in source.findings}

    return read


@pytest.mark.parametrize(
    ("cells", "kind", "shown", "cure"),
    [
        (["Crack", "crack", "Crack"], "labels_alike", "'Crack' (2), 'crack' (1)", "rename=['crack=Crack']"),
        (["Heavy rust", "Heavy  rust"], "labels_alike", "'Heavy  rust' (1)", "['Heavy  rust=Heavy rust']"),
        (["Crack", "Cra\u200bck"], "labels_alike", r"'Cra\u200bck' (1)", "data.rename="),
        (["1", "1.0", "01", "1,0"], "labels_alike", "'01' (1)", "data.rename="),
        (["Crack", "Leak", "Crack, Leak"], "labels_listed", "'Crack, Leak' (1)", "data.separator=','"),
        (["Crack", "Leak", "Crack,Leak,"], "labels_listed", "'Crack,Leak,' (1)", "data.separator=','"),
        (["Crack", "Leak", "Crack Leak"], "labels_listed", "'Crack Leak' (1)", "data.separator=' '"),
        (["Crack|Leak", "Leak|Rust", "Rust|Crack"], "labels_listed", "'Leak|Rust' (1)", "data.separator='|'"),
        (["Crack", "N/A", "?", "unknown"], "labels_missing", "'N/A' (1), '?' (1)", "['N/A','?','unknown']"),
        (["Crack", "OK", "No defect"], "labels_healthy", "'OK' (1)", "['Intact','None','OK','No defect']"),
        (["Crack", "intact;Crack"], "labels_contradict", "1.png", ""),
        (["Crack", "RiÃŸ"], "labels_garbled", "'RiÃŸ' (1)", "data.encoding="),
        ([f"IMG {i}" for i in range(21)], "labels_unique", "21 different labels", ""),
    ],
)
def test_labels_that_look_wrong(read_cells, cells, kind, shown, cure):
    _, findings = read_cells(cells)
    assert shown in findings[kind] and cure in findings[kind] and len(findings) == 1


def test_labels_of_clean_sets_are_not_told(read_cells):
    names = ["Corrosion-Heavy", "Corrosion-Light", "Missing", "Channel Bracket", "Class 1", "Class 11"]
    names += ["Intact"]
    assert read_cells(names)[1] == {} and read_cells([*names, "OK"], "multiclass")[1] == {}


def test_cures_work(read_cells):
    options = {"rename": ["crack=Crack"], "missing": ["n/a"], "separator": ","}
    labels, findings = read_cells(["Crack", "crack", "Leak,N/A", "Crack, Leak"], **options)
    assert labels == {"Crack": 3, "Leak": 2} and not findings


def test_healthy_is_compared_without_letter_case(read_cells):
    labels, findings = read_cells(["Crack", "intact", "NONE", "INTACT"])
    assert not findings and sum(labels.values()) == 4
    assert "labels_alike" in read_cells(["Crack", "none", "None"], "multiclass")[1]


def test_settings_that_match_no_label_are_told(read_cells):
    _, findings = read_cells(["Crack", "Leak"], rename=["crak=Crack"], missing=["xyz"])
    assert "crak, xyz" in findings["labels_unmet"]


@pytest.mark.parametrize(
    "cell",
    ["['Crack' 'Leak']", "[Crack, Leak]", '[""Crack"", ""Leak""]', '{""choices"": [""Crack"",""Leak""]}'],
)
def test_serialised_lists_are_read(read_cells, cell):
    assert read_cells([cell, "Crack", "Leak"])[0] == {"Crack": 2, "Leak": 2}


@pytest.fixture
def read_tree(make_tree, tmp_path):
    def read(*paths, task="multiclass", **options):
        root = make_tree(tmp_path / "p", *(path for path in paths if path.endswith((".jpg", ".png"))))
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        source = FolderDataModule(root=str(root), task=task, **COMMON, **options).read()
        labels = Counter(name for r in source.records for names in r.labels.values() for name in names)
        return dict(labels), source.given, {finding.name: str(finding) for finding in source.findings}

    return read


@pytest.mark.parametrize(
    "splits",
    [
        ("train", "dev"),
        ("Trainingsdaten", "Testdaten"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("Train2017", "val2017"),
    ],
)
def test_splits_under_other_names(read_tree, splits):
    labels, given, _ = read_tree(*(f"{split}/{name}/1.jpg" for split in splits for name in ("Crack", "Leak")))
    assert labels == {"Crack": 2, "Leak": 2} and len(set(given.values())) == 2


def test_sites_and_years_above_the_labels_are_refused_with_two_cures(read_tree):
    paths = [f"{top}/{name}/1.jpg" for top in ("2023", "2024") for name in ("Crack", "Leak", "Rust")]
    with pytest.raises(InputError, match=r"2023, 2024 hold .* \(Crack, Leak, Rust\).*label_folder=parent"):
        read_tree(*paths)
    assert read_tree(*paths, label_folder="parent")[0] == {"Crack": 2, "Leak": 2, "Rust": 2}
    assert read_tree(*paths, label_folder="top")[0] == {"2023": 3, "2024": 3}


def test_trees_with_other_levels(read_tree):
    labels, given, _ = read_tree("Crack/train/1.jpg", "Crack/val/2.jpg", "Leak/train/3.jpg", "Leak/val/4.jpg")
    assert labels == {"Crack": 2, "Leak": 2} and set(given.values()) == {"train", "val"}


def test_years_that_share_no_label_are_refused(read_tree):
    with pytest.raises(InputError, match="label_folder=parent"):
        read_tree("2023/Hole/1.jpg", "2024/Rust/1.jpg", "misc/1.jpg")


def test_years_below_the_labels_and_a_folder_too_high(read_tree, make_tree, tmp_path):
    below = [f"{label}/{year}/1.jpg" for label in ("Crack", "Leak") for year in (2023, 2024)]
    assert read_tree(*below)[0] == {"Crack": 2, "Leak": 2}
    root = make_tree(tmp_path / "high", "photos/Crack/1.jpg", "photos/Leak/1.jpg")
    with pytest.raises(InputError, match=r"take these as labels with data.root=\S+high/photos"):
        FolderDataModule(root=str(root), task="multiclass", **COMMON).read()


@pytest.mark.parametrize(
    "paths",
    [
        ["train/images/1.jpg", "valid/images/2.jpg", "train/labels/1.txt"],
        ["JPEGImages/1.jpg", "Annotations/1.xml"],
        ["train2017/1.jpg", "val2017/2.jpg", "annotations/instances.json"],
        ["1.jpg", "1.json"],
        ["images/1.jpg", "masks/1.png"],
    ],
)
def test_exports_of_other_tools_are_named(read_tree, paths):
    with pytest.raises(InputError, match=r"an export of an annotation tool .*table"):
        read_tree(*paths)


def test_folders_of_systems_and_runs_are_left_out_and_told(read_tree):
    labels, _, findings = read_tree(
        "Crack/1.jpg", "Crack/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "Leak/1.jpg", "__MACOSX/Crack/1.jpg",
        "outputs/run/.hydra/config.yaml", "outputs/run/loss_curve.png", "Leak/a.CR2", "Leak/b.gif",
    )  # fmt: skip
    assert labels == {"Crack": 1, "Leak": 1} and findings.keys() == {"files_skipped", "files_of_other_types"}
    assert "3 photos" in findings["files_skipped"] and "@eaDir (1)" in findings["files_skipped"]
    others = findings["files_of_other_types"]
    assert "2 files left out" in others and ".cr2 1" in others


def test_masks_among_the_photos_are_told(read_tree):
    _, _, findings = read_tree("Crack/1.jpg", "Crack/1_mask.png", "Leak/1.jpg", "masks/1.png")
    assert findings.keys() == {"companions"} and "2 photos look like masks" in findings["companions"]


def test_train_and_explore_tell_and_strict_refuses(monkeypatch, tmp_path, caplog, capsys):
    root = make_folders(tmp_path / "photos")
    folder = sorted(path for path in root.iterdir() if path.is_dir())[0]
    twin = folder.with_name(folder.name.upper())
    twin.mkdir()
    for path in sorted(folder.iterdir())[::2]:
        path.rename(twin / path.name)
    small = [f"data.root={root}", "preprocess.image_size=32", "model.weights=null", "data.cache_dir=null"]
    assert run_script(monkeypatch, "explore", *small, f"output={tmp_path / 'look'}") == 0
    assert "read the same" in capsys.readouterr().out
    assert "data.rename=[" in (tmp_path / "look" / "explore.html").read_text()
    assert run_script(monkeypatch, "train", *small, "data.strict=true") == 2
    assert "read the same" in capsys.readouterr().err


def test_splits_within_labels_leave_loose_photos_out(read_tree):
    paths = ("Crack/train/1.jpg", "Crack/dev/2.jpg", "Leak/train/3.jpg", "Leak/dev/4.jpg", "Leak/5.jpg")
    labels, given, findings = read_tree(*paths, label_folder="top")
    assert labels == {"Crack": 2, "Leak": 2} and sorted(given.values()) == ["train", "train", "val", "val"]
    assert "Leak/5.jpg" in findings["photos_outside"]


def test_a_class_named_as_its_split_stays(read_tree):
    labels, _, _ = read_tree("train/bus/1.jpg", "train/train/2.jpg", "val/bus/3.jpg", "val/train/4.jpg")
    assert labels == {"bus": 2, "train": 2}


def test_missing_labels_of_folders_are_unlabelled_photos(read_tree):
    labels, _, findings = read_tree("Crack/1.jpg", "Leak/2.jpg", "unsorted/3.jpg", missing=["unsorted"])
    assert labels == {"Crack": 1, "Leak": 1} and "Left out 1 photos" in findings["photos_unlabelled"]


@pytest.mark.parametrize(
    ("cell", "label"), [("[None]", None), ("['Crack', nan]", "Crack"), ("(a), (b)", "(a), (b)")]
)
def test_missing_in_a_list_is_no_label(read_cells, cell, label):
    found, _ = read_cells([cell, "Rust"])
    assert found == ({label: 1, "Rust": 1} if label else {"Rust": 1})
