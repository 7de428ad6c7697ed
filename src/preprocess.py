"""From an opened photo to the pixels that a model takes; the same for training and prediction. No torch."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, features

from src.config_check import check_arguments, check_number
from src.errors import InputError, did_you_mean
from src.images import OVERSAMPLING, open_image, read_photo

LETTERBOX_GRAY = 114
GRID = re.compile(r"[1-9]x[1-9]")
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

    With tiles a photo becomes several views of one size: the whole photo, then each tile of a grid. They lie
    below each other in its pixels, so that everything that holds pixels needs to know only their shape.

    Args:
        image_size: Side in pixels of a square, or `(height, width)`; of each view.
        resize: `squash` fits the whole photo without regard to its aspect ratio; `letterbox` fits it within,
            centred on gray 114; `crop` fits the short side and cuts the long one, centred.
        mean: Of red, green and blue, for values between 0 and 1. Only carried here: the model normalises.
        std: Standard deviations of red, green and blue, from 0 to 1. The defaults are ImageNet's.
        sample_bits: The bits, 8 to 32, that gray samples of more than 8 bits really use, as 12 for a 12-bit
            camera that writes 16-bit files; null: all bits of the file's samples.
        tiles: `RxC`, rows and columns of the grid, as `2x3`; null: the whole photo alone. A tile is squashed.
        overlap: Share of a tile's height and width that the next one shows, too.

    Raises:
        InputError: for sizes below 1, an unknown `resize`, `mean` and `std` that are not three numbers,
            `sample_bits` out of range, or no grid of tiles.
    """

    image_size: int | tuple[int, int] = 224
    resize: str = "squash"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    sample_bits: int | None = None
    tiles: str | None = None
    overlap: float = 0.1

    def __post_init__(self):
        object.__setattr__(self, "image_size", _sides(self.image_size))
        if self.resize not in RESIZES:
            raise InputError(f"preprocess.resize '{self.resize}': {did_you_mean(str(self.resize), RESIZES)}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three_numbers(name, getattr(self, name)))
        if self.sample_bits is not None:
            check_number("preprocess.sample_bits", self.sample_bits)
        if self.tiles is not None and not GRID.fullmatch(str(self.tiles)):
            raise InputError(f"preprocess.tiles={self.tiles}: needs rows and columns, 1 to 9, as 2x3")
        check_number("preprocess.overlap", self.overlap)

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles; none without tiles."""
        rows, _, columns = (self.tiles or "0x0").partition("x")
        return int(rows), int(columns)

    @property
    def views(self) -> list[str]:
        """The names of a photo's views: `whole`, then `r1c1` for the tile at the upper left."""
        rows, columns = self.grid
        return ["whole", *(f"r{row + 1}c{column + 1}" for row in range(rows) for column in range(columns))]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a photo's pixels: its views below each other."""
        return self.size[0] * len(self.views), self.size[1], 3

    @property
    def decode_size(self) -> tuple[int, int]:
        """The size, `(height, width)`, that a photo has to be decoded at, so that no tile is enlarged."""
        sizes = zip(self.size, self.grid, strict=True)
        height, width = (math.ceil(side * self._tiles_along(count)) for side, count in sizes)
        return height, width

    def _tiles_along(self, count: int) -> float:
        """Return the length of a side in tiles of which there are `count`, which overlap."""
        return 1 + max(0, count - 1) * (1 - self.overlap)

    @property
    def further(self) -> dict[str, object]:
        """Arguments that are set, for the keys of caches: without them they are as they were."""
        found = {} if self.sample_bits is None else {"sample_bits": self.sample_bits}
        return found if self.tiles is None else {**found, "tiles": self.tiles, "overlap": self.overlap}

    def empty(self, count: int) -> np.ndarray:
        """Return places for resized photos, uint8 zeros `[count, H, W, 3]`."""
        return np.zeros((count, *self.shape), np.uint8)

    def content(self, photo: Any) -> bytes:
        """Return the bytes of the file of a `batches.Photo`, or `UnreadableImage`."""
        return read_photo(photo.file)

    def __call__(self, source: str | Path | bytes | BinaryIO) -> np.ndarray:
        """Open a photo and resize it; uint8 of the `shape`, or `UnreadableImage`."""
        return self.resize_image(open_image(source, self.decode_size, self.sample_bits))

    def resize_image(self, image: Image.Image) -> np.ndarray:
        """Resize what `open_image(..., min_size=self.decode_size)` gave to uint8 of the `shape`."""
        whole = self._whole(image)
        return np.concatenate([whole, *self._tiles(image)]) if self.tiles else whole

    def _tiles(self, image: Image.Image) -> Iterator[np.ndarray]:
        """Yield each tile, uint8 `[height, width, 3]`."""
        (rows, columns), (height, width) = self.grid, self.size
        high, wide = image.height / self._tiles_along(rows), image.width / self._tiles_along(columns)
        for row in range(rows):
            for column in range(columns):
                left, top = column * wide * (1 - self.overlap), row * high * (1 - self.overlap)
                right, bottom = min(left + wide, image.width), min(top + high, image.height)
                box = (left, top, right, bottom)
                yield np.array(image.resize((width, height), Image.Resampling.BILINEAR, box=box))

    def _whole(self, image: Image.Image) -> np.ndarray:
        """Return the whole photo, uint8 `[height, width, 3]`."""
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
        check_arguments(values, cls, "preprocess")
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
