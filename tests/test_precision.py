"""Training may compute in half precision; thresholds and figures are those of what predicts."""

import csv
import json

import pytest
import torch

from src.models import REGISTRY, backbones
from src.models.precision import full_precision
from tests.made import FAST, make_folders, only_run, run_script, tiny

LABELS = {"component": ["Bolt", "Plate"], "defect": ["Crack", "Leaks", "Rust"]}


def test_validation_is_in_full_precision_within_mixed_training(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "tiny", backbones.Entry(tiny, None, "fc"))
    model = REGISTRY["multilabel"](
        task="multilabel", labels=LABELS, preprocess={"image_size": 16}, backbone="tiny"
    ).eval()
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    batch = {"image": image, "target": torch.zeros(4, 5), "index": torch.arange(4)}
    with torch.no_grad():
        wanted = torch.cat(list(model(image).values()), 1)
        with torch.autocast("cpu", torch.bfloat16):
            assert {logits.dtype for logits in model._step(batch, "train").values()} == {torch.bfloat16}
            for split in ("val", "test"):
                assert torch.equal(torch.cat(list(model._step(batch, split).values()), 1), wanted)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_off_in_the_block_only(monkeypatch, device, allowed):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    with pytest.raises(KeyError), full_precision(torch.device(device)):
        assert torch.backends.cudnn.allow_tf32 == (allowed and device == "cpu")
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_a_run_in_half_precision_says_what_its_predictions_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path / "photos")
    more = (*FAST, "trainer.precision=bf16-mixed", "trainer.max_epochs=3")
    assert run_script(monkeypatch, "train", "data.root=photos", *more) == 0
    run = only_run(tmp_path)
    with open(run / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["path"].split("/")[0] == f"{row['component']}_{row['defect']}" for row in rows)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["exact_match"] == pytest.approx(right / len(rows))
