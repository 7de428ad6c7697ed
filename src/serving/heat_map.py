"""The area of a photo that speaks for a label: class activation maps (Zhou and others, 2016).

With a linear head on averaged features, which is what is exported, the map is the one that Grad-CAM gives
(Selvaraju and others, 2017): the head's weights applied to the features at each place.
"""

import io

import numpy as np
from PIL import Image

from src.images import open_image
from src.inference.predictor import Predictor

WIDTH = 640  # pixels of the picture's longer side
STRENGTH = 0.55  # of the colour where the map is highest


def heat_map(predictor: Predictor, content: bytes, label: str | None) -> bytes | None:
    """Return a photo with the map of a label over it, as PNG; None for a model without maps.

    Args:
        predictor: the model.
        content: of the photo's file.
        label: a label of the model; None: the most probable one.

    Raises:
        UnreadableImage: for a photo that cannot be read.
    """
    pixels = predictor.preprocess(content)
    scores, maps = predictor.backend.maps(pixels[None])
    if maps is None:
        return None
    position = int(scores[0].argmax()) if label is None else predictor.labels.position(label)
    heat = np.maximum(maps[0, position], 0)
    heat = heat / heat.max() if heat.max() > 0 else heat
    if predictor.preprocess.resize == "squash":  # the map covers the whole photo
        photo = open_image(content, min_size=(WIDTH, WIDTH))
        photo.thumbnail((WIDTH, WIDTH), Image.Resampling.BILINEAR)
    else:
        photo = Image.fromarray(pixels)
    spread = Image.fromarray((255 * heat).astype(np.uint8)).resize(photo.size, Image.Resampling.BICUBIC)
    strength = np.asarray(spread, np.float32)[..., None] / 255
    colour = np.stack([np.ones_like(strength), 1 - strength, np.zeros_like(strength)], -1)[..., 0, :] * 255
    mixed = np.asarray(photo) * (1 - STRENGTH * strength) + colour * STRENGTH * strength
    file = io.BytesIO()
    Image.fromarray(mixed.round().astype(np.uint8)).save(file, "PNG", compress_level=3)
    return file.getvalue()
