"""Training may compute in half precision; thresholds, figures and predictions are in full precision."""

import lightning as L
import pytest
import torch

from src.models import REGISTRY
from src.models.base import set_full_precision

LABELS = {"component": ["Bolt", "Plate"], "defect": ["Crack", "Leaks", "Rust"]}


@pytest.fixture
def model():
    given = {"task": "multilabel", "labels": LABELS, "preprocess": {"image_size": 16}, "backbone": "tiny"}
    return REGISTRY["multilabel"](**given)


def test_validation_is_in_full_precision_within_mixed_training(model):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    batch = {"image": image, "target": torch.zeros(4, 5), "index": torch.arange(4)}
    with torch.no_grad():
        wanted = torch.cat(list(model.eval()(image).values()), 1)
        with torch.autocast("cpu", torch.bfloat16):
            assert {logits.dtype for logits in model._step(batch, "train").values()} == {torch.bfloat16}
            for split in ("val", "test"):
                assert torch.equal(torch.cat(list(model._step(batch, split).values()), 1), wanted)


def test_training_steps_alone_compute_with_tf32(model, monkeypatch):
    seen, step = {}, model._step

    def noted(batch, split):
        seen.setdefault(split, torch.backends.cudnn.allow_tf32)
        return step(batch, split)

    monkeypatch.setattr(model, "_step", noted)
    image, target = torch.zeros(3, 16, 16, dtype=torch.uint8), torch.ones(5)
    photos = [{"image": image, "target": target, "index": torch.tensor(i)} for i in range(4)]
    loader = torch.utils.data.DataLoader(photos, batch_size=2)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    set_full_precision()
    trainer.fit(model, loader, loader)
    assert seen == {"train": True, "val": False} and not torch.backends.cudnn.allow_tf32
