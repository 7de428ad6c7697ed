"""`predict.py engine=ray`: the bytes of a plain call from two local actors, and what is refused."""

import gc
import os
import signal
import sys

import pytest
import torch

from src import preprocess
from src.inference import batches, output, ray_engine
from src.models.classifiers import MultiLabelClassifier
from tests.made import run_script

pytestmark = pytest.mark.skipif(" " in sys.executable, reason="Ray cannot start from such a path")

LABELS = {"component": ["Bolt", "Bracket"], "defect": ["Leaks", "Loose", "Missing"]}
COUNT, CHUNK = 43, 2  # 22 chunks


@pytest.fixture(scope="module")
def home(make_tree, tmp_path_factory):
    """A folder with an untrained model and photos, one of which cannot be read; Ray ends with the module."""
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    given = {"task": "multilabel", "labels": LABELS, "preprocess": {"image_size": 32}}
    model = MultiLabelClassifier(**given, backbone="squeezenet1_1", weights=None)
    content = {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, home / "model.ckpt")
    photos = make_tree(home / "photos", *(f"{i % 3}/{i:02}.png" for i in range(COUNT)))
    (photos / "2" / "20.png").write_bytes(b"no photo")
    yield home
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def predict(home, tmp_path, monkeypatch, capsys):
    """Return a function that calls the script in chunks of two and returns its exit code and last line."""
    monkeypatch.setattr(batches, "CHUNK", CHUNK)
    monkeypatch.setattr(ray_engine, "cores", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(home)  # paths are relative

    def call(name, *arguments):
        common = ("ckpt=model.ckpt", "images=photos", "device=cpu", "probabilities=true")
        folder = (f"output={tmp_path / name}", f"hydra.run.dir={tmp_path}")
        code = run_script(monkeypatch, "predict", *common, *folder, *arguments)
        said = capsys.readouterr()
        gc.collect()  # Ray ends actors that nothing refers to
        return code, (said.err if code == 2 else said.out).strip().rpartition("\n")[2]

    return call


def process_ids(pool):
    """The process of each actor of a pool that has nothing to do."""
    import ray

    return set(ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in pool._idle_actors]))


def test_two_actors_give_the_bytes_of_a_plain_call_also_when_one_is_killed(predict, tmp_path, monkeypatch):
    assert predict("plain.csv")[0] == 1
    started, write_rows = [], output.write_rows

    def killing(path, *arguments):
        if len(list(path.parent.glob("chunk-*"))) == 1:
            os.kill(max(started[-1][1]), signal.SIGKILL)
        write_rows(path, *arguments)

    class Noted(ray_engine.RayResults):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append((self.pool, process_ids(self.pool)))

    monkeypatch.setattr(ray_engine, "RayResults", Noted)
    monkeypatch.setattr(output, "write_rows", killing)
    assert predict("ray.csv", "engine=ray", "num_workers=1")[0] == 1
    ((pool, before),) = started
    assert len(before) == 2 and len(process_ids(pool) - before) == 1  # Ray has made the killed one anew
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_an_unfinished_job_goes_on_with_ray_and_a_finished_one_needs_no_actors(
    predict, tmp_path, monkeypatch
):
    assert predict("plain.csv")[0] == 1
    read = []

    def stopping(file, real=preprocess.read_photo):
        read.append(file)
        if len(read) == 20:
            raise KeyboardInterrupt
        return real(file)

    with monkeypatch.context() as patched:
        patched.setattr(preprocess, "read_photo", stopping)
        assert predict("p.csv")[0] == 130
    some = len(list((tmp_path / "p.csv.job").glob("chunk-*")))
    next((tmp_path / "p.csv.job").glob("chunk-000003-*")).unlink()  # a gap, so that Ray is asked twice
    assert 4 < some < 20 and predict("p.csv", "engine=ray", "resume=true")[0] == 1
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
    monkeypatch.delattr(ray_engine, "_joined")
    assert predict("p.csv", "engine=ray", "resume=true")[1].startswith("nothing to do, complete already")


def test_a_machine_that_sees_other_photos_or_computes_otherwise_is_refused(predict, monkeypatch):
    nothing = batches.Batch([batches.Result(0)], None)
    with monkeypatch.context() as patched:  # as where only this machine can read the broken photo
        patched.setattr(ray_engine, "read_batch", lambda *_: nothing)
        code, said = predict("p.csv", "engine=ray")
    assert code == 2 and "photos/2/20.png: not an image" in said
    assert said.endswith("readable here: all machines need the photos under one path")
    monkeypatch.setattr(output, "decoder", lambda: {"pillow": "9"})
    code, said = predict("q.csv", "engine=ray")
    assert code == 2 and "engine=ray: decoder is {" in said and "{'pillow': '9'} where the job was" in said


def test_what_ray_cannot_do_is_one_line(predict, monkeypatch):
    code, said = predict("p.csv", "engine=rai")
    assert code == 2 and said == "error: engine=rai: did you mean 'ray'? choices: ray, local"
    code, said = predict("p.csv", "engine=ray", "shard=1/2")
    assert code == 2 and said.startswith("error: shard=1/2: engine=ray shares out the photos itself")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, said = predict("p.csv", "engine=ray")
    assert code == 2 and said == "error: engine=ray: RAY_ADDRESS=127.0.0.1:1: [Errno 111] Connection refused"
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    code, said = predict("p.csv", "engine=ray")
    assert code == 2 and said == 'error: engine=ray needs the extra `ray`: python -m pip install -e ".[ray]"'
