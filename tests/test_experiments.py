"""Every experiment file runs, on made data with a tiny backbone; the demo draws its own photos."""

import pandas as pd
import pytest

from src.demo import at_hand, make_demo
from tests.made import FAST, REPOSITORY, make_folders, make_table, only_run, run_script

QUICK = (
    "trainer.max_epochs=1",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "callbacks.figures=null",
    "preprocess.image_size=24",
)
OTHERS = sorted(p.stem for p in (REPOSITORY / "conf" / "experiment").glob("*.yaml") if p.stem != "demo")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("fast", [(), ("trainer.fast_dev_run=true",)])
def test_experiments_run(monkeypatch, tmp_path, name, fast):
    data = (
        make_table(tmp_path / "d", each=4) if "multilabel" in name else make_folders(tmp_path / "d", each=4)
    )
    monkeypatch.chdir(tmp_path)
    arguments = (f"experiment={name}", f"data.root={data}", *FAST, *QUICK, "data.group=null", *fast)
    assert run_script(monkeypatch, "train", *arguments) == 0
    assert fast or (only_run(tmp_path) / "report.html").is_file()


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_without_photos_the_demo_set_is_drawn_and_said(monkeypatch, tmp_path, capsys, task):
    monkeypatch.setattr(at_hand, "make_demo", lambda root: make_demo(root, count=60, width=96, height=72))
    monkeypatch.chdir(tmp_path)
    model = () if task == "dual_head" else (f"model={task}",)
    assert run_script(monkeypatch, "train", *model, "model.backbone=tiny", "model.weights=null", *QUICK) == 0
    said = capsys.readouterr()
    assert said.err.count("no photos named") == 1 and "Drawing the demo set into data/demo" in said.err
    assert ("a logistic regression on colour histograms has defect accuracy 0." in said.out) == (
        task == "dual_head"
    )
    run = only_run(tmp_path)
    split = {name: pd.read_csv(run / f"{name}_metadata.csv", dtype=str) for name in ("train", "val", "test")}
    truth = pd.read_csv(tmp_path / "data" / "demo" / "truth.csv", dtype=str).set_index("path")["asset"]
    assets = [set(truth[frame["path"]]) for frame in split.values()]
    assert not assets[0] & assets[1] and not assets[0] & assets[2] and not assets[1] & assets[2]
