"""Grad-CAM of a checkpoint, by the library grad-cam (Selvaraju and others, 2017)."""

import numpy as np
import torch
from torch import Tensor, nn

from src.errors import InputError
from src.inference.torch_backend import TorchBackend
from src.models.classifiers import PhotoClassifier


class _Logits(nn.Module):
    """A classifier as the library takes it: from normalised photos to logits `[B, labels]`."""

    def __init__(self, model: PhotoClassifier):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat(list(self.model.classify(self.model.seen(image)).values()), 1)


def grad_cam(backend: TorchBackend, pixels: np.ndarray, label: int) -> np.ndarray:
    """Return where a photo, uint8 `[H, W, 3]`, speaks for a label: heat from 0 to 1, float32 `[H, W]`.

    It is that of the backbone's last layer with several places, and 0 everywhere if none speaks for it.

    Raises:
        InputError: for a backbone without such a layer.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = _Logits(backend.model)
    image = torch.as_tensor(pixels[None]).permute(0, 3, 1, 2).to(backend.device)
    image = backend.model.normalised(image).requires_grad_()  # a frozen backbone would keep no gradients
    return GradCAM(model, [_last_map(model, image)])(image, [ClassifierOutputTarget(label)])[0]


@torch.no_grad()
def _last_map(model: _Logits, image: Tensor) -> nn.Module:
    """Return the last module that runs once and whose output has several places, `[B, C, h, w]`."""
    ran: list[nn.Module] = []

    def keep(module: nn.Module, _: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
            ran.append(module)

    hooks = [module.register_forward_hook(keep) for module in model.model.backbone.modules()]
    model(image)
    for hook in hooks:
        hook.remove()
    if once := [module for module in ran if ran.count(module) == 1]:
        return once[-1]
    raise InputError(f"explain=: {model.model.hparams['backbone']} has no map of the photo; leave it out")
