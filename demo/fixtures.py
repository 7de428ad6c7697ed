"""The thirteen components, drawn as bodies on the wall; they differ in shape, not in colour."""

from collections.abc import Callable

import numpy as np

from demo.parts import RUBBER, Pen, Style, disc, rect, ring, shade, slot, turned
from demo.scene import Colour

PLUGS: tuple[Colour, ...] = ((44, 46, 50), (52, 74, 108), (70, 74, 72), (96, 92, 86), (60, 50, 46))


def channel_rail(pen: Pen, style: Style, half: float, pitch: float, reach: float) -> None:
    """Draw an upright slotted steel channel with its lips."""
    body, lip = style.colour, shade(style.colour, 1.1)
    pen.solid(rect(-half, -reach, half, reach), body, 0.16, bevel=0.02, gloss=50)
    for v in np.arange(-reach + 0.6 * pitch, reach, pitch):
        pen.pocket(slot(0, v, 0.2 * pitch, 0.24 * half), (28, 27, 27), 0.02, bevel=0.01)
    for side in (-1, 1):
        edges = sorted((side * half, side * 0.76 * half))
        pen.solid(rect(edges[0], -reach, edges[1], reach), lip, 0.30, bevel=0.03, gloss=60)


def channel_bracket(pen: Pen, style: Style) -> None:
    """Slotted channel upright on the wall, with an arm across it and a plate at its foot."""
    half, reach = style.near(0.30), style.near(1.12, 0.06)
    channel_rail(pen, style, half, 0.46, reach)
    arm = style.near(0.12, 0.4)
    across = rect(-0.88, arm - 0.17, 0.88, arm + 0.17)
    pen.solid(across, shade(style.colour, 1.03), 0.42, bevel=0.05, gloss=60)
    pen.solid(rect(-0.88, arm - 0.05, 0.88, arm + 0.05), shade(style.colour, 0.72), 0.36, bevel=0.02)
    for u in (-0.66, 0.66):
        pen.bolt(u, arm, 0.17, style, 0.42)
    pen.bolt(0, -0.72, 0.14, style, 0.16, key=False)


def channel_bracket_bolt(pen: Pen, style: Style) -> None:
    """Close-up of the bolt in a wide slotted channel."""
    half = style.near(1.02, 0.08)
    pen.solid(rect(-half, -2.6, half, 2.6), style.colour, 0.12, bevel=0.03, gloss=50)
    for side in (-1, 1):
        edges = sorted((side * half, side * 0.8 * half))
        pen.solid(rect(edges[0], -2.6, edges[1], 2.6), shade(style.colour, 1.1), 0.36, bevel=0.06, gloss=60)
    for v in (-1.42, 1.42):
        pen.pocket(slot(0, v, 0.34, 0.24), (28, 27, 27), 0.0, bevel=0.02)
    pen.bolt(0, 0, style.near(0.52, 0.08), style, 0.12)


def circular_connection(pen: Pen, style: Style) -> None:
    """Round flange with a rim, a ring of bolts and an open middle."""
    outer, inner, number = style.near(0.98, 0.05), style.near(0.46), int(style.rng.integers(6, 9))
    pen.solid(disc(0, 0, outer, 60), style.colour, 0.16, bevel=0.03, gloss=50, holes=[disc(0, 0, inner)])
    pen.solid(ring(0, 0, 0.94 * outer), shade(style.colour, 1.06), 0.24, width=0.09, bevel=0.04, gloss=50)
    pen.pocket(disc(0, 0, inner, 48), shade((92, 88, 82), style.rng.uniform(0.6, 1)), -0.35, bevel=0.03)
    pen.solid(ring(0, 0, inner), shade(style.colour, 0.95), 0.26, width=0.09, bevel=0.04)
    turn, r = style.rng.uniform(0, 1), (outer + inner) / 2 + 0.01
    for i in range(number):
        angle = turn + 2 * np.pi * i / number
        pen.bolt(r * np.cos(angle), r * np.sin(angle), 0.135, style, 0.16, key=i % 2 == 0)


def grout_hole(pen: Pen, style: Style) -> None:
    """Small round hole in a dished, trowelled patch, closed by a plug with a square key."""
    r, plug = style.near(0.44, 0.08), PLUGS[style.rng.integers(len(PLUGS))]
    patch = disc(0, 0, 1.62 * r, 26) * style.rng.uniform(0.93, 1.07, (26, 1))
    grey = int(style.rng.integers(125, 165))
    pen.solid(patch, (grey, grey, grey - 6), 0.03, bevel=0.06, metal=False)
    pen.solid(disc(0, 0, 1.18 * r, 48), shade(style.colour, 0.95), 0.09, bevel=0.04, gloss=40)
    pen.pocket(disc(0, 0, 0.95 * r, 48), (30, 28, 27), -0.3, bevel=0.03)
    if style.state == "missing":
        pen.pocket(disc(0, 0, 0.86 * r, 48), (9, 8, 8), -0.6, bevel=0.03)
        return
    shift = 0.5 * r if style.state == "loose" else 0.0
    pen.solid(disc(shift, 0.6 * shift, 0.84 * r, 48), plug, -0.04 + shift, bevel=0.05, gloss=80)
    pen.solid(ring(shift, 0.6 * shift, 0.70 * r), shade(plug, 1.25), 0.02 + shift, width=0.05, bevel=0.02)
    key = 0.24 * r
    square = rect(-key, -key, key, key) @ turned(style.rng.uniform(0, 1.5)) + (shift, 0.6 * shift)
    pen.solid(square, shade(plug, 0.3), -0.2 + shift, bevel=0.02)


def radial_connection(pen: Pen, style: Style) -> None:
    """Tapered pocket in the concrete across a joint, with a bolt lying in it aslant."""
    wide, side = style.near(0.92, 0.06), style.rng.choice((-1, 1))
    pen.pocket(rect(-0.03, -3, 0.03, 3), (48, 46, 44), -0.1)
    outline = [(-wide, -0.34), (wide, -0.62), (wide, 0.62), (-wide, 0.34)]
    inside = [(-0.9 * wide, -0.26), (0.92 * wide, -0.52), (0.92 * wide, 0.52), (-0.9 * wide, 0.26)]
    grey = style.rng.uniform(0.55, 0.8)
    pen.pocket(np.array(outline) * (side, 1), shade((112, 108, 102), grey), -0.22, bevel=0.03)
    pen.pocket(np.array(inside) * (side, 1), shade((92, 88, 84), grey), -0.42, bevel=0.05)
    plate = rect(0.42, -0.44, 0.66, 0.44) * (side * wide, 1)
    pen.solid(plate, style.colour, -0.05, bevel=0.03, gloss=50)
    if style.state != "missing":
        lying = [(-0.78 * wide * side, 0), (0.72 * wide * side, 0)]
        pen.solid(lying, style.bolt, 0.02, width=0.2, bevel=0.06, gloss=80)
        for share in np.linspace(-0.7, 0.1, 12):
            u = share * wide * side
            pen.solid([(u, -0.1), (u, 0.1)], shade(style.bolt, 0.5), 0.0, width=0.025, bevel=0)
    pen.bolt(0.56 * side * wide, 0, 0.25, style, -0.02)


def circular_joint(pen: Pen, style: Style) -> None:
    """Joint between two rings: a level groove with its gasket, held by two clamps."""
    gap = style.near(0.22, 0.12)
    for v in (-gap, gap):
        edge = [(-4, 1.25 * v), (4, 1.25 * v)]
        pen.solid(edge, (150, 148, 142), 0.07, width=0.12, bevel=0.05, metal=False)
    pen.pocket(rect(-4, -gap, 4, gap), (62, 60, 58), -0.25, bevel=0.03)
    pen.solid([(-4, 0), (4, 0)], RUBBER, -0.02, width=0.24, bevel=0.08, gloss=70)
    pen.solid([(-4, 0), (4, 0)], shade(RUBBER, 0.5), -0.04, width=0.04, bevel=0.0)
    for u in (-0.82, 0.82):
        pen.solid(rect(u - 0.15, -0.52, u + 0.15, 0.52), style.colour, 0.14, bevel=0.03, gloss=50)
        pen.bolt(u, -0.37, 0.11, style, 0.14)
        pen.bolt(u, 0.37, 0.11, style, 0.14, key=False)


def radial_joint(pen: Pen, style: Style) -> None:
    """Joint between two segments of a ring: an upright stepped groove with wooden packers across it."""
    gap, step = style.near(0.15, 0.12), 0.42 * style.rng.choice((-1, 1))
    path = [(-step / 2, -4), (-step / 2, 0), (step / 2, 0), (step / 2, 4)]
    pen.pocket(rect(-step / 2 - gap, -4, -step / 2 + gap, gap), (52, 50, 48), -0.25)
    pen.pocket(rect(step / 2 - gap, -gap, step / 2 + gap, 4), (52, 50, 48), -0.25)
    pen.pocket(rect(-abs(step) / 2 - gap, -gap, abs(step) / 2 + gap, gap), (52, 50, 48), -0.25)
    pen.solid(path, RUBBER, -0.06, width=0.12, bevel=0.05, gloss=70)
    for v in (-1.15, -0.62, 0.62, 1.15):
        u = -step / 2 if v < 0 else step / 2
        pen.solid(rect(u - 0.4, v - 0.1, u + 0.4, v + 0.1), (164, 132, 88), 0.1, bevel=0.03, metal=False)
        grain = [(u - 0.36, v + 0.02), (u + 0.36, v - 0.02)]
        pen.solid(grain, (132, 102, 66), 0.1, width=0.02, bevel=0, metal=False)
    pen.solid(rect(-0.3, -0.2, 0.3, 0.2), style.colour, 0.12, bevel=0.03, gloss=50)
    pen.bolt(0, 0, 0.14, style, 0.12)


def centre_support(pen: Pen, style: Style) -> None:
    """Diamond plate with a bolt at each corner and a thick pipe stub in the middle."""
    reach = style.near(1.1, 0.05)
    diamond = np.array([(0, -reach), (reach, 0), (0, reach), (-reach, 0)])
    pen.solid(diamond, style.colour, 0.14, bevel=0.03, gloss=50)
    pen.solid(0.42 * reach * np.array([(-1.05, 0), (0, -1.05), (1.05, 0), (0, 1.05)]), style.colour, 0.16)
    for angle in np.arange(4) * np.pi / 2 + np.pi / 4:
        fin = np.array([(0.2, -0.05), (0.74, -0.05), (0.74, 0.05), (0.2, 0.05)]) * reach @ turned(angle)
        pen.solid(fin, shade(style.colour, 0.95), 0.4, bevel=0.03)
    pen.solid(disc(0, 0, 0.42 * reach, 48), shade(style.colour, 1.06), 0.75, bevel=0.06, gloss=60)
    pen.pocket(disc(0, 0, 0.30 * reach, 48), (34, 32, 31), 0.05, bevel=0.03)
    for i, (u, v) in enumerate(diamond * 0.72):
        pen.bolt(u, v, 0.15, style, 0.14, key=i % 2 == 0)


def centre_support_bolt(pen: Pen, style: Style) -> None:
    """Close-up of the bolt in a corner of the diamond plate, over the pipe stub."""
    pen.solid([(0, -1.35), (2.7, 1.35), (0, 4), (-2.7, 1.35)], style.colour, 0.14, bevel=0.04, gloss=50)
    pen.solid(disc(0, 1.5, 0.82, 48), shade(style.colour, 1.06), 0.7, bevel=0.08, gloss=60)
    pen.pocket(disc(0, 1.5, 0.58, 48), (34, 32, 31), 0.05, bevel=0.04)
    pen.solid([(0, -1.12), (2.5, 1.38)], shade(style.colour, 1.1), 0.22, width=0.12, bevel=0.05)
    pen.solid([(0, -1.12), (-2.5, 1.38)], shade(style.colour, 1.1), 0.22, width=0.12, bevel=0.05)
    pen.bolt(0, 0, style.near(0.44, 0.08), style, 0.14)


def _roller(pen: Pen, style: Style, u: float, v: float, half: float, radius: float, angle: float) -> None:
    """Draw a conveyor roller: a round drum with end caps."""
    drum = rect(-half, -radius, half, radius) @ turned(angle) + (u, v)
    pen.solid(drum, shade(style.colour, 1.0), 0.75, bevel=0.5 * radius, gloss=90)
    for side in (-1, 1):
        end = side * half
        cap = rect(end - 0.05, -0.8 * radius, end + 0.05, 0.8 * radius) @ turned(angle) + (u, v)
        pen.solid(cap, RUBBER, 0.6, bevel=0.3 * radius)


def conveyor_support(pen: Pen, style: Style) -> None:
    """Trough of three rollers on a beam with two feet."""
    beam = shade(style.colour, 0.8)
    pen.solid(rect(-1.2, 0.42, 1.2, 0.68), beam, 0.3, bevel=0.04, gloss=40)
    for u in (-0.9, 0.9):
        pen.solid(rect(u - 0.13, 0.5, u + 0.13, 1.2), beam, 0.24, bevel=0.03)
        pen.solid(rect(u - 0.3, 1.1, u + 0.3, 1.28), beam, 0.3, bevel=0.03)
        pen.bolt(u, 0.55, 0.14, style, 0.3)
    for u in (-0.42, 0.42):
        pen.solid([(u, 0.5), (u, 0.1)], beam, 0.2, width=0.12)
    tilt = style.near(0.55)
    _roller(pen, style, 0, 0.12, 0.42, 0.2, 0)
    _roller(pen, style, -0.86, -0.2, 0.44, 0.2, tilt)
    _roller(pen, style, 0.86, -0.2, 0.44, 0.2, -tilt)


def conveyor_support_bolt(pen: Pen, style: Style) -> None:
    """Close-up of the bolt in the beam between the rollers."""
    beam = shade(style.colour, 0.8)
    pen.solid(rect(-3.5, -0.62, 3.5, 0.66), beam, 0.16, bevel=0.05, gloss=40)
    pen.solid(rect(-3.5, 0.54, 3.5, 0.70), shade(beam, 1.15), 0.34, bevel=0.05)
    side = style.rng.choice((-1, 1))
    _roller(pen, style, -0.72 * side, -0.98, 0.64, 0.3, 0)
    _roller(pen, style, 0.86 * side, -1.14, 0.7, 0.3, -0.4 * side)
    pen.bolt(0, 0.02, style.near(0.42, 0.08), style, 0.16)


def _grating(pen: Pen, style: Style, v0: float, v1: float, reach: float, pitch: float) -> None:
    """Draw a walkway's grating, seen from below."""
    pen.pocket(rect(-reach, v0, reach, v1), (34, 33, 33), 0.05)
    for u in np.arange(-reach, reach + 0.01, pitch):
        pen.solid([(u, v0), (u, v1)], shade(style.colour, 1.05), 0.3, width=0.26 * pitch, bevel=0.02)
    for v in (v0, (v0 + v1) / 2, v1):
        pen.solid([(-reach, v), (reach, v)], style.colour, 0.34, width=0.3 * pitch, bevel=0.02, gloss=40)


def walkway_support(pen: Pen, style: Style) -> None:
    """Triangle of angle iron that carries a grating."""
    side = style.rng.choice((-1, 1))
    _grating(pen, style, -1.1, -0.66, 1.35, 0.2)
    flip = np.array([side, 1])
    upright, arm = (np.array([(-0.95, -0.62), (-0.95, 1.15)]), np.array([(-1.05, -0.5), (1.1, -0.5)]))
    pen.solid(upright * flip, style.colour, 0.22, width=0.26, bevel=0.04, gloss=40)
    pen.solid(arm * flip, style.colour, 0.32, width=0.24, bevel=0.04, gloss=40)
    brace = np.array([(-0.92, 0.95), (0.95, -0.5)]) * flip
    pen.solid(brace, shade(style.colour, 0.95), 0.28, width=0.22, bevel=0.05, gloss=40)
    for u, v, key in ((-0.95, 0.1, True), (-0.95, 0.85, True), (0.85, -0.48, False)):
        pen.bolt(u * side, v, 0.15, style, 0.3, key=key)


def walkway_support_bolt(pen: Pen, style: Style) -> None:
    """Close-up of the bolt where the brace meets the upright, under the grating."""
    side = style.rng.choice((-1, 1))
    _grating(pen, style, -1.5, -0.84, 2.8, 0.3)
    brace = np.array([(0, 0), (2.6, -1.5)]) * (side, 1)
    pen.solid(brace, shade(style.colour, 0.95), 0.2, width=0.5, bevel=0.06)
    pen.solid([(0, -0.9), (0, 3)], style.colour, 0.26, width=0.92, bevel=0.06, gloss=40)
    pen.bolt(0, 0.1, style.near(0.43, 0.08), style, 0.26)


FIXTURES: dict[str, Callable[[Pen, Style], None]] = {
    "Channel Bracket-Bolt": channel_bracket_bolt,
    "Channel Bracket": channel_bracket,
    "Circular Connection": circular_connection,
    "Grout Hole": grout_hole,
    "Radial Connection": radial_connection,
    "Centre Support": centre_support,
    "Walkway Support": walkway_support,
    "Circular Joint": circular_joint,
    "Conveyor Support": conveyor_support,
    "Walkway Support-Bolt": walkway_support_bolt,
    "Centre Support-Bolt": centre_support_bolt,
    "Conveyor Support-Bolt": conveyor_support_bolt,
    "Radial Joint": radial_joint,
}
