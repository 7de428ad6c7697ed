"""Fine-tuning in phases: what is frozen does not move, and a killed run goes on to the same bits."""

import json

import pandas as pd
import pytest
import torch

from benchmarks.harness import composed
from src.models.classifiers import PhotoClassifier
from tests.made import FAST, run_script, trained

SMALL = (*FAST, "model.backbone=defect_cnn_small", "preprocess.image_size=32", "trainer.max_epochs=4")
TWO = ("finetune=two_phase", "callbacks.finetuning.head_epochs=2", "model.freeze_backbone=false")
STAGES = ("finetune=progressive", "callbacks.finetuning.head_epochs=1", "model.freeze_backbone=false")


class Killed(Exception):
    """Stands for a kill: nothing of the run's own code handles it."""


def weights(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def seen(monkeypatch):
    """The backbone's state at the start of each epoch."""
    found = []
    begin = PhotoClassifier.on_train_epoch_start

    def note(module):
        found.append({name: t.clone() for name, t in module.backbone.state_dict().items()})
        begin(module)

    monkeypatch.setattr(PhotoClassifier, "on_train_epoch_start", note)
    return found


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_two_phases_keep_the_backbone_still_until_the_second(photos, tmp_path, seen):
    run = trained(tmp_path, f"data.root={photos}", *SMALL, *TWO)
    assert not moved(seen[0], seen[1]) and not moved(seen[1], seen[2])  # BatchNorm statistics included
    statistics = {name for name in seen[0] if "running" in name or "num_batches" in name}
    assert moved(seen[2], seen[3]) == set(seen[0]) - statistics
    phases = json.loads((run / "finetuning.json").read_text())
    assert [phase["first_epoch"] for phase in phases] == [1, 3] and phases[0]["learns"] == ["heads"]
    assert phases[0]["frozen_parameters"] == sum(
        t.numel() for name, t in seen[0].items() if name not in statistics
    )
    assert pd.read_csv(run / "history.csv")["lr"].tolist() == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert "Phase 2: the heads and the last 5 of 5 stages" in (run / "train.log").read_text()


def test_stages_thaw_from_the_last_one(photos, tmp_path, seen):
    trained(tmp_path, f"data.root={photos}", *SMALL, *STAGES)
    assert not moved(seen[0], seen[1])
    assert {name.partition(".")[0] for name in moved(seen[1], seen[2])} == {"top"}
    assert {name[:8] for name in moved(seen[2], seen[3])} == {"top.0.we", "top.0.bi", "stages.3"}


def test_a_training_that_ends_before_the_backbone_learns_says_so(photos, tmp_path, capsys):
    still = ("callbacks.finetuning.head_epochs=3", "callbacks.early_stopping.patience=1", "model.lr=1e-30")
    trained(tmp_path, f"data.root={photos}", *SMALL, *TWO, *still)
    assert "ended after epoch 2, before the backbone learned" in capsys.readouterr().err


def test_batch_norm_counts_the_photos_in_unless_it_is_told_not_to(photos, tmp_path, seen):
    trained(tmp_path, f"data.root={photos}", *SMALL, "finetune=full", "trainer.max_epochs=2")
    assert moved(seen[0], seen[1]) == set(seen[0])


def test_figures_of_mixed_photos_compare_with_the_label_of_the_larger_share(table, tmp_path, monkeypatch):
    taken = []

    def mixed(batch, mixup, cutmix):
        taken.append(batch["target"])
        return dict(batch), torch.arange(len(batch["target"])).flip(0), 0.3

    collected = []
    step = PhotoClassifier._step

    def noted(module, batch, split):
        if split == "train":
            collected.append(batch["target"])
        return step(module, batch, split)

    monkeypatch.setattr("src.models.base.mixed", mixed)
    monkeypatch.setattr(PhotoClassifier, "_step", noted)
    trained(tmp_path, f"data.root={table}", *SMALL, "model=multilabel", "trainer.max_epochs=1")
    assert taken and all(torch.equal(a.flip(0), b) for a, b in zip(taken, collected, strict=True))


def test_finetune_frozen_is_heard_by_experiments_that_train_all_layers():
    for name in ("demo_scratch", "component_defect_multilabel", "neu_cls_scratch"):
        assert not composed(f"experiment={name}").model.freeze_backbone
        assert composed(f"experiment={name}", "finetune=frozen").model.freeze_backbone


RECIPES = {
    "two_phase": (*TWO, "model.schedule=cosine"),
    "progressive": (*STAGES, "model.schedule=one_cycle", "model.optimizer=sgd", "model.layer_decay=0.7"),
    "plateau": (*TWO, "model.schedule=plateau", "model.optimizer=adam", "trainer.gradient_clip_val=1"),
    "ema": ("finetune=full", "callbacks=[default,ema]", "callbacks.figures=null", "model.mixup=0.2",
            "model.head=mlp"),
    "accumulated": ("finetune=full", "trainer.accumulate_grad_batches=2", "model.schedule=step",
                    "model.loss=focal", "model.cutmix=1.0"),
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_recipe_resumes_to_the_same_bits(photos, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr("src.models.base.PATIENCE", 0)  # a plateau after each epoch that is no better
    arguments = (f"data.root={photos}", *SMALL, *RECIPES[recipe])
    for home in ("whole", "killed"):
        (tmp_path / home).mkdir()
    whole = trained(tmp_path / "whole", *arguments)
    monkeypatch.chdir(tmp_path / "killed")
    begin = PhotoClassifier.on_train_batch_start

    def die(module, batch, batch_idx):
        if module.current_epoch == 2 and batch_idx == 1:
            raise Killed
        begin(module, batch, batch_idx)

    with monkeypatch.context() as deadly, pytest.raises(Killed):
        deadly.setattr(PhotoClassifier, "on_train_batch_start", die)
        run_script(deadly, "train", *arguments)
    (last,) = tmp_path.glob("killed/outputs/*/*/checkpoints/last.ckpt")
    run = last.parent.parent
    assert run_script(monkeypatch, "train", f"resume='{run}'") == 0
    for name in ("last", "best"):
        ours, theirs = weights(run, name), weights(whole, name)
        assert not moved(theirs, ours) and theirs.keys() == ours.keys()
    assert (run / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    rates = [pd.read_csv(folder / "history.csv")["lr"].tolist() for folder in (run, whole)]
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["lr_schedulers"]
        for folder in (run, whole)
    ]
    assert rates[0] == rates[1] and str(states[0]) == str(states[1])


def test_a_plateau_lowers_the_rate_and_begins_anew_in_a_phase(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("src.models.base.PATIENCE", 0)
    still = ("model.schedule=plateau", "model.lr=1e-7", "callbacks.early_stopping=null")
    six = ("trainer.max_epochs=6", "callbacks.finetuning.head_epochs=3", "callbacks.finetuning.lr_factor=0.5")
    run = trained(tmp_path, f"data.root={photos}", *SMALL, *TWO, *still, *six)
    rates = pd.read_csv(run / "history.csv")["lr"].tolist()
    assert rates == pytest.approx([1e-7, 1e-7, 1e-8, 5e-8, 5e-8, 5e-9], rel=1e-3, abs=0)


def test_averaged_weights_are_what_is_saved_and_evaluated(table, tmp_path, capsys):
    given = (f"data.root={table}", *SMALL, "model=multilabel", "finetune=full", "callbacks=[default,ema]",
             "callbacks.figures=null", "callbacks.ema.decay=0.9",
             "callbacks.thresholds.min_positives=1", "thresholds.source=epoch")  # fmt: skip
    run = trained(tmp_path, *given)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    share = f"are {100 * 0.9 ** content['global_step']:.0f} % those of the start: lower callbacks.ema.decay"
    assert share in capsys.readouterr().err
    assert moved(content["current_model_state"], content["state_dict"])
    tuned = json.loads((run / "thresholds.json").read_text())
    saved = weights(run, "best")["thresholds"].tolist()
    assert list(tuned.values()) == pytest.approx(saved) and set(saved) != {0.5}
    metrics = json.loads((run / "metrics.json").read_text())
    for split in ("val", "test"):
        assert {name: row["threshold"] for name, row in metrics[split]["per_class"].items()} == tuned
    history = pd.read_csv(run / "history.csv").set_index("epoch")
    best = history.loc[metrics["run"]["best_epoch"]]
    assert metrics["val"]["f1_macro"] == pytest.approx(best["val_f1"], abs=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("finetune=two_phase", "callbacks.finetuning.head_epochs=4"), "the backbone would never learn"),
        (
            ("finetune=two_phase", "callbacks.finetuning.head_epochs=1", "model.freeze_backbone=true"),
            "model.freeze_backbone=false",
        ),
        (("finetune=twophase",), "two_phase"),
        (("model.loss=fokal",), "did you mean 'focal'"),
        (("model.loss=asymmetric",), "choices: "),
        (("model.loss=focal", "model.label_smoothing=0.1"), "takes hard labels"),
        (("model.optimizer=adamax",), "did you mean 'adam'"),
        (("model.cutmix=1", "model.freeze_backbone=true", "data.cache=features"), "data.cache=images"),
        (("trainer.precision=16-mixed",), "needs a GPU: take bf16-mixed"),
        (("model.backbone=resnet19",), "did you mean 'resnet18'"),
        (("model.backbone=inception_v3",), "choices: "),
    ],
)
def test_what_cannot_be_trained_is_one_line(photos, tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.chdir(tmp_path)
    base = [
        key for key in (f"data.root={photos}", *SMALL) if key.partition("=")[0] != "model.freeze_backbone"
    ]
    assert run_script(monkeypatch, "train", *base, *given) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1], said


def test_accumulated_batches_are_a_step_of_the_range_test(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = (f"data.root={photos}", *SMALL[:-1], "finetune=full", "low=1e-30", "high=1e-29")
    losses = []
    for batches, steps in ((1, 24), (2, 12)):
        more = (f"trainer.accumulate_grad_batches={batches}", f"steps={steps}", f"hydra.run.dir={batches}")
        assert run_script(monkeypatch, "find_lr", *given, *more) == 0
        table = pd.read_csv(tmp_path / str(batches) / "learning_rates.csv")
        assert len(table) == steps and table["lr"].is_monotonic_increasing
        losses.append(table["loss"])
    assert losses[1][0] == pytest.approx(losses[0][:2].mean(), rel=1e-5)


def test_a_learning_rate_is_found_where_the_loss_falls(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [f"data.root={photos}", *SMALL[:-1], "finetune=full", "steps=60", "low=1e-5", "high=10"]
    assert run_script(monkeypatch, "find_lr", *given) == 0
    suggestion = float(capsys.readouterr().out.split("model.lr=")[1].split(",")[0])
    (table,) = tmp_path.glob("outputs/find_lr/*/learning_rates.csv")
    rates = pd.read_csv(table)
    assert rates["lr"].is_monotonic_increasing and rates["lr"][0] == 1e-5 and 1e-5 < suggestion < 1
    assert table.with_suffix(".png").is_file()
    assert run_script(monkeypatch, "find_lr", *given, "model.init_from=nowhere.ckpt") == 2
    assert run_script(monkeypatch, "find_lr", *given, "data.cache=features") == 2
    assert run_script(monkeypatch, "find_lr", *given, "model.schedule=plateau", "steps=12", "high=1e-4") == 0
    assert run_script(monkeypatch, "find_lr", *given, "low=1", "high=0.1") == 2
    assert "low below high" in capsys.readouterr().err
