"""Calibration, thresholds and limits that a training sets, through train.py."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.decisions import routing
from src.decisions.calibration import apply
from src.labels import NO_PROMISE, LabelSpace
from src.models.checkpoint import load_model
from src.training.held_out import StopAfter
from tests.made import FAST, make_folders, make_table, run_script, trained

FROZEN = (*FAST, "model.freeze_backbone=true", "trainer.max_epochs=6", "data.augment=null")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("table"), each=12)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    given = ("model=multilabel", f"data.root={table}", "data.group=asset", *FROZEN)
    return trained(tmp_path_factory.mktemp("folds"), *given)


def held_out(run):
    classes = json.loads((run / "classes.json").read_text())
    found = pd.read_csv(
        run / "evaluation" / "held_out.csv", dtype={"ID": str, "group": str}, keep_default_na=False
    )
    labels = LabelSpace(classes)
    truth = np.stack(
        [
            labels.encode({k: row[k].split(";") if row[k] else [] for k in classes})
            for _, row in found.iterrows()
        ]
    )
    return found, labels, truth > 0, found[[f"p:{name}" for name in labels.names]].to_numpy(np.float32)


def test_every_photo_of_train_and_val_is_scored_by_heads_that_have_not_seen_it(run):
    found, _, truth, scores = held_out(run)
    ids = {
        split: set(pd.read_csv(run / f"{split}_metadata.csv", dtype=str)["ID"])
        for split in ("train", "val", "test")
    }
    assert set(found["ID"]) == ids["train"] | ids["val"] and found["ID"].is_unique
    assert set(found["source"]) == {"folds"} and found["path"].is_monotonic_increasing
    assert scores[truth].mean() > 2 * scores[~truth].mean()
    metrics = json.loads((run / "metrics.json").read_text())
    held = [row for split in ("val", "test") for row in [metrics[split]["f1_macro"]]]
    assert min(held) > 0.5


def test_the_checkpoint_carries_what_the_tables_say(run):
    model = load_model(run / "checkpoints" / "best.ckpt")
    _, labels, truth, scores = held_out(run)
    assert not torch.equal(model.calibration, torch.tensor([1.0, 1.0, 0.0]).repeat(len(labels), 1))
    limits = routing.limits(scores, truth, labels, heads=False)
    np.testing.assert_allclose(model.limits.numpy(), limits, atol=1e-5)
    assert (limits < NO_PROMISE).any()
    table = pd.read_csv(run / "thresholds.csv").set_index("label")
    assert table["threshold"].to_numpy() == pytest.approx(model.thresholds.numpy(), abs=1e-6)
    assert (table["positives"].to_numpy() == truth.sum(0)).all() and set(table["source"]) == {"folds"}
    decided = scores >= model.thresholds.numpy()
    f1 = 2 * (decided & truth).sum(0) / (decided.sum(0) + truth.sum(0))
    assert table["f1"].to_numpy() == pytest.approx(f1, abs=1e-5)
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(
        last["calibration"][0], torch.tensor([1.0, 1.0, 0.0])
    )  # a run that goes on begins plainly
    events = EventAccumulator(str(run))
    events.Reload()
    text = events.Tensors("thresholds/text_summary")[0].tensor_proto.string_val[0].decode()
    assert all(name in text for name in labels.names)


def test_probabilities_hold_better_and_predictions_are_calibrated(run, tmp_path, monkeypatch):
    figures = pd.read_csv(run / "evaluation" / "calibration.csv").set_index("label")
    assert figures.loc["all", "brier_after"] < figures.loc["all", "brier_before"]
    assert set(figures.index) == {"all", *load_model(run / "checkpoints" / "best.ckpt").labels.names}
    curve = pd.read_csv(run / "evaluation" / "workload.csv")
    assert curve["missed"].dropna().between(0, 1).all() and {"all"} < set(curve["label"])
    monkeypatch.chdir(tmp_path)
    images = f"images={run / 'test_metadata.csv'}"
    assert (
        run_script(monkeypatch, "predict", f"ckpt={run}", images, "output=p.csv", "probabilities=true") == 0
    )
    evaluated = pd.read_csv(tmp_path / "p.csv")
    plain = load_model(run / "checkpoints" / "best.ckpt")
    raw = apply_plain(plain, run)
    name = plain.labels.names[0]
    expected = apply(raw, plain.calibration.numpy())[:, 0]
    assert evaluated[f"p:{name}"].to_numpy() == pytest.approx(expected, abs=1e-4)


def test_predict_names_the_photos_for_a_person(run, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    given = (f"ckpt={run}", f"images={run / 'test_metadata.csv'}", "probabilities=true")
    limits = load_model(run / "checkpoints" / "best.ckpt").limits.numpy()
    for miss in (0.2, 0.05, None):
        assert run_script(monkeypatch, "predict", *given, f"output={miss}.csv", f"miss={miss or 'null'}") == 0
    loose, strict, nobody = (pd.read_csv(f"{m}.csv", keep_default_na=False) for m in (0.2, 0.05, None))
    assert set(loose["review"]) <= {"yes", "no"} and set(nobody["review"]) == {""}
    names = load_model(run / "checkpoints" / "best.ckpt").labels.names
    thresholds = json.loads((run / "thresholds.json").read_text())
    column = [f"p:{name}" for name in names]
    for table, miss in ((loose, 0.2), (strict, 0.05)):
        low = routing.limits_at(limits, miss)
        between = (table[column].to_numpy() >= low) & (
            table[column].to_numpy() < [thresholds[n] for n in names]
        )
        assert (between.any(1) == (table["review"] == "yes")).all()
    none = [
        name
        for name, limit in zip(names, routing.limits_at(limits, 0.05), strict=True)
        if limit >= NO_PROMISE
    ]
    assert not none or f"miss=0.05: no promise for {none[0]}" in caplog.text
    for wrong in ("0", "1.5", "often"):
        assert run_script(monkeypatch, "predict", *given, "output=w.csv", f"miss={wrong}") == 2
        assert "miss" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not Path("w.csv").exists()


def apply_plain(model, run):
    """Scores of the test photos, sorted by path, without the calibration."""
    from src.inference.predictor import Predictor
    from src.inference.torch_backend import TorchBackend

    model.calibration.copy_(torch.tensor(model.uncalibrated)), model.requires_grad_(False)
    root = (run / ".hydra" / "data_root.txt").read_text().strip()
    paths = sorted(pd.read_csv(run / "test_metadata.csv")["path"])
    found = Predictor(TorchBackend(model, "cpu")).predict([f"{root}/{path}" for path in paths])
    scores = np.array([[p for kind in one.probabilities.values() for p in kind.values()] for one in found])
    model.calibration.copy_(load_model(run / "checkpoints" / "best.ckpt").calibration)
    return scores


def test_heads_of_every_fold_learn_as_the_runs_heads(table, run, tmp_path, monkeypatch, capsys):
    modes, real = [], StopAfter.on_train_epoch_end

    def noted(self, trainer, module):
        modes.append(module.training)
        real(self, trainer, module)

    monkeypatch.setattr(StopAfter, "on_train_epoch_end", noted)
    given = ("model=multilabel", f"data.root={table}", "data.group=asset", *FROZEN)
    for name, unlike, said in (
        ("plain", "model.head=mlp", ""),
        ("averaged", "callbacks=[default,ema]", "weights are averaged"),
        ("initialised", f"model.init_from={run}", "the heads began with those of another run"),
    ):
        (tmp_path / name).mkdir()
        found = pd.read_csv(trained(tmp_path / name, *given, unlike) / "thresholds.csv")
        assert set(found["source"]) == {"val" if said else "folds"}
        assert said in capsys.readouterr().err
    assert len(modes) >= 5 and all(modes)


def test_objectives_of_labels_and_heads(table, tmp_path, monkeypatch):
    own = "thresholds.labels={Leaks: {name: precision_at_recall, floor: 1}}"
    given = ("model=multilabel", f"data.root={table}", "data.group=asset", *FROZEN, "thresholds.source=val")
    (tmp_path / "m").mkdir()
    run = trained(tmp_path / "m", *given, own, "thresholds.calibration=platt")
    found = pd.read_csv(run / "thresholds.csv").set_index("label")
    assert found.loc["Leaks", "objective"] == "precision_at_recall" and set(found["source"]) == {"val"}
    (tmp_path / "d").mkdir()
    folders = make_folders(tmp_path / "photos")
    run = trained(tmp_path / "d", f"data.root={folders}", *FROZEN, "thresholds.by_class=true")
    assert not (run / "thresholds.csv").exists()
    model = load_model(run / "checkpoints" / "best.ckpt")
    assert (model.calibration[:, 0] > 0).all() and len(
        set(model.calibration[:, 0].tolist())
    ) == 2  # of two heads
    assert set(pd.read_csv(run / "evaluation" / "calibration.csv")["label"]) == {"all", "component", "defect"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("thresholds.source=fold", "did you mean 'folds'"),
        ("thresholds.source=folds", "needs a frozen backbone"),
        ("thresholds.calibration=isotonic", "thresholds.calibration=isotonic"),
        ("thresholds.objective.name=f2", "unknown objective 'f2'"),
        ("thresholds.objective={name: cost, false_negative: 0}", "false_negative=0 is not a number above 0"),
        ("thresholds.labels={Lose: {name: cost}}", "unknown label 'Lose'"),
        ("thresholds.labels={Leaks: {costs: 3}}", "unknown 'costs'"),
        ("thresholds.labels={Leaks: {name: fbeta, beta: x}}", "beta=x is not a number above 0"),
        ("thresholds.by_class=true", "is for heads"),
        ("thresholds={source: epoch, objective: {name: cost}}", "source=epoch keeps those of the epoch"),
        ("thresholds.labels=[Leaks]", "needs labels with objectives"),
        ("thresholds.by_clas=true", "by_clas"),
    ],
)
def test_settings_that_cannot_work_are_one_line(table, given, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", "model=multilabel", f"data.root={table}", *FAST, given) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1], lines
    assert not list(tmp_path.glob("outputs/*/*/checkpoints/*"))
