"""Convolutional networks for surface defects, trained from random weights; `defect_cnn_base` and `_small`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALL = ((32, 32), (64, 64), (128, 128), (256,))
BASE = ((32, 32), (64, 64), (128, 128), (256, 256, 256), (384, 384))


class DefectCNN(nn.Module):
    """Stages of convolution, BatchNorm and SiLU with a max-pool between them, averaged, and a layer on top.

    Args:
        widths: channels of each block, by stage.
        features: width of the layer on top, which is what the heads see.
        dropout: share of its outputs that are dropped.
        spatial_dropout: share of the channels that are dropped after the first and after the last stage; the
            stages between have shares between.
    """

    def __init__(
        self,
        widths: Sequence[Sequence[int]] = BASE,
        features: int = 192,
        dropout: float = 0.4,
        spatial_dropout: tuple[float, float] = (0.05, 0.2),
    ):
        super().__init__()
        shares = torch.linspace(*spatial_dropout, len(widths)).tolist()
        stages, before = [], 3
        for number, (stage, share) in enumerate(zip(widths, shares, strict=True)):
            blocks: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            for width in stage:
                conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
                blocks += [conv, nn.BatchNorm2d(width), nn.SiLU(inplace=True)]
                before = width
            stages.append(nn.Sequential(*blocks, nn.Dropout2d(share)))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.top = nn.Sequential(nn.Linear(before, features), nn.SiLU(), nn.Dropout(dropout))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Return features `[B, features]` of normalised photos `[B, 3, H, W]`."""
        return self.top(self.pool(self.stages(image)).flatten(1))
