"""Full precision, where a fit or a device would compute in less."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 in the block: without autocast, and on NVIDIA's GPUs without TF32.

    Scores are then those of a CPU but for the last digits. TF32 has a mantissa of ten bits, and is torch's
    default for convolutions. On a GPU for one thread at a time, as torch has one setting for all.
    """
    with (
        _without_tf32() if device.type == "cuda" else nullcontext(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Let convolutions and matrix products take float32 as it is."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
