import json

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks import scale
from benchmarks.scale_sets import made_records, photo_set
from src.datamodules.groups import link_records
from src.datamodules.near_duplicates import distances, near_pairs
from src.datamodules.records import PhotoIndex
from src.datamodules.table import TableReader
from src.errors import InputError


def row(stage, photos, cpu_s, **more):
    return {
        "stage": stage, "photos": photos, "cpu_s": cpu_s, "wall_s": cpu_s, "peak_mb": 900, "written_mb": 1.0,
        "ms_per_photo": 1000 * cpu_s / photos, **more,
    }  # fmt: skip


def test_a_smaller_set_is_the_beginning_of_a_larger_one(tmp_path):
    small, large = (photo_set(tmp_path, count, processes=1) for count in (20, 30))
    held = {path.relative_to(small): path for path in small.rglob("*.jpg")}
    drawn = {path.relative_to(large): path for path in large.rglob("*.jpg")}
    assert (len(held), len(drawn)) == (20, 30) and held.keys() < drawn.keys()
    assert all(drawn[name].samefile(path) for name, path in held.items())
    assert photo_set(tmp_path, 20, processes=1) == small
    with pytest.raises(InputError, match="100,000"):
        photo_set(tmp_path, 100_001, processes=1)


def test_made_records_hold_copies_and_near_duplicates():
    records = made_records(2000)
    assert len({record.id for record in records}) == 2000
    assert 1900 < len({record.digest for record in records}) < 2000
    linked = link_records(records, near_duplicates=4)
    assert 40 < len(linked.pairs) < 160 and linked.groups.max() > 300


def test_growth_is_that_of_a_further_photo_too():
    flat = [row("split", 1000, 11.0), row("split", 10_000, 20.0), row("split", 100_000, 110.0)]
    assert scale.growth(flat) == (pytest.approx(0.55), pytest.approx(1.0))
    square = [row("split", 1000, 10.1), row("split", 10_000, 20.0), row("split", 100_000, 1010.0)]
    whole, further = scale.growth(square)
    assert whole > scale.GROWS and further == pytest.approx(10.0)
    assert scale.growth(flat[:1]) == (None, None) and scale.growth(flat[:2])[1] is None
    said = scale.report([*square, row("explore", 20, 1.0, page_mb=2.5)])
    assert "10.00 grows" in said and "1.0 (page 2.5)" in said
    assert "grows" not in scale.report(flat)


def test_a_stage_is_measured_alone_and_figures_of_others_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "FOLDER", tmp_path / "scale")
    monkeypatch.setattr(scale, "RESULTS", tmp_path / "scale.json")
    (tmp_path / "scale.json").write_text(json.dumps([row("train", 20, 1.0)]))
    scale.main(["sizes=40", "stages=records"])
    found = json.loads((tmp_path / "scale.json").read_text())
    assert [(one["stage"], one["photos"]) for one in found] == [("train", 20), ("records", 40)]
    assert found[1]["peak_mb"] > 10 and "| records | 40 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "scale" / "records_40" / "split_certificate.json").read_text())["labels"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("size=1", "did you mean 'sizes'"),
        ("stages=splt", "did you mean 'split'"),
        ("sizes=1e3", "whole numbers"),
    ],
)
def test_options_that_make_no_sense_are_one_line(argument, said):
    with pytest.raises(InputError, match=said):
        scale.options([argument])


def test_a_stage_that_fails_names_its_log(tmp_path):
    with pytest.raises(InputError, match=r"exit code 3: see .*stage\.log"):
        scale._run(["-c", "raise SystemExit(3)"], tmp_path / "stage.log")


def test_frames_of_a_fixed_camera_are_as_many_pairs_as_photos():
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 2**64, 3, np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (3, 120, 2)).astype(np.uint64)
    hashes = (scenes[:, None] ^ flips[..., 0] ^ flips[..., 1]).ravel()
    every, _ = near_pairs(hashes, 4)
    few, apart = near_pairs(hashes, 4, many=200)
    assert len(every) > 20_000 and len(few) == 360 - 3 and apart.max() <= 4
    assert (few[:, 0] < few[:, 1]).all() and (apart == distances(hashes, few)).all()

    def sets(pairs):
        links = coo_array((np.ones(len(pairs)), pairs.T), shape=(360, 360))
        return connected_components(links, directed=False)[1]

    assert (sets(every) == sets(few)).all() and sets(few).max() == 2


def test_rows_of_the_same_cells_are_counted_each():
    reader = TableReader({"component": "component"}, ";", {"component": ["Bolt"]}, (), "multilabel")
    assert reader.labels({"component": "Bolt;Nut"}, times=3) == {"component": ["Bolt"]}
    assert reader.unknown == {"Nut": 3}


def test_an_id_that_names_several_photos_gives_all_of_them(tmp_path):
    for name in ("a/x.jpg", "b/x.jpg", "b/y.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    index = PhotoIndex(tmp_path)
    assert index.find("x") == ["a/x.jpg", "b/x.jpg"] and index.find("b/x") == ["b/x.jpg"]
    assert index.find("Y.jpg") == ["b/y.jpg"] and index.find("z") == []
