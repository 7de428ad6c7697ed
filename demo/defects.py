"""The seven defects, drawn on the main fixture and on the concrete around it.

`Missing` and `Loose` are states of the bolts and drawn with the fixture; the others come on top of it.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops

from demo.parts import turned
from demo.scene import Colour, Scene, noisy
from demo.texture import sample
from demo.wall import CHALKS, blob

STATES = {"Missing": "missing", "Loose": "loose"}


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return a colour between two."""
    return tuple(round(a + share * (b - a)) for a, b in zip(one, other, strict=True))


def downstream(mask: Image.Image, reach: float) -> Image.Image:
    """Return where water from the mask runs: the mask smeared downwards, fading over `reach` pixels."""
    step = max(1, mask.height // 60)
    coarse = np.asarray(mask.reduce(step), np.float32)
    fade = np.float32(np.exp(-step / reach))
    flow = coarse.copy()
    for row in range(1, len(flow)):
        np.maximum(flow[row], flow[row - 1] * fade, out=flow[row])
    image = Image.fromarray(flow.astype(np.uint8))
    return image.resize(mask.size, Image.Resampling.BILINEAR)


def corrosion_heavy(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Draw dark, flaking rust with pits, and the brown run-off under it."""
    metal, unit = scene.fixture, scene.view.scale
    run = ImageChops.subtract(downstream(metal, 0.8 * unit), metal)
    run = noisy(run, sample("drip", scene.size, rng, unit / 150), 96, 80)
    scene.stain(None, run, (92, 54, 32), 0.8 * strength)
    rust = sample("mottle", scene.size, rng, unit / 110)
    age = rng.uniform(0.0, 1.0)  # old rust is darker and greyer
    scene.stain(
        None, noisy(metal, rust, round(160 - 105 * strength), 35), mix((88, 48, 28), (58, 46, 40), age)
    )
    flakes = sample("flake", scene.size, rng, unit / 120)
    scene.stain(None, noisy(metal, flakes, 128, 40), mix((142, 76, 38), (96, 72, 58), age), 0.9 * strength)
    scene.stain(None, noisy(metal, flakes, 182, 30), mix((182, 110, 62), (138, 106, 84), age), 0.8 * strength)
    pits = sample("mottle", scene.size, rng, unit / 190)
    pitted = noisy(metal, pits, 168, 26)
    scene.stain(None, pitted, (30, 19, 15), 0.9 * strength)
    weight = np.asarray(metal, np.float32) * np.float32(0.055 * unit * strength / 255 / 128)
    scene.height += weight * (np.asarray(flakes, np.float32) - 128)
    scene.height -= np.asarray(pitted, np.float32) * np.float32(0.03 * unit * strength / 255)
    dull = metal.point([round(value * strength) for value in range(256)])
    scene.gloss.paste(0, mask=dull)


def corrosion_surface(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Draw a thin, light orange film in blotches; the metal below stays smooth."""
    metal, unit = scene.fixture, scene.view.scale
    film = sample("cloud", scene.size, rng, unit / 260)
    colour = mix((208, 134, 66), (160, 108, 74), rng.uniform(0, 1))
    scene.stain(None, noisy(metal, film, 108, 24), colour, 0.9 * strength)
    specks = sample("mottle", scene.size, rng, unit / 170)
    scene.stain(None, noisy(metal, specks, 152, 30), (168, 88, 38), 0.9 * strength)


def coating_failure(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Draw paint that has come off in patches down to the primer, with curled edges."""
    metal, unit = scene.fixture, scene.view.scale
    film = sample("cloud", scene.size, rng, unit / 330)
    edge, bare = noisy(metal, film, 112, 8), noisy(metal, film, 124, 8)
    scene.stain(None, edge, (236, 232, 220), strength)
    scene.stain(None, bare, (150, 138, 124), strength)
    scene.stain(None, noisy(bare, sample("mottle", scene.size, rng), 160, 30), (150, 92, 54), 0.7 * strength)
    scene.height -= np.asarray(edge, np.float32) * np.float32(0.05 * unit / 255)
    scene.gloss.paste(0, mask=bare)


def drummy(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Draw hollow concrete: map cracking, and the tester's hatched chalk circle."""
    concrete = scene.metal.point([255 - value for value in range(256)])
    centre, r = rng.uniform(-0.12, 0.12, 2), rng.uniform(1.14, 1.34) * scene.reach
    _cracks(scene, rng, centre, r, concrete)
    chalk: Colour = CHALKS[rng.integers(len(CHALKS))]
    outline = blob(rng, *centre, r, 30) * (1.1, 0.96)
    closed = np.vstack([outline, outline[: rng.integers(1, 3)]])
    angle = rng.choice((-1, 1)) * rng.uniform(0.6, 0.95)
    lines = []
    for offset in np.arange(-0.95 * r, r, rng.uniform(0.2, 0.27)):
        half = np.sqrt(max(0.0, r**2 - offset**2))
        ends = np.array([(-half, offset), (half, offset)]) + rng.uniform(-0.03, 0.03, (2, 2))
        lines.append(ends @ turned(angle) * (1.1, 0.96) + centre)
    for path, width in ((closed, 0.095), *((line, 0.06) for line in lines)):
        if drawn := scene.mask(path, width=width, blur=0.012):
            box, mask = drawn
            mask = ImageChops.multiply(mask, concrete.crop(box))
            scene.stain(
                box, noisy(mask, sample("grain", mask.size, rng, 1.5), 48, 60), chalk, 0.95 * strength
            )


def _cracks(
    scene: Scene, rng: np.random.Generator, centre: np.ndarray, r: float, concrete: Image.Image
) -> None:
    """Draw hairline cracks that branch out from around the fixture."""
    for _ in range(9):
        angle = rng.uniform(0, 2 * np.pi)
        path = [centre + 0.45 * r * np.array([np.cos(angle), np.sin(angle)])]
        for _ in range(rng.integers(4, 8)):
            angle += rng.uniform(-0.7, 0.7)
            path.append(path[-1] + rng.uniform(0.1, 0.2) * np.array([np.cos(angle), np.sin(angle)]))
        if drawn := scene.mask(np.array(path), width=rng.uniform(0.014, 0.024)):
            box, mask = drawn
            mask = ImageChops.multiply(mask, concrete.crop(box))
            scene.stain(box, mask, (40, 37, 34), 0.85)


def leaks(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Draw water that runs out at the fixture: dark wet streaks with white crusts along them."""
    number, spread = int(rng.integers(2, 4)), rng.uniform(0.26, 0.4)
    for k in range(number):
        u = (k - (number - 1) / 2) * spread * 1.5 + rng.uniform(-0.12, 0.12)
        top, half = rng.uniform(-0.1, 0.35), rng.uniform(0.19, 0.29)
        v = np.linspace(top, 4, 16)
        sway = np.cumsum(rng.uniform(-0.05, 0.05, 16))
        wide = half * np.clip(0.35 + 0.75 * (v - top) / 0.8, 0.35, 1.0) * rng.uniform(0.85, 1.15, 16)
        _streak(scene, rng, np.column_stack([u + sway, v]), wide, strength)


def _streak(
    scene: Scene, rng: np.random.Generator, path: np.ndarray, wide: np.ndarray, strength: float
) -> None:
    """Draw one wet streak with its crust."""
    side, unit = np.column_stack([wide, np.zeros(len(wide))]), scene.view.scale
    crust = scene.mask(np.vstack([path - 1.6 * side, (path + 1.6 * side)[::-1]]), blur=0.03)
    water = scene.mask(np.vstack([path - side, (path + side)[::-1]]), blur=0.03)
    if crust:
        box, mask = crust
        white = noisy(mask, sample("drip", mask.size, rng, unit / 150), 20, 110)
        white = noisy(white, sample("mottle", mask.size, rng, unit / 90), 55, 60)
        scene.stain(box, white, (240, 238, 230), 0.97 * strength)
        part = scene.height[box[1] : box[3], box[0] : box[2]]
        part += np.asarray(white, np.float32) * np.float32(0.012 * unit / 255)
    if water:
        box, mask = water
        dark = noisy(mask, sample("drip", mask.size, rng, unit / 120), 0, 110)
        scene.stain(box, dark, (42, 43, 42), 0.88 * strength)
        scene.gloss.paste(150, box, mask)
    middle = rng.uniform(-0.5, 0.5)
    for share in (middle, -middle):
        if line := scene.mask(path + share * side, width=rng.uniform(0.02, 0.045), blur=0.01):
            box, mask = line
            drips = noisy(mask, sample("drip", mask.size, rng), 90, 60)
            scene.stain(box, drips, (238, 238, 232), 0.85 * strength)


DRAW: dict[str, Callable[[Scene, np.random.Generator, float], None]] = {
    "Corrosion-Heavy": corrosion_heavy,
    "Corrosion-Surface": corrosion_surface,
    "Coating Failure": coating_failure,
    "Drummy": drummy,
    "Leaks": leaks,
}
