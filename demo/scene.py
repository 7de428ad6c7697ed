"""A wall seen through a phone: colours and heights that are drawn on, then lit into a photo.

Things are drawn in wall units: the main fixture sits at (0, 0) and reaches about 1 to each side; v is down.
A view maps wall units to pixels, with tilt and a little perspective. Heights are pixels towards the viewer;
light and shadow follow from them, so a bolt looks like a bolt from every side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from demo import texture

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # pixels: left, top, right, bottom
TEXELS = 170  # of the concrete bank, per wall unit
_REACH = 620  # texels that a view may reach from its centre


class View:
    """Maps wall units to pixels.

    Args:
        size: width and height of the picture, pixels.
        centre: where (0, 0) of the wall lies in the picture, pixels.
        scale: pixels per wall unit.
        angle: turn, radians.
        lean: perspective: how much scale changes per wall unit across and down.
    """

    def __init__(
        self,
        size: tuple[int, int],
        centre: tuple[float, float],
        scale: float,
        angle: float = 0.0,
        lean: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.size, self.scale = size, scale
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        (x, y), (p, q) = centre, lean
        self.matrix = np.array([[cos + x * p, -sin + x * q, x], [sin + y * p, cos + y * q, y], [p, q, 1]])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels, [n, 2], of points in wall units, [n, 2]."""
        mapped = np.column_stack([points, np.ones(len(points))]) @ self.matrix.T
        return mapped[:, :2] / np.maximum(mapped[:, 2:], 0.2)

    def concrete(self, offset: tuple[float, float]) -> Image.Image:
        """Return the concrete bank as seen: an RGB image of the view's size."""
        width, height = self.size
        corners = np.array([(0, 0), (width, 0), (0, height), (width, height), (width / 2, height / 2)])
        inverse = np.linalg.inv(self.matrix)
        wall = np.column_stack([corners, np.ones(5)]) @ inverse.T
        reach = np.abs(wall[:, :2] / wall[:, 2:]).max()
        texels = min(TEXELS, _REACH / reach)
        x, y = (_REACH + share * (2 * texture.TILE - 2 * _REACH) for share in offset)
        to_bank = np.array([[texels, 0, x], [0, texels, y], [0, 0, 1]]) @ inverse
        data = (to_bank / to_bank[2, 2]).ravel()[:8]
        return texture.concrete().transform(
            self.size, Image.Transform.PERSPECTIVE, tuple(data), Image.Resampling.NEAREST
        )


@dataclass(frozen=True)
class Light:
    """How a photo is lit and taken; see `Scene.photograph`."""

    direction: tuple[float, float] = (-0.5, -0.6)  # towards the lamp, across and down
    exposure: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    spot: tuple[float, float] = (0.5, 0.5)  # where the torch points, shares of the picture
    falloff: float = 0.8
    noise: float = 4.0
    blur: float = 0.0


class Scene:
    """A picture in the making: albedo, height, gloss and the mask of metal.

    Args:
        view: of the camera.
        wall: colour of the concrete.
        offset: the piece of the concrete bank, two shares of 0 to 1.
        tone: contrast of the concrete's mottling.
    """

    def __init__(self, view: View, wall: Colour, offset: tuple[float, float], tone: float = 1.0) -> None:
        self.view, self.size, self.tone = view, view.size, tone
        self.reach = 1.0  # of the main fixture, wall units
        self.albedo = Image.new("RGB", self.size, wall)
        self.metal = Image.new("L", self.size)  # of everything made of metal: dirt instead of pores
        self.fixture = Image.new("L", self.size)  # metal of the main fixture: where corrosion and paint sit
        self.gloss = Image.new("L", self.size)
        self.height = np.zeros(self.size[::-1], np.float32)
        self.skin = view.concrete(offset)

    def mask(
        self, points: np.ndarray, width: float = 0.0, blur: float = 0.0, holes: Sequence[np.ndarray] = ()
    ) -> tuple[Box, Image.Image] | None:
        """Draw a polygon or a line smoothly.

        Args:
            points: [n, 2] in wall units.
            width: of a line through the points, wall units; 0 fills the polygon.
            blur: softness of the edge, wall units.
            holes: polygons to leave out.

        Returns:
            The box of pixels and the mask of its size, or None where nothing of it is in the picture.
        """
        xy = self.view.pixels(points)
        stroke, soft = width * self.view.scale, blur * self.view.scale
        pad = stroke / 2 + 2 * soft + 2
        low = np.maximum(np.floor(xy.min(0) - pad), 0).astype(int)
        high = np.minimum(np.ceil(xy.max(0) + pad), self.size).astype(int)
        if (high - low < 2).any():
            return None
        extent = (high - low) * 2
        image = Image.new("L", (int(extent[0]), int(extent[1])))
        draw = ImageDraw.Draw(image)
        flat = [tuple(point) for point in ((xy - low) * 2)]
        if width:
            draw.line(flat, fill=255, width=max(1, round(2 * stroke)), joint="curve")
        else:
            draw.polygon(flat, fill=255)
        for hole in holes:
            draw.polygon([tuple(point) for point in (self.view.pixels(hole) - low) * 2], fill=0)
        image = image.reduce(2)
        if soft >= 0.5:
            image = image.filter(ImageFilter.BoxBlur(1.4 * soft))
        return (int(low[0]), int(low[1]), int(high[0]), int(high[1])), image

    def stain(self, box: Box | None, mask: Image.Image, colour: Colour, opacity: float = 1.0) -> None:
        """Colour the surface where the mask is, the whole picture's without a box; its shape stays."""
        if opacity < 1:
            mask = mask.point([round(value * opacity) for value in range(256)])
        self.albedo.paste(colour, box or (0, 0, *self.size), mask)

    def photograph(self, light: Light, rng: np.random.Generator) -> Image.Image:
        """Light the scene and take the photo."""
        shade, shine = self._shade(light)
        skin = np.asarray(self.skin).astype(np.float32)
        metal = np.asarray(self.metal, np.float32) * np.float32(1 / 255)
        tone = (skin[..., 0] - 128) * (0.0034 * self.tone) + (skin[..., 2] - 128) * (0.0026 * self.tone)
        tone *= 1 - 0.6 * metal
        shade *= 1 + tone
        shade *= self._lamp(light)
        pixels = np.asarray(self.albedo).astype(np.float32)
        pixels *= shade[..., None]
        pixels += shine[..., None]
        pixels *= np.array(light.gains, np.float32) * np.float32(light.exposure)
        np.minimum(pixels, 185 + (pixels - 185) * np.float32(0.45), out=pixels)  # highlights roll off
        texture.add_noise(pixels, light.noise, rng)
        np.clip(pixels, 0, 255, out=pixels)
        photo = Image.fromarray(pixels.astype(np.uint8))
        return photo.filter(ImageFilter.GaussianBlur(light.blur)) if light.blur >= 0.3 else photo

    def _shade(self, light: Light) -> tuple[np.ndarray, np.ndarray]:
        """Return the shading, and the shine that is added, [height, width] each."""
        relief = np.asarray(self.skin.getchannel("G"), np.float32) - 128
        relief *= 0.002 + 0.011 * (1 - np.asarray(self.metal, np.float32) * np.float32(1 / 255))
        surface = self.height + relief
        slope = np.zeros_like(surface)
        slope[:, 1:-1] = (surface[:, 2:] - surface[:, :-2]) * np.float32(-0.5 * light.direction[0])
        slope[1:-1] += (surface[2:] - surface[:-2]) * np.float32(-0.5 * light.direction[1])
        slope /= 1 + 0.6 * np.abs(slope)
        gloss = np.asarray(self.gloss, np.float32) * np.float32(1 / 255)
        shine = np.clip(slope - 0.12 + 0.05 * gloss, 0, 0.6)
        shine *= shine * gloss * 260
        shade = np.clip(1 + 0.8 * slope, 0.25, 1.8)
        shade *= self._shadow(light)
        return shade, shine

    def _shadow(self, light: Light) -> np.ndarray:
        """Return cast and contact shadows, [height, width], 1 in full light."""
        step = max(2, round(min(self.size) / 240))
        coarse = np.ascontiguousarray(self.height[::step, ::step])
        depth = np.zeros_like(coarse)
        rows, columns = coarse.shape
        for reach in (0.25, 0.5, 0.8, 1.15):
            lift = reach * 0.16 * self.view.scale  # height of a body that throws its shadow this far
            dx, dy = (round(reach * 0.16 * self.view.scale / step * part * 1.5) for part in light.direction)
            if abs(dx) >= columns - 1 or abs(dy) >= rows - 1:
                continue
            moved = np.pad(coarse, ((max(-dy, 0), max(dy, 0)), (max(-dx, 0), max(dx, 0))), "edge")
            moved = moved[max(dy, 0) :, max(dx, 0) :][:rows, :columns]
            np.maximum(depth, moved - coarse - 0.55 * lift, out=depth)
        deep = np.clip(depth / (0.05 * self.view.scale), 0, 1)
        cast = Image.fromarray((deep * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.6))
        low, span = coarse.min(), max(float(np.ptp(coarse)), 1.0)
        bytes_ = Image.fromarray(((coarse - low) * (255 / span)).astype(np.uint8))
        around = np.asarray(bytes_.filter(ImageFilter.BoxBlur(0.07 * self.view.scale / step)), np.float32)
        contact = np.clip((around * (span / 255) + low - coarse) / (0.22 * self.view.scale), 0, 0.35)
        dark = (1 - 0.62 * np.asarray(cast, np.float32) / 255) * (1 - contact)
        image = Image.fromarray((dark * 255).astype(np.uint8)).resize(self.size, Image.Resampling.BILINEAR)
        return np.asarray(image, np.float32) * np.float32(1 / 255)

    def _lamp(self, light: Light) -> np.ndarray:
        """Return the torch's cone with the lens's vignetting, [height, width]."""
        x = np.linspace(0, 1, 40, dtype=np.float32)[None]
        y = np.linspace(0, 1, 30, dtype=np.float32)[:, None]
        spot = (x - light.spot[0]) ** 2 + (y - light.spot[1]) ** 2
        lamp = 1.14 - 0.85 * light.falloff * spot / (0.35 + spot)
        lamp *= 1 - 0.35 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
        image = Image.fromarray(lamp.astype(np.float32)).resize(self.size, Image.Resampling.BICUBIC)
        return np.asarray(image)


def noisy(mask: Image.Image, noise: Image.Image, threshold: int, softness: int = 40) -> Image.Image:
    """Return the mask broken up by noise into islands with ragged edges.

    Args:
        mask: an L image.
        noise: an L image of the same size.
        threshold: bytes; below it nothing is left.
        softness: bytes from nothing to all.
    """
    return ImageChops.multiply(mask, noise.point(_ramp(threshold, softness)))


@lru_cache(maxsize=256)
def _ramp(threshold: int, softness: int) -> list[int]:
    """Return the table that maps bytes from nothing at `threshold` to all."""
    return [round(255 * min(1.0, max(0.0, (value - threshold) / softness))) for value in range(256)]
