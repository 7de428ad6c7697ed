import errno
import inspect
import logging
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from src import row_store as cache
from src.datamodules import inspection
from src.datamodules.dataset import image_store, store_images
from src.datamodules.folders import FolderDataModule
from src.datamodules.inspection import inspect_photos
from src.errors import InputError
from src.preprocess import Preprocess
from src.row_store import RowStore
from tests.made import REPOSITORY
from tests.test_datamodule import COMMON

ABOUT = {"weights": "a"}


def store(folder, about=ABOUT, shape=(3,)):
    return RowStore(folder, "features", about, shape, "float32")


def digest(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


CHILD = f"""
import os, sys, time
import numpy as np
import {cache.__name__} as cache
RowStore, ABOUT = cache.RowStore, {ABOUT}
{inspect.getsource(store)}
{inspect.getsource(digest)}
"""  # begins a process that has no need of torch


def filled(folder, numbers, **options):
    made = store(folder, **options)
    for number in numbers:
        made.add(digest(number), np.full(made.shape, number, np.float32))
    made.flush()
    return made


def test_rows_come_back_in_the_order_asked_for(tmp_path):
    filled(tmp_path, range(5))
    found = filled(tmp_path, range(5, 9))
    for about, shape in (({"weights": "b"}, (3,)), ({"weights": "a", "more": 1}, (3,)), (ABOUT, (4,))):
        assert store(tmp_path, about, shape).missing([digest(0)]) == [digest(0)]  # rows of anything else
    assert found.missing(map(digest, (8, 9, 0, 9))) == [digest(9)]
    rows = store(tmp_path).rows([digest(n) for n in (7, 0, 0, 4, 8)])
    assert rows.take([0, 1, 2, 3, 4]).tolist() == [[n] * 3 for n in (7, 0, 0, 4, 8)]
    assert rows.take([4, 0]).tolist() == [[8] * 3, [7] * 3] and rows[3].tolist() == [4] * 3 and len(rows) == 5
    with pytest.raises(InputError, match="has lost 1 photos while this ran: try again"):
        found.rows([digest(9), digest(0)])


def test_a_damaged_file_is_named_and_not_used(tmp_path, caplog):
    filled(tmp_path, range(3))
    path = min(tmp_path.glob("features/*/*.rows"))
    path.write_bytes(path.read_bytes()[:-1])
    assert store(tmp_path).missing([digest(0)]) == [digest(0)]
    assert f"{path} is damaged" in caplog.text and "delete it" in caplog.text


def test_rows_lie_in_several_files_and_survive_pickling(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "ROWS_A_FILE", 2)
    rows = filled(tmp_path, range(9)).rows([digest(n) for n in range(9)])
    assert len(list(tmp_path.glob("features/*/*.rows"))) == 5
    again = pickle.loads(pickle.dumps(rows))
    assert again.take(range(9)).tobytes() == rows.take(range(9)).tobytes()
    assert rows.select([8, 0]).take([1, 0])[:, 0].tolist() == [0, 8]


def test_two_processes_fill_one_cache_at_once(tmp_path):
    """Both begin with no folder, and each writes every row as a file of its own."""
    code = (
        f"{CHILD}cache.ROWS_A_FILE = 1\n"
        "open(sys.argv[1], 'w').close()\n"
        "until = time.time() + 60\n"
        "while time.time() < until and not os.path.exists(sys.argv[2]): pass\n"
        f"made = store({str(tmp_path / 'new')!r})\n"
        "made.check_room(60)\n"
        "for n in range(60): made.add(digest(n), np.full(3, n, np.float32))\n"
        "made.flush(); assert not made.missing(digest(n) for n in range(60))\n"
    )
    ready = [str(tmp_path / name) for name in ("one", "other")]
    commands = [[sys.executable, "-c", code, *files] for files in (ready, ready[::-1])]
    both = [subprocess.Popen(command, cwd=REPOSITORY) for command in commands]
    assert [child.wait() for child in both] == [0, 0]
    rows = store(tmp_path / "new").rows([digest(n) for n in range(60)])
    assert rows.take(range(60))[:, 0].tolist() == list(range(60))


def test_a_cache_that_may_only_be_read_serves_what_it_holds(tmp_path, monkeypatch):
    filled(tmp_path, range(3))
    refused = Mock(side_effect=PermissionError(errno.EACCES, "Permission denied"))
    monkeypatch.setattr(cache, "whole_file", refused)
    monkeypatch.setattr(cache, "write_whole", refused)
    made = store(tmp_path)
    made.check_room(len(made.missing([digest(0), digest(2)])))
    assert made.rows([digest(2)])[0].tolist() == [2.0] * 3 and not refused.called
    with pytest.raises(InputError, match=r"Permission denied; .* make room, or name another .*cache_dir="):
        made.check_room(1)
    with pytest.raises(InputError, match=r"Permission denied; name another folder with data.cache_dir="):
        store(tmp_path / "elsewhere")


def test_folders_that_are_no_cache_of_ours(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds files, and no cache: name another folder"):
        store(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"data.cache_dir="):
        store(tmp_path / "file" / "below")


def test_a_disk_that_is_full_in_the_middle_of_a_file_is_told(tmp_path):
    made = filled(tmp_path, range(3), shape=(1000,))
    made.add(digest(7), np.zeros(1000, np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
        with pytest.raises(InputError, match=r"File too large; 3 photos are kept in it: make room"):
            made.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store(tmp_path, shape=(1000,)).missing([digest(0), digest(7)]) == [digest(7)]
    assert not list(tmp_path.glob("features/*/.*"))


def test_what_does_not_fit_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: Mock(free=100))
    store(tmp_path).check_room(8)
    with pytest.raises(InputError, match=r"needs 0.0 MB, 0.0 MB are free: .*data.cache=null"):
        store(tmp_path).check_room(9)


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_a_kill_while_rows_are_written_leaves_whole_files(tmp_path):
    code = (
        f"{CHILD}cache.ROWS_A_FILE = 3\n"
        f"made = store({str(tmp_path)!r}, shape=(20000,))\n"
        "for n in range(10**6):\n"
        "    made.add(digest(n), np.full(20000, n, np.float32))\n"
        "    if n == 2: print('a file is there', flush=True)\n"
    )
    for wait in (0.0, 0.1):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPOSITORY)
        child.stdout.readline()
        time.sleep(wait)
        child.kill()
        child.wait()
    found = store(tmp_path, shape=(20000,))
    kept = [n for n in range(2000) if not found.missing([digest(n)])]
    assert kept and all((found.rows([digest(n)])[0] == n).all() for n in kept)


@pytest.fixture
def photos(make_tree, tmp_path):
    names = [f"{c}_{d}/{i}.jpg" for c in ("Pipe", "Wall") for d in ("Leaks", "Intact") for i in range(6)]
    root = make_tree(tmp_path / "photos", *names)
    for name in names:
        os.utime(root / name, (10**9, 10**9))
    return root


def inspected(monkeypatch):
    """Count the photos that are read from here on."""
    counted = Mock(side_effect=inspection.inspect_photo)
    monkeypatch.setattr(inspection, "inspect_photo", counted)
    return counted


def test_photos_that_have_not_changed_are_not_read_again(photos, tmp_path, monkeypatch):
    paths = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))
    first = inspect_photos(photos, paths, cache_dir=tmp_path / "cache")
    assert first == inspect_photos(photos, paths)
    seen = inspected(monkeypatch)
    assert inspect_photos(photos, paths[::-1], cache_dir=tmp_path / "cache") == first[::-1]
    assert not seen.called
    other = (photos / paths[0]).read_bytes()
    path = photos / paths[3]
    before = path.stat()
    path.write_bytes(other + b"\0" * max(0, before.st_size - len(other)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # its size and time as they were
    again = inspect_photos(photos, paths, cache_dir=tmp_path / "cache")
    assert seen.call_count == 1 and again[3].digest != first[3].digest and again[:3] == first[:3]
    (photos / paths[3]).unlink()
    assert inspect_photos(photos, paths, cache_dir=tmp_path / "cache")[3].reason == "no such file"


def test_statistics_that_cannot_be_kept_are_computed_anew(photos, tmp_path, monkeypatch, caplog):
    paths = ["Pipe_Leaks/0.jpg"]
    first = inspect_photos(photos, paths, cache_dir=tmp_path / "cache")
    (file,) = tmp_path.glob("cache/inspected/*.json.z")
    monkeypatch.setattr(inspection, "write_whole", Mock(side_effect=OSError(28, "No space left")))
    file.unlink()
    assert inspect_photos(photos, paths, cache_dir=tmp_path / "cache") == first
    assert "cannot be written (No space left): photos are read again next time" in caplog.text


def module(photos, tmp_path, **options):
    given = COMMON | {"augment": {"horizontal_flip": 0.5, "rotation": 10.0}} | options
    made = FolderDataModule(root=str(photos), task="dual_head", cache_dir=str(tmp_path / "cache"), **given)
    made.setup()
    made.prepare_data()
    return made


def batches(made, epoch):
    loader = made.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader) + list(made.val_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
def test_image_cache_gives_the_same_batches_without_decoding(photos, tmp_path, monkeypatch, workers):
    plain = module(photos, tmp_path)
    kept = module(photos, tmp_path, cache="images", num_workers=workers)
    monkeypatch.setattr(Preprocess, "__call__", None)  # in the workers, too: they are forked
    monkeypatch.setattr("src.datamodules.dataset.read_unchanged", None)
    seen = [batches(kept, epoch) for epoch in range(3)]
    module(photos, tmp_path, cache="images").prepare_data()
    monkeypatch.undo()
    for epoch, found in enumerate(seen):
        for one, other in zip(batches(plain, epoch), found, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("image", "target", "index"))


def test_the_size_is_said_and_a_replaced_photo_is_refused(photos, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    made = module(photos, tmp_path, cache="images")
    assert "Image cache: 24 photos to decode once, 0.0 MB in" in caplog.text
    records = [r for split in made.splits.values() for r in split]
    first, second = records[0], records[1]
    shutil.copy(photos / second.path, photos / first.path)
    elsewhere = image_store(tmp_path / "other", made.preprocess)
    with pytest.raises(InputError, match="has been replaced since this run began"):
        store_images(elsewhere, photos, records, made.preprocess)
    assert not image_store(tmp_path / "cache", made.preprocess).missing(r.digest for r in records)
