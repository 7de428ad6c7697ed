"""Settings that cannot be meant are one line before photos are read; paths keep what was typed."""

import csv
import shutil

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.callbacks.tune_thresholds import TuneThresholds
from src.config_check import RANGE_OF, check_numbers
from src.datamodules.dataset import TrainTransform
from src.datamodules.photo_datamodule import PhotoDataModule
from src.errors import InputError
from src.models.backbones import BACKBONES, Entry, fill_defaults
from src.overrides import PATHS, readable
from tests.made import FAST, run_script, trained

NOBODY = "data.root=nowhere"  # photos are not read: else this would be the error
F1 = ("callbacks.checkpoint.monitor=val/f1", "callbacks.early_stopping.monitor=val/f1")


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Run a script that must refuse its input: returns the one line."""
    monkeypatch.chdir(tmp_path)

    def check(script, *arguments):
        assert run_script(monkeypatch, script, *arguments) == 2
        said = capsys.readouterr().err
        assert said.count("error: ") == 1 and "Traceback" not in said, said
        return said.partition("error: ")[2].strip()

    return check


def nested(key, value):
    """Return a configuration with one key."""
    cfg = OmegaConf.create()
    OmegaConf.update(cfg, key, value)
    return cfg


NUMBERS = {
    "model.lr": ("0", "-1", "nan", "inf", "abc"),
    "model.backbone_lr_factor": ("0", "nan"),
    "model.weight_decay": ("-1", "inf"),
    "model.label_smoothing": ("1", "-0.1", "50", "nan"),
    "model.head_weights": ("{defect: -1}", "{defect: nan}"),
    "preprocess.mean": ("[127,127,127]", "[0.5,0.5,nan]", "[-1,0,0]"),
    "preprocess.std": ("[0,1,1]", "[58,57,57]", "[-0.1,1,1]"),
    "preprocess.sample_bits": ("7", "64"),
    "data.augment.horizontal_flip": ("50", "-0.5", "nan"),
    "data.augment.rotation": ("-1", "400"),
    "data.splits": ("{train: 1, val: -0.1}", "{val: nan}"),
    "data.folds": ("1", "0", "-3"),
    "+callbacks.early_stopping.min_delta": ("-1", "nan"),
    "callbacks.early_stopping.patience": ("-1",),
    "trainer.gradient_clip_val": ("-1", "nan"),
    "trainer.accumulate_grad_batches": ("0", "-1"),
    "trainer.max_epochs": ("0", "-1"),
    "data.batch_size": ("0", "nan", "0.5"),
    "data.num_workers": ("-1",),
    "data.views": ("0",),
    "data.near_duplicates": ("-1", "50"),
    "seed": ("-1", "abc"),
    "preprocess.image_size": ("0", "-5", "abc"),
    "callbacks.figures.every": ("0",),
}


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_out_of_range(refused, key):
    value, *others = NUMBERS[key]
    fast = [given for given in FAST if not given.startswith("callbacks.figures")]
    assert key.lstrip("+") in refused("train", NOBODY, *fast, f"{key}={value}")
    for other in others if key.lstrip("+") in RANGE_OF else ():
        wrong = OverridesParser.create().parse_override(f"{key}={other}").value()
        with pytest.raises(InputError, match=key.lstrip("+")):
            check_numbers(nested(key.lstrip("+"), wrong))


@pytest.mark.parametrize(("key", "value"), [("clamp_above", "nan"), ("clamp_to", "50"), ("clamp_to", "-0.1")])
def test_thresholds_out_of_range(refused, key, value):
    said = refused("train", "model=multilabel", NOBODY, *FAST, f"callbacks.thresholds.{key}={value}")
    assert said.startswith(f"callbacks.thresholds.{key}={float(value):g}"[:30]) and "from 0 to 1" in said
    assert ("0.5 for 50 %" in said) == (value == "50")
    with pytest.raises(InputError, match=f"{key}="):
        TuneThresholds(**{key: float(value)})


def test_the_same_ranges_hold_everywhere(refused, run, photos):
    with pytest.raises(InputError, match=r"from 0 to 1, 0\.5 for 50 %"):
        TrainTransform(horizontal_flip=50)
    with pytest.raises(InputError, match=r"preprocess.mean=127: needs a number from 0 to 1"):
        PhotoDataModule("dual_head", {"mean": [127] * 3}, {"train": 1})
    for script in ("explore", "audit"):
        assert "preprocess.mean=127" in refused(script, NOBODY, "preprocess.mean=[127,127,127]")
    for given in ("batch_size=0", "num_workers=-1", "shard=5/3", "threshold=50"):
        assert given.partition("=")[0] in refused("predict", f"ckpt={run}", f"images={photos}", given)
    for given in ("missing=50", "wrong=nan", "count=3", "seed=-1"):
        assert given.partition("=")[0] in refused("make_demo_data", "output=demo", given)


def test_mode_follows_the_figure(refused, photos, tmp_path):
    run = trained(tmp_path, f"data.root={photos}", *FAST, *F1, "trainer.max_epochs=3")
    with open(run / "history.csv", newline="") as file:
        f1 = [float(row["val_f1"]) for row in csv.DictReader(file)]
    saved = OmegaConf.load(run / ".hydra" / "config.yaml").callbacks
    assert saved.checkpoint.mode == saved.early_stopping.mode == "max"
    metrics = OmegaConf.load(run / "metrics.json")
    assert metrics.val.f1_macro == pytest.approx(max(f1), abs=1e-6)
    for monitor, mode in (("val/f1", "min"), ("val/accuracy", "min"), ("val/loss", "max")):
        for name in ("checkpoint", "early_stopping"):
            given = (f"callbacks.{name}.monitor={monitor}", f"callbacks.{name}.mode={mode}")
            assert f"callbacks.{name}.mode={mode} would keep" in refused("train", NOBODY, *FAST, *given)


@pytest.mark.parametrize("monitor", ["val/hamming_loss", "train/loss", "val/map", "val/component_accuracy"])
def test_the_mode_of_every_figure(monitor):
    cfg = {"model": {"backbone": "tiny"}, "preprocess": {}, "data": {}, "trainer": {"max_epochs": 1}}
    cfg = OmegaConf.create(cfg | {"callbacks": {"mine": {"monitor": monitor}, "none": None}})
    assert fill_defaults(cfg).callbacks.mine.mode == ("min" if "loss" in monitor else "max")


def test_a_batch_of_one_and_one_pixel(refused, photos, monkeypatch):
    from torch import nn

    def pooled(weights=None):
        parts = (
            nn.Conv2d(3, 4, 3, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.Linear(4, 9),
        )
        module = nn.Sequential(*parts)
        module.fc = nn.Identity()
        return module

    monkeypatch.setitem(BACKBONES, "pooled", Entry(pooled, None, "fc"))
    one = (f"data.root={photos}", *FAST, "model.backbone=pooled", "trainer.max_epochs=1", "data.batch_size=1")
    said = refused("train", *one, "hydra.run.dir=a")
    assert said.startswith("data.batch_size=1: one of ") and "needs two" in said
    for fine in ("model.freeze_backbone=true", "data.batch_size=23"):
        assert run_script(monkeypatch, "train", *one, fine, "callbacks.early_stopping=null") == 0


NAMES = ["2024_05", "1e3", "true", "0123", "1_000", "nan", "1.50", "a,b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_read_as_it_was_typed(name):
    parser = OverridesParser.create()
    for key in PATHS:
        (given,) = readable(["train.py", f"{key}={name}"])[1:]
        assert parser.parse_override(given).value() == name
        if "," not in name:
            (swept,) = readable(["train.py", "-m", f"{key}={name},b_1"])[2:]
            assert [str(getattr(v, "text", v)) for v in parser.parse_override(swept).value().list] == [
                name,
                "b_1",
            ]


@pytest.mark.parametrize("name", ["2024_05", "a,b"])
def test_a_path_stays_as_it_was_typed(photos, run, monkeypatch, tmp_path, capsys, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, name)
    assert run_script(monkeypatch, "predict", f"ckpt={run}", f"images={name}", f"output=out/{name}.csv") == 0
    assert run_script(monkeypatch, "explore", f"data.root={name}", "output=look") == 0
    if name == "2024_05":
        quick = (*FAST, "trainer.max_epochs=1", "data.cache_dir=2024_06")
        assert run_script(monkeypatch, "train", f"data.root={name}", "hydra.run.dir=2024_07", *quick) == 0
        assert (tmp_path / "2024_07" / "metrics.json").is_file() and (tmp_path / "2024_06").is_dir()
        assert run_script(monkeypatch, "train", "resume=2024_07", "trainer.max_epochs=2") == 0
        again = (f"data.root={name}", "model.init_from=2024_07", "data.split_file=2024_07")
        assert run_script(monkeypatch, "train", *again, "hydra.run.dir=2024_08", *quick) == 0
        assert run_script(monkeypatch, "export", "ckpt=2024_07", "output=2024_09", "formats=[]") in (0, 2)
        assert run_script(monkeypatch, "predict", "ckpt=2024_07", f"images={name}", "output=2024_10") == 2
        assert "202410" not in capsys.readouterr().err


def test_paths_of_a_sweep_stay_as_they_were_typed(photos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("2023_1", "2023_2"):
        shutil.copytree(photos, name)
    sweep = ("-m", "data.root=2023_1,2023_2", "hydra.sweep.dir=2024_1", *FAST, "trainer.max_epochs=1")
    assert run_script(monkeypatch, "train", *sweep) == 0
    saved = [
        OmegaConf.load(path).data.root for path in sorted((tmp_path / "2024_1").glob("*/.hydra/config.yaml"))
    ]
    assert saved == ["2023_1", "2023_2"]


def test_what_is_no_name_stays():
    for given in ("data.root=null", "output=${oc.env:HOME}/a", "ckpt='a b'", "images=", "model.lr=1_000"):
        assert readable(["x.py", given]) == ["x.py", given]
    assert readable(["predict.py", "resume=true"]) == ["predict.py", "resume=true"]
    assert readable(["train.py", "resume=1e3"]) == ["train.py", "resume='1e3'"]
    assert readable(["x.py", "-m", "data.root=choice(1_0,b)"]) == ["x.py", "-m", "data.root='1_0',b"]
    assert readable(["x.py", "-m", "data.root='a,b',1_0,null"])[2] == "data.root='a,b','1_0',null"


@pytest.mark.parametrize(
    "content", ["data: {root: 2024_05}", "data: {cache_dir: 1e3}", "data: {root: true}", "output: 2024_05"]
)
def test_a_path_in_a_file_needs_quotes(refused, tmp_path, content):
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(f"# @package _global_\n{content}\n")
    where = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    said = refused("explore" if "output" in content else "train", "experiment=own", *FAST, where)
    assert said.startswith(("data.", "output:")) and "in a file it needs quotes" in said


def test_archives_are_named(refused, run, tmp_path):
    (tmp_path / "t.csv").write_text("ID,component,defect\na,b,c\n")
    for i, arguments in enumerate(
        (
            ("train", "data.root="),
            ("explore", "data.root="),
            ("train", "model=multilabel", "data.root="),
            ("train", "data=table", "data.csv="),
            ("train", "data=table", "data.csv=t.csv", "data.images="),
            ("predict", f"ckpt={run}", "images="),
        )
    ):
        name = ("photos.zip", "photos.tar.gz", "a.RAR", "b.7z", "c.tgz", "d.zip")[i]
        (tmp_path / name).write_bytes(b"PK")
        kind = name.rpartition(".")[2].upper()
        *others, last = arguments
        assert f"{name}: a {kind} archive: unpack it" in refused(*others, f"{last}{name}")
