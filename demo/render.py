"""From a photo's description to its pixels and its file."""

import io

import numpy as np
from numpy.random import default_rng
from PIL import Image, ImageEnhance

from demo.defects import DRAW, STATES
from demo.fixtures import FIXTURES
from demo.parts import Pen, Style
from demo.plan import Photo, plan_demo
from demo.scene import Light, Scene, View
from demo.texture import add_noise, sample
from demo.wall import build_wall

WORK_SIDE = 1280  # pixels; larger photos are drawn at this size and get their fine grain afterwards
ASIDE = 0.7  # share of the way from the middle to the edge, at which a far fixture may be
_EXIF_ORIENTATION = 0x0112
_STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def draw_photo(photo: Photo, seed: int, distance: float = 1.0) -> Image.Image:
    """Draw a photo upright, as displayed.

    Args:
        photo: its description.
        seed: of the set; the pixels depend on it, on the description and on the distance only.
        distance: of the camera, as a multiple of a near one.

    Returns:
        An RGB image of `photo.width` x `photo.height`.
    """
    shrink = max(1.0, max(photo.width, photo.height) / WORK_SIDE)
    size = (round(photo.width / shrink), round(photo.height / shrink))
    rng = default_rng((seed, 21, photo.view))
    scene = _compose(photo, seed, _view(size, rng, distance))
    picture = scene.photograph(_light(rng, seed, photo.asset), rng)
    if shrink > 1:
        picture = _enlarge(picture, (photo.width, photo.height), rng)
    if photo.duplicate_of and not photo.twin:
        picture = _retouch(picture, default_rng((seed, 22, photo.index)))
    return picture


def encode_photo(photo: Photo, seed: int, distance: float = 1.0) -> bytes:
    """Return a photo's JPEG file: stored turned where its orientation says so."""
    stored = draw_photo(photo, seed, distance)
    exif = Image.Exif()
    if photo.orientation != 1:
        stored = stored.transpose(_STORED[photo.orientation])
        exif[_EXIF_ORIENTATION] = photo.orientation
    buffer = io.BytesIO()
    quality = 86 + photo.index % 5 if not photo.duplicate_of else 80
    stored.save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def render_photo(seed: int, width: int, height: int) -> Image.Image:
    """Return one textured photo of exactly `width` x `height` pixels, for benchmarks.

    Args:
        seed: which photo.
        width: pixels across, 64 to 4000.
        height: pixels down; at most 12 million pixels in all.

    Raises:
        InputError: the size or the seed is out of range.
    """
    first = plan_demo(20, seed, width, height)[0]
    return draw_photo(Photo(0, first.id, first.asset, first.components, first.defects, width, height), seed)


def _view(size: tuple[int, int], rng: np.random.Generator, distance: float) -> View:
    """Draw the photographer's stand: shift, distance, turn and slant; from afar the fixture may be aside."""
    scale = min(size) * rng.uniform(0.33, 0.42) / distance
    aside = 5 * ASIDE * (1 - 1 / distance)
    centre = [side / 2 + (scale + aside * side / 2) * rng.uniform(-0.2, 0.2) for side in size]
    lean = rng.uniform(-0.06, 0.06, 2) / distance
    return View(size, (centre[0], centre[1]), scale, rng.uniform(-0.12, 0.12), (lean[0], lean[1]))


def _light(rng: np.random.Generator, seed: int, asset: int) -> Light:
    """Draw lamp and camera; the lamp hangs on one side of an asset, the rest changes from view to view."""
    angle = default_rng((seed, 23, asset)).uniform(-2.9, -0.25) + rng.uniform(-0.35, 0.35)
    warm, tint = rng.uniform(-0.20, 0.22), rng.uniform(-0.04, 0.04)
    return Light(
        direction=(0.85 * float(np.cos(angle)), 0.85 * float(np.sin(angle))),
        exposure=rng.uniform(0.88, 1.5),
        gains=(1 + warm, 1 + tint, 1 - warm),
        spot=(rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)),
        falloff=rng.uniform(0.35, 1.05),
        noise=rng.uniform(2.0, 8.0),
        blur=max(0.0, rng.uniform(-0.9, 0.9)),
    )


def _compose(photo: Photo, seed: int, view: View) -> Scene:
    """Draw wall, neighbour, main fixture and its defects; all of it belongs to the asset, not to the view."""
    scene = build_wall(view, default_rng((seed, 24, photo.asset)))
    if len(photo.components) > 1:
        rng = default_rng((seed, 25, photo.asset))
        side = rng.choice((-1, 1))
        at = (side * rng.uniform(1.45, 1.7), rng.uniform(-0.95, 0.95))
        pen = Pen(scene, at, rng.uniform(0.40, 0.52), rng.uniform(-0.15, 0.15), main=False)
        FIXTURES[photo.components[1]](pen, Style.draw(rng))
    scene.fixture.paste(0, (0, 0, *scene.size))  # a defect may cover the main fixture only
    rng = default_rng((seed, 26, photo.asset))
    states = [STATES[name] for name in photo.defects if name in STATES]
    coat = "pale" if "Corrosion-Surface" in photo.defects else "any"
    coat = "paint" if "Coating Failure" in photo.defects else coat
    style = Style.draw(rng, states[0] if states else "ok", coat)
    FIXTURES[photo.components[0]](Pen(scene, angle=rng.uniform(-0.06, 0.06)), style)
    scene.reach = 1.22 if photo.components[0].endswith("-Bolt") else 1.0
    for rank, name in enumerate(photo.defects):
        if name in DRAW:
            DRAW[name](scene, default_rng((seed, 27, photo.asset, rank)), 0.55 if rank else 1.0)
    return scene


def _enlarge(picture: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Bring a photo to its full size and give it the grain of its pixels, strip by strip."""
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    grain = sample("grain", (1024, 512), rng)
    for top in range(0, size[1], 512):
        strip = np.asarray(picture.crop((0, top, size[0], min(top + 512, size[1])))).astype(np.float32)
        for left in range(0, size[0], 1024):
            part = strip[:, left : left + 1024]
            tone = np.asarray(grain, np.float32)[: part.shape[0], : part.shape[1], None]
            part *= 1 + (tone - 128) * np.float32(0.0022)
        add_noise(strip, 4.0, rng)
        picture.paste(Image.fromarray(np.clip(strip, 0, 255).astype(np.uint8)), (0, top))
    return picture


def _retouch(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a near-duplicate: re-saved, slightly cropped or brightened."""
    way = rng.integers(3)
    if way == 0:
        return picture
    if way == 1:
        return ImageEnhance.Brightness(picture).enhance(rng.uniform(0.85, 1.15))
    x, y = (int(side * rng.uniform(0.01, 0.03)) for side in picture.size)
    box = (x, y, picture.width - x, picture.height - y)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)
