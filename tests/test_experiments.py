"""Every experiment file runs, on made data with a tiny backbone; the demo draws its own photos."""

import pandas as pd
import pytest
from omegaconf import OmegaConf

from demo import baseline
from src import config
from src.errors import InputError
from tests.made import FAST, REPOSITORY, only_run, run_script

QUICK = ("trainer.max_epochs=1", "data.num_workers=0", "trainer.accelerator=cpu", "callbacks.figures=null",
         "preprocess.image_size=24")  # fmt: skip
LOOPS = ("trainer.fast_dev_run=true", "data.batch_size=2",
         "callbacks.figures={_target_: src.callbacks.history.TensorBoardFigures}")  # fmt: skip
OTHERS = sorted(p.stem for p in (REPOSITORY / "conf" / "experiment").glob("*.yaml") if p.stem != "demo")


@pytest.mark.parametrize(
    ("name", "fast"),
    [*((name, ()) for name in OTHERS), *((name, LOOPS) for name in OTHERS[:2])],
)
def test_experiments_run(photos, table, monkeypatch, tmp_path, name, fast):
    data = table if "multilabel" in name else photos
    monkeypatch.chdir(tmp_path)
    arguments = (f"experiment={name}", f"data.root={data}", *FAST, *QUICK, "data.group=null", *fast)
    assert run_script(monkeypatch, "train", *arguments) == 0
    assert fast or (only_run(tmp_path) / "report.html").is_file()


def test_without_photos_the_demo_set_is_drawn_and_split_by_asset(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(config, "DRAW_DEMO", (*config.DRAW_DEMO, "count=120", "width=96", "height=72"))
    monkeypatch.chdir(tmp_path)
    tiny = ("model.backbone=tiny", "model.weights=null", *QUICK)
    for number, arguments in enumerate([(), ("model=multiclass",), ("-m", "model=multilabel")]):
        assert run_script(monkeypatch, "train", *arguments, *tiny) == 0
        said = capsys.readouterr().err
        assert said.count("no photos named") == 1
        assert said.count("Drawing the demo set into data/demo") == (number == 0)
        best = max(tmp_path.rglob("best.ckpt"), key=lambda path: path.stat().st_mtime)
        run = best.parent.parent
        split = [pd.read_csv(run / f"{name}_metadata.csv", dtype=str) for name in ("train", "val", "test")]
        truth = pd.read_csv(tmp_path / "data" / "demo" / "truth.csv", dtype=str).set_index("path")["asset"]
        train, val, test = (set(truth[frame["path"]]) for frame in split)
        assert not train & val and not train & test and not val & test
        monkeypatch.setattr("sys.argv", ["baseline.py", str(run)])
        if not arguments:
            baseline.main()
            assert "colour histograms has defect accuracy 0." in capsys.readouterr().out
        elif "model=multiclass" in arguments:
            with pytest.raises(SystemExit):
                baseline.main()
            assert "model=dual_head" in capsys.readouterr().err


@pytest.mark.parametrize("named", [{"root": "mine"}, {"csv": "mine.csv"}, {"images": "mine"}])
def test_photos_that_the_composed_config_names_are_kept(named):
    data = {"root": None, "csv": None, "images": None, "group": None, **named}
    cfg = OmegaConf.create({"data": dict(data)})
    config.demo_root(cfg)
    assert cfg.data == data


def test_a_demo_set_that_cannot_be_drawn_is_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "demo").mkdir(parents=True)
    (tmp_path / "data" / "demo" / "mine.jpg").touch()
    cfg = OmegaConf.create({"data": {"root": None, "group": None}})
    with pytest.raises(InputError, match=r"not drawn: demo: data/demo holds other files .*mine\.jpg"):
        config.demo_root(cfg)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="draw it first"):
        config.demo_root(cfg)
