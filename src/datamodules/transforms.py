"""Augmentation of resized photos, in training only."""

import torch
from torchvision.transforms import v2

from src.config_check import check_number
from src.seeds import mixed_seed


class TrainTransform:
    """Random views of a uint8 image `[3, H, W]`; a pure function of (seed, epoch, index).

    Args:
        horizontal_flip: probability of a mirrored view.
        rotation: largest angle in degrees, either way; the corners that open are filled with mid-grey.
    """

    def __init__(self, horizontal_flip: float = 0.5, rotation: float = 10.0):
        check_number("data.augment.horizontal_flip", horizontal_flip)
        check_number("data.augment.rotation", rotation)
        self.arguments = {"horizontal_flip": horizontal_flip, "rotation": rotation}
        steps: list[torch.nn.Module] = []
        if horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(horizontal_flip))
        if rotation:
            bilinear = v2.InterpolationMode.BILINEAR
            steps.append(v2.RandomRotation(rotation, interpolation=bilinear, fill=[114.0]))
        self.steps = v2.Compose(steps) if steps else torch.nn.Identity()

    def __call__(self, image: torch.Tensor, seed: int, epoch: int, index: int) -> torch.Tensor:
        """Return the view of photo `index` in `epoch`."""
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would queue a call for a GPU that is not in use, and keep each of them
            torch.default_generator.manual_seed(mixed_seed(seed, epoch, index))
            return self.steps(image)
