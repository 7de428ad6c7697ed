import csv
import html
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from PIL import Image, ImageFilter

from src.analysis.explore.exploration import Exploration
from src.analysis.explore.folder import FILES, PAGE, PNGS, check_folder, write_exploration
from src.analysis.explore.problems import find_problems
from src.analysis.explore.summary import summarise
from src.datamodules.folders import FolderDataModule
from src.datamodules.groups import assign_groups
from src.datamodules.inspection import ImageStats, gray_levels, inspect_photos, sharpness
from src.datamodules.records import Record, Source
from src.datamodules.table import TableDataModule
from src.images import open_image
from tests.made import run_script

OLD_NAMES = {
    "class_distribution.png", "image_dimensions.png", "aspect_ratios.png", "brightness_boxplot.png",
    "brightness_outliers.csv", "brightness_outlier_images_grid.png", "duplicate_images.txt",
    "corrupted_images.txt", "missing_images.txt", "sample_grid.png", "dataset_exploration.zip",
}  # fmt: skip


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A wall: coarse light, which tells photos apart, and fine grain, which makes them sharp."""
    rng = np.random.default_rng(seed)
    light = Image.fromarray(rng.normal(125, 40, (6, 8)).astype(np.float32)).resize(
        size, Image.Resampling.BICUBIC
    )
    pixels = np.asarray(light)[..., None] + rng.normal(0, 14, (size[1], size[0], 1))
    return Image.fromarray(np.clip(np.repeat(pixels, 3, axis=2), 0, 255).astype(np.uint8))


def keep(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def make_clean(root: Path, each: int = 12) -> Path:
    for i, name in enumerate(("Bolt_Crack", "Bolt_Intact", "Rail_Crack", "Rail_Intact")):
        for k in range(each):
            keep(scene(100 * i + k), root / name / f"A{i}{k // 2:02d}_{k}.jpg", quality=92)
    return root


def plant(root: Path) -> dict[str, list[tuple[str, ...]]]:
    """Add one photo of each problem; return the photos that each list has to hold."""
    folder = root / "Bolt_Crack"
    dimmed = np.asarray(scene(901)) * 0.1
    white = np.clip(np.asarray(scene(902)).astype(int) + 150, 0, 255)
    glare = np.asarray(scene(903)).copy()
    glare[60:180, 80:240] = 255
    keep(Image.fromarray(dimmed.astype(np.uint8)), folder / "dark.jpg")
    keep(Image.fromarray(white.astype(np.uint8)), folder / "white.jpg")
    keep(Image.fromarray(glare), folder / "glare.png")
    keep(scene(904).filter(ImageFilter.GaussianBlur(6)), folder / "blurred.jpg", quality=92)
    keep(Image.new("RGB", (320, 240), (120, 120, 120)), folder / "flat.png")
    keep(scene(905, (1440, 240)), folder / "long.jpg")
    keep(scene(906, (36, 27)), folder / "tiny.png")
    keep(scene(907), folder / "cut.jpg")
    content = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("not a photo")
    shutil.copy(root / "Rail_Intact" / "A300_0.jpg", folder / "copy.jpg")
    keep(Image.open(root / "Bolt_Crack" / "A000_1.jpg"), folder / "near.jpg", quality=60)
    keep(scene(908), root / "loose.jpg")
    copies = [("Bolt_Crack/copy.jpg", "Rail_Intact/A300_0.jpg")]
    return {
        "corrupt": [("Bolt_Crack/text.jpg",)],
        "truncated": [("Bolt_Crack/cut.jpg",)],
        "unlabelled": [("loose.jpg",)],
        "identical": copies,
        "near_duplicates": [("Bolt_Crack/A000_1.jpg", "Bolt_Crack/near.jpg")],
        "conflicting_labels": copies,
        "blurred": [("Bolt_Crack/blurred.jpg",)],
        "dark": [("Bolt_Crack/dark.jpg",)],
        "overexposed": [("Bolt_Crack/white.jpg",), ("Bolt_Crack/glare.png",)],
        "low_information": [("Bolt_Crack/flat.png",)],
        "odd_size": [("Bolt_Crack/long.jpg",), ("Bolt_Crack/tiny.png",)],
        "brightness_outliers": [("Bolt_Crack/dark.jpg",), ("Bolt_Crack/white.jpg",)],
    }


def look(source: Source, task: str = "dual_head", group: str | None = r"^(A\d+)_", near: int | None = 4):
    records = assign_groups(source, group)
    looks = inspect_photos(source.root, [record.path for record in records])
    return Exploration(source, records, looks, task, group, near)


def folders(root: Path, task: str = "dual_head") -> Source:
    return FolderDataModule(root=str(root), task=task, preprocess={}, splits={}).read()


def listed_photos(data) -> dict[str, list[tuple[str, ...]]]:
    names = ("path", "other", "file", "id")
    found = find_problems(data).items()
    return {
        list_: [tuple(row[n] for n in names if n in row) for row in rows] for list_, rows in found if rows
    }


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = make_clean(tmp_path_factory.mktemp("planted") / "photos")
    expected = plant(root)
    return root, expected, look(folders(root))


@pytest.fixture(scope="module")
def written(planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    write_exploration(planted[2], folder)
    return folder


def test_each_list_holds_the_planted_photos_with_the_rule_they_break(planted, tmp_path):
    _, expected, data = planted
    assert listed_photos(data) == expected
    reasons = {
        row["path"]: row["reason"] for p in find_problems(data).values() for row in p if "reason" in row
    }
    for name, reason in (
        ("cut.jpg", "truncated"), ("text.jpg", "not an image (text?)"), ("dark.jpg", "below 40"),
        ("flat.png", "below 1.5"), ("glare.png", "a white spot of 25%"),
        ("long.jpg", "one side 6.0 times the other, 4.5 times the usual pixels"),
        ("tiny.png", "shorter side below 32 pixels, 79.0 times fewer pixels"),
    ):  # fmt: skip
        assert reasons[f"Bolt_Crack/{name}"].startswith(reason)
    assert listed_photos(look(folders(make_clean(tmp_path)))) == {}, "of a clean set every list is empty"


@pytest.mark.parametrize("size", [(320, 240), (1600, 1200), (300, 900)])
def test_sharpness_tells_blur_whatever_the_size_and_the_contrast(size):
    image = scene(5, (300, 225)).resize(size, Image.Resampling.BICUBIC)
    blur = image.filter(ImageFilter.GaussianBlur(min(size) / 60))
    faint = Image.eval(image, lambda level: 60 + level // 2)
    sharp = sharpness(gray_levels(image))
    assert sharp > 0.15 and sharpness(gray_levels(faint)) > 0.15
    assert sharpness(gray_levels(blur)) < 0.05
    edge = Image.new("L", (400, 300), 60)
    edge.paste(180, (0, 0, 190, 300))
    assert sharpness(gray_levels(edge)) > 0.1, "one sharp edge between smooth areas"
    assert sharpness(np.full(size, 77, np.uint8)) is None, "no contrast to judge by"


def test_json_holds_what_the_lists_hold(planted, written):
    _, expected, data = planted
    summary = json.loads((written / "explore.json").read_text(encoding="utf-8"))
    assert summary == summarise(data, find_problems(data))
    counts = {problem["name"]: problem["count"] for problem in summary["problems"]}
    assert {name: count for name, count in counts.items() if count} == {
        k: len(v) for k, v in expected.items()
    }
    for name, count in counts.items():
        assert len(list(csv.DictReader((written / f"{name}.csv").read_text().splitlines()))) == count, name
    assert summary["totals"]["labelled photos"] == 48 + 11 and summary["photos"]["readable"] == 57
    labels = {row["label"]: row for rows in summary["labels"].values() for row in rows}
    assert labels["Crack"]["photos"] == 35 and labels["Rail"]["verdict"] == "rare"
    (pair,) = summary["pairs"]
    table = dict(zip(pair["rows"], pair["photos"], strict=True))
    assert table["Bolt"][pair["columns"].index("Crack")] == 23
    groups = summary["groups"]
    assert (groups["named"], groups["joined"], groups["near_duplicates_across"]) == (24 + 11, 24 + 11 - 2, 1)
    assert summary["formats"] == {"JPEG": 54, "PNG": 3}


def cells(page: str) -> list[list[str]]:
    """The text of each row of each table."""
    rows = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    found = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]+>|\n", "", cell)) for cell in row] for row in found]


def test_the_page_shows_the_figures_of_the_json(written):
    summary = json.loads((written / "explore.json").read_text(encoding="utf-8"))
    page = (written / PAGE).read_text(encoding="utf-8")
    rows = cells(page)
    for problem in summary["problems"]:
        assert [problem["title"], f"{problem['count']:,}", problem["rule"]] in rows
        assert (f'<section id="{problem["name"]}">' in page) == (problem["count"] > 0)
        assert (f'href="#{problem["name"]}"' in page) == (problem["count"] > 0)
        for row in problem["shown"]:
            assert all(str(row[name]) in page for name in ("path", "reason", "brightness") if name in row)
    for row in (row for labels in summary["labels"].values() for row in labels):
        counts = [str(row["photos"]), f"{row['share']:.1%}", str(row["groups"])]
        assert [row["label"] + row["verdict"], *counts] in rows
    assert all(f"<b>{value}</b><span>{name}" in page for name, value in summary["totals"].items())
    assert all(str(escape(notice)) in page for notice in summary["notices"]) and summary["notices"]
    links = set(re.findall(r'href="([^"]+)"', page))
    assert all(link.startswith("#") or (written / link).is_file() for link in links)


def test_the_names_of_the_older_exploration_and_a_zip_of_everything(written, planted):
    assert {path.name for path in written.iterdir()} == set(FILES) >= OLD_NAMES
    with zipfile.ZipFile(written / "dataset_exploration.zip") as archive:
        assert set(archive.namelist()) == set(FILES) - {"dataset_exploration.zip"}
        assert archive.read(PAGE) == (written / PAGE).read_bytes()
    outliers = (written / "brightness_outliers.csv").read_text(encoding="utf-8")
    assert outliers.startswith("file,label,brightness\nBolt_Crack/dark.jpg,Bolt;Crack,")
    assert (written / "duplicate_images.txt").read_text() == "Bolt_Crack/copy.jpg\tRail_Intact/A300_0.jpg\n"
    corrupted = (written / "corrupted_images.txt").read_text().splitlines()
    assert corrupted == ["Bolt_Crack/cut.jpg\ttruncated", "Bolt_Crack/text.jpg\tnot an image (text?)"]
    assert (written / "missing_images.txt").read_text() == ""
    assert all(open_image(written / name).width > 300 for name in PNGS)


def test_the_same_photos_give_the_same_bytes(planted, written, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):  # the second time over its own files
        check_folder(tmp_path, [planted[0]])
        write_exploration(look(folders(planted[0])), tmp_path)
    assert all((tmp_path / name).read_bytes() == (written / name).read_bytes() for name in FILES)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "notes.txt"}


def test_a_table_tells_missing_ambiguous_unlabelled_and_several_labels(tmp_path):
    for i, name in enumerate(("a", "b", "c", "d", "e", "one/f", "two/f")):
        keep(scene(i), tmp_path / "images" / f"{name}.jpg")
    rows = ["a,Bolt,Crack", "a,Rail,", "b,Rail,nan", "c.jpg,Bolt,", "d,nan,nan", "gone,Bolt,Crack", "f,Rail,"]
    (tmp_path / "t.csv").write_text("\n".join(["ID,component,defect", *rows]))
    table = {"csv": str(tmp_path / "t.csv"), "task": "dual_head", "preprocess": {}, "splits": {}}
    source = TableDataModule(**table).read()
    data = look(source, group=None)
    assert listed_photos(data) == {
        "missing": [("gone",)],
        "ambiguous": [("f",)],
        "unlabelled": [("d.jpg",), ("e.jpg",), ("one/f.jpg",), ("two/f.jpg",)],
        "several_labels": [("a.jpg",)],
    }
    assert "several_labels" not in listed_photos(look(source, "multilabel", None))
    write_exploration(data, tmp_path / "out")
    assert (tmp_path / "out" / "missing_images.txt").read_text() == "gone\n"
    assert (tmp_path / "out" / "ambiguous.csv").read_text() == "id,files\nf,one/f.jpg;two/f.jpg\n"


def test_photos_that_vanish_do_not_stop_the_page(tmp_path):
    root = make_clean(tmp_path / "photos", each=2)
    shutil.copy(root / "Bolt_Crack" / "A000_1.jpg", root / "Rail_Crack" / "copy.jpg")
    source = folders(root)
    whole = look(source)
    (root / "Bolt_Crack" / "A000_0.jpg").unlink()
    assert listed_photos(look(source))["corrupt"] == [("Bolt_Crack/A000_0.jpg",)]
    shutil.rmtree(root)
    summary = write_exploration(look(source), tmp_path / "out")
    assert "No photo can be read." in summary["notices"] and summary["photos"]["readable"] == 0
    write_exploration(whole, tmp_path / "out")  # read before, gone when the page is written
    assert "cannot be read now: no such file" in (tmp_path / "out" / PAGE).read_text(encoding="utf-8")


def records(groups: list[str], labels: list[tuple[str, ...]]) -> tuple[Source, list[Record]]:
    made = [
        Record(f"p{i:03d}", f"p{i:03d}.jpg", {"label": names}, group)
        for i, (group, names) in enumerate(zip(groups, labels, strict=True))
    ]
    return Source(Path("photos"), made), made


def summary_of(groups, labels, task="multiclass", **seen):
    source, made = records(groups, labels)
    looks = [ImageStats(digest=f"d{i}", width=8, height=6, format="JPEG", **seen) for i in range(len(made))]
    data = Exploration(source, made, looks, task, "asset", None)
    return summarise(data, find_problems(data))


def test_notices_name_the_giant_group_and_labels_that_are_too_few():
    summary = summary_of(["G"] * 30 + [f"g{i}" for i in range(20)], [("x",)] * 26 + [("y",)] * 24)
    assert summary["notices"][0].startswith("One group holds 30 of 50 photos (G)")
    assert summary["groups"]["photos_per_group"] == {"1": 20, "21 to 50": 1}
    assert summary["groups"]["largest"] == {"name": "G", "photos": 30, "share": 0.6}
    assert "Cannot be evaluated, fewer than 3 groups: 'x'." in summary["notices"]
    assert "Rare, fewer than 25 photos: 'y'." in summary["notices"]
    alone = summary_of(["a", "b", "c", "d"], [("x",)] * 4)
    assert "Only one label, x: a classifier needs two or more." in alone["notices"]
    one = summary_of(["a"] * 3, [("x",), ("y",), ("x", "y")])
    assert "All photos are one group, so they cannot be split: see data.group." in one["notices"]
    assert one["labels_per_photo"] == {"label": {"1": 2, "2": 1}}
    assert [p["count"] for p in one["problems"] if p["name"] == "several_labels"] == [1]


def test_a_page_of_a_thousand_labels_is_small(tmp_path):
    names = [{"component": (f"Part {i}",), "defect": (f"Harm {i % 700}",)} for i in range(1000)]
    made = [Record(f"p{i}", f"p{i}.jpg", labels, f"g{i}") for i, labels in enumerate(names)]
    looks = [ImageStats(digest=f"d{i}", width=8, height=6, format="JPEG") for i in range(1000)]
    source = Source(tmp_path / "none", made)
    write_exploration(Exploration(source, made, looks, "dual_head", "asset", None), tmp_path)
    page = (tmp_path / "explore.html").read_text(encoding="utf-8")
    assert len(page) < 3_000_000 and "60 of 1,000 and 40 of 700" in page and "and 1680 more" in page
    assert len(pd.read_csv(tmp_path / "pairs.csv")) == 1000


def test_two_photos_with_one_id_are_listed():
    source, made = records(["a", "b"], [("x",), ("y",)])
    made = [made[0], Record("p000", "other.jpg", {"label": ("y",)}, "b")]
    looks = [ImageStats(digest=digest, width=8, height=6) for digest in "de"]
    data = Exploration(source, made, looks, "multiclass", None, None)
    assert listed_photos(data)["repeated_ids"] == [("p000.jpg", "other.jpg", "p000")]


def test_places_stay_in_the_photo(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0132] = "ACME\0", "ACME <i>1</i>", "2024:05:06 07:08:09"
    exif.get_ifd(0x8825)[2] = (47.0, 11.0, 33.0)
    keep(scene(1), tmp_path / "photos" / "Bolt_Crack" / "a.jpg", exif=exif)
    keep(scene(2), tmp_path / "photos" / "Rail_Crack" / "b.jpg")
    summary = write_exploration(look(folders(tmp_path / "photos"), group=None), tmp_path / "out")
    assert summary["exif"]["cameras"] == {"ACME <i>1</i>": 1, "none": 1}
    assert summary["exif"]["with_place"] == 1 and summary["exif"]["first"] == "2024:05:06 07:08:09"
    text = "".join((tmp_path / "out" / name).read_text() for name in ("photos.csv", "explore.json"))
    assert "47.0" not in text and "33.0" not in text


def test_the_script_writes_the_folder_and_says_what_was_found(planted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = (f"data.root={planted[0]}", r"data.group='^(A\d+)_'", "output=look")
    assert run_script(monkeypatch, "explore", *arguments) == 0
    said = capsys.readouterr().out
    for words in ("59 labelled photos, 33 groups", "exact duplicates 1", "look/explore.html"):
        assert words in said
    assert {path.name for path in (tmp_path / "look").iterdir()} == set(FILES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.root=gone"], "no such folder"),
        (["data.root=photos", "output=file"], "output=file: cannot be written (there is a file where a"),
        (["data.root=photos", "output=photos/look"], "lies in the photos' folder photos"),
        (["data.root=photos", "output=link/look"], "lies in the photos' folder photos"),
        (["data.root=photos", "output=run"], "holds class_distribution.png already"),
        (["data.root=photos", "outptu=x"], "did you mean 'output'"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "class_distribution.png").write_text("of a training")
    (tmp_path / "file").write_text("mine")
    keep(scene(1), tmp_path / "photos" / "x" / "a.jpg")
    keep(scene(2), tmp_path / "photos" / "y" / "b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "photos")

    def files():
        paths = [path for path in tmp_path.rglob("*") if path.is_file() and "outputs" not in path.parts]
        return {path: path.read_bytes() for path in paths}

    before = files()
    assert run_script(monkeypatch, "explore", "model=multiclass", *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert files() == before
