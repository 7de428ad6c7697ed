"""Sweeps that are started again in their folder, studies of Optuna, launchers."""

import json
import sys

import lightning as L
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from src.config import CONF
from tests.made import FAST, run_script

SHORT = (*FAST, "trainer.max_epochs=2", "logger=null")
INTERRUPT = "+callbacks.interrupt._target_=tests.test_sweeps.Interrupt"
STUDY = ("-m", "sweep=optuna", *SHORT, "model.weight_decay=0.0", "model.label_smoothing=0.0")


class Interrupt(L.Callback):
    """Ends the fit that it is told to, as Ctrl-C would, after its first epoch."""

    fits, at = 0, None

    def on_fit_start(self, trainer, pl_module):
        Interrupt.fits += 1

    def on_train_epoch_start(self, trainer, pl_module):
        if Interrupt.fits == Interrupt.at and trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture
def interrupted_at(monkeypatch):
    def at(number):
        monkeypatch.setattr(Interrupt, "fits", 0)
        monkeypatch.setattr(Interrupt, "at", number)

    at(None)
    return at


def test_a_sweep_that_is_started_again_runs_what_is_left(
    photos, interrupted_at, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    sweep = ("-m", f"data.root={photos}", *SHORT, INTERRUPT, "model.lr=0.01,0.001")
    whole = (*sweep, "hydra.sweep.dir=whole")
    assert run_script(monkeypatch, "train", *whole) == 0
    interrupted_at(2)
    assert run_script(monkeypatch, "train", *sweep, "hydra.sweep.dir=s") == 130
    interrupted_at(None)
    assert run_script(monkeypatch, "train", *sweep, "hydra.sweep.dir=s") == 0
    assert Interrupt.fits == 1 and "s/0 has finished before" in capsys.readouterr().err
    history = (tmp_path / "s" / "1" / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in history] == ["epoch", "1", "2"]
    boards = [(tmp_path / name / "leaderboard.csv").read_bytes() for name in ("whole", "s")]
    assert boards[0] == boards[1]


def study(folder):
    optuna = pytest.importorskip("optuna", reason="needs the extra optuna")
    from src.callbacks.pruning import open_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = [(t.state.name, t.params, t.value) for t in open_study(folder).trials]
    return [state for state, _, _ in found], found


def test_a_study_is_the_same_twice_and_goes_on_where_it_was_interrupted(
    photos, interrupted_at, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    space = ("model.lr=tag(log,interval(1e-3,1e-1))", "data.batch_size=range(4,13,4)")
    given = (*STUDY, f"data.root={photos}", INTERRUPT, *space, "hydra.sweeper.trials=3")
    assert run_script(monkeypatch, "train", *given, "hydra.sweep.dir=whole") == 0
    assert "Best of 3 trials" in capsys.readouterr().err
    interrupted_at(2)
    assert run_script(monkeypatch, "train", *given, "hydra.sweep.dir=s") == 130
    interrupted_at(None)
    assert study(tmp_path / "s")[0] == ["COMPLETE", "RUNNING"]
    assert run_script(monkeypatch, "train", *given, "hydra.sweep.dir=s") == 0
    states, trials = study(tmp_path / "s")
    assert states == ["COMPLETE"] * 3 and trials == study(tmp_path / "whole")[1]
    assert len({params["model.lr"] for _, params, _ in trials}) == 3
    board = pd.read_csv(tmp_path / "s" / "leaderboard.csv")
    assert board["score"].iloc[0] == pytest.approx(max(value for _, _, value in trials), abs=1e-6)
    other = (*given, "seed=43", "hydra.sweep.dir=s")
    assert run_script(monkeypatch, "train", *other) == 2
    assert "a study of another command" in capsys.readouterr().err


def test_a_trial_that_fails_is_recorded_and_the_study_goes_on(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    given = (*STUDY, f"data.root={photos}", "model.lr=choice(1e30,0.01)", "hydra.sweeper.trials=3")
    assert run_script(monkeypatch, "train", *given, "hydra.sweep.dir=s") == 1
    assert "no epoch had a finite validation loss" in capsys.readouterr().err
    states, trials = study(tmp_path / "s")
    assert [state == "FAIL" for state in states] == [float(p["model.lr"]) > 1 for _, p, _ in trials]
    assert {"FAIL", "COMPLETE"} == {*states} and len(states) == 3
    assert (pd.read_csv(tmp_path / "s" / "leaderboard.csv")["status"] == "failed").sum() == states.count(
        "FAIL"
    )


def test_a_trial_that_falls_behind_is_stopped(photos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pruning = ("callbacks.pruning.startup=1", "callbacks.pruning.warmup=0", "trainer.max_epochs=4", "seed=45")
    given = (*STUDY, f"data.root={photos}", *pruning, "model.lr=choice(0.02,1e-9)", "hydra.sweeper.trials=3")
    assert run_script(monkeypatch, "train", *given, "hydra.sweep.dir=s") == 0
    states, trials = study(tmp_path / "s")
    pruned = states.index("PRUNED")
    assert float(trials[pruned][1]["model.lr"]) < 1e-6
    epochs = json.loads((tmp_path / "s" / str(pruned) / "metrics.json").read_text())["run"]["epochs"]
    assert epochs < 4
    board = pd.read_csv(tmp_path / "s" / "leaderboard.csv").set_index("job")["status"]
    assert [board[job] == "pruned" for job in range(3)] == [state == "PRUNED" for state in states]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model.lrr=choice(1,2)",), "unknown key 'model.lrr'"),
        (("model.lr=interval(3,1)",), "the search space"),
        (("hydra.sweeper.trails=3",), "did you mean 'trials'"),
    ],
)
def test_a_study_that_cannot_be_is_one_line(arguments, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", "-m", "sweep=optuna", "data.root=nowhere", *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and said in error, error


def test_a_study_without_optuna_names_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run_script(monkeypatch, "train", "-m", "sweep=optuna", "data.root=nowhere") == 2
    assert 'pip install -e ".[optuna]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "package", "key"),
    [
        ("joblib", "hydra_joblib_launcher", "n_jobs"),
        ("submitit_slurm", "hydra_submitit_launcher", "timeout_min"),
    ],
)
def test_launchers_of_the_extra_compose(name, package, key):
    pytest.importorskip(f"hydra_plugins.{package}", reason="needs the extra launchers")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train", [f"hydra/launcher={name}", "sweep=lr", "output_dir=x"], return_hydra_config=True
        )
    assert package in cfg.hydra.launcher._target_ and key in cfg.hydra.launcher
