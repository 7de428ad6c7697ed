"""Training may compute in half precision; thresholds, figures and predictions are in full precision."""

import pytest
import torch

from src.models.checkpoint import REGISTRY

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
