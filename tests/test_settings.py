"""Settings that cannot be meant are one line before photos are read; paths keep what was typed."""

import csv
import shutil

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.callbacks.tune_thresholds import TuneThresholds
from src.config import CONF
from src.config_check import RANGE_OF, check_numbers
from src.datamodules.dataset import TrainTransform
from src.datamodules.photo_datamodule import PhotoDataModule
from src.errors import InputError
from src.models.backbones import fill_defaults
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
    "seed": ("-1", "4294967296"),
    "preprocess.image_size": ("0", "-5", "abc"),
    "callbacks.figures.every": ("0",),
}


@pytest.mark.parametrize("key", [key for key in NUMBERS if key.lstrip("+") not in RANGE_OF])
def test_numbers_that_a_part_of_a_run_refuses(refused, key):
    assert key in refused("train", NOBODY, *FAST, f"{key}={NUMBERS[key][0]}")


def test_numbers_out_of_range():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["output_dir=x"])
    for given, values in NUMBERS.items():
        key, (node, _, name) = given.lstrip("+"), given.lstrip("+").rpartition(".")
        assert given.startswith("+") or name in (OmegaConf.select(cfg, node) if node else cfg)
        for value in values if key in RANGE_OF else ():
            changed, override = cfg.copy(), OverridesParser.create().parse_override(f"{key}={value}")
            OmegaConf.update(changed, key, override.value(), force_add=True)
            with pytest.raises(InputError, match=key):
                check_numbers(changed)


@pytest.mark.parametrize(("key", "value"), [("clamp_above", "nan"), ("clamp_to", "50"), ("clamp_to", "-0.1")])
def test_thresholds_out_of_range(refused, key, value):
    with pytest.raises(InputError, match=rf"callbacks.thresholds.{key}=.* from 0 to 1") as caught:
        TuneThresholds(**{key: float(value)})
    assert ("0.5 for 50 %" in str(caught.value)) == (value == "50")
    if value == "50":
        said = refused("train", "model=multilabel", NOBODY, *FAST, f"callbacks.thresholds.{key}={value}")
        assert said == str(caught.value).replace("50.0", "50")


def test_the_same_ranges_hold_everywhere(refused, run, photos):
    with pytest.raises(InputError, match=r"from 0 to 1, 0\.5 for 50 %"):
        TrainTransform(horizontal_flip=50)
    with pytest.raises(InputError, match=r"preprocess.mean=127: needs a number from 0 to 1"):
        PhotoDataModule("dual_head", {"mean": [127] * 3}, {"train": 1})
    for script in ("train", "explore", "audit"):
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
    given = ("callbacks.checkpoint.monitor=val/f1", "callbacks.checkpoint.mode=min")
    assert "callbacks.checkpoint.mode=min would keep" in refused("train", NOBODY, *FAST, *given)


@pytest.mark.parametrize(
    "monitor", ["train/loss", "val/hamming_loss", "val/f1", "val/map", "val/defect_accuracy"]
)
def test_the_mode_of_every_figure(monitor):
    cfg = {"model": {"backbone": "tiny"}, "preprocess": {}, "data": {}, "trainer": {"max_epochs": 1}}
    cfg = OmegaConf.create(cfg | {"callbacks": {"mine": {"monitor": monitor}, "none": None}})
    right, wrong = ("min", "max") if "loss" in monitor else ("max", "min")
    assert fill_defaults(cfg).callbacks.mine.mode == right
    cfg.callbacks.mine.mode = wrong
    with pytest.raises(InputError, match=f"callbacks.mine.mode={wrong} would keep"):
        fill_defaults(cfg)


NAMES = ["2024_05", "1e3", "true", "0123", "1_000", "nan", "1.50", "a,b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_read_as_it_was_typed(name):
    parser = OverridesParser.create()
    for key in PATHS:
        (given,) = readable(["train.py", f"{key}={name}"])[1:]
        assert parser.parse_override(given).value() == name


@pytest.mark.parametrize("name", ["2024_05", "a,b"])
def test_a_path_stays_as_it_was_typed(photos, run, monkeypatch, tmp_path, refused, name):
    shutil.copytree(photos, name)
    assert run_script(monkeypatch, "predict", f"ckpt={run}", f"images={name}", f"output=out/{name}.csv") == 0
    if name == "2024_05":
        assert run_script(monkeypatch, "explore", f"data.root={name}", "output=look") == 0
        for given in ("model.init_from=2024_09", "data.split_file=2024_09"):
            assert "2024_09" in refused("train", f"data.root={name}", *FAST, given)
        assert "ckpt=2024_09" in refused("predict", "ckpt=2024_09", f"images={name}", "output=a.csv")
        assert "output=2024_10" in refused("predict", f"ckpt={run}", f"images={name}", "output=2024_10")
        quick = (*FAST, "trainer.max_epochs=1", "data.cache_dir=2024_06")
        assert run_script(monkeypatch, "train", f"data.root={name}", "hydra.run.dir=2024_07", *quick) == 0
        assert (tmp_path / "2024_07" / "metrics.json").is_file() and (tmp_path / "2024_06").is_dir()
        assert run_script(monkeypatch, "train", "resume=2024_07") == 0


def test_paths_of_a_sweep_stay_as_they_were_typed(photos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("a_1", "a_2"):
        shutil.copytree(photos, name)
    sweep = ("-m", "data.root=a_1,a_2", "hydra.sweep.dir=2024_1", *FAST, "trainer.max_epochs=1")
    assert run_script(monkeypatch, "train", *sweep) == 0
    saved = sorted((tmp_path / "2024_1").glob("*/.hydra/config.yaml"))
    assert [OmegaConf.load(path).data.root for path in saved] == ["a_1", "a_2"]


def test_what_is_no_name_stays():
    for given in ("data.root=null", "output=${oc.env:HOME}/a", "ckpt='a b'", "images=", "model.lr=1_000"):
        assert readable(["x.py", given]) == ["x.py", given]
    assert readable(["predict.py", "resume=true"]) == ["predict.py", "resume=true"]
    assert readable(["train.py", "resume=1e3"]) == ["train.py", "resume='1e3'"]
    assert readable(["x.py", "-m", "data.root='a,b',c,null"])[2] == "data.root='a,b',c,null"


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
    for name, script, *others, key in (
        ("photos.zip", "train", "data.root"),
        ("photos.tar.gz", "explore", "data.root"),
        ("a.RAR", "train", "model=multilabel", "data.root"),
        ("b.7z", "train", "data=table", "data.csv"),
        ("c.tgz", "train", "data=table", "data.csv=t.csv", "data.images"),
        ("d.zip", "predict", f"ckpt={run}", "images"),
    ):
        (tmp_path / name).write_bytes(b"PK")
        kind = name.rpartition(".")[2].upper()
        assert f"{name}: a {kind} archive: unpack it" in refused(script, *others, f"{key}={name}")
