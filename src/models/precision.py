"""Full precision, where a fit or a device would compute in less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 in the block: without autocast, and on NVIDIA's GPUs without TF32.

    Scores are then those of a CPU but for the last digits. TF32 has a mantissa of ten bits, and is torch's
    default for convolutions.
    """
    before = torch.backends.cudnn.allow_tf32
    try:
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = before
