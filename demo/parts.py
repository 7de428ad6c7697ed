"""The parts of fixtures: shapes, bolts, and the pen that draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageFilter

from demo.scene import Colour, Scene

STEEL: tuple[Colour, ...] = (
    (172, 176, 180), (150, 154, 158), (196, 196, 190), (138, 142, 150), (168, 162, 150)
)  # fmt: skip
PAINT: tuple[Colour, ...] = (  # the last three are the colours of rust
    (78, 120, 178), (94, 150, 112), (214, 184, 84), (178, 180, 184), (124, 134, 148),
    (148, 86, 56), (112, 62, 42), (208, 144, 82),
)  # fmt: skip
Points = Sequence[tuple[float, float]] | np.ndarray
RUBBER: Colour = (38, 38, 42)
HOLE: Colour = (20, 18, 17)


@dataclass
class Style:
    """The differences between fixtures of one kind.

    Attributes:
        rng: draws the rest.
        colour: of the body.
        bolt: colour of bolts and nuts.
        state: of the bolts: `ok`, `missing` or `loose`.
    """

    rng: np.random.Generator
    colour: Colour
    bolt: Colour
    state: str = "ok"

    @classmethod
    def draw(cls, rng: np.random.Generator, state: str = "ok", coat: str = "any") -> "Style":
        """Draw a style; `coat` is `any`, `paint` (bright: it can come off) or `pale` (no colour of rust)."""
        steel, paint = STEEL[rng.integers(len(STEEL))], PAINT[rng.integers(len(PAINT))]
        bright = PAINT[rng.integers(3)]
        coated = coat == "paint" or rng.random() < 0.5
        colour = {"any": paint, "paint": bright, "pale": (*STEEL, *PAINT[:2])[rng.integers(7)]}[coat]
        colour = colour if coated else steel
        bolt = colour if coated and rng.random() < 0.5 else STEEL[rng.integers(3)]
        return cls(rng, shade(colour, rng.uniform(0.88, 1.1)), bolt, state)

    def near(self, value: float, share: float = 0.1) -> float:
        """Return `value`, give or take a share of it."""
        return float(value * (1 + self.rng.uniform(-share, share)))


@dataclass
class Pen:
    """Draws in a fixture's own units onto a scene.

    Attributes:
        scene: to draw on.
        at: where the fixture's (0, 0) lies, wall units.
        scale: wall units per unit of the fixture.
        angle: of the fixture, radians.
        main: whether it is the main fixture, which carries the defect.
    """

    scene: Scene
    at: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    angle: float = 0.0
    main: bool = True

    def place(self, points: Points) -> np.ndarray:
        """Return wall units, [n, 2], of points in the fixture's units."""
        return np.asarray(points, float) @ (turned(self.angle) * self.scale) + np.array(self.at)

    def solid(
        self,
        points: Points,
        colour: Colour,
        level: float,
        width: float = 0.0,
        bevel: float | None = None,
        gloss: int = 0,
        metal: bool = True,
        holes: Sequence[np.ndarray] = (),
    ) -> None:
        """Put a body on the wall, or a pocket into it.

        Args:
            points: outline, or path of a line.
            colour: of its surface.
            level: height of its surface over the wall; negative is a pocket.
            width: of a line through the points; 0 fills the outline.
            bevel: roundness of its edge; None is 0.02 wall units.
            gloss: 0 is dull, 255 is wet.
            metal: made of metal (or plastic), not of concrete.
            holes: outlines to leave out.
        """
        scene, unit = self.scene, self.scene.view.scale
        drawn = scene.mask(self.place(points), width * self.scale, 0.0, [self.place(hole) for hole in holes])
        if drawn is None:
            return
        box, mask = drawn
        scene.albedo.paste(colour, box, mask)
        scene.gloss.paste(gloss, box, mask)
        scene.metal.paste(255 if metal else 0, box, mask)
        scene.fixture.paste(255 if metal and self.main else 0, box, mask)
        radius = unit * (0.02 if bevel is None else bevel * self.scale)
        soft = mask.filter(ImageFilter.BoxBlur(radius)) if radius >= 0.5 else mask
        height = scene.height[box[1] : box[3], box[0] : box[2]]
        weight = np.asarray(soft, np.float32) * np.float32(1 / 255)
        height += weight * (np.float32(level * self.scale * unit) - height)

    def pocket(self, points: Points, colour: Colour, level: float, bevel: float = 0.02) -> None:
        """Draw a hole in the concrete."""
        self.solid(points, colour, level, metal=False, bevel=bevel)

    def bolt(self, u: float, v: float, r: float, style: Style, base: float = 0.0, key: bool = True) -> None:
        """Draw a hexagonal bolt of radius `r` with its washer on a body of height `base`.

        `key` bolts are those that a defect of the bolts befalls.
        """
        state = style.state if key else "ok"
        turn = style.rng.uniform(0, 1.05)
        metal, dark = style.bolt, shade(style.bolt, 0.45)
        if state == "missing":
            self.solid(disc(u, v, 1.42 * r), shade(metal, 0.8), base + 0.02, bevel=0.01)
            self.pocket(disc(u, v, 0.84 * r), HOLE, base - 0.5, bevel=0.05 * r)
            self.pocket(disc(u, v, 0.74 * r), (9, 8, 8), base - 0.6, bevel=0.0)
            return
        if state == "loose":
            self._loose_bolt(u, v, r, style, base)
            return
        self.solid(disc(u, v, 1.42 * r), shade(metal, 0.9), base + 0.07 * r, gloss=70)
        self.solid(disc(u, v, r, 6, turn), metal, base + 0.6 * r, bevel=0.10 * r, gloss=110)
        self.solid(ring(u, v, 0.80 * r), shade(metal, 1.08), base + 0.68 * r, width=0.03 * r, bevel=0.05 * r)
        self.solid(disc(u, v, 0.42 * r), shade(metal, 0.86), base + 0.95 * r, bevel=0.08 * r, gloss=90)
        self.solid(disc(u, v, 0.20 * r), dark, base + 0.93 * r, bevel=0.05 * r)

    def _loose_bolt(self, u: float, v: float, r: float, style: Style, base: float) -> None:
        """Draw a bolt that has backed out: bare seat, bare thread, nut hanging askew."""
        metal = style.bolt
        way = style.rng.choice((-1, 1)) * style.rng.uniform(0.35, 0.9)
        du, dv = 1.75 * r * np.sin(way), 1.75 * r * np.cos(way)
        self.solid(disc(u, v, 1.42 * r), shade(metal, 0.8), base + 0.03, bevel=0.01)
        self.solid(disc(u, v, 0.46 * r), shade(metal, 0.35), base + 0.02, bevel=0.03 * r)
        self.solid(
            [(u, v), (u + du, v + dv)], shade(metal, 0.75), base + 0.8 * r, width=0.72 * r, bevel=0.18 * r
        )
        side = np.array([np.cos(way), -np.sin(way)]) * 0.36 * r
        for share in np.linspace(0.12, 0.62, 6):
            middle = np.array([u + du * share, v + dv * share])
            self.solid(
                [middle - side, middle + side], shade(metal, 0.3), base + 0.72 * r, width=0.09 * r, bevel=0
            )
        nut = disc(0, 0, 1.02 * r, 6, style.rng.uniform(0, 1)) * (1.0, 0.72) @ turned(-way) + (u + du, v + dv)
        self.solid(nut, shade(metal, 1.04), base + 1.6 * r, bevel=0.12 * r, gloss=110)
        self.solid(
            disc(u + 1.1 * du, v + 1.1 * dv, 0.34 * r), shade(metal, 0.6), base + 1.75 * r, bevel=0.06 * r
        )


def shade(colour: Colour, factor: float) -> Colour:
    """Return a colour made lighter or darker."""
    return tuple(int(min(255, max(0, value * factor))) for value in colour)


def rect(u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    """Return a rectangle."""
    return np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])


def disc(u: float, v: float, r: float, corners: int = 36, turn: float = 0.0) -> np.ndarray:
    """Return a circle, or a regular polygon of few corners."""
    angle = turn + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.column_stack([u + r * np.cos(angle), v + r * np.sin(angle)])


def ring(u: float, v: float, r: float) -> np.ndarray:
    """Return a closed path around a circle."""
    points = disc(u, v, r)
    return np.vstack([points, points[:2]])


def slot(u: float, v: float, half: float, r: float) -> np.ndarray:
    """Return an upright slot: a rectangle with round ends."""
    arc = np.linspace(0, np.pi, 10)
    top = np.column_stack([u + r * np.cos(arc), v - half - r * np.sin(arc)])
    bottom = np.column_stack([u - r * np.cos(arc), v + half + r * np.sin(arc)])
    return np.vstack([top, bottom])


def turned(angle: float) -> np.ndarray:
    """Return the matrix that turns row vectors."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
