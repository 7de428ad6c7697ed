"""The demo set: the same bytes for the same seed, two readers' layout, and a truth that is true."""

import csv
import hashlib
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from src.demo import (
    COMPONENTS,
    DEFECTS,
    HEALTHY,
    colour_histogram_baseline,
    contact_sheet,
    draw_photo,
    make_demo,
    plan_demo,
    read_truth,
    render_photo,
    write_down,
)
from src.demo.render import encode_photo
from src.errors import InputError

SMALL = {"count": 24, "width": 80, "height": 64}
BLANK = {"", "nan", "component", "defect"}


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def written(root: Path) -> dict[str, tuple[set[str], set[str], set[str]]]:
    """Return the components, defects and assets of each ID in image_data.csv."""
    found: dict[str, tuple[set[str], set[str], set[str]]] = {}
    with (root / "image_data.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            sets = found.setdefault(row["ID"], (set(), set(), set()))
            sets[0].update(set(row["component"].split(";")) - BLANK)
            sets[1].update(set(row["defect"].split(";")) - BLANK)
            sets[2].add(row["asset"])
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "set"
    make_demo(root, **SMALL)
    return root


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faulty") / "set"
    make_demo(root, **SMALL, missing=0.2, wrong=0.2)
    return root


def test_same_arguments_give_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path, **SMALL)
    assert digests(tmp_path) == digests(demo)


def test_a_photo_does_not_depend_on_the_count() -> None:
    few, many = plan_demo(20, 3), plan_demo(700, 3)
    assert many[:20] == few
    assert plan_demo(20, 4) != few


def test_a_complete_set_is_left_alone(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*.jpg")}
    assert make_demo(demo, **SMALL)["count"] == SMALL["count"]
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*.jpg")} == before


def test_a_killed_making_is_made_anew(demo: Path, tmp_path: Path) -> None:
    def kill(done: int, count: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path, **SMALL, progress=kill)
    assert not (tmp_path / "truth.csv").exists()
    make_demo(tmp_path, **SMALL)
    assert digests(tmp_path) == digests(demo)


def test_layout_table_and_truth_agree(demo: Path) -> None:
    truth, table = read_truth(demo), written(demo)
    assert {row["path"] for row in truth} == {
        path.relative_to(demo).as_posix() for path in demo.rglob("*.jpg")
    }
    assert len({row["ID"] for row in truth}) == len(truth) == SMALL["count"]
    for row in truth:
        folder, name = row["path"].split("/")
        assert folder == f"{row['main_component']}_{row['main_defect']}"
        assert name == row["ID"] + ".jpg"
        assert row["components"].split(";")[0] == row["main_component"]
        assert row["defects"].split(";")[0] == row["main_defect"]
        assert set(row["components"].split(";")) <= set(COMPONENTS)
        assert set(row["defects"].split(";")) <= {*DEFECTS, HEALTHY}
        assert row["planted"] == ""
        components, defects, assets = table[row["ID"]]
        assert (components, defects) == (set(row["components"].split(";")), set(row["defects"].split(";")))
        assert assets == {row["asset"]}


def test_photos_turned_by_exif_display_upright() -> None:
    turned = [photo for photo in plan_demo(300, 7, 160, 120) if photo.orientation != 1]
    assert {photo.orientation for photo in turned} == {3, 6, 8}
    for orientation in (3, 6, 8):
        photo = next(photo for photo in turned if photo.orientation == orientation)
        with Image.open(BytesIO(encode_photo(photo, 7))) as image:
            assert image.getexif()[0x0112] == orientation
            shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), float)
        drawn = np.asarray(draw_photo(photo, 7), float)
        assert shown.shape == drawn.shape == (photo.height, photo.width, 3)
        error = np.abs(shown - drawn).mean()
        assert error < 0.6 * min(np.abs(shown - other).mean() for other in (drawn[::-1], drawn[::-1, ::-1]))


def test_twins_are_byte_identical_and_the_truth_says_so(demo: Path) -> None:
    rows = {row["ID"]: row for row in read_truth(demo)}
    same = [group for group in Counter(digests(demo).values()).items() if group[1] > 1]
    assert len(same) == 2
    for row in rows.values():
        if row["duplicate_of"]:
            original = rows[row["duplicate_of"]]
            assert (row["asset"], row["path"].split("/")[0]) == (
                original["asset"],
                original["path"].split("/")[0],
            )


def test_near_duplicates_are_nearly_the_same() -> None:
    photos = plan_demo(400, 7, 96, 72)
    near = next(photo for photo in photos if photo.duplicate_of and not photo.twin)
    original = next(photo for photo in photos if photo.id == near.duplicate_of)
    small = [
        np.asarray(draw_photo(photo, 7).convert("L").resize((9, 8)), float) for photo in (near, original)
    ]
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.9


def test_planted_errors_are_recorded_exactly(faulty: Path) -> None:
    table, seen = written(faulty), Counter()
    for row in read_truth(faulty):
        kinds = [row["components"].split(";"), row["defects"].split(";")]
        main = [row["main_component"], row["main_defect"]]
        for error in filter(None, row["planted"].split(";")):
            what, labels = error.split(":")
            old, _, new = labels.partition("->")
            kind = kinds[0] if old in COMPONENTS else kinds[1]
            assert old != HEALTHY or what == "wrong"
            kind[kind.index(old)] = new
            main = [new if label == old and new else label for label in main]
            seen[what] += 1
        expected = tuple({label for label in kind if label} for kind in kinds)
        assert table.get(row["ID"], (set(), set()))[:2] == expected
        assert row["path"].split("/")[0] == "_".join(main)
    assert seen["missing"] and seen["wrong"]


def test_planted_shares_are_met() -> None:
    entries = write_down(plan_demo(3000, 1), 1, missing=0.1, wrong=0.05)
    labels = sum(len(entry.photo.components) + len(entry.photo.defects) for entry in entries)
    errors = Counter(error.split(":")[0] for entry in entries for error in entry.planted)
    assert errors["missing"] / labels == pytest.approx(0.1, abs=0.015)
    assert errors["wrong"] / labels == pytest.approx(0.05, abs=0.01)
    assert not any(entry.planted for entry in write_down(plan_demo(100, 1), 1))


@pytest.mark.parametrize("seed", [1, 7])
def test_frequencies_are_the_teams(seed: int) -> None:
    photos = plan_demo(3000, seed)
    sick = [photo for photo in photos if photo.defects != (HEALTHY,)]
    assert 1 - len(sick) / 3000 == pytest.approx(0.10, abs=0.02)
    components = Counter(name for photo in photos for name in photo.components)
    defects = Counter(name for photo in sick for name in photo.defects)
    for name, percent in COMPONENTS.items():
        assert 100 * components[name] / 3000 == pytest.approx(percent, rel=0.12, abs=0.4)
    for name, percent in DEFECTS.items():
        assert 100 * defects[name] / len(sick) == pytest.approx(percent, rel=0.12, abs=0.4)
    per_photo = sum(len(photo.components) + len(photo.defects) for photo in sick) / len(sick)
    assert per_photo == pytest.approx(2.2, abs=0.1)
    assert sum(len(photo.components) == 2 for photo in photos) / 3000 == pytest.approx(0.18, abs=0.03)
    assert sum(photo.orientation != 1 for photo in photos) / 3000 == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize("seed", [0, 7])
def test_every_label_has_three_assets(seed: int) -> None:
    photos = plan_demo(400, seed)
    pairs = {(photo.asset, name) for photo in photos for name in (photo.components[0], photo.defects[0])}
    assets = Counter(name for _, name in pairs)
    assert min(assets[name] for name in (*COMPONENTS, *DEFECTS, HEALTHY)) >= 3


def test_one_asset_keeps_its_labels() -> None:
    labels: dict[int, set[tuple[str, ...]]] = {}
    for photo in plan_demo(300, 2):
        labels.setdefault(photo.asset, set()).add((photo.components[0], *photo.defects))
    assert all(len(found) == 1 for found in labels.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 19}, "count=19"),
        ({"width": 63}, "63x480"),
        ({"width": 4001}, "4001x480"),
        ({"width": 4000, "height": 4000}, "4000x4000"),
        ({"seed": -1}, "seed=-1"),
        ({"missing": 0.6}, "missing=0.6"),
        ({"wrong": -0.1}, "wrong=-0.1"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_demo(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_foreign_files_are_never_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "Grout Hole_Leaks" / "IMG_20240312_0001.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match="choose an empty folder"):
        make_demo(tmp_path, **SMALL)
    assert digests(tmp_path).keys() == {"Grout Hole_Leaks/IMG_20240312_0001.jpg"}


def test_another_demo_set_is_not_overwritten(demo: Path) -> None:
    before = digests(demo)
    with pytest.raises(InputError, match="another demo set"):
        make_demo(demo, **{**SMALL, "seed": 8})
    assert digests(demo) == before


def test_a_photo_for_benchmarks_is_textured() -> None:
    photo = render_photo(1, 1360, 1020)
    assert photo.size == (1360, 1020) and photo.mode == "RGB"
    pixels = np.asarray(photo.convert("L"), float)
    assert np.abs(np.diff(pixels, axis=1)).mean() > 2  # grain down to the pixel
    assert np.array_equal(np.asarray(render_photo(3, 64, 64)), np.asarray(render_photo(3, 64, 64)))


def test_contact_sheet_shows_different_labels(demo: Path, tmp_path: Path) -> None:
    shown = contact_sheet(demo, tmp_path / "sheet.png", 2, 3, (64, 48))
    rows = {row["ID"]: row for row in read_truth(demo)}
    assert len({rows[name]["main_defect"] for name in shown}) >= 4
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 64 and sheet.height > 2 * 48
    with pytest.raises(InputError, match="make the demo set"):
        contact_sheet(tmp_path, tmp_path / "no.png", 1, 1)


def test_colour_baseline_returns_an_accuracy(demo: Path) -> None:
    rows = read_truth(demo)
    paths, labels = [demo / row["path"] for row in rows], [row["main_defect"] for row in rows]
    assert 0 <= colour_histogram_baseline(paths[:20], labels[:20], paths[20:], labels[20:]) <= 1
    with pytest.raises(InputError, match="one label per photo"):
        colour_histogram_baseline(paths, labels[1:], paths, labels)
