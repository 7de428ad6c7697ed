"""The demo set: the same bytes for the same seed, a layout for two readers, and a true truth.csv."""

import csv
import hashlib
from collections import Counter
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, ImageOps

from demo import make
from demo.make import make_demo
from demo.notes import CONFLICTS, NOTED, note_tables, write_notes
from demo.plan import COMPONENTS, DEFECTS, HEALTHY, plan_demo
from demo.render import draw_photo, encode_photo, render_photo
from demo.tables import read_truth, write_down
from src.errors import InputError

SMALL = {"count": 24, "width": 80, "height": 64}
BLANK = {"", "nan", "component", "defect"}


def digests(root: Path) -> dict[str, str]:
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


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


def test_a_killed_drawing_is_repeated_with_the_same_bytes(demo, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(make, "table_rows", Mock(side_effect=KeyboardInterrupt))
        make_demo(tmp_path, **SMALL)
    assert not (tmp_path / "truth.csv").exists()
    make_demo(tmp_path, **SMALL)
    assert digests(tmp_path) == digests(demo)


def test_a_complete_set_is_left_alone(demo):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*.jpg")}
    assert make_demo(demo, **SMALL)["count"] == SMALL["count"]
    with pytest.raises(InputError, match="another demo set"):
        make_demo(demo, **{**SMALL, "seed": 8})
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*.jpg")} == before


def test_foreign_files_are_never_overwritten(tmp_path):
    mine = tmp_path / "Grout Hole_Leaks" / "IMG_20240312_0001.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match="choose an empty folder"):
        make_demo(tmp_path, **SMALL)
    assert digests(tmp_path).keys() == {"Grout Hole_Leaks/IMG_20240312_0001.jpg"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"count": 19}, "count=19"), ({"width": 63}, "63x480"), ({"width": 4000, "height": 4000}, "4000x4000"),
     ({"seed": -1}, "seed=-1"), ({"missing": 0.6}, "missing=0.6"), ({"wrong": -0.1}, "wrong=-0.1")],
)  # fmt: skip
def test_bad_arguments_are_refused(tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        make_demo(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_layout_table_and_truth_agree(demo):
    truth, table = read_truth(demo), written(demo)
    assert {row["path"] for row in truth} == {p.relative_to(demo).as_posix() for p in demo.rglob("*.jpg")}
    assert len({row["ID"] for row in truth}) == len(truth) == SMALL["count"]
    rows = {row["ID"]: row for row in truth}
    for row in truth:
        assert row["path"] == f"{row['main_component']}_{row['main_defect']}/{row['ID']}.jpg"
        labels = [row["components"].split(";"), row["defects"].split(";")]
        assert [names[0] for names in labels] == [row["main_component"], row["main_defect"]]
        assert {*labels[0]} <= {*COMPONENTS} and {*labels[1]} <= {*DEFECTS, HEALTHY}
        assert table[row["ID"]] == ({*labels[0]}, {*labels[1]}, {row["asset"]}) and not row["planted"]
        assert not row["duplicate_of"] or rows[row["duplicate_of"]]["asset"] == row["asset"]
    assert sorted(Counter(digests(demo).values()).values())[-3:] == [1, 2, 2]  # twins


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["ID"]: row for row in csv.DictReader(file)}


def test_notes_carry_the_labels_of_the_table(tmp_path):
    summary = make_demo(tmp_path, **SMALL, missing=0.2, wrong=0.2)
    notes, said = rows_of(tmp_path / "notes.csv"), rows_of(tmp_path / "notes_truth.csv")
    table, truth = written(tmp_path), {row["ID"]: row for row in read_truth(tmp_path)}
    assert [*notes] == [*said] and len(notes) == summary["notes"] < len(truth)
    assert summary["conflicts"] == sum(bool(row["conflict"]) for row in said.values())
    for name, row in notes.items():
        labels = ({*row["component"].split(";")} - {""}, {*row["defect"].split(";")} - {""})
        assert table.get(name, (set(), set()))[:2] == labels and row["asset"] == truth[name]["asset"]
        assert row["text"].isprintable() and row["text"] == row["text"].strip() != ""


def test_a_set_drawn_before_there_were_notes_gets_them(demo, tmp_path):
    make_demo(tmp_path, **SMALL)
    names = ("notes.csv", "notes_truth.csv")
    for name in names:
        (tmp_path / name).unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    make_demo(tmp_path, **SMALL)
    assert digests(tmp_path) == digests(demo)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_conflicts_name_what_the_photo_does_not_show():
    entries = write_down(plan_demo(3000, 1), 1)
    notes = write_notes(entries, 1)
    assert note_tables(notes) == note_tables(write_notes(entries, 1))
    assert note_tables(notes) != note_tables(write_notes(entries, 2))
    first = [note for note in notes if note.entry.photo.index < 100]
    assert write_notes(entries[:100], 1) == first  # as photos do
    assert len(notes) / 3000 == pytest.approx(NOTED, abs=0.02)
    conflicts = [note for note in notes if note.conflict]
    assert len(conflicts) / len(notes) == pytest.approx(CONFLICTS, abs=0.012)
    assert {note.conflict for note in conflicts} == {"component", "defect"}
    for note in conflicts:
        shown = {*note.entry.photo.components, *note.entry.photo.defects}
        (wrong,) = {note.component, note.defect} - shown
        assert wrong == getattr(note, note.conflict)
        assert all(word[:4] in note.text.lower() for word in wrong.lower().replace("-", " ").split())
    for note in (note for note in notes if not note.conflict):
        assert note.component in (note.entry.photo.components[0], "")
        assert note.defect in (note.entry.photo.defects[0], "")
    assert len({note.text for note in notes}) > 0.8 * len(notes)


def test_planted_errors_are_recorded_exactly(tmp_path):
    make_demo(tmp_path, **SMALL, missing=0.2, wrong=0.2)
    table, seen = written(tmp_path), Counter()
    for row in read_truth(tmp_path):
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
    entries = write_down(plan_demo(3000, 1), 1, missing=0.1, wrong=0.05)
    labels = sum(len(entry.photo.components) + len(entry.photo.defects) for entry in entries)
    errors = Counter(error.split(":")[0] for entry in entries for error in entry.planted)
    assert errors["missing"] / labels == pytest.approx(0.1, abs=0.015)
    assert errors["wrong"] / labels == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("seed", [1, 7])
def test_frequencies_are_the_teams(seed):
    photos = plan_demo(3000, seed)
    assert plan_demo(20, seed) == photos[:20] != plan_demo(20, seed + 1)
    sick = [photo for photo in photos if photo.defects != (HEALTHY,)]
    assert 1 - len(sick) / 3000 == pytest.approx(0.10, abs=0.02)
    components = Counter(name for photo in photos for name in photo.components)
    defects = Counter(name for photo in sick for name in photo.defects)
    for name, percent in COMPONENTS.items():
        assert 100 * components[name] / 3000 == pytest.approx(percent, rel=0.12, abs=0.4)
    for name, percent in DEFECTS.items():
        assert 100 * defects[name] / len(sick) == pytest.approx(percent, rel=0.12, abs=0.4)
    assert sum(len(photo.components) == 2 for photo in photos) / 3000 == pytest.approx(0.18, abs=0.03)
    assert sum(photo.orientation != 1 for photo in photos) / 3000 == pytest.approx(0.15, abs=0.03)
    pairs = {(p.asset, name) for p in photos[:400] for name in (p.components[0], p.defects[0])}
    assets = Counter(name for _, name in pairs)
    assert min(assets[name] for name in (*COMPONENTS, *DEFECTS, HEALTHY)) >= 3
    labels = {photo.asset: (photo.components[0], *photo.defects) for photo in photos}
    assert all(labels[photo.asset] == (photo.components[0], *photo.defects) for photo in photos)


def test_photos_turned_by_exif_display_upright():
    turned = [photo for photo in plan_demo(300, 7, 160, 120) if photo.orientation != 1]
    for orientation in (3, 6, 8):
        photo = next(photo for photo in turned if photo.orientation == orientation)
        with Image.open(BytesIO(encode_photo(photo, 7))) as image:
            assert image.getexif()[0x0112] == orientation
            shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), float)
        drawn = np.asarray(draw_photo(photo, 7), float)
        assert shown.shape == drawn.shape == (photo.height, photo.width, 3)
        error = np.abs(shown - drawn).mean()
        assert error < 0.6 * min(np.abs(shown - other).mean() for other in (drawn[::-1], drawn[::-1, ::-1]))


def test_near_duplicates_are_nearly_the_same():
    photos = plan_demo(400, 7, 96, 72)
    near = next(photo for photo in photos if photo.duplicate_of and not photo.twin)
    original = next(photo for photo in photos if photo.id == near.duplicate_of)
    small = [
        np.asarray(draw_photo(p, 7).convert("L").resize((9, 8)), float).ravel() for p in (near, original)
    ]
    assert np.corrcoef(*small)[0, 1] > 0.9


def test_a_large_photo_is_textured():
    photo = render_photo(1, 1360, 1020)
    assert photo.size == (1360, 1020) and photo.mode == "RGB"
    grey = np.asarray(photo.convert("L"), float)
    assert np.abs(np.diff(grey, axis=1)).mean() > 2  # grain down to the pixel


def test_photos_from_afar_show_the_same_with_more_wall_around(tmp_path):
    photo = plan_demo(20, 7, 320, 240)[0]
    near, far = (np.asarray(draw_photo(photo, 7, distance), float) for distance in (1, 4))
    assert near.shape == far.shape and abs(near - far).mean() > 5
    make_demo(tmp_path / "far", **SMALL, distance=4)
    with pytest.raises(InputError, match="another demo set"):
        make_demo(tmp_path / "far", **SMALL)
    with pytest.raises(InputError, match=r"distance=5 is out of range; use 1 to 4"):
        make_demo(tmp_path / "no", **SMALL, distance=5)
