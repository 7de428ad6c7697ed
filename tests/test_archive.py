"""Archives: an output that is killed, shared out and merged has the bytes of one that was not."""

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from src.decisions.parquet import number_columns
from src.decisions.predictions import columns, read_lines, row
from src.errors import InputError
from src.files import held
from src.inference import archive, parts, streamed
from src.inference.archive import PartedOutput, find_output, open_output
from src.inference.fingerprint import fingerprint
from src.inference.made import made_file
from src.inference.parts import parts_of
from src.inference.photos import Photo, find_images, refuse_to_overwrite
from src.inference.shards import Shard, find_shard
from src.labels import LabelSpace
from tests.made import FAST, REPOSITORY, make_folders, only_run, run_script

TWO = LabelSpace({"component": ("Bolt", "Bracket"), "defect": ("Leaks", "Loose", "Missing")})
COLUMNS = columns("multilabel", TWO, probabilities=True)


def stub_rows(photos, batch=16):
    """Rows that follow from the path alone, in batches, as a predictor gives them."""
    for begin in range(0, len(photos), batch):
        rows = []
        for photo in photos[begin : begin + batch]:
            draw = random.Random(photo.path)
            scores = [draw.random() for _ in TWO.names]
            error = "truncated, at byte 7" if draw.random() < 0.05 else ""
            rows.append(
                row("multilabel", TWO, photo.id, photo.path, scores, [0.5] * 5, error, probabilities=True)
            )
        yield rows


def listed(count):
    return [Photo(f"{i:05}", f"site, {i % 3}/Brücke {i:05}.jpg", Path("nowhere")) for i in range(count)]


@pytest.fixture
def made_of(tmp_path):
    """Return a function that gives the fingerprint of photos under a model that is a file."""
    (tmp_path / "model.ckpt").write_bytes(b"weights")

    def make(photos, **settings):
        return fingerprint(tmp_path / "model.ckpt", photos, COLUMNS, threshold=None, **settings)

    return make


def fill(output, photos, made_of, shard=None, resume=False, rows_of=stub_rows):
    with open_output(output, photos, made_of, shard, resume) as out:
        for _ in out.written(rows_of):
            pass
    return out


@pytest.fixture
def small_parts(monkeypatch):
    """Make parts of seven photos."""
    monkeypatch.setattr(PartedOutput.__init__, "__defaults__", (Shard(0, 1), False, 7))


def left_in(folder):
    """What lies in a folder, but for what finished files are made of."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".made")}


def whole(tmp_path, photos, made_of, suffix):
    """The bytes of an uninterrupted, unsharded output."""
    output = tmp_path / "whole" / f"p{suffix}"
    output.parent.mkdir(exist_ok=True)
    fill(output, photos, made_of)
    assert {path.name for path in output.parent.iterdir()} - {made_file(output).name} == {output.name}
    return output.read_bytes()


# ranges and names


def test_ranges_cover_every_photo_once():
    draw = random.Random(0)
    for _ in range(500):
        total, count, size = draw.randint(1, 3000), draw.randint(1, 60), draw.randint(1, 200)
        lengths, seen, names = [], 0, []
        for index in range(count):
            begin, end = Shard(index, count).range(total)
            lengths.append(end - begin)
            for part in parts_of(total, Shard(index, count), size):
                assert part.begin == seen and begin <= part.begin < part.end <= end
                assert part.end - part.begin == min(size, end - part.begin)
                seen = part.end
                names.append(part.name)
        assert seen == total and max(lengths) - min(lengths) <= 1
        assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"RANK": "2", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "3/4"),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "8"}, "8/8"),
        ({"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1"}, "8/8"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, "1/3"),
    ],
)
def test_shard_from_the_environment(environment, wanted):
    assert str(find_shard("auto", environment)) == wanted


@pytest.mark.parametrize(
    ("given", "environment", "words"),
    [
        ("17/16", {}, "shards of this job are 1/16 to 16/16"),
        ("0/4", {}, "shards of this job are 1/4 to 4/4"),
        ("1/0", {}, "1 to 99999 shards"),
        ("a/b", {}, "name one of many as 3/16, or auto"),
        ("3", {}, "name one of many"),
        ("-1/4", {}, "name one of many"),
        ("auto", {}, "neither torchrun nor SLURM"),
        ("auto", {"RANK": "x", "WORLD_SIZE": "4"}, "RANK=x is no whole number"),
        ("auto", {"RANK": "4", "WORLD_SIZE": "4"}, "RANK=4, WORLD_SIZE=4"),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"},
            "without gaps",
        ),
    ],
)
def test_a_shard_that_is_none(given, environment, words):
    with pytest.raises(InputError, match=words):
        find_shard(given, environment)


def test_where_the_output_is(tmp_path):
    assert find_output(None, "dated", False, None) == Path("dated/predictions.csv")
    assert find_output("new/", "dated", True, None) == Path("new/predictions.csv")
    assert find_output(str(tmp_path), "dated", True, None) == tmp_path / "predictions.csv"
    for resume, shard in ((True, None), (False, Shard(0, 2))):
        with pytest.raises(InputError, match="needs output="):
            find_output(None, "dated", resume, shard)


# the same bytes


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_shards_give_the_bytes_of_one_call(tmp_path, made_of, small_parts, suffix, count):
    photos = listed(101)
    wanted = whole(tmp_path, photos, made_of(photos), suffix)
    output = tmp_path / f"p{suffix}"
    order = list(range(count))
    random.Random(count).shuffle(order)
    for index in order[:-1]:
        out = fill(output, photos, made_of(photos), Shard(index, count))
        assert "are still missing" in out.summary and not output.exists()
        assert out.exit_code == (b"error" in b"".join(p.read_bytes() for p in own(output, index)))
    out = fill(output, photos, made_of(photos), Shard(order[-1], count))
    assert output.read_bytes() == wanted and not archive.parts_folder(output).exists()
    errors = sum(r["status"] == "error" for rows in stub_rows(photos) for r in rows)
    assert out.summary == f"{101 - errors} photos predicted, {errors} unreadable" and out.exit_code == 1
    assert left_in(tmp_path) == {"model.ckpt", output.name, "whole"}


def own(output, index):
    return archive.parts_folder(output).glob(f"{index + 1:05}-*.csv")


def test_the_csv_of_one_process_is_as_ever(tmp_path, made_of):
    photos = listed(30)
    content = whole(tmp_path, photos, made_of(photos), ".csv")
    rows = [values for values, _ in read_lines(io.BytesIO(content))]
    assert rows[0] == COLUMNS
    wanted = [[r[c] for c in COLUMNS] for rows in stub_rows(photos) for r in rows]
    assert rows[1:] == wanted


def test_parquet_has_the_rows_of_the_csv_with_types(tmp_path, made_of, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr("src.decisions.parquet.ROW_GROUP", 40)
    photos = listed(101)
    whole(tmp_path, photos, made_of(photos), ".parquet")
    path = tmp_path / "whole" / "p.parquet"
    table = parquet.read_table(path)
    assert table.column_names == COLUMNS and parquet.ParquetFile(path).num_row_groups == 3
    types = number_columns(COLUMNS)
    wanted = [r for rows in stub_rows(photos) for r in rows]
    for name in COLUMNS:
        kind = {"double": pa.float64(), "float": pa.float32()}.get(types.get(name), pa.string())
        assert table.schema.field(name).type == kind
        for found, text in zip(table[name].to_pylist(), (r[name] for r in wanted), strict=True):
            if kind == pa.string():
                assert found == text
            else:
                assert found is None if not text else found == pytest.approx(float(text), rel=1e-6)
    assert table["avg_defect_confidence"].null_count and table["p:Leaks"].null_count


def test_number_columns_of_each_task():
    one = LabelSpace({"label": ("a", "b")})
    assert number_columns(columns("multiclass", one, True)) == {
        "confidence": "double",
        "p:a": "float",
        "p:b": "float",
    }
    names = ("component_confidence", "defect_confidence", "average_confidence")
    assert number_columns(columns("dual_head", TWO)) == dict.fromkeys(names, "double")
    odd = LabelSpace({"avg_x": ("a",), "y": ("b",)})
    names = ("avg_avg_x_confidence", "avg_y_confidence", "overall_avg_confidence")
    assert number_columns(columns("multilabel", odd)) == dict.fromkeys(names, "double")


# killed


def forked(output, photos, made_of, shard, after):
    """Fill the output in a child that is killed after so many seconds; whether it was."""

    def slow(some):
        for rows in stub_rows(some, batch=3):
            time.sleep(0.0005)
            yield rows

    child = os.fork()
    if not child:
        try:
            fill(output, photos, made_of, shard, True, slow)
        finally:
            os._exit(0)  # a failure shows as bytes that differ
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize(("suffix", "count"), [(".csv", None), (".parquet", None), (".csv", 3)])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path, made_of, small_parts, suffix, count):
    photos = listed(600)
    wanted = whole(tmp_path, photos, made_of(photos), suffix)
    output, draw = tmp_path / f"p{suffix}", random.Random(1)
    for _ in range(2):  # whole jobs, each killed again and again
        killed = 0
        shards = [Shard(i, count) for i in range(count)] if count else [None]
        while killed < 12 and shards:
            shard = draw.choice(shards)
            if forked(output, photos, made_of(photos), shard, draw.uniform(0.0, 0.06)):
                killed += 1
            elif not count:
                break
            else:
                shards.remove(shard)
        for shard in shards:
            fill(output, photos, made_of(photos), shard, resume=True)
        assert output.read_bytes() == wanted
        out = fill(output, photos, made_of(photos), shards[-1] if shards else Shard(0, 3), resume=True)
        assert "nothing to do" in out.summary and out.exit_code == 1
        assert left_in(tmp_path) - {f"{output.name}.parts.merged"} == {"model.ckpt", output.name, "whole"}
        assert killed >= 3
        output.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="locks nothing there")
def test_a_lock_that_a_kill_left_at_a_finished_csv_is_taken_away(tmp_path, made_of):
    photos, output, lock = listed(4), tmp_path / "p.csv", tmp_path / ".p.csv.lock"
    fill(output, photos, made_of(photos))
    lock.touch()
    assert "nothing to do" in fill(output, photos, made_of(photos), resume=True).summary
    assert not lock.exists()
    with held(lock):
        assert "nothing to do" in fill(output, photos, made_of(photos), resume=True).summary
        assert lock.exists()


def test_a_csv_that_is_torn_anywhere_goes_on(tmp_path, made_of):
    photos = listed(4)
    wanted = whole(tmp_path, photos, made_of(photos), ".csv")
    output = tmp_path / "p.csv"
    for length in [*range(0, len(wanted), 7), len(wanted) - 1, len(wanted)]:
        output.write_bytes(wanted[:length])
        streamed.side_file(output).write_text(json.dumps(made_of(photos)))
        (tmp_path / ".p.csv.made.tmp").write_bytes(b"torn")  # by a kill in the last moment
        fill(output, photos, made_of(photos), resume=True)
        assert output.read_bytes() == wanted and left_in(tmp_path) == {"model.ckpt", "p.csv", "whole"}


def test_a_torn_line_within_quotes_is_cut():
    text = b'ID,path\n1,"a\nb"\n2,"c\nd'
    assert list(read_lines(io.BytesIO(text))) == [(["ID", "path"], 8), (["1", "a\nb"], 16)]
    assert len(list(read_lines(io.BytesIO(text[:-1])))) == 2


# several processes at once


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_all_shards_at_once_and_each_of_them_twice(tmp_path, made_of, small_parts, suffix):
    photos = listed(200)
    wanted = whole(tmp_path, photos, made_of(photos), suffix)
    output = tmp_path / f"p{suffix}"
    for _ in range(3):
        children = []
        for index in (0, 1, 2, 0, 1, 2):
            if not (child := os.fork()):
                code = 9
                try:
                    fill(output, photos, made_of(photos), Shard(index, 3), resume=True)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
        assert output.read_bytes() == wanted
        assert left_in(tmp_path) == {"model.ckpt", output.name, "whole"}
        output.unlink()


def test_one_merges_while_another_does(tmp_path, made_of, small_parts, monkeypatch):
    photos, output = listed(50), tmp_path / "p.csv"
    wanted = whole(tmp_path, photos, made_of(photos), ".csv")
    fill(output, photos, made_of(photos), Shard(0, 2))
    read, begun = parts.read_part, []

    def read_and_let_another_merge(folder, part, names):
        if not begun:
            begun.append(part)
            fill(output, photos, made_of(photos), Shard(0, 2))
        return read(folder, part, names)

    monkeypatch.setattr(parts, "read_part", read_and_let_another_merge)
    out = fill(output, photos, made_of(photos), Shard(1, 2))
    assert "another process has merged" in out.summary and output.read_bytes() == wanted
    assert not archive.parts_folder(output).exists()


def test_the_slower_of_two_finds_all_merged(tmp_path, made_of, small_parts):
    photos, output = listed(50), tmp_path / "p.csv"

    def overtaken(some):
        for i, rows in enumerate(stub_rows(some)):
            if i == 1:
                fill(output, photos, made_of(photos), Shard(0, 1))
            yield rows

    out = fill(output, photos, made_of(photos), Shard(0, 1), rows_of=overtaken)
    assert out.summary == "shard 1/1: another process has merged all parts" and out.exit_code == 0
    assert output.read_bytes() == whole(tmp_path, photos, made_of(photos), ".csv")


def test_a_merge_that_was_killed_before_the_parts_were_removed(tmp_path, made_of, small_parts, monkeypatch):
    photos, output = listed(50), tmp_path / "p.csv"
    with monkeypatch.context() as m:
        m.setattr(parts, "_remove", lambda folder: None)
        fill(output, photos, made_of(photos), Shard(0, 1))
    before = output.read_bytes()
    assert archive.parts_folder(output).exists()
    fill(output, photos, made_of(photos), Shard(0, 1), rows_of=lambda some: pytest.fail("predicted twice"))
    assert output.read_bytes() == before and not archive.parts_folder(output).exists()


def test_two_processes_never_stream_into_one_file(tmp_path, made_of):
    photos, output = listed(50), tmp_path / "p.csv"

    def second(some):
        for rows in stub_rows(some):
            for resume in (False, True):
                with pytest.raises(InputError, match="another process is writing it"):
                    fill(output, photos, made_of(photos), resume=resume)
            yield rows

    fill(output, photos, made_of(photos), rows_of=second)
    assert output.read_bytes() == whole(tmp_path, photos, made_of(photos), ".csv")


# refused


class Stop(Exception):
    pass


def stopping(after):
    def rows_of(some):
        for i, rows in enumerate(stub_rows(some)):
            if i == after:
                raise Stop
            yield rows

    return rows_of


def stopped(*arguments, **options):
    with pytest.raises(Stop):
        fill(*arguments, rows_of=stopping(2), **options)


def test_an_unfinished_csv_is_not_overwritten(tmp_path, made_of):
    photos, output = listed(50), tmp_path / "p.csv"
    stopped(output, photos, made_of(photos))
    before = output.read_bytes()
    with pytest.raises(InputError, match=r"holds 32 rows of an unfinished call: go on with resume=true, or"):
        fill(output, photos, made_of(photos))
    with pytest.raises(InputError, match=r"without shard=, or delete both"):
        fill(output, photos, made_of(photos), Shard(0, 2))
    assert output.read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
def test_an_unfinished_csv_without_a_row_is_begun_anew(tmp_path, made_of, resume):
    def failing(_):
        raise MemoryError
        yield

    photos, output = listed(50), tmp_path / "p.csv"
    with pytest.raises(MemoryError):
        fill(output, photos, made_of(photos, batch_size=10**6), rows_of=failing)
    assert streamed.lines_in(output) == 0 and streamed.side_file(output).exists()
    assert fill(output, photos, made_of(photos, batch_size=16), resume=resume).total == 50
    assert output.read_bytes() == whole(tmp_path, photos, made_of(photos, batch_size=16), ".csv")
    assert not streamed.side_file(output).exists()


def test_resume_tells_what_differs(tmp_path, made_of):
    photos, output = listed(50), tmp_path / "p.csv"
    stopped(output, photos, made_of(photos, batch_size=16))
    before = output.read_bytes()
    other = made_of(photos, batch_size=16)
    (tmp_path / "model.ckpt").write_bytes(b"other weights")
    for now, words in (
        (made_of(photos, batch_size=16), "other checkpoint: go on"),
        (other | {"threshold": {"Leaks": 0.2}}, r'other threshold \(null, now {"Leaks": 0.2}\): go on'),
        (other | {"batch_size": 8}, r"other batch_size \(16, now 8\): go on"),
        (other | {"columns": COLUMNS[:-5]}, "other columns: go on"),
        (made_of(photos[:-1], batch_size=16), r"checkpoint, photos, number of photos \(50, now 49\): go on"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            fill(output, photos, now, resume=True)
        assert "\n" not in str(caught.value)
    streamed.side_file(output).write_text("{")
    with pytest.raises(InputError, match="delete it to begin anew"):
        fill(output, photos, other, resume=True)
    assert output.read_bytes() == before


def test_resume_of_what_is_not_ours(tmp_path, made_of):
    photos, output = listed(50), tmp_path / "p.csv"
    wanted = whole(tmp_path, photos, made_of(photos), ".csv")
    lines = wanted.splitlines(keepends=True)
    for content, words in (
        (b"".join(lines[:20]), r"is incomplete,? and (p.csv.unfinished|no parts)"),
        (b"ID,other\n1,2\n", "the header of"),
        (lines[0] + lines[2], ": row 1 of"),
        (wanted + lines[-1], ": row 51 of"),
        (b'ID,"pa"th\n' * 9, "is no CSV of predictions"),
        (b"\x89PNG\r\n\x1a\n\0\xff", "the header of"),
    ):
        output.write_bytes(content)
        for shard in (None, Shard(0, 1)):
            with pytest.raises(InputError, match=words):
                fill(output, photos, made_of(photos), shard, resume=True)
        assert output.read_bytes() == content
    output.write_bytes(wanted)
    with pytest.raises(InputError, match=r"is finished, and .p.csv.made does not know it"):
        fill(output, photos, made_of(photos), resume=True)
    fill(output, photos, made_of(photos))
    out = fill(output, photos, made_of(photos), resume=True)
    assert out.summary.startswith("nothing to do, complete already: ") and out.exit_code == 1
    with pytest.raises(InputError, match=r"is finished, and made of other batch_size \(null, now 8\)"):
        fill(output, photos, made_of(photos, batch_size=8), resume=True)
    assert output.read_bytes() == wanted
    fill(output, photos[:20], made_of(photos[:20]))  # without resume a finished file is replaced, as ever
    assert output.read_bytes() == b"".join(lines[:21])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parts_and_finished_outputs_of_something_else(tmp_path, made_of, small_parts, suffix):
    photos, output = listed(50), tmp_path / f"p{suffix}"
    fill(output, photos, made_of(photos), Shard(0, 2))
    with pytest.raises(InputError, match=r"begun with other shards \(2, now 3\): go on"):
        fill(output, photos, made_of(photos), Shard(0, 3))
    with pytest.raises(InputError, match=r"begun with other batch_size \(null, now 8\): go on"):
        fill(output, photos, made_of(photos, batch_size=8), Shard(1, 2))
    if suffix == ".csv":
        with pytest.raises(InputError, match="holds an unfinished job in shards"):
            fill(output, photos, made_of(photos), resume=True)
    broken = next(own(output, 0))
    content = broken.read_bytes()
    broken.write_bytes(content[:-5])
    with pytest.raises(InputError, match="does not hold the rows of 7 photos: delete it"):
        fill(output, photos, made_of(photos), Shard(1, 2))
    broken.write_bytes(content)
    fill(output, photos, made_of(photos), Shard(1, 2))
    with pytest.raises(InputError, match="resume=true"):
        fill(output, photos[:-1], made_of(photos[:-1]), Shard(0, 2), resume=True)
    output.write_bytes(output.read_bytes()[:-30])
    with pytest.raises(InputError, match="resume=true"):
        fill(output, photos, made_of(photos), Shard(0, 2), resume=True)


def test_a_folder_of_parts_without_a_plan(tmp_path, made_of):
    (tmp_path / "p.parquet.parts").mkdir()
    (tmp_path / "p.parquet.parts" / "notes.txt").write_text("mine")
    with pytest.raises(
        InputError, match=r"p.parquet.parts: its plan.json is missing or damaged: delete the folder"
    ):
        fill(tmp_path / "p.parquet", listed(3), made_of(listed(3)))


@pytest.mark.parametrize("earlier", [None, ".csv", ".parquet"])
@pytest.mark.parametrize("other", [{"batch_size": 4}, {}])
def test_parts_that_were_deleted_meanwhile(tmp_path, made_of, small_parts, earlier, other):
    photos, output = listed(50), tmp_path / f"p{earlier or '.csv'}"
    if earlier:  # a finished output of another call lies there
        fill(output, photos, made_of(photos, **other), Shard(0, 1))
        os.utime(output, (1e9, 1e9))

    def robbed(some):
        for rows in stub_rows(some):
            archive.parts_folder(output).rename(tmp_path / "elsewhere")
            yield rows

    with pytest.raises(InputError, match="was deleted while parts were being written"):
        fill(output, photos, made_of(photos), Shard(0, 2), rows_of=robbed)


def test_names_of_outputs(tmp_path, made_of, monkeypatch):
    photos = listed(3)
    for name in ("p.json", "p", "p.pq"):
        with pytest.raises(InputError, match=r"ends in \.csv or \.parquet"):
            open_output(tmp_path / name, photos, made_of(photos))
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="that is a folder"):
        open_output(tmp_path / "d.csv", photos, made_of(photos))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs the extra `parquet` \(python -m pip install"):
        open_output(tmp_path / "p.parquet", photos, made_of(photos))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_output_folder_that_cannot_be_written(tmp_path, made_of, suffix):
    photos = listed(3)
    (tmp_path / "file").write_text("a file stands where the folder should be")
    for shard in (None, Shard(0, 2)):
        with pytest.raises(InputError, match=r"cannot write .*: there is a file where a folder is needed"):
            fill(tmp_path / "file" / f"p{suffix}", photos, made_of(photos), shard)
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError, match="Permission denied"):
            fill(tmp_path / "locked" / f"p{suffix}", photos, made_of(photos))


def with_limit(limit, work):
    """Run in a child whose files can have so many bytes; return what it says."""
    resource = pytest.importorskip("resource")
    reading, writing = os.pipe()
    if not (child := os.fork()):
        said = b"no error"
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}".encode()
        finally:
            os.write(writing, said)
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pipe.read()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize(("suffix", "shard"), [(".csv", None), (".csv", Shard(0, 1)), (".parquet", None)])
def test_a_full_disk_loses_nothing(tmp_path, made_of, monkeypatch, small_parts, suffix, shard):
    photos, output = listed(300), tmp_path / f"p{suffix}"
    wanted = whole(tmp_path, photos, made_of(photos), suffix)
    said = with_limit(3000, lambda: fill(output, photos, made_of(photos), shard))
    assert said.startswith("InputError: disk full (File too large)") and "\n" not in said
    if output.suffix == ".csv" and shard is None:
        assert "rows kept in" in said and said.endswith("the same command with resume=true goes on")
    else:  # each part fits, the whole does not
        assert "all its parts are kept in" in said and not output.exists()
        monkeypatch.setattr(archive, "write_durably", lambda *_: pytest.fail("a part was written twice"))
    fill(output, photos, made_of(photos), shard, resume=True)
    assert output.read_bytes() == wanted
    assert left_in(tmp_path) == {"model.ckpt", output.name, "whole"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_while_a_part_is_written(tmp_path, made_of):
    photos, output = listed(3000), tmp_path / "p.csv"
    said = with_limit(100_000, lambda: fill(output, photos, made_of(photos), Shard(0, 1)))
    assert "disk full (File too large): the parts that are finished are kept in" in said
    assert [p.name for p in archive.parts_folder(output).iterdir()] == ["plan.json"]


def test_torchrun_is_not_told_of_unreadable_photos_before_the_merge(
    tmp_path, made_of, small_parts, monkeypatch
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    photos, output = listed(100), tmp_path / "p.csv"
    out = fill(output, photos, made_of(photos), Shard(0, 2))
    assert out.unreadable and out.exit_code == 0
    assert fill(output, photos, made_of(photos), Shard(1, 2)).exit_code == 1


# photos and memory


def test_photos_are_a_sequence(make_tree, tmp_path):
    root = make_tree(tmp_path, "b/1.jpg", "a/2.png", "a/2.jpg", "c.d/3.x.JPG")
    photos = find_images(str(root))
    assert [(p.id, p.path) for p in photos] == [
        ("a/2.jpg", "a/2.jpg"),
        ("a/2.png", "a/2.png"),
        ("b/1", "b/1.jpg"),
        ("c.d/3.x", "c.d/3.x.JPG"),
    ]
    assert [p.id for p in photos[1:3]] == ["a/2.png", "b/1"] and photos[-1].file.is_file()
    (tmp_path / "list.csv").write_text("path,ID\nb/1.jpg,one\na/2.png,\n")
    assert [(p.id, p.path) for p in find_images(str(tmp_path / "list.csv"))[:9]] == [
        ("a/2", "a/2.png"),
        ("one", "b/1.jpg"),
    ]
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


def test_an_output_is_no_photo_under_another_name(make_tree, tmp_path):
    photos = find_images(str(make_tree(tmp_path / "photos", "1.jpg")))
    os.symlink(photos[0].file, tmp_path / "p.csv")
    (tmp_path / "odd.csv").write_bytes(b"a photo without its extension")
    odd = [Photo("odd", "odd.csv", tmp_path / "odd.csv")]
    for output, some in (("p.csv", photos), ("odd.csv", odd)):
        with pytest.raises(InputError, match="would overwrite an input"):
            refuse_to_overwrite(tmp_path / output, some)


@pytest.mark.parametrize(("suffix", "shard"), [(".csv", None), (".csv", Shard(0, 2)), (".parquet", None)])
def test_memory_does_not_grow_with_the_photos(tmp_path, made_of, small_parts, monkeypatch, suffix, shard):
    monkeypatch.setattr("src.decisions.parquet.ROW_GROUP", 64)
    peaks = []
    for count in (200, 200, 2000):
        photos = listed(count)
        made = made_of(photos)
        tracemalloc.start()
        fill(tmp_path / f"{len(peaks)}{suffix}", photos, made, shard)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 1800 * 200  # names of parts; the rows are 500 bytes each


# the script


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("run")
    photos = make_folders(home / "photos", each=4)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(home)
        assert run_script(monkeypatch, "train", f"data.root={photos}", *FAST, "trainer.max_epochs=1") == 0
    return only_run(home)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_script_in_shards_and_resumed(run, tmp_path, monkeypatch, capsys, suffix):
    photos = make_folders(tmp_path / "photos", each=2)
    (photos / "bad.jpg").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    common = (f"ckpt={run}", "images=photos", "num_workers=0", "batch_size=4", "device=cpu")

    def predict(output, *arguments):
        code = run_script(monkeypatch, "predict", *common, f"output={output}{suffix}", *arguments)
        return code, capsys.readouterr()

    code, said = predict("whole")
    assert code == 1 and said.out == f"18 photos predicted, 1 unreadable: whole{suffix}\n"
    monkeypatch.setattr(PartedOutput.__init__, "__defaults__", (Shard(0, 1), False, 4))
    codes = [predict("p", f"shard={i}/3") for i in (3, 1, 2)]
    assert (tmp_path / f"p{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert "still missing" in codes[0][1].out and [code for code, _ in codes] == [1, 0, 1]
    code, said = predict("p", "resume=true", "shard=1/3")
    assert code == 1 and "nothing to do, complete already: 18 photos predicted, 1 unreadable" in said.out
    for name in ("p", "whole"):
        code, said = predict(name, "resume=true", "batch_size=2", *(["shard=1/3"] if name == "p" else []))
        assert code == 2 and "batch_size (4, now 2)" in said.err
    made = tmp_path / ".whole.csv.made"
    if suffix == ".csv":
        made.unlink()
        code, said = predict("whole", "resume=true")
        assert code == 2 and ".whole.csv.made does not know it" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["output=p.csv", "shard=17/16"], "17/16"),
        (["output=p.csv", "shard=a/b"], "name one of many as 3/16"),
        (["output=p.csv", "shard=auto"], "neither torchrun nor SLURM"),
        (["resume=true"], "resume=true needs output="),
        (["shard=1/2"], "shard=1/2 needs output="),
        (["resum=true"], "did you mean 'resume'"),
        (["output=p.json"], "ends in .csv or .parquet"),
    ],
)
def test_the_script_refuses(run, tmp_path, monkeypatch, capsys, arguments, words):
    images = f"images={make_folders(tmp_path / 'photos', each=1)}"
    for name in ("RANK", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "predict", f"ckpt={run}", images, "num_workers=0", *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("error: ") and words in line]) == 1
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("p.")]


def test_no_torch_and_no_pandas_is_needed():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('src.inference')\n"  # without what the package itself imports
        "package.__path__ = ['src/inference']\n"
        "sys.modules['src.inference'] = package\n"
        "import src.inference.archive, src.decisions.parquet\n"
        "print(sorted({'torch', 'pandas', 'pyarrow'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_failed_merge_leaves_an_older_output_its_own(tmp_path, made_of, small_parts, monkeypatch):
    photos, output = listed(50), tmp_path / "p.csv"
    fill(output, photos, made_of(photos))
    real = parts.os.replace

    def full(source, target):
        if target == output:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(parts.os, "replace", full)
    with pytest.raises(InputError, match="could not be merged"):
        fill(output, photos, made_of(photos, batch_size=8), Shard(0, 1))
    monkeypatch.undo()
    shutil.rmtree(archive.parts_folder(output))
    with pytest.raises(InputError, match="made of other batch_size"):
        fill(output, photos, made_of(photos, batch_size=8), Shard(0, 1), resume=True)


def test_a_finished_csv_that_was_changed_is_not_ours(tmp_path, made_of):
    photos, output = listed(20), tmp_path / "p.csv"
    fill(output, photos, made_of(photos))
    content = output.read_bytes()
    output.write_bytes(content.replace(b",ok,", b",OK,"))
    with pytest.raises(InputError, match=r".p.csv.made does not know it"):
        fill(output, photos, made_of(photos), resume=True)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_damaged_part_is_named(tmp_path, made_of, small_parts, suffix):
    photos, output = listed(50), tmp_path / f"p{suffix}"
    fill(output, photos, made_of(photos), Shard(0, 2))
    part = min(archive.parts_folder(output).glob("0*.csv"))
    whole_part = part.read_bytes()
    part.write_bytes(whole_part + b"torn")
    with pytest.raises(InputError, match=f"{part.name} does not hold the rows of .* delete it"):
        fill(output, photos, made_of(photos), Shard(1, 2))
    if suffix == ".parquet":
        part.write_bytes(re.sub(rb"0\.\d{4},", b"zero,", whole_part))
        with pytest.raises(
            InputError, match=rf"{part.name} is damaged .* delete it and call its shard again"
        ):
            fill(output, photos, made_of(photos), Shard(1, 2))
    assert not output.exists()


def test_a_finished_csv_is_left_alone_where_nobody_may_write(tmp_path, made_of, monkeypatch):
    photos, output = listed(20), tmp_path / "p.csv"
    fill(output, photos, made_of(photos))

    def read_only(file, mode):
        if "r" not in mode:
            raise PermissionError(13, "Permission denied")
        return open(file, mode)

    monkeypatch.setattr(streamed, "open", read_only, raising=False)
    assert fill(output, photos, made_of(photos), resume=True).summary.startswith("nothing to do")
    with pytest.raises(InputError, match=r"cannot write .*p.csv: Permission denied"):
        fill(output, photos, made_of(photos))


def test_an_archive_that_has_grown_is_no_unfinished_output(tmp_path, made_of):
    photos, output = listed(50), tmp_path / "p.csv"
    fill(output, photos[:20], made_of(photos[:20]))
    for shard in (None, Shard(0, 1)):
        with pytest.raises(InputError, match=r"is finished, and made of other .*number of photos"):
            fill(output, photos, made_of(photos), shard, resume=True)


def test_a_run_keeps_its_own_predictions(tmp_path, made_of):
    photos, run = listed(20), tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(InputError, match="a run's own predictions of its test photos"):
            fill(run / "predictions.csv", photos, made_of(photos), resume=resume)
    (tmp_path / "link.csv").symlink_to(run / "predictions.csv")
    with pytest.raises(InputError, match="a run's own predictions of its test photos"):
        fill(tmp_path / "link.csv", photos, made_of(photos))
    fill(run / "archive.csv", photos, made_of(photos))


def test_a_call_that_is_refused_leaves_the_file_that_another_holds(tmp_path, made_of, monkeypatch):
    photos, output = listed(20), tmp_path / "p.csv"
    output.touch()
    with held(tmp_path / ".p.csv.lock"), pytest.raises(InputError, match="another process is writing it"):
        fill(output, photos, made_of(photos))
    assert output.exists()


def test_a_line_break_in_a_table_of_photos_is_refused(tmp_path):
    for content in ('path,ID\na.jpg,"1\r2"\n', 'path\n"a\nb.jpg"\n'):
        (tmp_path / "photos.csv").write_bytes(content.encode())
        with pytest.raises(InputError, match=r"holds a line break, which no row of an output can"):
            find_images(str(tmp_path / "photos.csv"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_that_holds_no_predictions_is_not_replaced(tmp_path, made_of, suffix):
    photos, output = listed(20), tmp_path / f"p{suffix}"
    output.write_bytes(b"ID,path,component\n1,a.jpg,Bolt\n")
    for shard in (None, Shard(0, 1)):
        with pytest.raises(InputError, match="a table that holds no predictions, and would be replaced"):
            fill(output, photos, made_of(photos), shard)
    assert output.read_bytes() == b"ID,path,component\n1,a.jpg,Bolt\n"


def test_a_call_that_is_refused_leaves_no_empty_file(tmp_path, made_of):
    photos, output = listed(20), tmp_path / "p.csv"
    (tmp_path / "p.csv.unfinished").write_text("damaged")
    with pytest.raises(InputError):
        fill(output, photos, made_of(photos))
    assert not output.exists()
