"""Outputs that are killed, shared out and merged have the bytes of an uninterrupted call of one process."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image, ImageOps

from src import preprocess
from src.decisions.predictions import number_columns
from src.inference import batches, output
from src.inference.predictor import Predictor
from src.models.classifiers import MultiLabelClassifier
from tests.made import REPOSITORY, run_script

LABELS = {"component": ["Bolt", "Bracket"], "defect": ["Leaks", "Loose", "Missing"]}
COUNT, CHUNK = 43, 8  # six chunks, the last one of three photos
ERRORS = 2
COMMON = ("device=cpu", "num_workers=0", "batch_size=3", "probabilities=true")


@pytest.fixture(scope="module")
def home(make_tree, tmp_path_factory):
    """A folder with a small untrained model and photos, two of which cannot be read."""
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    given = {"task": "multilabel", "labels": LABELS, "preprocess": {"image_size": 16}}
    model = MultiLabelClassifier(**given, backbone="tiny", weights=None)
    model.thresholds.fill_(0.49)
    model.limits[:2] = 0.47  # of the components, at every rate; no promise for a defect
    content = {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, home / "model.ckpt")
    root = make_tree(home / "photos", *(f"site, {i % 3}/Brücke {i:02}.png" for i in range(COUNT)))
    for number in (3, 20):
        (root / f"site, {number % 3}" / f"Brücke {number:02}.png").write_bytes(b"no photo")
    return home


@pytest.fixture
def predict(home, tmp_path, monkeypatch, capsys):
    """Return a function that calls the script in chunks of eight and returns its exit code and last line."""
    monkeypatch.setattr(batches, "CHUNK", CHUNK)
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def call(name, *arguments, model=home / "model.ckpt"):
        common = (f"ckpt={model}", f"images={home / 'photos'}", *COMMON)
        code = run_script(monkeypatch, "predict", *common, f"output={name}", *arguments)
        said = capsys.readouterr()
        return code, (said.err if code == 2 else said.out).strip().rpartition("\n")[2]

    return call


@pytest.fixture
def whole(home, predict, tmp_path):
    """The bytes of an uninterrupted call of one process, by suffix; the files lie here."""
    kept = home / "whole"
    for suffix in (".csv", ".parquet"):
        if not (kept / f"whole{suffix}").exists():
            said = f"41 photos predicted, 2 unreadable: {kept / 'whole'}{suffix}"
            assert predict(f"{kept}/whole{suffix}") == (1, said)
    assert len(list(kept.iterdir())) == 4  # two outputs with their manifests
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return {suffix: (kept / f"whole{suffix}").read_bytes() for suffix in (".csv", ".parquet")}


def chunks(name="p.csv"):
    return sorted(path.name for path in Path(f"{name}.job").glob("chunk-*"))


def stopping_after(monkeypatch, photos, what=KeyboardInterrupt):
    """Let the script end as by a kill when it has read so many photos; return those that it has read."""
    read = []

    def counted(file, real=preprocess.read_photo):
        if len(read) == photos:
            raise what
        read.append(file)
        return real(file)

    monkeypatch.setattr(preprocess, "read_photo", counted)
    return read


def test_the_rows_of_a_call(predict, whole, tmp_path):
    rows = list(csv.DictReader(whole[".csv"].decode().splitlines()))
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows) and len(rows) == COUNT
    bad = [row for row in rows if row["status"] == "error"]
    assert len(bad) == ERRORS and all(row["error"] and not row["components"] for row in bad)
    assert not any(row["p:Leaks"] for row in bad) and rows[0]["ID"] == "site, 0/Brücke 00"
    assert predict("threads.csv", "num_workers=2")[0] == 1
    assert (tmp_path / "threads.csv").read_bytes() == whole[".csv"]


def test_a_person_is_asked_as_miss_says(predict, whole):
    rows = [row for row in csv.DictReader(whole[".csv"].decode().splitlines()) if row["status"] == "ok"]
    for row in rows:
        between = [name for name in LABELS["component"] if 0.47 <= float(row[f"p:{name}"]) < 0.49]
        assert row["review"] == ("yes" if between else "no")
        assert row["review_reason"] == ";".join(f"{name}:{float(row[f'p:{name}']):.4f}" for name in between)
    assert {row["review"] for row in rows} == {"yes", "no"}
    assert predict("p.csv", "miss=0.06", "output_dir=logs", "hydra.run.dir=logs")[0] == 1
    told = "miss=0.06: no promise for Leaks, Loose, Missing; it takes 19 photos of a label"
    assert told in Path("logs/predict.log").read_text()
    code, said = predict("p.csv", "miss=null", "resume=true")
    assert code == 2 and "p.csv was made with other miss (0.06, now null)" in said
    for wrong, why in (("0", "needs a rate"), ("2", "needs a rate"), ("often", "could not be converted")):
        code, said = predict("q.csv", f"miss={wrong}")
        assert code == 2 and said.startswith("error: miss") and why in said


def test_tta_is_the_mean_with_the_mirror_image(home, predict):
    assert predict("plain.csv")[0] == predict("tta.csv", "tta=true")[0] == 1
    plain, both = (pd.read_csv(name).set_index("path") for name in ("plain.csv", "tta.csv"))
    path = plain.index[0]
    predictor = Predictor.load(home / "model.ckpt", device="cpu")
    mirrored = predictor.predict(ImageOps.mirror(Image.open(home / "photos" / path).convert("RGB")))
    for label, score in mirrored.probabilities["defect"].items():
        mean = (score + plain.loc[path, f"p:{label}"]) / 2
        assert both.loc[path, f"p:{label}"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(("count", "suffix"), [(1, ".parquet"), (2, ".csv"), (4, ".parquet"), (9, ".csv")])
def test_shards_in_any_order_give_the_same_bytes(predict, whole, tmp_path, suffix, count):
    order = list(range(1, count + 1))
    random.Random(count).shuffle(order)
    for index in order[:-1]:
        code, said = predict(f"p{suffix}", f"shard={index}/{count}")
        if not Path(f"p{suffix}").exists():  # else the last shards have no chunk of six, and all are there
            assert "chunks are still missing" in said and code == (" 0 unreadable" not in said)
    predict(f"p{suffix}", f"shard={order[-1]}/{count}")
    assert (tmp_path / f"p{suffix}").read_bytes() == whole[suffix]
    assert not Path(f"p{suffix}.job").exists()
    for more in (["resume=true"], []):
        code, said = predict(f"p{suffix}", "shard=1/2", *more)
        assert code == 1 and said.startswith("nothing to do, complete already: 41 photos predicted, 2 unread")
    assert not Path(f"p{suffix}.job").exists()


def test_an_interrupted_call_goes_on_behind_its_last_chunk(predict, whole, monkeypatch):
    for stop in (0, 7, 20, COUNT - 1):
        with monkeypatch.context() as interrupted:
            stopping_after(interrupted, stop)
            predict("p.csv")
        assert len(chunks()) == stop // CHUNK
        with monkeypatch.context() as counted:
            read = stopping_after(counted, 1000)
            assert predict("p.csv", "resume=true")[0] == 1
        assert len(read) == COUNT - stop // CHUNK * CHUNK
        assert Path("p.csv").read_bytes() == whole[".csv"]
        Path("p.csv").unlink()


SLOW = """
import sys, time
import pytest
from src import preprocess
from src.inference import batches
from tests.made import run_script
real, batches.CHUNK = preprocess.read_photo, {chunk}
preprocess.read_photo = lambda file: time.sleep(0.03) or real(file)
with pytest.MonkeyPatch.context() as m:
    sys.exit(run_script(m, "predict", *sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_costs_a_chunk(predict, whole, home, tmp_path):
    words = (f"ckpt={home / 'model.ckpt'}", f"output={tmp_path / 'p.csv'}", f"hydra.run.dir={tmp_path}")
    command = [sys.executable, "-c", SLOW.format(chunk=CHUNK), *words, *COMMON, f"images={home / 'photos'}"]
    with subprocess.Popen(command, cwd=REPOSITORY) as child:
        until = time.monotonic() + 120
        while len(chunks()) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        child.kill()
    assert child.returncode == -signal.SIGKILL and 2 <= len(chunks()) < 6
    assert predict("p.csv", "shard=2/2")[0] in (0, 1) and len(chunks()) >= 5
    assert predict("p.csv", "resume=true")[0] == 1
    assert (tmp_path / "p.csv").read_bytes() == whole[".csv"]


def within(action):
    """Call the script while it is running, which Hydra refuses in one process."""
    instance = GlobalHydra.instance()
    running, instance.hydra = instance.hydra, None
    action()
    instance.hydra = running


def meanwhile(monkeypatch, action):
    """Let something happen while the second batch of a call is computed."""
    rows = Predictor.rows

    def overtaken(predictor, *arguments):
        for number, batch in enumerate(rows(predictor, *arguments)):
            if number == 1:
                monkeypatch.setattr(Predictor, "rows", rows)
                within(action)
            yield batch

    monkeypatch.setattr(Predictor, "rows", overtaken)


def test_another_process_that_merges_first(predict, whole, tmp_path, monkeypatch):
    meanwhile(monkeypatch, lambda: predict("p.csv", "shard=1/1"))
    assert predict("p.csv", "shard=1/1") == (0, "another process has merged all chunks: p.csv")
    assert (tmp_path / "p.csv").read_bytes() == whole[".csv"] and not Path("p.csv.job").exists()


@pytest.mark.parametrize("action", ["deleted", "begun anew"])
def test_a_folder_that_another_call_takes(predict, tmp_path, monkeypatch, action):
    def act():
        shutil.rmtree("p.csv.job")
        if action == "begun anew":
            predict("p.csv", "threshold=0.2", "shard=1/2")

    meanwhile(monkeypatch, act)
    code, said = predict("p.csv")
    assert code == 2 and "p.csv.job was deleted, or begun anew by another call" in said
    assert not Path("p.csv").exists()


@pytest.mark.parametrize("begun", [True, False])
def test_a_kill_in_the_merge_never_passes_old_rows_off_as_new(predict, whole, tmp_path, monkeypatch, begun):
    name = "p.csv"
    if begun:
        predict(name, "threshold=0.2")
    before = Path(name).read_bytes() if begun else None
    real = os.replace

    def killed(source, target):
        if Path(target) == Path(name):
            # what a kill leaves: the process has no time to clear up
            shutil.copy(source, f"{source}.left")
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as kill:
        kill.setattr(os, "replace", killed)
        predict(name)
    assert len(chunks(name)) == 6 and (Path(name).read_bytes() if Path(name).exists() else None) == before
    assert "chunks of an unfinished job" in predict(name)[1]
    assert "was begun with other threshold" in predict(name, "resume=true", "threshold=0.3")[1]
    assert predict(name, "resume=true") == (1, f"41 photos predicted, 2 unreadable: {name}")
    assert Path(name).read_bytes() == whole[".csv"]
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".job", ".tmp", ".left"))]


def test_a_kill_between_the_output_and_its_manifest(predict, whole, monkeypatch):
    real = output.write_json

    def killed(path, content):
        if path.name.startswith("."):
            raise KeyboardInterrupt
        real(path, content)

    with monkeypatch.context() as kill:
        kill.setattr(output, "write_json", killed)
        predict("p.csv")
    assert Path("p.csv").read_bytes() == whole[".csv"] and len(chunks()) == 6
    assert predict("p.csv", "resume=true") == (1, "41 photos predicted, 2 unreadable: p.csv")
    assert predict("p.csv", "resume=true")[1].startswith("nothing to do, complete already")


def test_two_jobs_on_one_output_never_mix_their_rows(predict, whole, tmp_path, monkeypatch):
    real = output.write_rows

    def overtaken(*arguments):  # another call begins its job between the check of the manifest and the chunk
        monkeypatch.setattr(output, "write_rows", real)

        def other():
            with monkeypatch.context() as interrupted:
                stopping_after(interrupted, 2 * CHUNK)
                predict("p.csv", "threshold=0.2")

        within(other)
        real(*arguments)

    monkeypatch.setattr(output, "write_rows", overtaken)
    assert "begun anew by another call" in predict("p.csv")[1]
    assert [name[:12] for name in chunks()] == ["chunk-000000", "chunk-000000", "chunk-000001"]
    assert predict("p.csv", "threshold=0.2", "resume=true")[0] == 1
    assert predict("alone.csv", "threshold=0.2")[0] == 1
    assert Path("p.csv").read_bytes() == Path("alone.csv").read_bytes() != whole[".csv"]


def test_chunks_without_a_manifest_do_not_count(predict, whole, tmp_path):
    assert predict("p.csv", "shard=3/3")[0] == 1
    Path("p.csv.job/chunk-x.csv").write_text("a")
    Path("p.csv.job/manifest.json").unlink()  # as by a kill while the folder is removed
    assert predict("p.csv", "resume=true")[0] == 1
    assert Path("p.csv").read_bytes() == whole[".csv"] and not Path("p.csv.job").exists()
    Path("p.csv").unlink()
    Path(".p.csv.manifest.json").write_text("[]")
    assert "expected an object {...}, found list" in predict("p.csv")[1]


def test_torchrun_hears_of_unreadable_photos_after_the_merge(predict, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    codes = [predict("p.csv", f"shard={i}/2") for i in (1, 2)]
    assert [code for code, _ in codes] == [0, 1] and " 0 unreadable" not in codes[0][1]


def test_an_unfinished_job(predict, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(b"no photo")
    said = "10 photos predicted, 1 unreadable in this shard; 4 of 6 chunks are still missing: p.csv"
    assert predict("p.csv", "shard=3/3") == (1, said)
    said = "error: p.csv.job holds 2 chunks of an unfinished job: go on with resume=true, or delete it"
    assert predict("p.csv") == (2, said)
    for arguments, words in (
        (["threshold={Leaks: 0.2}"], 'threshold (null, now {"Leaks": 0.2})'),
        (["batch_size=4"], "batch_size (3, now 4)"),
        (["probabilities=false"], "columns"),
        ([f"images={tmp_path / 'one'}"], "photos, number of photos (43, now 1)"),
    ):
        for more in ("resume=true", "shard=1/3"):
            said = f"error: p.csv.job was begun with other {words}: use those again, or delete it"
            assert predict("p.csv", more, *arguments) == (2, said)
    assert [name[:12] for name in chunks()] == ["chunk-000004", "chunk-000005"]


def test_a_finished_output(predict, whole, home):
    name = "whole.csv"
    said = f"nothing to do, complete already: 41 photos predicted, 2 unreadable: {name}"
    assert predict(name, "resume=true") == (1, said)
    shutil.copy(home / "model.ckpt", "same.ckpt")
    assert predict(name, "resume=true", model="same.ckpt")[0] == 1
    Path("same.ckpt").write_bytes((home / "model.ckpt").read_bytes() + b" ")
    for arguments, model, words in (
        (["threshold=0.2"], home / "model.ckpt", "threshold (null, now 0.2)"),
        ([], "same.ckpt", "checkpoint"),
    ):
        code, said = predict(name, "resume=true", *arguments, model=model)
        assert code == 2 and f"resume=true: {name} was made with other {words}: leave out" in said
    assert Path(name).read_bytes() == whole[".csv"]
    assert predict(name, "threshold=0.2")[0] == 1 and Path(name).read_bytes() != whole[".csv"]
    # a kill right after the merge leaves the folder
    Path(f"{name}.job").mkdir()
    assert predict(name, "resume=true", "threshold=0.2")[0] == 1 and not Path(f"{name}.job").exists()


@pytest.mark.parametrize("more", [[], ["resume=true"], ["shard=1/2"]])
def test_a_table_of_somebody_else_is_never_replaced(predict, whole, tmp_path, more):
    Path("mine.csv").write_text("ID,path,status\n1,a.jpg,ok\n")
    Path("link.csv").symlink_to("mine.csv")
    Path("mine.parquet").write_bytes(b"a table")
    Path("same.csv").write_bytes(whole[".csv"].replace(b"Bolt", b"Nuts"))  # of equal length
    shutil.copy(".whole.csv.manifest.json", ".same.csv.manifest.json")
    for name in ("mine.csv", "link.csv", "mine.parquet", "same.csv"):
        before = Path(name).read_bytes()
        code, said = predict(name, *more)
        assert code == 2 and "a table that predict.py did not write, that was changed since" in said
        assert Path(name).read_bytes() == before and not list(tmp_path.rglob("*.job"))


def test_a_full_disk_keeps_the_chunks(predict, whole, monkeypatch):
    real = output.whole_file
    for full, kept in (("p.csv.job/chunk-000003", 3), ("p.csv", 6)):

        def writing(path, *folder, full=full):
            if path.as_posix().rpartition("-")[0] == full or path.as_posix() == full:
                raise OSError(28, "No space left on device")
            return real(path, *folder)

        with monkeypatch.context() as disk:
            disk.setattr(output, "whole_file", writing)
            code, said = predict("p.csv", "resume=true")
        assert code == 2 and f"error: {full}" in said and len(chunks()) == kept
        assert (
            "cannot be written (No space left on device); the same command with resume=true goes on" in said
        )
    assert predict("p.csv", "resume=true")[0] == 1 and Path("p.csv").read_bytes() == whole[".csv"]


def test_parquet_has_the_rows_of_the_csv_with_types(predict, whole, tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(output, "GROUP", 4)
    assert predict("whole.parquet")[0] == 1
    file = parquet.ParquetFile(tmp_path / "whole.parquet")
    table, rows = file.read(), list(csv.DictReader(whole[".csv"].decode().splitlines()))
    assert table.column_names == list(rows[0]) and file.num_row_groups == 2
    types = number_columns(table.column_names)
    for name in table.column_names:
        kind = {"double": pa.float64(), "float": pa.float32()}.get(types.get(name), pa.string())
        assert table.schema.field(name).type == kind
        for found, text in zip(table[name].to_pylist(), (row[name] for row in rows), strict=True):
            wanted = text if kind == pa.string() else pytest.approx(float(text), rel=1e-6) if text else None
            assert found == wanted
    assert table["p:Leaks"].null_count == ERRORS


def test_cells_that_a_spreadsheet_would_run(predict, tmp_path):
    names = ("=1+1", "@x", "-2", "plain")
    for name in names:
        (tmp_path / "one" / f"{name}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "one" / f"{name}.png").write_bytes(b"no photo")
    given = [f"images={tmp_path / 'one'}"]
    assert predict("raw.csv", *given)[0] == predict("safe.csv", *given, "spreadsheet_safe=true")[0] == 1
    raw, safe = (pd.read_csv(name, dtype=str, keep_default_na=False) for name in ("raw.csv", "safe.csv"))
    assert raw["ID"].tolist() == ["-2", "=1+1", "@x", "plain"]
    assert safe["ID"].tolist() == ["-2", "'=1+1", "'@x", "plain"]  # -2 is a number
    assert safe["path"].tolist() == ["'-2.png", "'=1+1.png", "'@x.png", "plain.png"]
    code, said = predict("raw.csv", *given, "spreadsheet_safe=true", "resume=true")
    assert code == 2 and "raw.csv was made with other spreadsheet_safe (null, now true)" in said
    assert predict("safe.csv", *given, "spreadsheet_safe=true", "resume=true")[0] == 1


def test_columns_under_other_names(predict, whole, home, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "GROUP", 2)  # in Parquet, chunks of a row group
    mapping = "columns={Id: ID, Category: defects, Confidence: avg_defect_confidence}"
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        assert predict(f"submission{suffix}", mapping)[0] == 1
        found, all_columns = read(tmp_path / f"submission{suffix}"), read(tmp_path / f"whole{suffix}")
        assert list(found) == ["Id", "Category", "Confidence"]
        pd.testing.assert_frame_equal(
            found, all_columns[["ID", "defects", "avg_defect_confidence"]].set_axis(list(found), axis=1)
        )
    (tmp_path / "test.csv").write_text('id,file\n17,"site, 1/Brücke 01.png"\n18,"site, 2/Brücke 02.png"\n')
    table = (f"images={tmp_path / 'test.csv'}", f"root={home / 'photos'}", mapping)
    assert predict("two.csv", *table)[0] == 0 and pd.read_csv("two.csv")["Id"].tolist() == [17, 18]
    refused = {
        "{Id: Name}": "no column 'Name': ",
        "[ID]": "columns= needs new names",
        "{}": "needs new names",
    }
    for given, said in refused.items():
        code, message = predict("no.csv", f"columns={given}")
        assert code == 2 and said in message
