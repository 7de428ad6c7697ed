"""The tunnel's lining and its everyday marks: formwork lines, damp, stains, cables, chalk and paint.

Nothing here is a defect. The browns, oranges, whites and darks of the defects turn up on any photo, so
colour alone does not give a defect away.
"""

import numpy as np

from demo.parts import Pen, disc, rect, ring, turned
from demo.scene import Colour, Scene, View, noisy
from demo.texture import sample

CHALKS: tuple[Colour, ...] = ((244, 242, 236), (238, 220, 96), (70, 128, 190), (228, 120, 60))
PAINTS: tuple[Colour, ...] = ((222, 110, 44), (206, 60, 48), (228, 196, 62), (70, 120, 190), (226, 226, 220))
CABLES: tuple[Colour, ...] = ((30, 30, 33), (96, 58, 36), (206, 98, 36), (112, 114, 116), (44, 52, 78))
RUSTS: tuple[Colour, ...] = ((122, 66, 36), (158, 92, 48), (92, 52, 34), (184, 120, 66))
RUST_OLD: tuple[Colour, ...] = ((86, 48, 30), (136, 74, 40), (36, 24, 19))
RUST_FILM: tuple[Colour, ...] = ((178, 122, 74), (200, 130, 66), (166, 90, 42))
_DIGITS = {  # strokes in a box of 1 x 2
    "0": [[(0.5, 0), (0, 0.6), (0, 1.4), (0.5, 2), (1, 1.4), (1, 0.6), (0.5, 0)]],
    "1": [[(0.2, 0.5), (0.6, 0), (0.6, 2)]],
    "2": [[(0, 0.4), (0.5, 0), (1, 0.5), (0, 2), (1, 2)]],
    "3": [[(0, 0), (1, 0), (0.4, 0.8), (1, 1.3), (0.6, 2), (0, 1.8)]],
    "4": [[(0.7, 2), (0.7, 0), (0, 1.3), (1, 1.3)]],
    "5": [[(1, 0), (0.1, 0), (0.1, 0.9), (0.9, 1), (0.9, 1.7), (0.4, 2), (0, 1.8)]],
    "6": [[(0.8, 0), (0, 1.2), (0.3, 2), (1, 1.7), (0.8, 1), (0.1, 1.3)]],
    "7": [[(0, 0), (1, 0), (0.3, 2)], [(0.3, 1), (0.9, 1)]],
    "8": [[(0.5, 1), (0, 0.5), (0.5, 0), (1, 0.5), (0, 1.5), (0.5, 2), (1, 1.5), (0.5, 1)]],
    "9": [[(1, 0.7), (0.3, 0.9), (0.1, 0.3), (0.8, 0), (1, 0.6), (0.6, 2)]],
}


def build_wall(view: View, rng: np.random.Generator) -> Scene:
    """Return an asset's bare wall with its marks, seen from `view`."""
    grey = rng.uniform(92, 152)  # darker than most metal, as a tunnel's lining is
    tint = rng.uniform(-1, 1, 2) * (0.10, 0.035)
    wall = tuple(int(grey * (1 + part)) for part in (tint[0], tint[1], -tint[0]))
    offset = tuple(float(value) for value in rng.uniform(0, 1, 2))
    scene = Scene(view, wall, offset, tone=rng.uniform(0.7, 1.3))
    formwork(scene, rng)
    chances = {iron: 0.5, damp: 0.45, run_off: 0.4, rust_spot: 0.5, paint_mark: 0.36, number: 0.4, cable: 0.4}
    for draw, chance in chances.items():
        own = np.random.default_rng(rng.integers(2**31))
        if own.random() < chance:
            draw(scene, own)
    return scene


def aside(rng: np.random.Generator, near: float = 1.15, far: float = 1.9) -> tuple[float, float]:
    """Draw a place next to the main fixture."""
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(near, far)
    return 1.15 * reach * np.cos(angle), 0.85 * reach * np.sin(angle)


def formwork(scene: Scene, rng: np.random.Generator) -> None:
    """Draw the lines that the boards left, with the holes of their ties."""
    if rng.random() < 0.75:
        v, pitch = rng.uniform(-1.2, 1.2), rng.uniform(0.9, 1.8)
        for k in range(-3, 4):
            at = v + k * pitch
            path = np.array([(-5.0, at + rng.uniform(-0.02, 0.02)), (5.0, at + rng.uniform(-0.02, 0.02))])
            level = rng.choice((-0.02, 0.025))
            Pen(scene).solid(path, _tone(scene, 0.90), level, width=0.02, bevel=0, metal=False)
            darker = rng.random() < 0.5  # one board than the next
            if darker and (band := scene.mask(rect(-6, at, 6, at + pitch), blur=0.01)):
                scene.stain(*band, _tone(scene, rng.choice((0.8, 1.15))), 0.35)
    if rng.random() < 0.5:
        u = rng.uniform(-1.8, 1.8)
        path = np.array([(u, -5.0), (u + rng.uniform(-0.1, 0.1), 5.0)])
        Pen(scene).solid(path, _tone(scene, 0.88), -0.02, width=0.018, bevel=0, metal=False)
    for _ in range(rng.integers(0, 4)):
        u, v = aside(rng, 1.3, 2.2)
        Pen(scene).solid(disc(u, v, 0.055), _tone(scene, 0.55), -0.1, bevel=0.01, metal=False)


def _tone(scene: Scene, factor: float) -> Colour:
    """Return the wall's colour, lighter or darker."""
    wall = scene.albedo.getpixel((scene.size[0] // 2, 0))
    return tuple(int(min(255, value * factor)) for value in wall)


def blob(rng: np.random.Generator, u: float, v: float, r: float, corners: int = 22) -> np.ndarray:
    """Return an uneven round outline."""
    wave = 1 + 0.18 * np.sin(
        np.arange(corners) * 2 * np.pi / corners * rng.integers(2, 5) + rng.uniform(0, 6)
    )
    return (disc(0, 0, r, corners) * wave[:, None]) * rng.uniform(0.8, 1.2, 2) + (u, v)


def damp(scene: Scene, rng: np.random.Generator) -> None:
    """Draw a dark damp patch, dull and without crust."""
    if drawn := scene.mask(blob(rng, *aside(rng, 0.9, 1.8), rng.uniform(0.6, 1.2)), blur=0.12):
        box, mask = drawn
        mask = noisy(mask, sample("cloud", mask.size, rng), 60, 120)
        scene.stain(box, mask, _tone(scene, 0.42), rng.uniform(0.35, 0.75))


def run_off(scene: Scene, rng: np.random.Generator) -> None:
    """Draw old, dry water marks running down the wall."""
    side = rng.choice((-1, 1)) * rng.uniform(1.2, 1.9)
    if drawn := scene.mask(rect(side - 0.35, -4, side + 0.35, 4), blur=0.1):
        box, mask = drawn
        mask = noisy(mask, sample("drip", mask.size, rng), 110, 90)
        scene.stain(
            box, mask, ((222, 218, 208), (112, 82, 58), (66, 66, 66))[rng.integers(3)], rng.uniform(0.3, 0.6)
        )


def rust_spot(scene: Scene, rng: np.random.Generator) -> None:
    """Draw rust-coloured dirt: a spot of rust from a nail or a tie, with its run-off."""
    for _ in range(rng.integers(1, 4)):
        u, v = aside(rng, 1.2, 1.9)
        r, colour = rng.uniform(0.1, 0.55), RUSTS[rng.integers(len(RUSTS))]
        for outline in (blob(rng, u, v, r), rect(u - 0.5 * r, v, u + 0.5 * r, v + rng.uniform(0.5, 1.5))):
            if drawn := scene.mask(outline, blur=0.3 * r):
                box, mask = drawn
                mask = noisy(mask, sample("mottle", mask.size, rng), 80, 80)
                scene.stain(box, mask, colour, rng.uniform(0.55, 0.95))


def iron(scene: Scene, rng: np.random.Generator) -> None:
    """Draw stains of iron-bearing water on the concrete: rust's colours, without relief."""
    old = rng.random() < 0.55
    base, patch, light = RUST_OLD if old else RUST_FILM
    for _ in range(rng.integers(1, 3)):
        u, v = aside(rng, 1.2, 1.8)
        r = rng.uniform(0.45, 1.0)
        band = rng.random() < 0.4
        outline = rect(u - 0.6 * r, -4, u + 0.6 * r, 4) if band else blob(rng, u, v, r)
        if drawn := scene.mask(outline, blur=0.12 * r):
            box, mask = drawn
            mask = noisy(mask, sample("cloud", mask.size, rng), 70, 60)
            scene.stain(box, mask, base, rng.uniform(0.65, 0.95))
            scene.stain(box, noisy(mask, sample("mottle", mask.size, rng), 120, 50), patch, 0.85)
            scene.stain(box, noisy(mask, sample("mottle", mask.size, rng), 165, 40), light, 0.8)


def paint_mark(scene: Scene, rng: np.random.Generator) -> None:
    """Draw a surveyor's mark of spray paint: a dot, a cross, an arrow or a line."""
    u, v = aside(rng, 1.25, 1.8)
    colour, size = PAINTS[rng.integers(len(PAINTS))], rng.uniform(0.14, 0.3)
    du, dv = size * np.cos(angle := rng.uniform(0, 6.3)), size * np.sin(angle)
    line, cross = [(u - du, v - dv), (u + du, v + dv)], [(u - dv, v + du), (u + dv, v - du)]
    head = [(u + dv * 0.7, v - du * 0.7), (u + du, v + dv), (u - dv * 0.7, v + du * 0.7)]
    shapes = ([line], [line, cross], [line, head], [ring(u, v, size), line])[rng.integers(4)]
    _strokes(scene, rng, shapes, colour, rng.uniform(0.05, 0.09), rng.uniform(0.7, 0.95))


def number(scene: Scene, rng: np.random.Generator) -> None:
    """Draw a number in chalk or crayon."""
    u, v = aside(rng, 1.2, 1.7)
    size, turn = rng.uniform(0.12, 0.2), rng.uniform(-0.2, 0.2)
    spin = turned(turn) * size
    shapes = []
    for i, digit in enumerate(str(rng.integers(10, 1000))):
        shapes += [(np.add(stroke, (1.5 * i - 2, -1))) @ spin + (u, v) for stroke in _DIGITS[digit]]
    _strokes(scene, rng, shapes, CHALKS[rng.integers(len(CHALKS))], 0.035, 0.85)


def _strokes(
    scene: Scene, rng: np.random.Generator, shapes: list, colour: Colour, width: float, opacity: float
) -> None:
    """Draw strokes of chalk or spray: broken where the concrete is rough."""
    for shape in shapes:
        if drawn := scene.mask(np.asarray(shape), width=width, blur=0.008):
            box, mask = drawn
            scene.stain(box, noisy(mask, sample("grain", mask.size, rng, 1.5), 70, 70), colour, opacity)


def cable(scene: Scene, rng: np.random.Generator) -> None:
    """Draw a cable or a hose along the wall, past the fixture."""
    colour, width = CABLES[rng.integers(len(CABLES))], rng.uniform(0.06, 0.13)
    side, bow = rng.choice((-1, 1)) * rng.uniform(1.05, 1.5), rng.uniform(-0.2, 0.2)
    t = np.linspace(-4, 4, 28)
    path = np.column_stack([t, side + bow * np.cos(t * rng.uniform(0.6, 1.2) + rng.uniform(0, 6))])
    if rng.random() < 0.4:
        path = path[:, ::-1] * (1.25, 1)
    Pen(scene).solid(path, colour, 0.1, width=width, bevel=0.4 * width, gloss=80)
