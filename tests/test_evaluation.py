"""Evaluation: figures and intervals against other libraries, the files, the script on labelled photos."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from torch import nn
from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision

from src.analysis.evaluation.evaluation_folder import write_pictures, write_tables
from src.analysis.evaluation.measures import evaluate
from src.analysis.evaluation.scored import Scored
from src.analysis.evaluation.worst_errors import faithfulness, heat_of
from src.decisions.bootstrap import group_weights
from src.errors import InputError
from src.inference.heat_maps import as_heat, spread
from src.inference.predictor import Predictor
from src.labels import MISSING, LabelSpace
from src.models import backbones
from src.models.metrics import heads_figures, multilabel_figures
from tests.made import FAST, make_folders, make_table, run_script, trained

GROUP = r"data.group='^(A\d+)_'"
backbones.BACKBONES["averaged"] = backbones.Entry(lambda: Averaged(), None, "fc")
LABELS = LabelSpace({"component": ("Bolt", "Beam", "Joint"), "defect": ("Leaks", "Rust")})


class Averaged(nn.Sequential):
    """A backbone of averaged features, as a class activation map takes."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 12, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(12, 10)


def made(task: str, photos: int = 60, seed: int = 0) -> Scored:
    """Scores with ties, some wrong; heads lack some labels, `multilabel` has one without positives."""
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(photos)], [f"p{i}.jpg" for i in range(photos)]
    groups = [f"g{i // 3}" for i in range(photos)]
    scores = (rng.random((photos, 5)).round(2) / 2).astype(np.float32)
    if task == "multilabel":
        targets = (rng.random((photos, 5)) < [0.5, 0.2, 0.1, 0.3, 0]).astype(np.float32)
        thresholds = np.array([0.5, 0.45, 0.6, 0.3, 0.4], np.float32)
        scores = (scores + targets * 0.3).astype(np.float32).round(2)
        return Scored(task, LABELS, *names, groups, scores, targets, thresholds)
    targets = np.stack([rng.integers(3, size=photos), rng.integers(2, size=photos)], 1)
    for k, part in enumerate(LABELS.slices.values()):
        scores[np.arange(photos), part.start + targets[:, k]] += 0.15
        scores[:, part] /= scores[:, part].sum(1, keepdims=True)
    targets[::7, 1] = MISSING
    return Scored(task, LABELS, *names, groups, scores, targets)


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_figures_are_those_of_training(task):
    scored = made(task)
    scores, targets = torch.from_numpy(scored.scores), torch.from_numpy(scored.targets)
    found = evaluate(scored)
    if task == "multilabel":
        wanted = multilabel_figures(scores, targets, torch.from_numpy(scored.thresholds), LABELS)
        parts = [(wanted, found.figures)]
    else:
        wanted = heads_figures(scores, targets, LABELS)
        parts = [(wanted, found.figures), *((wanted[kind], found.figures[kind]) for kind in LABELS.kinds)]
    truth, said = (
        [part[:, own].sum(1) for own in LABELS.slices.values()] for part in (scored.truth, scored.decided)
    )
    both = [(scored.truth & scored.decided)[:, own].sum(1) for own in LABELS.slices.values()]
    right, found_, there = (float((a * b).sum()) for a, b in (both, said, truth))  # pairs of a photo
    wanted |= {"pair_precision": right / found_, "pair_recall": right / there}
    for theirs, ours in parts:
        for name in (name for name, figure in ours.items() if "value" in figure):
            assert ours[name]["value"] == pytest.approx(theirs[name], abs=1e-6), name
        for label, figures in theirs.get("per_class", {}).items():
            row = found.per_label.set_index("label").loc[label]
            assert row["support"] == figures["support"]
            for name in {"precision", "recall", "f1", "ap"} & set(figures) if figures["support"] else ():
                assert row[name] == pytest.approx(figures[name], abs=1e-6), (label, name)


def test_average_precision_and_area_are_those_of_torchmetrics():
    scored = made("multilabel")
    rows = evaluate(scored).per_label[:4]
    given = torch.from_numpy(scored.scores[:, :4]), torch.from_numpy(scored.targets[:, :4]).long()
    for name, metric in (("ap", MultilabelAveragePrecision), ("auc", MultilabelAUROC)):
        assert rows[name].to_numpy() == pytest.approx(metric(4, average="none")(*given).numpy(), abs=1e-6)


def by_scikit_learn(scored: Scored, drawn: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Figures, and `precision, recall, f1, ap, auc` `[5, labels]`, of photos drawn several times."""
    truth, said, scores = scored.truth[drawn], scored.decided[drawn], scored.scores[drawn]
    held = np.flatnonzero(truth.any(0))
    labels = np.full((5, len(LABELS)), np.nan)
    labels[:3] = sk.precision_recall_fscore_support(truth, said, zero_division=0)[:3]
    for i in range(len(LABELS)):
        known = scored.known[drawn, i]
        if i in held:
            labels[3, i] = sk.average_precision_score(truth[known, i], scores[known, i])
            if not truth[known, i].all():
                labels[4, i] = sk.roc_auc_score(truth[known, i], scores[known, i])
        else:
            labels[:, i] = np.nan
    if not scored.multilabel:
        macros = [np.nanmean(labels[2, part]) for part in LABELS.slices.values()]
        known = scored.known[drawn].all(1)
        right = (truth == said).all(1)[known].mean()
        return {"f1_macro": np.mean(macros), "exact_match": right}, labels
    figures = {
        "f1_macro": sk.f1_score(truth, said, average="macro", labels=held, zero_division=0),
        "f1_weighted": sk.f1_score(truth, said, average="weighted", labels=held, zero_division=0),
        "f1_micro": sk.f1_score(truth, said, average="micro"),
        "f1_macro_at_0.5": sk.f1_score(truth, scores >= 0.5, average="macro", labels=held, zero_division=0),
        "hamming_loss": sk.hamming_loss(truth, said),
        "exact_match": (truth == said).all(1).mean(),
        "map": np.nanmean(labels[3]),
    }
    return figures, labels


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_intervals_are_those_of_resampled_photos(task):
    """Photo by photo repeated as often as its weight says, and judged by scikit-learn."""
    scored = made(task, 24)
    weights = group_weights(scored.groups, 40, 0).astype(int)
    found = evaluate(scored, 40)
    drawn = [by_scikit_learn(scored, np.repeat(np.arange(24), row)) for row in weights]
    for name in drawn[0][0]:
        ends = np.quantile([figures[name] for figures, _ in drawn], [0.05, 0.95])
        assert [found.figures[name][end] for end in ("low", "high")] == pytest.approx(ends, abs=1e-5), name
    ends = np.nanquantile(np.stack([labels for _, labels in drawn]), [0.05, 0.95], axis=0)
    for k, name in enumerate(("precision", "recall", "f1", "ap", "auc")):
        own = found.per_label[[f"{name}_low", f"{name}_high"]].to_numpy().T
        assert own == pytest.approx(ends[:, k], abs=1e-5, nan_ok=True), name


def test_resamples_draw_whole_groups():
    groups = ["b", "a", "b", "c", "a", "b"]
    weights = group_weights(groups, 500, 3)
    assert weights.dtype == np.float32 and weights.shape == (500, 6)
    assert (weights[:, [0, 0, 1]] == weights[:, [2, 5, 4]]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()  # as many groups as there are
    assert weights.mean(0) == pytest.approx(np.ones(6), abs=0.15) and len(np.unique(weights, axis=0)) == 10
    assert (weights == group_weights(groups, 500, 3)).all()
    assert (weights != group_weights(groups, 500, 4)).any()


def test_photos_of_one_group_give_no_interval_and_scores_must_be_finite():
    scored = made("multilabel")
    one = Scored(*[getattr(scored, n) for n in ("task", "labels", "ids", "paths")], ["g"] * 60, scored.scores,
                 scored.targets, scored.thresholds)  # fmt: skip
    assert evaluate(one).figures["map"]["low"] is None and evaluate(one).figures["map"]["value"] > 0.5
    assert evaluate(scored).without_positives == ["Rust"]
    scored.scores[[3, 5], 1] = np.nan, np.inf
    with pytest.raises(InputError, match=r"scores of 2 photos are not finite: p3\.jpg, p5\.jpg"):
        evaluate(scored)


def content(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def read(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_files_of_heads(tmp_path):
    scored = made("dual_head")
    write_tables(found := evaluate(scored), tmp_path)
    write_pictures(found, tmp_path, tmp_path / "gone")
    report = content(tmp_path, "classification_report.json")
    matrix, text = read(tmp_path / "confusion_matrix.csv"), (tmp_path / "confusion_matrix.txt").read_text()
    for k, (kind, names) in enumerate(LABELS.kinds.items()):
        known = scored.targets[:, k] != MISSING
        truth, said = scored.targets[known, k], scored.scores[known][:, LABELS.slices[kind]].argmax(1)
        wanted = sk.classification_report(truth, said, target_names=names, output_dict=True)
        ours, theirs = (pd.json_normalize(part).iloc[0].to_dict() for part in (report[kind], wanted))
        assert ours == pytest.approx(theirs)
        counts = sk.confusion_matrix(truth, said)
        assert [[int(row[n]) for n in names] for row in matrix if row["kind"] == kind] == counts.tolist()
        rows = [("true\\pred", *names), *((n, *row) for n, row in zip(names, counts, strict=True))]
        assert text.split("\n\n")[k].strip() == "\n".join("\t".join(map(str, row)) for row in rows)
    pairs = read(tmp_path / "confused_pairs.csv")
    photos = [int(row["photos"]) for row in pairs]
    assert photos == sorted(photos, reverse=True) and min(photos) > 0
    wrong = (scored.truth & ~scored.decided).sum()
    assert sum(photos) == wrong == len(read(tmp_path / "misclassified_samples.csv"))
    sure, unsure = (len(read(tmp_path / f"{name}_confidence_errors.csv")) for name in ("high", "low"))
    assert sure + unsure == wrong
    assert not (tmp_path / "co_prediction.csv").exists()
    for name in ("confusion_matrix", "confidence_histogram", "misclassified_samples"):
        assert min(Image.open(tmp_path / f"{name}.png").size) > 100


def test_files_of_multilabel(tmp_path):
    scored = made("multilabel")
    write_tables(found := evaluate(scored), tmp_path)
    write_pictures(found, tmp_path)
    table = pd.read_csv(tmp_path / "co_prediction.csv", index_col="true_label")
    assert table.loc["Beam", "Leaks"] == (scored.truth[:, 1] & scored.decided[:, 3]).sum()
    assert list(table) == list(table.index) == list(LABELS.names)
    rust = read(tmp_path / "per_label.csv")[4]
    assert rust.pop("threshold") == "0.400000"
    assert [value for value in rust.values() if value] == ["Rust", "defect", "0"]  # empty, not zero
    assert content(tmp_path, "evaluation.json")["labels_without_positives"] == ["Rust"]
    missed = [row for row in read(tmp_path / "misclassified_samples.csv") if not row["predicted_label"]]
    for row in missed:
        score = scored.scores[scored.paths.index(row["file"]), LABELS.position(row["true_label"])]
        assert float(row["confidence"]) == pytest.approx(1 - score, abs=1e-4)
    assert missed and (tmp_path / "co_prediction.png").is_file()
    assert not (tmp_path / "misclassified_samples.png").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of heads and one of `multilabel`, barely trained: `{task: (run, photos)}`."""
    found = {}
    sources = (("dual_head", make_folders, GROUP), ("multilabel", make_table, "data.group=asset"))
    for task, make, group in sources:
        home = tmp_path_factory.mktemp(task)
        data = make(home / "photos", 8)
        given = f"model={task}", f"data.root={data}", *FAST, "trainer.max_epochs=2", "logger=null", group
        given += ("model.backbone=averaged",) if task == "multilabel" else ()
        found[task] = trained(home, *given), data
    return found


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_figures_of_the_runs_test_split_are_those_of_its_metrics(runs, task, monkeypatch, tmp_path, capsys):
    run, _ = runs[task]
    monkeypatch.chdir(tmp_path)
    given = f"ckpt={run}", "num_workers=0", "output=e"
    assert run_script(monkeypatch, "evaluate", *given) == 0
    assert "of 200 resamples by group" in capsys.readouterr().out
    metrics = content(run, "metrics.json")["test"]
    figures = content(Path("e"), "evaluation.json")["figures"]
    for kind, own in [("", figures), *((k, v) for k, v in figures.items() if "value" not in v)]:
        for name, figure in own.items():
            if "value" in figure:
                wanted = (metrics[kind] if kind else metrics).get(name, figure["value"])
                assert figure["value"] == pytest.approx(wanted, abs=1e-6), (kind, name)
                assert figure["low"] <= figure["value"] <= figure["high"]
    for name in ("per_label.csv", "misclassified_samples.csv"):  # one function, from the scores of two paths
        ours, theirs = (pd.read_csv(folder / name) for folder in (Path("e"), run / "evaluation"))
        pd.testing.assert_frame_equal(ours, theirs, atol=2e-4, rtol=0)
    text = (run / "report.html").read_text()
    label = next(row for row in read(run / "evaluation" / "per_label.csv") if row["f1"])
    assert f"{float(label['f1_low']):.2f}\u2013{float(label['f1_high']):.2f}" in text
    assert run_script(monkeypatch, "evaluate", *given, "tta=true", "resamples=20") == 0  # writes over its own
    assert content(Path("e"), "evaluation.json")["tta"] is True


def test_an_exported_model_is_evaluated_on_a_table(runs, monkeypatch, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    run, data = runs["multilabel"]
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "export", f"ckpt={run}", "formats=[onnx]", "output=exported") == 0
    model = "ckpt=exported/model.onnx"
    table = f"data.csv={run / 'test_metadata.csv'}", f"data.images={data / 'images'}", "data.group=group"
    assert run_script(monkeypatch, "evaluate", model) == 2
    assert "no run is around it" in capsys.readouterr().err
    assert run_script(monkeypatch, "evaluate", model, *table, "explain=3") == 2
    assert "whose training photos it compares with" in capsys.readouterr().err
    assert run_script(monkeypatch, "evaluate", model, *table, "num_workers=0", "output=e") == 0
    metrics = content(run, "metrics.json")["test"]
    figures = content(Path("e"), "evaluation.json")["figures"]
    assert figures["map"]["value"] == pytest.approx(metrics["map"], abs=1e-4)
    assert len(read(tmp_path / "e" / "per_label.csv")) == 5


def test_new_photos_are_read_as_the_run_read_its_own(runs, monkeypatch, tmp_path, capsys):
    """Photos of a folder that training has not seen: the run's rule for groups, no key of it typed again."""
    run, data = runs["dual_head"]
    monkeypatch.chdir(tmp_path)
    for path in pd.read_csv(run / "test_metadata.csv")["path"]:
        (tmp_path / "new" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / path, tmp_path / "new" / path)
    given = f"ckpt={run}", "data.root=new", "num_workers=0", "output=e"
    assert run_script(monkeypatch, "evaluate", *given) == 0
    about = content(Path("e"), "evaluation.json")
    metrics = content(run, "metrics.json")["test"]
    assert about["figures"]["f1_macro"]["value"] == pytest.approx(metrics["f1_macro"], abs=1e-6)
    assert about["groups"] == pd.read_csv(run / "test_metadata.csv")["group"].nunique()
    assert "12 labelled photos" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_the_worst_errors_are_explained(runs, backend, monkeypatch, tmp_path, capsys):
    """By the map of the wrong label, what it counts, and the training photos that are left and most alike."""
    pytest.importorskip("pytorch_grad_cam" if backend == "torch" else "onnxruntime")
    run, data = (shutil.copytree(path, tmp_path / path.name) for path in runs["multilabel"])
    monkeypatch.chdir(tmp_path)
    ckpt = run
    if backend == "onnx":
        pytest.importorskip("onnx")
        assert (
            run_script(monkeypatch, "export", f"ckpt={run}", "formats=[onnx]", f"output={run}/exported") == 0
        )
        ckpt = run / "exported"
    photos, train = data / "images", pd.read_csv(run / "train_metadata.csv", keep_default_na=False)
    (photos / train["path"][3]).write_bytes(b"not a photo any more")
    given = f"ckpt={ckpt}", f"root={photos}", "num_workers=0", "output=e", "resamples=9"
    assert run_script(monkeypatch, "evaluate", *given, "threshold=0.6", "explain=4") == 0
    assert "if the highlighted 20 % are blurred" in capsys.readouterr().out
    found, errors = read(Path("e/worst_errors.csv")), read(Path("e/misclassified_samples.csv"))
    assert [(row["file"], row["true_label"], row["kind"]) for row in found] == [
        (row["file"], row["true_label"], row["kind"]) for row in errors[:4]
    ]
    predictor = Predictor.load(run)
    left = train.drop(index=3).reset_index(drop=True)
    seen = [predictor.preprocess(photos / path) for path in (*left["path"], found[0]["file"])]
    features = predictor.backend.features(np.stack(seen))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit[:-1] @ unit[-1]
    nearest = [float(found[0][f"nearest_{n}_cosine"]) for n in (1, 2, 3)]
    assert nearest == pytest.approx(np.sort(cosines)[::-1][:3], abs=1e-5)
    first = left[left["path"] == found[0]["nearest_1"]].iloc[0]
    assert cosines[first.name] == pytest.approx(cosines.max(), abs=1e-5)
    names = [first[kind] for kind in predictor.labels.kinds if first[kind]]
    assert found[0]["nearest_1_labels"] == ";".join(names)
    assert all(-1 <= float(row["random_drop"]) <= 1 for row in found if row["faithfulness_drop"])
    assert Image.open("e/worst_errors.png").size[1] > 500
    assert run_script(monkeypatch, "evaluate", *given) == 0
    assert not Path("e/worst_errors.csv").exists()  # it would be of the evaluation before


def test_grad_cam_of_a_linear_head_is_its_class_activation_map(runs, photos):
    pytest.importorskip("pytorch_grad_cam")
    predictor = Predictor.load(runs["multilabel"][0])
    for path in sorted(photos.glob("*/*.jpg"))[:3]:
        pixels = predictor.preprocess(path)
        maps = predictor.backend.maps(pixels[None])[1][0]
        for label in range(len(predictor.labels)):
            heat, wanted = heat_of(predictor.backend, pixels, label), spread(as_heat(maps[label]), 16, 16)
            assert heat.any() == wanted.any()
            if heat.any():
                assert np.corrcoef(heat.ravel(), wanted.ravel())[0, 1] > 0.95


def test_faithfulness_is_what_the_hottest_fifth_counts_for():
    class Corner:
        """Sees a label by the contrast in the upper left quarter of a photo."""

        def scores(self, pixels):
            return pixels[:, :20, :20].std((1, 2, 3))[:, None] / 255

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[:2, :2] = 1
    drop, by_chance = faithfulness(Corner(), pixels, 0, heat)
    assert drop > 0.1 > 2 * by_chance > 0
    elsewhere, same = faithfulness(Corner(), pixels, 0, heat[::-1, ::-1])
    assert abs(elsewhere) < 0.02 and faithfulness(Corner(), pixels, 0, heat) == (drop, by_chance)
    assert np.isnan(faithfulness(Corner(), pixels, 0, 0 * heat)).all() and same > elsewhere


@pytest.mark.parametrize("task", ["dual_head", "multilabel"])
def test_suspected_labels_come_from_held_out_scores(runs, task, monkeypatch, tmp_path, capsys):
    """A photo that the scores say is something else, among those that agree with their labels."""
    run = shutil.copytree(runs[task][0], tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (run / "evaluation" / "held_out.csv").unlink()  # as of an earlier version
    given = f"ckpt={run}", "num_workers=0", "output=e", "resamples=9"
    assert run_script(monkeypatch, "evaluate", *given) == 0
    assert "it takes a run with held-out scores" in capsys.readouterr().out
    assert not Path("e/suspected_noisy_labels.csv").exists()
    table = pd.concat(
        [pd.read_csv(run / f"{s}_metadata.csv", keep_default_na=False) for s in ("train", "val")]
    )
    table = table.sort_values("path", ignore_index=True).assign(source="folds")
    kinds = content(run, "classes.json")
    for kind, names in kinds.items():
        for name in names:
            table[f"p:{name}"] = np.where(
                table[kind].str.split(";").map(lambda own, n=name: n in own), 0.9, 0.05
            )
    wrong = table.index[table["component"] == "Grout Hole"][0]
    table.loc[wrong, ["p:Grout Hole", "p:Radial Joint"]] = 0.02, 0.97
    table.to_csv(run / "evaluation" / "held_out.csv", index=False)
    assert run_script(monkeypatch, "evaluate", *given) == 0
    assert "labels that may be wrong" in capsys.readouterr().out
    found = read(Path("e/suspected_noisy_labels.csv"))
    (row,) = (row for row in found if row["list"] == "wrong_label")
    wanted = table["path"][wrong], "component", "Grout Hole", "Radial Joint", "0.970000", "wrong_label"
    assert tuple(row.values()) == wanted
    for broken, said in (
        (table.assign(**{"p:Leaks": ""}), "are not finite"),
        (table.drop(columns="p:Leaks"), "no column 'p:Leaks'"),
        (table.assign(defect="Loose"), "Loose"),
    ):
        broken.to_csv(run / "evaluation" / "held_out.csv", index=False)
        assert run_script(monkeypatch, "evaluate", *given) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("dual_head", ("explain=101",), "explain=101: needs a number from 0 to 100"),
        ("dual_head", ("data.root={data}",), "50 of 72 photos were in the model's training split"),
        ("dual_head", ("data.root={here}/odd",), "'Leakz' (defect, 1 photos; nearest: 'Leaks')"),
        ("dual_head", ("data.root={here}/odd", "data.sepparator=-"), "did you mean 'separator'?"),
        ("dual_head", ("data=folders", "data.root={here}/odd", "data.csv=x"), "unknown key 'data.csv'"),
        ("dual_head", ("data.csv={here}/several.csv", "data.images={here}/odd"), "several labels of a kind"),
        ("dual_head", ("data.csv={here}/flat.csv", "data.images={here}/odd"), "they do not fit its task"),
        ("dual_head", ("root={here}", "data.root={here}/odd"), "with data.* leave it out"),
        ("dual_head", ("root={here}/odd",), "photos cannot be read"),
        ("dual_head", ("threshold=0.3",), "threshold= is for multilabel"),
        ("dual_head", ("resamples=0",), "resamples=0: needs a number from 1 on"),
        ("multilabel", ("threshold={{Loose: 0.3}}",), "unknown label 'Loose'"),
        ("multilabel", ("data.root={here}/odd",), "no image_data.csv in it"),
        ("dual_head", ("output={here}/taken",), "it holds per_label.csv already"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_one_line(
    runs, task, arguments, said, make_photo, monkeypatch, tmp_path, capsys
):
    run, data = runs[task]
    monkeypatch.chdir(tmp_path)
    make_photo(tmp_path / "odd" / "Grout Hole_Leakz" / "A1_a.jpg")
    make_photo(tmp_path / "odd" / "Grout Hole_Leaks" / "A1_b.jpg", 1)
    Path("several.csv").write_text("ID,component,defect\nA1_a,Grout Hole,Leaks;Intact\n")
    Path("flat.csv").write_text("ID,label\nA1_a,Grout Hole\nA1_b,Leaks\n")
    Path("taken").mkdir()
    Path("taken/per_label.csv").write_text("")
    filled = [argument.format(data=data, here=tmp_path) for argument in arguments]
    assert run_script(monkeypatch, "evaluate", f"ckpt={run}", "num_workers=0", *filled) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and said in error, error
