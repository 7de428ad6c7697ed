"""From an opened photo to the pixels that a model takes; the same for training and prediction. No torch."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, features

from src.config_check import check_number
from src.errors import InputError, did_you_mean
from src.images import OVERSAMPLING, open_image

LETTERBOX_GRAY = 114
RESIZES = ("squash", "letterbox", "crop")


def decoder() -> dict[str, object]:
    """Return the versions and constants that the pixels of a photo depend on besides its content and size."""
    heif = {}
    with suppress(PackageNotFoundError):  # an extra; without it there are no such pixels
        heif["heif"] = version("pillow-heif")
    return {
        "pillow": Image.__version__,
        "jpeg": features.version_feature("libjpeg_turbo") or features.version_codec("jpg"),
        "webp": features.version_module("webp"),
        "tiff": features.version_codec("libtiff"),
        "oversampling": OVERSAMPLING,
    } | heif


@dataclass(frozen=True)
class Preprocess:
    """From a photo to the pixels that a model takes; saved in its checkpoint, one for training and serving.

    Resizing is Pillow's bilinear filter in one step; it is antialiased, it averages over all pixels that fall
    into one. After a scaled decode, a sharper filter or a `reducing_gap` gains nothing.

    Args:
        image_size: Side in pixels of a square, or `(height, width)`.
        resize: `squash` fits the whole photo without regard to its aspect ratio; `letterbox` fits it within,
            centred on gray 114; `crop` fits the short side and cuts the long one, centred.
        mean: Of red, green and blue, for values between 0 and 1. Only carried here: the model normalises.
        std: Standard deviations of red, green and blue, from 0 to 1. The defaults are ImageNet's.
        sample_bits: The bits, 8 to 32, that gray samples of more than 8 bits really use, as 12 for a 12-bit
            camera that writes 16-bit files; null: all bits of the file's samples.

    Raises:
        InputError: for sizes below 1, an unknown `resize`, `mean` and `std` that are not three numbers, or
            `sample_bits` out of range.
    """

    image_size: int | tuple[int, int] = 224
    resize: str = "squash"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    sample_bits: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "image_size", _sides(self.image_size))
        if self.resize not in RESIZES:
            raise InputError(f"preprocess.resize '{self.resize}': {did_you_mean(str(self.resize), RESIZES)}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three_numbers(name, getattr(self, name)))
        if self.sample_bits is not None:
            check_number("preprocess.sample_bits", self.sample_bits)

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size

    @property
    def samples(self) -> dict[str, int]:
        """`sample_bits` where it is set, for the keys of caches: without it they are as they were."""
        return {} if self.sample_bits is None else {"sample_bits": self.sample_bits}

    def __call__(self, source: str | Path | bytes | BinaryIO) -> np.ndarray:
        """Open a photo and resize it; uint8 of shape `[height, width, 3]`, or `UnreadableImage`."""
        return self.resize_image(open_image(source, self.size, self.sample_bits))

    def resize_image(self, image: Image.Image) -> np.ndarray:
        """Resize what `open_image(..., min_size=self.size)` gave to uint8 `[height, width, 3]`."""
        height, width = self.size
        if self.resize == "letterbox":
            image = self._letterbox(image)
        else:
            box = self._crop_box(image) if self.resize == "crop" else None
            image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.array(image)

    def _letterbox(self, image: Image.Image) -> Image.Image:
        """Fit the whole image within, centred on gray."""
        height, width = self.size
        scale = min(height / image.height, width / image.width)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        canvas = Image.new("RGB", (width, height), (LETTERBOX_GRAY,) * 3)
        corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), corner)
        return canvas

    def _crop_box(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Return the centred part of `image` that has the aspect ratio asked for, in its pixels."""
        height, width = self.size
        scale = max(height / image.height, width / image.width)
        w, h = min(width / scale, image.width), min(height / scale, image.height)
        left, top = (image.width - w) / 2, (image.height - h) / 2
        return left, top, left + w, top + h

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Preprocess":
        """Build from a checkpoint's or a config's mapping; an unknown key is an `InputError`."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"unknown key preprocess.{key}: {did_you_mean(str(key), known)}")
        return cls(**values)


def _sides(size: object) -> int | tuple[int, int]:
    """Check an image size; any sequence of two becomes a tuple."""
    sides = (size,) if isinstance(size, Integral) else tuple(size) if np.iterable(size) else ()
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) and side > 0 for side in sides)
    if isinstance(size, str) or len(sides) not in (1, 2) or not whole:
        raise InputError(f"preprocess.image_size {size}: needs one side or [height, width], in whole pixels")
    return int(size) if isinstance(size, Integral) else (int(sides[0]), int(sides[-1]))


def _three_numbers(name: str, values: object) -> tuple[float, float, float]:
    """Check a value per colour channel; any sequence becomes a tuple of floats."""
    numbers = tuple(values) if np.iterable(values) and not isinstance(values, str) else ()
    if len(numbers) != 3:
        raise InputError(f"preprocess.{name} {values}: needs three numbers (red, green, blue)")
    for value in numbers:
        check_number(f"preprocess.{name}", value)
    return tuple(float(value) for value in numbers)
