"""Training may compute in half precision; thresholds and figures are those of what predicts."""

import torch

from src.models import REGISTRY, backbones
from tests.made import tiny

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
