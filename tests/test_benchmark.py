import json
import sys

import numpy as np
import pytest

from benchmarks import harness, split
from tests.made import load_script


def side(seconds, **result):
    times = {"median": seconds, "min": seconds, "max": seconds}
    return {"cpu_s": times, "wall_s": times, "peak_mb": 9, "load": 0.5, "result": result}


def row(equal):
    return {
        "work": "sorting", "goal": "2x", "ratio_cpu": 4.0, "ratio_wall": 4.0, "equal": equal, "rounds": 5,
        "naive": side(0.4), "ours": side(0.1),
    }  # fmt: skip


@pytest.mark.parametrize(("equal", "code", "shown"), [(True, 0, "yes"), (False, 1, "NO")])
def test_a_result_that_is_not_right_is_exit_code_1(equal, code, shown, tmp_path, monkeypatch, capsys):
    script = load_script("benchmark")
    monkeypatch.setattr(harness, "run", lambda name: ([row(equal)], ["a remark"]))
    monkeypatch.setattr(script, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "split"])
    assert script.main() == code
    said = capsys.readouterr().out
    assert f"| sorting | 2x | 0.4 s / 0.1 s | 4 (4) | {shown} | 9 / 9 |" in said and "a remark" in said
    assert json.loads((tmp_path / "outputs" / "bench" / "split.json").read_text()) == [row(equal)]


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [("splitt", None, "did you mean 'split'"), ("hash", ModuleNotFoundError(name="x"), "x is not installed")],
)
def test_what_cannot_be_measured_is_one_line(argument, error, message, monkeypatch, capsys):
    def run(name):
        raise error

    script = load_script("benchmark")
    monkeypatch.setattr(harness, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", argument])
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_the_checks_of_splits_can_fail():
    targets, groups = split.table(2000, grouped=True)
    ours = split.figures((targets, groups), split.ours((targets, groups)))
    chance = split.figures((targets, groups), split.random_groups((targets, groups)))
    torn = split.figures((targets, groups), np.arange(2000) % 3)
    assert ours["crossing_groups"] == chance["crossing_groups"] == 0 < torn["crossing_groups"]
    assert ours["mean_deviation"] < chance["mean_deviation"]
    assert not split.holds(ours, torn) and not split.holds(ours, chance)
    assert split.no_worse(chance, ours) and not split.no_worse(ours, chance)
    draws = split.small()[:2]
    assert split.everywhere({}, split.rare(draws, split.each(split.ours, draws)))
    assert not split.everywhere({}, split.rare(draws, split.each(split.random_groups, draws)))
