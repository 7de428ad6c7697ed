"""Arguments of `predict.py`: the photos of `images=`, the file of `output=`, the share of `shard=`."""

import os
import sys
from pathlib import Path

import pytest

from src.errors import InputError
from src.files import file_lock
from src.inference.batches import Photo, find_images, refuse_to_overwrite
from src.inference.output import find_output, find_shard
from src.runs import LOCK, find_checkpoint


def test_photos_of_a_folder_and_of_a_table(make_tree, tmp_path):
    root = make_tree(tmp_path, "b/1.jpg", "a/2.png", "a/2.jpg", "c.d/3.x.JPG")
    photos = find_images(str(root))
    assert [(p.id, p.path) for p in photos] == [
        ("a/2.jpg", "a/2.jpg"),
        ("a/2.png", "a/2.png"),
        ("b/1", "b/1.jpg"),
        ("c.d/3.x", "c.d/3.x.JPG"),
    ]
    assert [p.id for p in photos[1:3]] == ["a/2.png", "b/1"] and photos[-1].file.is_file()
    rows = "path,ID\n./b//1.jpg,one\nb\\1.jpg,one\nb/1.jpg,two\n./a/2.png,\n"  # a photo may have several IDs
    (tmp_path / "list.csv").write_text(rows)
    assert [(p.id, p.path) for p in find_images(str(tmp_path / "list.csv"))[:9]] == [
        ("a/2", "a/2.png"),
        ("one", "b/1.jpg"),
        ("two", "b/1.jpg"),
    ]
    for rows in ("ID\nb/1\nb/1.jpg\n", "ID\nb/1.jpg\nb/1\n"):
        (tmp_path / "list.csv").write_text(rows)
        assert [photo.id for photo in find_images(str(tmp_path / "list.csv"))] == ["b/1", "b/1.jpg"]
    (tmp_path / "list.csv").write_text("path\nb/1.jpg\n./b/1.jpg\n")
    assert [(p.id, p.path) for p in find_images(str(tmp_path / "list.csv"))[:9]] == [("b/1", "b/1.jpg")]
    (tmp_path / "list.csv").write_text("ID\nb/1\na/2\n")
    with pytest.raises(InputError, match=r"ID 'a/2' fits several photos, give their paths: a/2\.jpg"):
        find_images(str(tmp_path / "list.csv"))


def test_an_output_is_no_photo_under_another_name(make_tree, tmp_path):
    photos = find_images(str(make_tree(tmp_path / "photos", "1.jpg")))
    os.symlink(photos[0].file, tmp_path / "p.csv")
    (tmp_path / "odd.csv").write_bytes(b"a photo without its extension")
    odd = [Photo("odd", "odd.csv", tmp_path)]
    for output, some in (("p.csv", photos), ("odd.csv", odd)):
        with pytest.raises(InputError, match="would overwrite an input"):
            refuse_to_overwrite(tmp_path / output, some)


@pytest.mark.parametrize(
    ("given", "environment", "wanted"),
    [
        (None, {"RANK": "1", "WORLD_SIZE": "2"}, None),
        ("3/16", {}, (2, 16)),
        ("auto", {"RANK": "2", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (2, 4)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "8"}, (7, 8)),
        (
            "auto",
            {f"SLURM_ARRAY_TASK_{k}": v for k, v in (("ID", "8"), ("COUNT", "8"), ("MIN", "1"))},
            (7, 8),
        ),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, (0, 3)),
    ],
)
def test_shards(given, environment, wanted):
    assert find_shard(given, environment) == wanted


@pytest.mark.parametrize(
    ("given", "environment", "words"),
    [
        ("17/16", {}, "shard=17/16: 17/16 is not one of 1/16 to 16/16"),
        ("a/b", {}, "name one of many as 3/16, or auto"),
        ("auto", {}, "neither torchrun nor SLURM"),
        ("auto", {"RANK": "4", "WORLD_SIZE": "4"}, "shard=auto: 5/4 is not one of"),
    ],
)
def test_a_shard_that_is_none(given, environment, words):
    with pytest.raises(InputError, match=words):
        find_shard(given, environment)


def test_where_the_output_is(tmp_path, monkeypatch):
    assert find_output(None, "dated", False, None) == Path("dated/predictions.csv")
    assert find_output("new/", "dated", True, None) == Path("new/predictions.csv")
    assert find_output(str(tmp_path), "dated", True, None) == tmp_path / "predictions.csv"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for given, resume, shard, words in (
        (None, True, None, "resume=true needs output="),
        (None, False, "1/2", "shard=1/2 needs output="),
        ("p.json", False, None, "ends in .csv or .parquet"),
        ("p.parquet", False, None, "needs the extra `parquet`: python -m pip install"),
    ):
        with pytest.raises(InputError, match=words):
            find_output(given, "dated", resume, shard)


def test_the_newest_finished_run_is_taken(tmp_path):
    def run(name, finished=True):
        folder = tmp_path / "multilabel" / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "best.ckpt").touch()
        if finished:
            (folder / "metrics.json").touch()
            os.utime(folder / "metrics.json", (int(name), int(name)))
        return folder

    run("1")
    second, third = run("2"), run("3")
    run("4", finished=False)
    assert find_checkpoint(None, tmp_path) == third / "checkpoints" / "best.ckpt"
    with file_lock(third / LOCK) as alone:  # a resumed run
        assert alone and find_checkpoint(None, tmp_path) == second / "checkpoints" / "best.ckpt"
    assert find_checkpoint(str(tmp_path / "multilabel" / "4")).is_file()
    with pytest.raises(InputError, match="no finished training run below"):
        find_checkpoint(None, tmp_path / "elsewhere")
