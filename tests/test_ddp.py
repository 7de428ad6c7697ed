"""Several processes train as one: the photos of each, the weights of losses, and a whole run of two."""

import itertools
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from src import process
from src.config import CONF
from src.config_check import check_targets
from src.datamodules.dataset import EpochSampler
from src.errors import InputError
from src.models.backbones import fill_defaults
from src.models.classifiers import DualHeadClassifier, MultiLabelClassifier
from src.models.losses import loss_shares
from src.training.distributed import check_devices, ending_together
from tests.made import FAST, REPOSITORY, make_table, only_run, run_script, trained

LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
DRIVER = f"""
import sys

sys.path.insert(0, {str(REPOSITORY)!r})
from src.training import evaluate
from tests.made import load_script

evaluate.write_figures = lambda *_: None
load_script("train").main()
"""


def global_batches(size, batch, world, epoch=0):
    """The global batches of an epoch: a list per step of the ranks' parts."""
    parts = []
    for rank in range(world):
        sampler = EpochSampler(size, 5, True, epoch, batch * world, rank, world)
        order = list(sampler)
        assert len(order) == len(sampler) and {e for e, _ in order} <= {epoch}
        parts.append([[i for _, i in order[k : k + batch]] for k in range(0, len(order), batch)])
    assert len({len(part) for part in parts}) == 1, "ranks that make different numbers of steps wait for ever"
    return list(zip(*parts, strict=True))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("size", [8, 9, 30, 31, 47, 120])
def test_ranks_share_out_the_batches_of_one_process(size, batch, world):
    steps = global_batches(size, batch, world, epoch=2)
    alone = [step[0] for step in global_batches(size, batch * world, 1, epoch=2)]
    together = [[i for part in step for i in part] for step in steps]
    assert together == alone[: len(together)]
    photos = list(itertools.chain(*together))
    assert size - len(photos) < max(2, world) and len(photos) == len(set(photos))
    if world == 2 or len(photos) == size:
        assert together == alone
    for step in steps:
        counts = [len(part) for part in step]
        assert max(counts) - min(counts) <= 1 and max(counts) <= batch and min(counts) >= 1


def test_one_process_keeps_its_order_and_drops_a_last_single_photo():
    order = [i for _, i in EpochSampler(13, 1, True)]
    for batch, count in ((4, 12), (5, 13)):
        assert [i for _, i in EpochSampler(13, 1, True, batch=batch)] == order[:count]
    assert [i for _, i in EpochSampler(1, 1, True, batch=4)] == [0]


@pytest.mark.parametrize(("size", "world"), [(3, 3), (10, 3), (17, 4)])
def test_each_photo_is_evaluated_once(size, world):
    parts = [[i for _, i in EpochSampler(size, 0, False, rank=r, world=world)] for r in range(world)]
    assert list(itertools.chain(*parts)) == list(range(size)) and min(map(len, parts)) >= 1


HEADS = {
    "labels": {"component": ["a", "b", "c"], "defect": ["d", "e"]},
    "preprocess": {"image_size": 16},
    "class_weights": {"component": [1.0, 3.0, 0.5], "defect": [2.0, 0.7]},
    "backbone": "tiny",
}


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
@pytest.mark.parametrize("cuts", [(5, 10), (1, 2), (7, 9)])
def test_shared_losses_average_to_the_loss_of_all_photos(task, cuts):
    """Parts of unequal size, labels missing, one part without any label of a kind, weighted classes."""
    torch.manual_seed(0)
    if task == "dual_head":
        model = DualHeadClassifier(task=task, head_weights={"defect": 2.0}, label_smoothing=0.1, **HEADS)
        target = torch.stack([torch.randint(0, 3, (12,)), torch.randint(0, 2, (12,))], 1)
        target[:5, 1] = target[8, 0] = -1
    else:
        model = MultiLabelClassifier(task=task, **HEADS)
        target = torch.randint(0, 2, (12, 5)).float()
    logits = {"component": torch.randn(12, 3), "defect": torch.randn(12, 2)}
    for values in logits.values():
        values.requires_grad_()
    total = model.counted(target).tolist()
    losses = []
    for part in (slice(0, cuts[0]), slice(*cuts), slice(cuts[1], 12)):
        shares = loss_shares(model.counted(target[part]).tolist(), total, 3)
        losses.append(model.loss({kind: v[part] for kind, v in logits.items()}, target[part], shares))
    whole = model.loss(logits, target)
    assert loss_shares([2, 0, 0], [8, 3, 0], 2) == [0.5, 0.0, 0.0]  # nobody has the last kind
    assert torch.stack(losses).mean().item() == pytest.approx(whole.item(), abs=1e-6)
    ours = torch.autograd.grad(torch.stack(losses).mean(), list(logits.values()))
    theirs = torch.autograd.grad(whole, list(logits.values()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("env", "processes", "main"),
    [
        ({}, 1, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 4, True),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 4, False),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, 1, False),
        ({"NODE_RANK": "1"}, 1, False),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, 4, False),
        ({"SLURM_PROCID": "0"}, 1, True),
    ],
)
def test_the_launcher_decides_the_main_process(photos, monkeypatch, tmp_path, capsys, env, processes, main):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert (process.launched(), process.is_main()) == (processes, main)
    if main and processes > 1:
        monkeypatch.chdir(tmp_path)
        assert run_script(monkeypatch, "train", f"data.root={photos}", *FAST, "trainer=ddp") == 2
        assert "need one folder: add hydra.run.dir=FOLDER" in capsys.readouterr().err


def test_the_ddp_trainer_is_the_default_one_on_several_devices():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        one, several = (compose("train", [*extra, "output_dir=x"]) for extra in ((), ("trainer=ddp",)))
    for cfg in (one, several):
        fill_defaults(cfg)
    check_targets(several)
    assert several.data.cache is None and one.data.cache == "features"
    differing = {key for key in several.trainer if one.trainer.get(key) != several.trainer[key]}
    assert differing == {"strategy", "devices", "num_nodes", "sync_batchnorm"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-m", "trainer.devices=2"), "a sweep (-m) trains on one device, not on 2"),
        (
            ("data.cache=features", "data.augment=null", "model.freeze_backbone=true", "trainer.devices=2"),
            "heads on cached features train on one device",
        ),
        (("trainer.devices=2", "trainer.strategy=ddp_spawn"), "several devices need trainer=ddp"),
        (("trainer.devices=2", "trainer.use_distributed_sampler=true"), "deals the photos out itself"),
        (("trainer.devices=2", "trainer.num_nodes=2"), "one folder: add hydra.run.dir=FOLDER"),
        (("trainer.devices=7",), "val has 6 photos, fewer than 7 devices"),
    ],
)
def test_what_several_devices_cannot_do_is_one_line(photos, monkeypatch, tmp_path, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    code = run_script(monkeypatch, "train", f"data.root={photos}", *FAST, "trainer=ddp", *arguments)
    said = capsys.readouterr().err
    assert code == (1 if "-m" in arguments else 2)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in said
    assert not list(tmp_path.glob("outputs/**/checkpoints"))


@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (3, 1), (2, 2)])
def test_another_number_of_processes_than_of_devices_is_refused(monkeypatch, devices, nodes):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    trainer = SimpleNamespace(world_size=2, num_devices=devices, num_nodes=nodes)
    with pytest.raises(InputError, match=f"2 processes were started for trainer.devices={devices} on"):
        check_devices({}, trainer, None)


def test_the_processes_that_a_failed_one_has_started_are_ended():
    waiting = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    launcher = SimpleNamespace(procs=[waiting])
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    with pytest.raises(InputError), ending_together(trainer):
        raise InputError("x")
    assert waiting.wait(10) == -9 and launcher.procs == []


def test_two_processes_train_as_one(tmp_path):
    """43 training photos in global batches of 8, so that the last one is uneven; a frozen backbone."""
    data = make_table(tmp_path / "table", each=7)
    frozen = ("model.freeze_backbone=true", "data.cache=null", "data.near_duplicates=null")
    arguments = ("model=multilabel", f"data.root={data}", *FAST, *frozen, "trainer.max_epochs=2")
    arguments += ("callbacks.thresholds.min_positives=1",)
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
    one = trained(homes[0], *arguments, "data.batch_size=8")
    (tmp_path / "driver.py").write_text(DRIVER)
    several = ("data.batch_size=4", "trainer=ddp", "trainer.devices=2")
    command = [sys.executable, str(tmp_path / "driver.py"), *arguments, *several]
    env = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    done = subprocess.run(command, cwd=homes[1], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    two = only_run(homes[1])
    rows = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (one, two)]
    assert len(rows[0]) == 2 and np.allclose(*rows, atol=1e-5, rtol=0)
    paths = [[path for path in run.rglob("*.*") if path.suffix != ".png"] for run in (one, two)]
    names = [{re.sub(r"tfevents.*", "", path.name) for path in found} for found in paths]
    assert names[0] == names[1] and len(list(homes[1].glob("outputs/*/*/train.log"))) == 1
    files = [json.loads((run / "thresholds.json").read_text()) for run in (one, two)]
    assert files[0] == pytest.approx(files[1], abs=1e-6) and set(files[0].values()) != {0.5}
    tested = [pd.read_csv(run / "predictions.csv") for run in (one, two)]
    assert tested[1]["ID"].is_unique and tested[0]["ID"].tolist() == tested[1]["ID"].tolist()
    figures = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    assert [figure["run"]["world_size"] for figure in figures] == [1, 2]
    assert figures[1]["run"]["devices"] == 2
    for split in ("val", "test"):
        assert flat(figures[0][split]) == pytest.approx(flat(figures[1][split]), abs=1e-5)
    lines = (two / "train.log").read_text().splitlines()
    dated = [line.split(" ", 2)[2] for line in lines if re.match(r"\d{4}-", line)]
    assert len(dated) == len(set(dated)) and sum("epoch 2/2" in line for line in dated) == 1
    assert done.stderr.count("epoch 2/2") == done.stdout.count("read  ") == 1


def flat(figures, prefix=""):
    """The numbers of nested figures by their path."""
    found = {}
    for key, value in figures.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
