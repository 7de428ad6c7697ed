import importlib
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from benchmarks import (
    decode,
    finetune,
    forward,
    harness,
    memory,
    ours,
    plain,
    predict,
    processes,
    recipes,
    split,
    startup,
    tables,
    threshold,
    train,
    trained,
)
from src.inference import Photo, Predictor
from src.models import load_model
from tests.made import load_script


def side(seconds, others=0.0, **result):
    times = {"median": seconds, "min": seconds, "max": seconds}
    return {"cpu_s": times, "wall_s": times, "peak_mb": 9, "load": 0.5, "others": others, "result": result}


def row(equal=True, met=None, **changed):
    return {
        "work": "sorting", "goal": "CPU 2x", "ratio_cpu": 4.0, "ratio_wall": 4.0, "equal": equal, "rounds": 5,
        "naive": side(0.4), "ours": side(0.1), "threads": [1], "load": 0.1, "cores": 2,
        "versions": {"x": "1"}, "met": met or {}, **changed,
    }  # fmt: skip


def work(naive=sorted, ours=sorted, **changed):
    def described(given, result):
        return {"result": list(result), "_long": [1]}

    given = {"prepare": lambda: [3, 1, 2], "describe": described, "equal": lambda one, other: one == other}
    return harness.Work("sorting", "", **given, naive=naive, ours=ours, **{"packages": (), **changed})


@pytest.fixture
def in_this_process(monkeypatch, capsys):
    """Let `harness.run` call sides here, and give it works of `benchmarks.tiny`."""

    def fresh(name, number, side, threads):
        monkeypatch.setattr(sys, "argv", ["harness", name, str(number), side])
        monkeypatch.setenv(harness.THREADS, str(threads))
        harness.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1]) | {"others": 0.0}

    def give(*works):
        module = types.ModuleType("benchmarks.tiny")
        module.WORKS = works
        monkeypatch.setitem(sys.modules, "benchmarks.tiny", module)

    monkeypatch.setattr(harness, "_in_a_fresh_process", fresh)
    return give


def test_a_mutated_result_is_not_equal(in_this_process):
    in_this_process(work(), work(ours=lambda given: sorted(given)[::-1]))
    (right, wrong), remarks = harness.run("tiny", 2)
    assert right["equal"] and not wrong["equal"] and remarks == [] and right["rounds"] == 2
    assert right["ours"]["result"] == {"result": [1, 2, 3]}  # without what is compared only
    needed = {"work", "goal", "ratio_cpu", "ratio_wall", "equal", "rounds", "naive", "ours"}
    assert needed <= right.keys()


def test_one_wrong_result_of_many_is_not_equal(in_this_process):
    calls = []

    def ours(given):
        calls.append(harness.threads())
        return sorted(given) if len(calls) != 3 else []

    in_this_process(work(ours=ours, threads=(1, 2)))
    assert not harness.run("tiny", 2)[0][0]["equal"]
    assert calls == [1, 2, 1, 2]


def test_a_reference_takes_the_place_of_the_naive_result(in_this_process):
    in_this_process(work(naive=lambda given: [], reference=sorted), work(reference=lambda given: []))
    assert [row["equal"] for row in harness.run("tiny", 1)[0]] == [True, False]


def test_what_is_printed_is_not_the_result(in_this_process):
    in_this_process(work(ours=lambda given: print("by the way") or sorted(given), limit=sorted))
    assert harness.run("tiny", 1)[0][0]["equal"]


def test_times_of_many_calls_are_divided():
    runs = [
        {"cpu_s": s, "wall_s": 2 * s, "peak_mb": 3, "load": 0, "others": None, "result": {}}
        for s in (4, 8, 6)
    ]
    found = harness._summary(runs, runs, 2)
    assert found["cpu_s"] == {"median": 3, "min": 2, "max": 4} and found["wall_s"]["median"] == 6


@pytest.mark.parametrize(
    ("goals", "met"),
    [
        ({"goal_cpu": 4.0}, {"cpu": True}),
        ({"goal_cpu": 4.1}, {"cpu": False}),
        ({"goal_cpu": 1, "goal_wall": 5}, {"cpu": True, "wall": False}),
        ({"most_cpu_s": 0.1}, {"cpu_s": True}),
        ({"most_cpu_s": 0.09}, {"cpu_s": False}),
        ({"most_mb": 8}, {"mb": False}),
        ({"most_limit": 1.2}, {"limit": True}),
        ({"most_limit": 1.1}, {"limit": False}),
        ({}, {}),
    ],
)
def test_goals(goals, met):
    assert harness.verdicts(work(**goals), row(limit=side(0.09), ratio_limit=1.11)) == met


@pytest.mark.parametrize(
    ("threads", "others", "load", "disturbed"),
    [
        ([1], 0.9, 9, False),  # a load average that ours may have made
        ([1], 1.3, 0, True),
        ([1, 2], 0.1, 9, False),
        ([1, 2], 0.5, 0, True),
        ([1], None, 0.5, False),  # a machine that does not tell
        ([1], None, 2.5, True),
    ],
)
def test_no_verdict_on_wall_time_where_others_need_the_cores(threads, others, load, disturbed):
    loud = row(threads=threads, load=load, naive=side(0.4, others), ours=side(0.1, others))
    assert harness.disturbed(loud) == disturbed
    met = harness.verdicts(work(goal_cpu=2, goal_wall=2), loud)
    assert met == {"cpu": True, "wall": None if disturbed else True}
    loud["met"] = met
    assert ("no verdict on wall times" in tables.circumstances([loud])) == disturbed
    assert ("wall no verdict" in tables.table([loud])) == disturbed


def test_a_table_with_and_without_a_limit():
    plain = row(met={"cpu": True})
    assert (
        "| sorting | CPU 2x | 0.4 (0.4-0.4) / 0.1 (0.1-0.1) | 4x | 0.4 (0.4-0.4) / 0.1 (0.1-0.1) | 4x | yes "
        "| CPU yes | 9 / 9 |"
    ) in tables.table([plain])
    limited = row(False, {"limit": False}, limit=side(0.05), ratio_limit=2.0)
    lines = tables.table([plain, limited]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| 0.05 (0.05-0.05), 2x | NO | limit NO |" in lines[3]
    assert harness._goal(work(goal_cpu=2, most_mb=1500)) == "CPU 2x, at most 1500 MB"


def test_a_fresh_process_tells_what_all_its_processes_cost(monkeypatch):
    found = harness._in_a_fresh_process("threshold", 0, "ours", 1)
    assert found["cpu_s"] > 0 and found["peak_mb"] > 0 and len(found["result"]["thresholds"]) == 20
    assert found["others"] is None or found["others"] >= 0
    with pytest.raises(SystemExit, match="ended with exit code 1"):
        harness._in_a_fresh_process("threshold", 0, "no_such_side", 1)


def test_a_process_that_still_runs_is_counted():
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True); input()"
    before = processes.cpu_seconds()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        running = processes.cpu_seconds() - before
        assert processes.resident_mb(os.getsid(0)) > 1
        child.communicate(b"\n")
    assert running > 0.25 and processes.cpu_seconds() - before > 0.25


@pytest.mark.parametrize(("equal", "code"), [(True, 0), (False, 1)])
def test_a_result_that_is_not_right_is_exit_code_1(equal, code, tmp_path, monkeypatch, capsys):
    script = load_script("benchmark")
    asked = []
    monkeypatch.setattr(harness, "run", lambda *given: asked.append(given) or ([row(equal)], ["a remark"]))
    monkeypatch.setattr(script, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "split", "--rounds", "3"])
    assert script.main() == code and asked == [("split", 3)]
    said = capsys.readouterr().out
    assert "| sorting | CPU 2x |" in said and "a remark" in said
    assert json.loads((tmp_path / "outputs" / "bench" / "split.json").read_text()) == [row(equal)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["splitt"], None, "did you mean 'split'"),
        (["split", "--rounds", "0"], None, "at least 1"),
        (["hash"], ModuleNotFoundError(name="x"), "x is not installed"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments, error, message, monkeypatch, capsys):
    def run(name, rounds):
        raise error

    script = load_script("benchmark")
    monkeypatch.setattr(harness, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_the_check_of_thresholds_can_fail():
    given = threshold.scored(5000)
    naive, ours = (threshold.as_bits(given, way(given)) for way in (threshold.curves, threshold.ours))
    assert threshold.same(naive, ours)
    moved = threshold.as_bits(given, np.nextafter(threshold.ours(given), np.float32(1)))
    assert not threshold.same(naive, moved)


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


def test_the_check_of_decoding_can_fail(tmp_path, make_photo):
    paths = [make_photo(tmp_path / f"{seed}.jpg", seed, (900, 700)) for seed in range(2)]
    full = decode.as_means(paths, decode.in_full(paths))
    assert decode.close(full, decode.as_means(paths, decode.ours(paths)))
    darker = [image // 2 for image in decode.ours(paths)]
    assert not decode.close(full, decode.as_means(paths, darker))


def test_the_check_of_training_can_fail():
    trained = {"history": [[1.0, 2.0, 0.5, 0.5]], "heads": torch.zeros(3)}
    one = train.curves(None, trained)
    assert train.alike(one, train.curves(None, {**trained, "heads": torch.full((3,), 9e-6)}))
    assert not train.alike(one, train.curves(None, {**trained, "heads": torch.full((3,), 2e-5)}))
    assert not train.alike(one, train.curves(None, {**trained, "history": [[1.0, 2.1, 0.5, 0.5]]}))
    assert not train.alike(one, train.curves(None, {**trained, "history": []}))


def test_the_check_of_cached_pixels_can_fail():
    def said(digest, decodes):
        return {"uncached": {"digest": "a"}, "cached": {"digest": digest, "decodes": decodes}}

    assert finetune.decoded_once({}, said("a", [8, 0, 0]))
    assert not finetune.decoded_once({}, said("b", [8, 0, 0]))
    assert not finetune.decoded_once({}, said("a", [8, 1, 0]))


def test_the_check_of_predictions_can_fail():
    naive = {"_scores": [[0.9, 0.51]]}
    other = {"_decided": [[True, False]], "_thresholds": [0.5, 0.5], "to_torch": 1e-6}
    assert predict.agree(naive, other)  # 0.51 is near its threshold
    assert not predict.agree(naive, {**other, "_decided": [[False, False]]})
    assert not predict.agree(naive, {**other, "to_torch": 1e-3})
    assert not predict.agree(naive, {**other, "_decided": []})


def test_the_checks_of_forward_passes_can_fail():
    assert forward.close({"scores": [0.5]}, {"scores": [0.50009]})
    assert not forward.close({"scores": [0.5]}, {"scores": [0.5002]})
    figures = {"photos": 9, "source": "", "max_difference": 0.1, "agreement": 0.99, "f1": 0.796}

    def good(**other):
        return forward.as_good({}, {"parity": {**figures, "reference_f1": 0.8, **other}})

    assert good() and not good(reference_f1=0.802) and not good(agreement=0.98)


def test_forward_passes_are_told_as_photos_a_second():
    parity = {"photos": 9, "source": "9 validation photos", "max_difference": 0.1, "agreement": 0.99}
    measured = side(2, parity={**parity, "f1": 0.7, "reference_f1": 0.8})
    said = forward.remarks([row(equal, ours=measured) for equal in (True, False)])
    assert all("80.0 photos/s (eager torch 400.0); on 9 validation photos" in line for line in said)
    assert ["refuses" in line for line in said] == [False, True]


def test_an_int8_file_that_the_export_refuses_is_made_once_and_measured(tmp_path, monkeypatch):
    def refuse(*command):
        raise SystemExit(f"error: {said}")

    made = []
    monkeypatch.setattr(trained, "BENCH", tmp_path)
    monkeypatch.setattr(trained, "_python", refuse)
    monkeypatch.setattr(trained, "_quantise", lambda backbone, file: made.append(file) or file.touch())
    run = trained.run_of(trained.LITE0)
    (run / "checkpoints").mkdir(parents=True)
    (tmp_path / "exported_int8_efficientnet_lite0").mkdir()
    for file in (run / "metrics.json", run / "checkpoints" / "best.ckpt"):
        file.touch()
    said = "the disk is full"
    with pytest.raises(SystemExit, match="the disk is full"):
        trained.exported("model_int8.onnx", trained.LITE0)
    said = "int8 does not decide like the checkpoint and was not kept"
    found = [trained.exported("model_int8.onnx", trained.LITE0) for _ in range(2)]
    assert found == made * 2 and len(made) == 1


def test_heads_of_other_recipes_have_validation_figures(tmp_path, make_photo, monkeypatch, capsys):
    for number in range(12):
        label = ("Rolled", "Scratched")[number % 2]
        make_photo(
            tmp_path / "photos" / label / f"{number}.png", number, colour=(90 + 60 * (number % 2),) * 3
        )
    rows = (recipes.DEFAULT, recipes.ROTATED)
    monkeypatch.setattr(recipes, "ROWS", rows)
    monkeypatch.setattr(recipes, "BENCH", tmp_path)
    arguments = ["neu_cls", str(tmp_path / "photos"), "--seeds", "1", "--sizes", "32"]
    monkeypatch.setattr(sys, "argv", ["recipes.py", *arguments])
    recipes.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Validation, neu_cls, efficientnet_lite0 at 256 px, mean over seeds 1")
    assert lines[2] == "| change | loss | label accuracy | label f1_macro |"
    figures = {cells[1].strip(" `"): cells[2:-1] for cells in (line.split("|") for line in lines[4:-2])}
    assert list(figures) == [*rows, "preprocess.image_size=32"]
    assert all(0 <= float(value) <= 1 for cells in figures.values() for value in cells[1:])
    assert len({tuple(cells) for cells in figures.values()}) > 1


def test_the_check_of_memory_can_fail():
    grown = {"rows": 9, "photos": 9, "mb": {"1000": 400.0, "10000": 410.0}}
    assert memory.flat({}, grown)
    assert not memory.flat({}, {**grown, "mb": {"1000": 400.0, "10000": 500.0}})
    assert not memory.flat({}, {**grown, "rows": 8})


def test_the_check_of_startup_can_fail():
    assert startup.both_help(startup.as_help(None, "usage: x"), startup.as_help(None, "Train a classifier"))
    assert not startup.both_help(startup.as_help(None, "usage: x"), startup.as_help(None, "error: x"))


def test_a_plain_loop_trains_as_corbel_does(tmp_path, make_photo, monkeypatch):
    for module in (ours, train):
        monkeypatch.setattr(module, "BENCH", tmp_path)
    monkeypatch.setattr(train, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(plain, "SIZE", 48)
    pairs = ["Bracket_Intact", "Bracket_Leaks", "Joint_Intact", "Joint_Leaks"]
    for number in range(12):
        make_photo(
            tmp_path / "tree" / ("val" if number > 7 else "train") / pairs[number % 4] / f"{number}.jpg",
            number,
        )
    weights = ours.resnet18_weights()
    overrides = ("trainer.max_epochs=2", "preprocess.image_size=48")
    given = train.Given(tmp_path / "tree", weights, ours.composed(tmp_path / "tree", weights, *overrides), 2)
    expected = train.curves(given, train.with_our_decoder(given))
    assert train.alike(expected, train.curves(given, train.cold(given)))
    assert not train.alike(expected, train.curves(given, train.again(given)))
    assert [len(batch) for batch in train.limit(given)] == [8, 4]


def test_a_plain_script_predicts_as_corbel_does(tmp_path, make_photo, monkeypatch):
    monkeypatch.setattr(predict, "BENCH", tmp_path)
    monkeypatch.setattr(memory, "BENCH", tmp_path)
    photos = [make_photo(tmp_path / f"{seed}.jpg", seed, (40, 30)) for seed in range(5)]
    model = load_model(memory.model())
    given = predict.Given(photos, model, Predictor.load(memory.model(), num_workers=0))
    monkeypatch.setattr(plain, "SIZE", 32)
    naive, found = (predict.described(given, way(given)) for way in (predict.script, predict.ours))
    assert predict.agree(naive, found) and found["photos"] == 5 and found["to_torch"] < 1e-5
    assert [len(scores) for scores in predict.limit(given)] == [5]
    few = memory.Given([Photo(path.stem, path.name, path) for path in photos], given.predictor)
    monkeypatch.setattr(memory, "MARKS", (2, 4))
    marks = memory.as_marks(few, memory.streamed(few))
    assert set(marks["mb"]) == {"2", "4"} and memory.flat({}, marks)


def test_every_name_is_a_benchmark():
    for name in load_script("benchmark").NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        assert all(isinstance(work, harness.Work) for work in module.WORKS)
