"""The comparison of two runs: figures, paired bootstrap, changed decisions, and the gate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import beta

from src.analysis.comparison import compare, read_pair
from src.analysis.gate import judge, read_rules
from src.config import CONF
from src.decisions.bootstrap import group_weights
from src.decisions.predictions import columns as columns_of
from src.decisions.predictions import row
from src.labels import MISSING, LabelSpace
from src.models.metrics import heads_figures, multilabel_figures
from src.runs import read_run
from tests.made import run_script

CLASSES = {"component": ["Bolt", "Bracket"], "defect": ["Leaks", "Loose", "Missing"]}


def write_run(folder: Path, truth, scores, task="multilabel", classes=CLASSES, **columns) -> Path:
    """Write the files of a run from labels and scores `[N, L]`, with more columns of its test table."""
    labels = LabelSpace(classes)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"run": {"task": task}}))
    (folder / "classes.json").write_text(json.dumps(classes))
    paths = columns.pop("paths", [f"{i:05d}.jpg" for i in range(len(truth))])
    half = np.full(len(labels), 0.5)
    rows = [row(task, labels, path, path, s, half) for path, s in zip(paths, scores, strict=True)]
    pd.DataFrame(rows, columns=columns_of(task, labels)).to_csv(folder / "predictions.csv", index=False)
    true = [labels.decode(np.asarray(hot, bool)) for hot in truth]
    table = {"ID": paths, "path": paths, "group": paths, **columns}
    table |= {kind: [";".join(names[kind]) for names in true] for kind in classes}
    pd.DataFrame(table).to_csv(folder / "test_metadata.csv", index=False)
    return folder


def one_label(tmp_path, *said, groups=None):
    """Two runs of one label that all photos carry, as the runs say it (1) or miss it (0)."""
    classes = {"defect": ["Loose", "Never"]}
    truth = np.tile([1, 0], (len(said[0]), 1))
    scores = [np.stack([np.array(values) * 0.8, np.zeros(len(values))], 1) for values in said]
    more = {} if groups is None else {"group": groups}
    return [
        write_run(tmp_path / name, truth, values, classes=classes, **more)
        for name, values in zip("AB", scores, strict=True)
    ]


def random_runs(tmp_path, photos=120, task="multilabel", group_size=4):
    """Two runs with random scores, better than chance, on photos in groups."""
    rng = np.random.default_rng(3)
    truth = rng.random((photos, 5)) < [0.5, 0.3, 0.4, 0.2, 0.1]
    if task == "dual_head":  # one label of each kind, or none
        truth[:] = 0
        truth[np.arange(photos), rng.integers(2, size=photos)] = 1
        truth[np.arange(photos), 2 + rng.integers(3, size=photos)] = 1
        truth[rng.random(photos) < 0.2, 2:] = 0
    groups = [f"g{i // group_size}" for i in range(photos)]
    scores = [np.clip(truth * 0.3 + rng.random(truth.shape) * 0.7, 0, 1) for _ in "AB"]
    paths = [
        write_run(tmp_path / name, truth, s, task, group=groups) for name, s in zip("AB", scores, strict=True)
    ]
    return paths, truth, scores, np.array(groups)


def table_of(rows) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.set_index([table["label"].where(table["label"] != "", table["kind"]), "metric"]).sort_index()


def refused(monkeypatch, capsys, *arguments: str) -> str:
    """Call the script; return the one line that it refuses bad input with."""
    capsys.readouterr()
    assert run_script(monkeypatch, "compare", *arguments, "hydra.run.dir=log") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.fixture
def in_tmp(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("task", ["multilabel", "dual_head"])
def test_the_figures_are_those_that_a_training_computes(tmp_path, task):
    paths, truth, scores, _ = random_runs(tmp_path, task=task)
    found = table_of(compare(read_pair(paths)))
    labels, half = LabelSpace(CLASSES), torch.full((5,), 0.5)
    for run, own in zip("ab", scores, strict=True):
        own = torch.tensor(own, dtype=torch.float32)
        if task == "multilabel":
            figures = multilabel_figures(own, torch.tensor(truth), half, labels)
            per_class = figures["per_class"]
            assert found[run]["", "accuracy"] == pytest.approx(1 - figures["hamming_loss"], abs=1e-6)
        else:
            parts = [truth[:, part] for part in labels.slices.values()]
            targets = np.stack([np.where(p.any(1), p.argmax(1), MISSING) for p in parts], 1)
            figures = heads_figures(own, torch.tensor(targets), labels)
            per_class = {}
            for kind in CLASSES:
                per_class |= figures[kind]["per_class"]
                assert found[run][kind, "accuracy"] == pytest.approx(figures[kind]["accuracy"], abs=1e-6)
                assert found[run][kind, "f1_macro"] == pytest.approx(figures[kind]["f1_macro"], abs=1e-6)
        for metric in ("exact_match", "f1_macro"):
            assert found[run]["", metric] == pytest.approx(figures[metric], abs=1e-6)
        for label, values in per_class.items():
            assert found["support"][label, "f1"] == values["support"]
            for metric in ("precision", "recall", "f1"):
                assert found[run][label, metric] == pytest.approx(values[metric], abs=1e-6)


def test_a_trained_run_against_a_copy_with_another_decision(run, in_tmp, monkeypatch, capsys):
    other = in_tmp / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("*.ckpt", "*.tfevents*"))
    predictions = pd.read_csv(other / "predictions.csv", dtype=str, keep_default_na=False)
    was = predictions.loc[0, "defect"]
    predictions.loc[0, "defect"] = next(name for name in ("Leaks", "Intact") if name != was)
    predictions.to_csv(other / "predictions.csv", index=False)
    assert run_script(monkeypatch, "compare", f"runs=[{run},{other}]", "output=out") == 0
    printed = capsys.readouterr().out
    assert "; 1 decisions changed" in printed and "promote" not in printed
    flipped = pd.read_csv("out/flipped.csv", dtype=str, keep_default_na=False)
    assert flipped[["path", "kind", "a", "b"]].values.tolist() == [
        [predictions.loc[0, "path"], "defect", was, predictions.loc[0, "defect"]]
    ]
    found = table_of(pd.read_csv("out/comparison.csv", keep_default_na=False).to_dict("records"))
    test = read_run(run).metrics["test"]
    assert float(found["a"]["", "exact_match"]) == pytest.approx(test["exact_match"], abs=1e-5)
    assert float(found["a"]["", "f1_macro"]) == pytest.approx(test["f1_macro"], abs=1e-5)
    assert not Path("out/gate.csv").exists()
    assert "holds comparison.csv" in refused(monkeypatch, capsys, f"runs=[{run},{other}]", "output=out")


def test_the_bootstrap_is_that_of_photos_drawn_group_by_group(tmp_path):
    paths, truth, scores, groups = random_runs(tmp_path)
    pair = read_pair(paths)
    found = table_of(compare(pair))
    assert len({*zip(groups, pair.groups, strict=True)}) == len({*groups}) == len({*pair.groups})
    weights = group_weights(pair.groups, 1000, 0).astype(int)
    gains = {("", "exact_match"): [], ("Missing", "recall"): [], ("", "f1_macro"): []}
    for drawn in weights:
        photos = np.repeat(np.arange(len(truth)), drawn)
        exact, recall, f1 = [], [], []
        for own in scores:
            said, true = own[photos] >= 0.5, truth[photos]
            exact.append((said == true).all(1).mean())
            recall.append(said[true[:, 4], 4].mean())
            f1.append(np.mean(2 * (said & true).sum(0) / (said.sum(0) + true.sum(0))))
        for values, (a, b) in zip(gains.values(), (exact, recall, f1), strict=True):
            values.append(b - a)
    for key, values in gains.items():
        low, high = np.quantile(values, (0.05, 0.95))
        assert found["low"][key] == pytest.approx(low, abs=1e-6)
        assert found["high"][key] == pytest.approx(high, abs=1e-6)
        better = np.mean(np.array(values) > 1e-9) + np.mean(np.abs(values) < 1e-9) / 2
        assert found["b_better"][key] == pytest.approx(better, abs=0.002)


def test_weights_of_a_bootstrap_draw_whole_groups():
    groups = np.array(["b", "a", "b", "c"])
    weights = group_weights(groups, 4000, 1)
    assert weights.dtype == np.float32 and weights.shape == (4000, 4)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, [0, 1, 3]].sum(1) == 3).all()
    assert weights.mean(0) == pytest.approx(1, abs=0.05)
    assert (weights == group_weights(groups, 4000, 1)).all()
    assert (weights != group_weights(groups, 4000, 2)).any()


def test_a_label_without_positives_is_empty_and_one_group_has_no_interval(in_tmp, monkeypatch):
    one_label(in_tmp, [1] * 8, [1] * 7 + [0], groups=["same"] * 8)
    assert run_script(monkeypatch, "compare", "runs=[A,B]", "output=out") == 0
    text = Path("out/comparison.csv").read_text()
    assert "nan" not in text.lower()
    assert "defect,Never,recall,,,,,,,0,0" in text
    assert "defect,Loose,recall,1.000000,0.875000,-0.125000,,,,8,1" in text


def test_photos_are_joined_by_content_where_tables_have_it(tmp_path):
    truth, scores = np.eye(5)[[0, 1, 2, 3]], np.eye(5)[[0, 1, 2, 4]]
    a = write_run(tmp_path / "A", truth, truth, digest=["d0", "d1", "d2", "d3"])
    names = ["z.jpg", "y.jpg", "x.jpg", "w.jpg"]
    b = write_run(tmp_path / "B", truth, scores, digest=["d0", "d1", "d2", "d3"], paths=names)
    pair = read_pair([a, b])
    assert (pair.said[0] == pair.truth).all()
    (at,) = np.flatnonzero((pair.said[0] != pair.said[1]).any(1))
    assert [rows[at]["path"] for rows in pair.rows] == ["00003.jpg", "w.jpg"]


def test_unreadable_photos_other_labels_and_coarser_groups_are_told(tmp_path):
    truth = np.eye(5)[[0, 1, 2, 3]]
    broken = np.array(truth)
    broken[0] = np.nan
    a = write_run(tmp_path / "A", truth, broken, group=["g", "g", "h", "h"])
    b = write_run(tmp_path / "B", truth[[0, 1, 2, 4 - 2]], truth)
    pair = read_pair([a, b])
    assert len(pair.truth) == 3 and len({*pair.groups}) == 2
    assert "left out 1 photos" in pair.notes[0] and "1 photos have other labels" in pair.notes[1]


def test_runs_that_cannot_be_compared_are_refused_in_a_line(in_tmp, monkeypatch, capsys):
    truth = np.eye(5)[[0, 1, 2, 3]]
    write_run(in_tmp / "A", truth, truth)
    write_run(in_tmp / "short", truth[:3], truth[:3])
    write_run(in_tmp / "heads", truth, truth, task="dual_head")
    write_run(in_tmp / "more", truth, truth, classes={**CLASSES, "defect": ["Leaks", "Loose", "Mould"]})
    write_run(in_tmp / "all_broken", truth, np.full((4, 5), np.nan))
    write_run(in_tmp / "empty", truth[:0], truth[:0])
    write_run(in_tmp / "lost", truth, truth)
    lines = (in_tmp / "lost" / "predictions.csv").read_text().splitlines(keepends=True)
    (in_tmp / "lost" / "predictions.csv").write_text("".join(lines[:-1]))
    for other, words in {
        "lost": "lacks 1 of 4 test photos (",
        "short": "the test splits differ: 1 of 4 photos are in A's alone, 0 of 3 photos are in short's "
        "alone; train again with data.split_file=A",
        "heads": "runs of different tasks: A is multilabel, heads is dual_head",
        "more": "runs of different label spaces: only A has Missing; only more has Mould",
        "all_broken": "no test photo that both runs could read",
        "empty": "no test photos",
        "none": "run=none: no such folder",
        "A": "name two run folders, runs=[A,B]",
    }.items():
        assert words in refused(monkeypatch, capsys, f"runs=[A,{other}]"), other
    assert "name two run folders" in refused(monkeypatch, capsys, "runs=[A]")
    assert "did you mean 'default'" in refused(monkeypatch, capsys, "runs=[A,B]", "gate=defalt")


def gate(*rules: str) -> list[str]:
    return ["gate=default", f"gate.rules=[{','.join(rules)}]"]


@pytest.mark.parametrize(
    ("lost", "photos", "rule", "code", "words"),
    [
        (
            2,
            200,
            "{metric: recall, label: Loose, drop: 0.05}",
            0,
            "promote  recall of Loose 1.0000 -> 0.9900",
        ),
        (20, 200, "{metric: recall, label: Loose, drop: 0.05}", 3, "a fall of 10.0 points, up to"),
        (0, 20, "{metric: recall, label: Loose, drop: 0.02}", 3, "too thin, 20 positives in 20 groups"),
        (0, 20, "{metric: recall, label: Loose, drop: 0.02}", 3, "takes 114 groups even if nothing is lost"),
        (0, 200, "{metric: recall, label: Never, drop: 0.5}", 3, "no positives in the test split"),
        (0, 200, "{metric: recall, label: '*', drop: 0.5}", 3, "promote  recall of Loose"),
        (0, 200, "{metric: exact_match, drop: 0.05, confidence: 0.95}", 0, "promote: all rules are met"),
        (0, 20, "{metric: accuracy, drop: 0.02}", 3, "20 photos in 20 groups"),
    ],
)
def test_a_gate_promotes_or_refuses(in_tmp, monkeypatch, capsys, lost, photos, rule, code, words):
    one_label(in_tmp, [1] * photos, [0] * lost + [1] * (photos - lost))
    assert run_script(monkeypatch, "compare", "runs=[A,B]", "output=out", *gate(rule)) == code
    assert words in capsys.readouterr().out
    verdicts = pd.read_csv("out/gate.csv")
    assert (code == 3) == ("refuse" in [*verdicts["verdict"]])


def test_a_gate_promotes_what_is_better(in_tmp, monkeypatch):
    one_label(in_tmp, [0] * 10 + [1] * 30, [1] * 40)
    rule = "{metric: recall, label: Loose, drop: 0}"
    assert run_script(monkeypatch, "compare", "runs=[A,B]", *gate(rule)) == 0
    assert run_script(monkeypatch, "compare", "runs=[B,A]", *gate(rule)) == 3


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{metric: recal, label: Loose, drop: 0.02}", "unknown metric 'recal': did you mean 'recall'?"),
        ("{metric: recall, label: Lose, drop: 0.02}", "unknown label 'Lose': did you mean 'Loose'?"),
        ("{metric: recall, drop: 0.02}", "recall: needs a label, or '*' for all: choices: Loose, Never"),
        ("{metric: accuracy, label: Loose, drop: 0.02}", "unknown label 'Loose': leave it out"),
        ("{metric: accuracy, drop: 2}", "drop=2: needs a number from 0 to 1, as 0.02 for 2 points"),
        ("{metric: accuracy}", "drop=None: needs a number"),
        ("{metric: accuracy, drop: 0.1, confidence: 90}", "confidence=90: needs a number from 0.5 to 0.999"),
        ("{metric: accuracy, dorp: 0.1}", "rule 1: unknown key 'dorp': did you mean 'drop'?"),
        ("accuracy", "needs a list of rules"),
        ("", "needs a list of rules"),
    ],
)
def test_a_gate_that_says_nothing_is_refused(in_tmp, monkeypatch, capsys, rule, words):
    one_label(in_tmp, [1] * 4, [1] * 4)
    assert words in refused(monkeypatch, capsys, "runs=[A,B]", *gate(rule))


@pytest.mark.parametrize("file", sorted((CONF / "gate").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_gate_file_has_rules(file):
    rules = OmegaConf.to_container(OmegaConf.load(file))
    assert read_rules(rules, LabelSpace(CLASSES))


def test_the_bound_of_a_share_is_the_exact_one(tmp_path):
    rules = [{"metric": "recall", "label": "Loose", "drop": 0.1, "confidence": 0.9}]
    for lost, photos in ((0, 30), (3, 60), (12, 200)):
        pair = read_pair(one_label(tmp_path / str(lost), [1] * photos, [0] * lost + [1] * (photos - lost)))
        (verdict,) = judge(pair, rules, compare(pair))
        exact = beta.ppf(0.9, lost + 1, photos - lost)
        assert verdict["bound"] == pytest.approx(exact, rel=0.08)


def test_a_gate_lets_few_runs_pass_that_are_as_bad_as_its_limit(tmp_path):
    rng, drop, promoted = np.random.default_rng(5), 0.1, 0
    rules = [{"metric": "recall", "label": "Loose", "drop": drop, "confidence": 0.9}]
    for i in range(60):  # A has 0.9, B 0.8; groups of three photos that mostly go together
        whole = np.repeat(rng.random((2, 40)), 3, axis=1)
        own = rng.random((2, 120))
        level = np.where(rng.random(120) < 0.7, whole, own)
        pair = read_pair(
            one_label(
                tmp_path / str(i), level[0] < 0.9, level[1] < 0.9 - drop, groups=np.repeat(np.arange(40), 3)
            )
        )
        promoted += judge(pair, rules, compare(pair))[0]["verdict"] == "promote"
    assert 0 < promoted <= 0.1 * 60
