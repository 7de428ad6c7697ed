"""The area of a photo that speaks for a label, as heat over the photo. No torch."""

import numpy as np
from PIL import Image

from src.preprocess import Preprocess

STRENGTH = 0.55  # of the heat's colour where it is highest


def as_heat(activation: np.ndarray) -> np.ndarray:
    """Return a class activation map as heat from 0 to 1; all zeros where no area speaks for the label."""
    heat = np.maximum(activation, 0)
    return heat / heat.max() if heat.any() else heat


def spread(heat: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return heat enlarged to float32 `[height, width]`, from 0 to 1."""
    small = Image.fromarray((255 * heat).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255


def over_photo(pre: Preprocess, photo: Image.Image, pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Return a photo with heat over it, or, where the model sees a part of it only, those `pixels`."""
    photo = photo if pre.resize == "squash" else Image.fromarray(pixels)
    strength = spread(heat, *photo.size)[..., None]
    colour = 255 * np.concatenate([np.ones_like(strength), 1 - strength, np.zeros_like(strength)], -1)
    mixed = np.asarray(photo) * (1 - STRENGTH * strength) + colour * STRENGTH * strength
    return Image.fromarray(mixed.round().astype(np.uint8))
