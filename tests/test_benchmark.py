"""Benchmarks on tiny settings: each starts, ends, and notices a wrong result."""

import sys
import types
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest

from benchmarks import (
    defaults,
    forward,
    gpu,
    harness,
    label_errors,
    leak,
    original,
    plain,
    predict,
    recipes,
    split,
    threshold_evidence,
    train,
)
from demo.make import make_demo
from src.inference.predictor import Predictor
from src.models.checkpoint import load_model
from tests.made import FAST, load_script, run_script, trained


def work(naive=sorted, ours=sorted, **changed):
    sides = {"naive": naive, "ours": ours, **changed.pop("sides", {})}
    equal = changed.pop(
        "equal", lambda results: results.get("reference", results["naive"]) == results["ours"]
    )
    return harness.Work("sorting", lambda: [3, 1, 2], sides, equal, **changed)


def here(one, rounds=1):
    """Measure a work in this process; return its table and whether its results are right."""
    return harness.measured(one, rounds, lambda side, count: harness.timed(one, side))


def results(one):
    return {side: harness.timed(one, side)["result"] for side in one.sides}


def test_a_wrong_result_is_not_equal_and_one_of_many_is_enough():
    text, equal = here(work(threads=(1, 2)), 2)
    assert equal and "sorting: results equal" in text and text.count("| ours | ") == 2
    assert not here(work(ours=lambda given: sorted(given)[::-1]))[1]
    assert not here(work(ours=Mock(side_effect=[[1, 2, 3], [], [1, 2, 3]])), 3)[1]
    assert here(work(naive=lambda given: [], sides={"reference": sorted}))[1]
    text = here(work(describe=lambda given, found: {"numbers": found, "_long": 1}))[0]
    assert "ours: numbers [1, 2, 3]" in text and "_long" not in text


def test_a_fresh_process_gives_its_result_and_its_cost():
    found = harness.in_fresh_process("split", 1, "naive", 1)
    assert found["cpu_s"] > 0 and found["wall_s"] > 0 and found["result"]["crossing"] == 0
    with pytest.raises(SystemExit, match="no_such_side ended with exit code 1"):
        harness.in_fresh_process("split", 1, "no_such_side", 1)


def test_the_script_names_what_it_cannot_run_and_fails_for_a_wrong_result(monkeypatch, capsys):
    script = load_script("benchmark")
    module = types.ModuleType("benchmarks.split")
    monkeypatch.setitem(sys.modules, "benchmarks.split", module)

    def fresh(name, number, side, count):
        return harness.timed(module.WORKS[number], side)

    monkeypatch.setattr(harness, "in_fresh_process", fresh)
    for wrong in (False, True):
        module.WORKS = [work(ours=(lambda given: []) if wrong else sorted)]
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "split", "--rounds", "2"])
        assert script.main() == int(wrong)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    said_of = {"splitt": "did you mean 'split'", "split --rounds 0": "at least 1", "gpu": "CUDA GPU"}
    for arguments, said in said_of.items():
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments.split()])
        with pytest.raises(SystemExit) as left:
            script.main()
        assert left.value.code == 2 and said in capsys.readouterr().err


def test_thresholds_with_evidence(monkeypatch, capsys):
    for name, small in {"LARGE": 10_000, "RESAMPLES": 9}.items():
        monkeypatch.setattr(threshold_evidence, name, small)
    one = threshold_evidence.WORKS[0]
    monkeypatch.setattr(
        threshold_evidence, "in_fresh_process", lambda name, number, side, count: harness.timed(one, side)
    )
    assert threshold_evidence.main(40)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("| + bootstrap median | ours | oracle |") and lines[4].startswith(
        "| 0.7% | 1.5 |"
    )
    assert any("results equal" in line for line in lines)
    found = results(one)
    found["ours"]["_low"] = found["ours"]["_low"] + 1e-3
    assert not threshold_evidence.equal(found)


def test_splits():
    plainly, grouped, _, many = split.WORKS
    assert here(replace(plainly, prepare=lambda: split.table(2000, False)))[1]
    assert here(grouped)[1]
    assert not here(replace(grouped, sides={**grouped.sides, "ours": split.random_groups}))[1]
    assert not here(replace(grouped, sides={**grouped.sides, "ours": split.iterative}))[1]
    text, equal = here(replace(many, prepare=lambda: split.draws(2)))
    assert equal and "random groups: photos [" in text
    assert not many.equal({"ours": results(replace(many, prepare=lambda: split.draws(2)))["random groups"]})


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Let benchmarks keep their files in a temporary folder, and take photos of 16 px."""
    for module in (train, predict, defaults, recipes):
        monkeypatch.setattr(module, "BENCH", tmp_path)
    monkeypatch.setattr(train, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(train, "RUN", tmp_path / "run")
    monkeypatch.setattr(plain, "SIZE", 16)
    return tmp_path


def test_a_plain_loop_trains_as_corbel_does(small, make_photo):
    pairs = ["Bracket_Intact", "Bracket_Leaks", "Joint_Intact", "Joint_Leaks"]
    for number in range(12):
        folder = small / "tree" / ("val" if number > 7 else "train") / pairs[number % 4]
        make_photo(folder / f"{number}.jpg", number)
    overrides = ("trainer.max_epochs=2", "preprocess.image_size=16")
    one = replace(train.WORKS[0], prepare=lambda: train.plainly(small / "tree", *overrides))
    text, equal = here(replace(one, threads=(1,)))
    assert equal and "| ours | 1 |" in text
    found = results(one)
    found["reference"]["_heads"][0] += 2e-5
    assert not train.alike(found)


def test_a_plain_script_predicts_as_corbel_does(small, table, monkeypatch):
    run = trained(
        small, "model=multilabel", f"data.root={table}", "data.group=asset", *FAST, "trainer.max_epochs=2"
    )
    model = small / "model" / "model.onnx"
    assert run_script(monkeypatch, "export", f"ckpt={run}", f"output={model.parent}", "formats=[onnx]") == 0
    photos = sorted((table / "images").glob("*.jpg"))[:5]
    monkeypatch.setattr(predict, "RUN", run)
    for module in (predict, forward):
        monkeypatch.setattr(module, "exported", lambda *name: model)
        monkeypatch.setattr(module, "drawn", lambda *size: photos)
    one = replace(predict.WORKS[0], threads=(1,))
    assert here(one)[1]
    found = results(one)
    assert not predict.same_scores({**found, "ours": {"_scores": found["ours"]["_scores"] + 1e-3}})
    assert here(forward.WORKS[0])[1]
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    ours = Predictor.load(predict.checkpoint(), num_workers=0)
    given = predict.Given(photos, load_model(predict.checkpoint()), ours)
    text, equal = here(replace(gpu.WORKS[0], prepare=lambda: given, threads=(1,)))
    assert equal and "decoding alone: photos 5" in text


def test_changes_of_the_defaults_print_a_row_for_each_change(small, make_photo, monkeypatch, capsys):
    for number in range(12):
        label = ("Rolled", "Scratched")[number % 2]
        make_photo(small / "photos" / label / f"{number}.png", number, colour=(90 + 60 * (number % 2),) * 3)
    rows = (defaults.DEFAULT, defaults.ROTATED)
    monkeypatch.setattr(defaults, "ROWS", rows)
    arguments = ["neu_cls", str(small / "photos"), "--seeds", "1", "--sizes", "32"]
    monkeypatch.setattr(sys, "argv", ["defaults.py", *arguments])
    defaults.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| change | loss | label accuracy | label f1_macro |"
    figures = {cells[1].strip(" `"): cells[2:-1] for cells in (line.split("|") for line in lines[4:-2])}
    assert list(figures) == [*rows, "preprocess.image_size=32"]
    assert all(0 <= float(value) <= 1 for cells in figures.values() for value in cells[1:])


def test_recipes_are_compared_with_the_plain_one_seed_by_seed(small, table, monkeypatch, capsys):
    monkeypatch.setenv("INFRA_MULTILABEL", str(table))
    monkeypatch.setattr(recipes, "SETS", {})
    monkeypatch.setattr(recipes, "CHOICES", (recipes.PLAIN, "model.head=mlp", "callbacks=[default,ema]"))
    tiny = ("model.backbone=tiny", "model.weights=null", "preprocess.image_size=16", "data.group=null")
    monkeypatch.setattr(recipes, "ALONE", (*recipes.ALONE, *tiny, "trainer.max_epochs=2"))
    assert recipes.main(2)
    lines = capsys.readouterr().out.splitlines()
    assert "| choice | macro-F1 | macro-F1 at 0.5 | mAP |" in lines
    (row,) = (line for line in lines if line.startswith("| `model.head=mlp` | 0."))
    assert row.count(" ± 0.") == 6 and row.count(" (") == 3
    assert "**infra_multilabel, 30% of the labels of train and val left out**" in "\n".join(lines)


def test_the_originals_recipe_is_measured_on_the_same_splits(small, table, monkeypatch, capsys):
    monkeypatch.setenv("INFRA_MULTILABEL", str(table))
    tiny = ("model.backbone=tiny", "model.weights=null", "preprocess.image_size=16", "data.group=null")
    monkeypatch.setattr(original, "ALONE", (*original.ALONE, *tiny, "trainer.max_epochs=2"))
    monkeypatch.setattr(original, "SETS", {})
    assert original.main(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[-3:]] == ["ours", "original", "difference"]


def test_splits_by_photo_and_by_group_are_compared(small, photos, monkeypatch, capsys):
    monkeypatch.setattr(leak, "SEEDS", (1, 2))
    monkeypatch.chdir(small)
    tiny = ("model.backbone=tiny", "model.weights=null", "preprocess.image_size=16")
    monkeypatch.setattr(sys, "argv", ["leak.py", f"data.root={photos}", "data.cache_dir=cache", *tiny])
    leak.main()
    text = capsys.readouterr().out
    for words in ("2 splits of each sort", "| component accuracy | ", "| defect accuracy | "):
        assert words in text


@pytest.mark.filterwarnings("ignore:May not flag all label issues")
def test_planted_label_errors_are_ranked_by_the_audit_and_by_cleanlab(small, monkeypatch, capsys):
    monkeypatch.setattr(label_errors, "COUNT", 90)
    monkeypatch.setitem(label_errors.PIXELS, "image_size", 32)
    monkeypatch.setattr(label_errors, "make_demo", partial(make_demo, width=96, height=72))
    monkeypatch.setattr(sys, "argv", ["label_errors.py", "demo", "--seeds", "0", "--backbone", "tiny"])
    label_errors.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| set | kind | method | planted | p@10 |")
    for name in ("table | wrong | audit", "table | missing | cleanlab, adjusted", "folders | wrong"):
        assert any(line.startswith(f"| demo, {name}") for line in lines)
