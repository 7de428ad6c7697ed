"""Every experiment file runs, on made data with a tiny backbone; the demo draws its own photos."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from demo import baseline
from src import config
from src.errors import InputError
from src.inference import cost
from tests.made import FAST, REPOSITORY, only_run, run_script

QUICK = ("trainer.max_epochs=1", "data.num_workers=0", "trainer.accelerator=cpu", "callbacks.figures=null",
         "preprocess.image_size=24")  # fmt: skip
LOOPS = ("trainer.fast_dev_run=true", "data.batch_size=2",
         "callbacks.figures={_target_: src.callbacks.history.TensorBoardFigures}")  # fmt: skip
TABLES = {  # experiments that read a table, which is the made one here
    "codebrim": ("data.images={0}/images", "data.split_file=null"),
    "spectacles": ("data.csv={0}/image_data.csv", "data.images={0}/images",
                   "data.columns={{label: component}}"),
    "infra_multilabel": (),
    "component_defect_multilabel": (),
}  # fmt: skip
OTHERS = sorted(p.stem for p in (REPOSITORY / "conf" / "experiment").glob("*.yaml") if p.stem != "demo")


@pytest.mark.parametrize(
    ("name", "fast"),
    [*((name, ()) for name in OTHERS), *((name, LOOPS) for name in OTHERS[:2])],
)
def test_experiments_run(photos, table, monkeypatch, tmp_path, name, fast):
    data = table if name in TABLES else photos
    monkeypatch.chdir(tmp_path)
    arguments = (f"experiment={name}", f"data.root={data}", *FAST, *QUICK, "data.group=null", *fast)
    own = [given.format(table) for given in TABLES.get(name, ())]
    if "finetuning" in experiment(name).callbacks:  # one epoch for each phase
        own += ["callbacks.finetuning.head_epochs=1", "trainer.max_epochs=2"]
    assert run_script(monkeypatch, "train", *arguments, *own) == 0
    if not fast:
        run = only_run(tmp_path)
        assert (run / "report.html").is_file()
        assert (run / "confusion_matrix.txt").is_file() == (experiment(name).task != "multilabel")


def experiment(name):
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose("train", [f"experiment={name}", "output_dir=x"])


@pytest.mark.parametrize("name", OTHERS)
def test_an_experiment_without_its_data_says_where_to_get_it(monkeypatch, tmp_path, capsys, name):
    if name.startswith(("component_defect", "demo")):  # photos of one's own, or drawn
        return
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", f"experiment={name}") == 2
    root = experiment(name).data.root
    said = capsys.readouterr().err.strip().rpartition("\n")[2]
    assert said.startswith(f"error: data.root={root}: not there. experiment={name} needs ")
    assert root.partition("/Images")[0] in said.partition("needs")[2]


def test_a_table_of_files_becomes_a_submission(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    paths = sorted(photos.rglob("*.jpg"))
    for folder, some in (("train", paths[1:]), ("test", paths[:1])):
        for path in some:
            place = tmp_path / "data" / "spectacles" / folder / f"{path.parent.name} {path.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    root = tmp_path / "data" / "spectacles"
    rows = [f"{p.name},{int('Bracket' in p.name)}" for p in sorted((root / "train").iterdir())]
    (root / "train.csv").write_text("\n".join(["file,label", *rows]))
    (root / "test.csv").write_text(f"id,file\n7,{next((root / 'test').iterdir()).name}\n8,gone.jpg\n")
    phases = ("callbacks.finetuning.head_epochs=1", "trainer.max_epochs=2")
    tiny = [given for given in FAST if not given.startswith(("model.lr", "model.schedule", "data.batch"))]
    assert run_script(monkeypatch, "train", "experiment=spectacles", *tiny, *phases) == 0
    given = ("images=data/spectacles/test.csv", "root=data/spectacles/test", "output=submission.csv",
             "columns={Id: ID, Category: label, Confidence: confidence}")  # fmt: skip
    assert run_script(monkeypatch, "predict", *given, "device=cpu", "num_workers=0") == 1  # one is gone
    found = pd.read_csv("submission.csv", dtype=str, keep_default_na=False).sort_values("Id")
    assert list(found) == ["Id", "Category", "Confidence"] and found["Id"].tolist() == ["7", "8"]
    assert found["Category"].iloc[0] in "01" and found["Category"].iloc[1] == ""


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


def _here(command):
    """Run a script in this process, which has imported torch, while Hydra runs another one."""
    hydra, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    with pytest.MonkeyPatch.context() as own:
        code = run_script(own, Path(command[1]).stem, *command[2:])
    GlobalHydra.instance().hydra = hydra
    return subprocess.CompletedProcess(command, code)


def test_backbones_are_compared(photos, monkeypatch, tmp_path, capfd, thorough):
    monkeypatch.chdir(tmp_path)
    if not thorough:  # two processes less, which import torch for most of the time
        real = subprocess.run
        monkeypatch.setattr(cost, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
        monkeypatch.setattr(
            subprocess, "run", lambda c, **options: _here(c) if c[0] == sys.executable else real(c, **options)
        )
    given = ("backbones=[defect_cnn_small,defect_cnn_smal]", "rounds=2", f"data.root={photos}",
             "model.weights=null", *QUICK)  # fmt: skip
    assert run_script(monkeypatch, "compare_backbones", *given) == 1
    said = capfd.readouterr()
    assert "1 training(s) failed, as backbones.csv says: defect_cnn_smal" in said.err
    (folder,) = tmp_path.glob("outputs/compare_backbones/*")
    assert (folder / "backbones.png").is_file() and (folder / "frozen" / "leaderboard.csv").is_file()
    found = pd.read_csv(folder / "backbones.csv").set_index("backbone")
    row, lost = found.loc["defect_cnn_small"], found.loc["defect_cnn_smal"]
    assert row["latency_ms"] > 0 and 2 < row["size_mb"] < 3 and row["memory_mb"] >= 0
    assert row["test_f1"] >= 0 and (folder / "frozen" / str(int(row["run"])) / "report.html").is_file()
    assert "did you mean 'defect_cnn_small'" in lost["reason"] and pd.isna(lost["test_f1"])
    for wrong, cure in (("backbones=[]", "backbones=[resnet18"), ("rounds=0", "rounds=0: needs")):
        assert run_script(monkeypatch, "compare_backbones", wrong) == 2
        assert cure in capfd.readouterr().err
