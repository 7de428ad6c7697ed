"""Modules built from primitives: losses, freezing, weights files, partial loading."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch.nn import functional as nnf

from src.callbacks.tune_thresholds import TuneThresholds
from src.labels import LabelSpace
from src.models.backbones import build_backbone
from src.models.checkpoint import load_model
from src.models.classifiers import DualHeadClassifier, MultiLabelClassifier
from src.models.learning import Phase, phase_schedule, stages_of
from src.models.losses import mixed, sigmoid_losses, softmax_losses
from src.models.metrics import heads_figures, multilabel_figures

LABELS = {"component": ["a", "b", "c"], "defect": ["x", "y"]}
PREPROCESS = {"image_size": 16, "resize": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def dual(**options):
    given = {"task": "dual_head", "labels": LABELS, "preprocess": PREPROCESS, "backbone": "tiny"}
    return DualHeadClassifier(**given, **options)


def multi(**options):
    given = {"task": "multilabel", "labels": LABELS, "preprocess": PREPROCESS, "backbone": "tiny"}
    return MultiLabelClassifier(**given, **options)


def test_heads_loss_is_the_weighted_sum_and_leaves_missing_kinds_out():
    weights = {"component": [1.0, 2.0, 3.0], "defect": [0.5, 4.0]}
    model = dual(class_weights=weights, head_weights={"defect": 0.5})
    torch.manual_seed(0)
    logits = {"component": torch.randn(4, 3), "defect": torch.randn(4, 2)}
    target = torch.tensor([[0, 1], [2, -1], [1, 0], [-1, -1]])
    component = [
        nnf.cross_entropy(logits["component"][i, None], target[i, None, 0])
        * weights["component"][target[i, 0]]
        for i in (0, 1, 2)
    ]
    defect = [
        nnf.cross_entropy(logits["defect"][i, None], target[i, None, 1]) * weights["defect"][target[i, 1]]
        for i in (0, 2)
    ]
    expected = sum(component) / 3 + 0.5 * sum(defect) / 2
    assert torch.allclose(model.loss(logits, target), expected)
    assert model.loss(logits, torch.full((4, 2), -1)) == 0


def test_multilabel_loss_weights_positives():
    model = multi(class_weights={"component": [1.0, 5.0, 1.0], "defect": [2.0, 1.0]})
    logits = {"component": torch.zeros(1, 3), "defect": torch.zeros(1, 2)}
    target = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]])
    assert model.loss(logits, target) == pytest.approx(np.log(2) * (1 + 5 + 1 + 2 + 1) / 5)


def test_normalisation_happens_inside_and_scores_are_probabilities():
    image = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    model = dual().eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    scores = model.probabilities(model(image))
    assert torch.allclose(seen[0], (image.float() / 255 - 0.5) / 0.25, atol=1e-6)
    for part in (scores[:, :3], scores[:, 3:]):
        assert torch.allclose(part.sum(1), torch.ones(5))
    other = multi().eval()
    scores = other.probabilities(other(image))
    assert ((scores > 0) & (scores < 1)).all()


def test_validation_is_in_full_precision_within_mixed_training():
    model, image = multi(), torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    batch = {"image": image, "target": torch.zeros(4, 5), "index": torch.arange(4)}
    with torch.no_grad():
        wanted = torch.cat(list(model.eval()(image).values()), 1)
        with torch.autocast("cpu", torch.bfloat16):
            assert {logits.dtype for logits in model._step(batch, "train").values()} == {torch.bfloat16}
            for split in ("val", "test"):
                assert torch.equal(torch.cat(list(model._step(batch, split).values()), 1), wanted)


def test_frozen_backbone_stays_bit_equal_and_in_eval_mode():
    model = dual(freeze_backbone=True, weight_decay=0.02)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model.train()
    assert not model.backbone.training and model.head_component.training
    optimizer = model.configure_optimizers()
    (group,) = optimizer.param_groups
    heads = {id(p) for name, p in model.named_parameters() if name.startswith("head_")}
    assert group["weight_decay"] == 0.02 and {id(p) for p in group["params"]} == heads
    image = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(model(image), torch.tensor([[0, 1]] * 8)).backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    thawed = dual().train()
    running = thawed.backbone.norm.running_mean.clone()
    thawed(image)
    assert not torch.equal(running, thawed.backbone.norm.running_mean)


def test_multilabel_figures_against_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.random((60, 5)) < [0.5, 0.1, 0.0, 0.3, 0.9]
    scores = np.clip(truth * 0.4 + rng.random((60, 5)) * 0.6, 0, 1).astype(np.float32)
    thresholds = np.array([0.5, 0.4, 0.5, 0.62, 0.3], np.float32)
    scores[0, 0] = 0.5
    scores[20:40] = scores[20:40].round(1)  # ties
    given = (torch.tensor(scores), torch.tensor(truth).float(), torch.tensor(thresholds))
    figures = multilabel_figures(*given, LabelSpace(LABELS))
    decided = scores >= thresholds
    assert decided[0, 0]
    expected = {
        "hamming_loss": sk.hamming_loss(truth, decided),
        "exact_match": sk.accuracy_score(truth, decided),
    }
    occur = [0, 1, 3, 4]
    assert decided[:, 2].any()  # false alarms of a label without positives
    expected["f1_micro"] = sk.f1_score(truth, decided, average="micro")
    for how in ("macro", "weighted"):
        expected[f"f1_{how}"] = sk.f1_score(truth, decided, labels=occur, average=how, zero_division=0)
    half = scores >= 0.5
    expected["f1_macro_at_0.5"] = sk.f1_score(truth, half, labels=occur, average="macro", zero_division=0)
    assert (figures["labels_evaluated"], figures["labels_total"]) == (4, 5)
    expected["map"] = sk.average_precision_score(truth[:, occur], scores[:, occur])
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert figures["per_class"]["c"]["ap"] is None and figures["per_class"]["c"]["support"] == 0
    assert figures["per_class"]["x"]["threshold"] == pytest.approx(0.62)


def test_absent_labels_are_left_out_of_the_means_of_heads_and_multilabel_alike():
    labels, names = LabelSpace({"defect": tuple("abcde")}), range(5)
    truth = np.array([0, 0, 1, 1, 2, 2])
    for said, absent in ((truth, 0.0), (np.array([0, 3, 1, 1, 2, 0]), 0.0)):
        scores, targets = torch.eye(5)[said], torch.eye(5)[truth]
        several = multilabel_figures(scores, targets, torch.full((5,), 0.5), labels)
        heads = heads_figures(scores, torch.tensor(truth)[:, None], labels)["defect"]
        for how in ("macro", "weighted"):
            wanted = sk.f1_score(truth, said, labels=[0, 1, 2], average=how)
            assert several[f"f1_{how}"] == heads[f"f1_{how}"] == pytest.approx(wanted)
        for figures in (several, heads):
            assert (figures["labels_evaluated"], figures["labels_total"]) == (3, 5)
            row = figures["per_class"]["d"]
            assert (row["f1"], row["recall"], row["precision"], row["support"]) == (None, None, absent, 0)
        assert several["f1_micro"] == pytest.approx(sk.f1_score(truth, said, labels=names, average="micro"))
    nothing = multilabel_figures(torch.eye(5), torch.zeros(5, 5), torch.full((5,), 0.5), labels)
    without = heads_figures(torch.eye(5), torch.full((5, 1), -1), labels)
    for figures in (nothing, without):
        assert figures["f1_macro"] is None and figures["labels_evaluated"] == 0
    json.dumps([nothing, without], allow_nan=False)


def test_heads_figures_by_hand():
    labels = LabelSpace(LABELS)
    scores = torch.tensor([[0.7, 0.2, 0.1, 0.6, 0.4], [0.1, 0.8, 0.1, 0.3, 0.7], [0.1, 0.8, 0.1, 0.9, 0.1]])
    figures = heads_figures(scores, torch.tensor([[0, 0], [0, 1], [1, -1]]), labels)
    assert figures["component"]["accuracy"] == pytest.approx(2 / 3)
    assert figures["defect"]["accuracy"] == 1.0
    assert figures["exact_match"] == pytest.approx(0.5)
    assert figures["component"]["per_class"]["a"] == pytest.approx(
        {"f1": 2 / 3, "precision": 1.0, "recall": 0.5, "support": 2}
    )
    assert figures["f1_macro"] == pytest.approx((figures["component"]["f1_macro"] + 1) / 2)
    assert figures["component"]["f1_macro"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_thresholds_are_tuned_into_the_buffer_from_hand_made_rows(caplog):
    model = multi()
    trainer = SimpleNamespace(sanity_checking=False, state=SimpleNamespace(fn="fit"))
    scores = torch.tensor([[0.9, 0.2, 0.1, 0.3, 0.1], [0.6, 0.4, 0.2, 0.2, 0.2], [0.3, 0.1, 0.3, 0.1, 0.3]])
    targets = torch.tensor([[1, 0, 0, 1, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).float()
    model.collected["val"].update(scores.logit(), targets, torch.arange(3))
    TuneThresholds(min_positives=1).on_validation_epoch_end(trainer, model)
    assert model.thresholds.tolist() == pytest.approx([0.5999, 0.3999, 0.5, 0.1999, 0.5], abs=1e-6)
    caplog.set_level("INFO")
    callback = TuneThresholds(min_positives=2)
    for _ in range(2):
        callback.on_validation_epoch_end(trainer, model)
    assert model.thresholds.tolist() == pytest.approx([0.5999, 0.5, 0.5, 0.1999, 0.5], abs=1e-6)
    (line,) = [line for line in caplog.messages if "fewer than 2 positive" in line]
    assert line.endswith(": b (1), c (0), y (0)")
    trainer.state.fn = "test"
    model.thresholds.fill_(0.1)
    callback.on_validation_epoch_end(trainer, model)
    assert model.thresholds.tolist() == pytest.approx([0.1] * 5)


def test_a_checkpoint_of_the_first_schema_still_loads(tmp_path):
    given = {**dict(multi().hparams), "optimizer": "adamw"}
    del given["weight_decay"]
    state = multi().state_dict()
    old = {"task": "multilabel", "schema": 1, "hyper_parameters": given, "state_dict": state}
    torch.save(old, tmp_path / "old.ckpt")
    assert load_model(tmp_path / "old.ckpt").hparams["weight_decay"] == 0.01


def test_schedules_are_functions_of_step_and_length():
    short, long = (phase_schedule("cosine", [Phase(0, 0)], 10, steps) for steps in (100, 200))
    assert short(0) == pytest.approx(0.1) and short(5) == 1 and short(100) == pytest.approx(0)
    assert long(100) > 0.4 and all(short(s) >= short(s + 1) for s in range(5, 100))
    cycle = phase_schedule("one_cycle", [Phase(0, 0)], 10, 100)
    assert cycle(0) == pytest.approx(0.04) and cycle(30) == 1 and cycle(100) == pytest.approx(0)
    drops = phase_schedule("step", [Phase(0, 0)], 9, 90)
    assert [drops(s) for s in (0, 29, 30, 60, 90)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    phases = phase_schedule("constant", [Phase(0, 4), Phase(5, 0, 0.1)], 10, 100)
    assert phases(49) == 1 and phases(50) == phases(100) == 0.1
    again = phase_schedule("cosine", [Phase(0, 4), Phase(5, 0, 0.1)], 10, 100)
    assert again(49) < 0.01 and again(52) == pytest.approx(0.1)


def test_losses_follow_their_formulas():
    logits, classes = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]]), torch.tensor([0, 2])
    weight = torch.tensor([1.0, 2.0, 3.0])
    p = (logits.exp() / logits.exp().sum(1, keepdim=True))[[0, 1], classes]
    expected = -weight[classes] * p.log()
    assert torch.allclose(softmax_losses("cross_entropy", logits, classes, weight, 0.0), expected)
    assert torch.allclose(softmax_losses("focal", logits, classes, weight, 0.0), expected * (1 - p) ** 2)

    logits, target = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1.0, 1.0, 0.0]])
    p = 1 / (1 + (-logits).exp())
    bce = -(target * weight * p.log() + (1 - target) * (1 - p).log())
    assert torch.allclose(sigmoid_losses("bce", logits, target, weight), bce)
    focus = target * (1 - p) ** 2 + (1 - target) * p**2
    assert torch.allclose(sigmoid_losses("focal", logits, target, weight), bce * focus)
    low = p - 0.05
    asymmetric = -(target * weight * p.log() + (1 - target) * low**4 * (1 - low).log())
    assert torch.allclose(sigmoid_losses("asymmetric", logits, target, weight), asymmetric, atol=1e-6)
    easy = sigmoid_losses("asymmetric", torch.tensor([[-4.0]]), torch.zeros(1, 1), None)
    assert easy.item() == 0  # a negative below the margin costs nothing


def test_what_nobody_looked_for_costs_nothing():
    model = multi(loss="partial_bce").train()
    logits = {"component": torch.randn(2, 3), "defect": torch.randn(2, 2, requires_grad=True)}
    target = torch.tensor([[1.0, 0, 0, -1, -1], [0, 0, 1, 0, 1]])
    loss = model.loss(logits, target)
    known = torch.cat(list(logits.values()), 1)[target >= 0]
    assert torch.allclose(
        loss, torch.nn.functional.binary_cross_entropy_with_logits(known, target[target >= 0])
    )
    loss.backward()
    assert not logits["defect"].grad[0].any() and logits["defect"].grad[1].all()


def test_mixed_photos_carry_both_targets():
    torch.manual_seed(0)
    image = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    image += 60 * torch.arange(4, dtype=torch.uint8)[:, None, None, None]
    batch, partner, share = mixed({"image": image}, 1.0, 0.0)
    expected = share * image.float() + (1 - share) * image[partner].float()
    assert torch.equal(batch["image"], expected) and 0 < share < 1
    for _ in range(20):
        batch, partner, share = mixed({"image": image}, 0.0, 1.0)
        own = (batch["image"] == image)[:, 0].float().mean((1, 2))
        assert torch.allclose(own[partner != torch.arange(4)], torch.tensor(share))
    assert mixed({"image": image}, 0.0, 0.0)[1:] == (None, 1.0)


def test_heads_with_layers_take_a_batch_of_one():
    model = dual(head="mlp").train()
    logits = model(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert logits["defect"].shape == (1, 2) and model.head_defect.in_features == 128


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "timm/vit_tiny_patch16_224"])
def test_stages_cover_a_backbone_in_order(name):
    backbone = build_backbone(name)
    stages = stages_of(backbone)
    found = [id(p) for stage in stages for part in stage for p in part.parameters()]
    inside = [id(p) for child in backbone.children() for p in child.parameters()]
    assert found == inside and len(stages) >= 5


def test_smoothing_is_for_training_only():
    logits = {"component": torch.randn(2, 3), "defect": torch.randn(2, 2)}
    for make, target in ((dual, torch.tensor([[0, 1], [2, 0]])), (multi, torch.eye(5)[:2])):
        plain, smooth = make(), make(label_smoothing=0.2)
        assert plain.train().loss(logits, target) != smooth.train().loss(logits, target)
        assert plain.eval().loss(logits, target) == smooth.eval().loss(logits, target)
