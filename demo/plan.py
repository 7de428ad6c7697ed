"""The demo set before a pixel is drawn: assets, photos, labels, sizes, duplicates.

The shares are those of a real team's 911 labelled photos. Photos are taken from one endless stream of assets
that depends on the seed only, so photo 17 is the same whether 100 or 10,000 photos are asked for.
"""

from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
from numpy.random import default_rng

from src.errors import InputError

HEALTHY = "Intact"
COMPONENTS = {  # percent of photos that show it
    "Channel Bracket-Bolt": 27.8,
    "Channel Bracket": 24.3,
    "Circular Connection": 23.5,
    "Grout Hole": 15.3,
    "Radial Connection": 11.1,
    "Centre Support": 5.4,
    "Walkway Support": 2.3,
    "Circular Joint": 2.1,
    "Conveyor Support": 1.9,
    "Walkway Support-Bolt": 1.9,
    "Centre Support-Bolt": 1.2,
    "Conveyor Support-Bolt": 1.1,
    "Radial Joint": 0.7,
}
DEFECTS = {  # percent of the photos that show a defect
    "Drummy": 35.8,
    "Corrosion-Heavy": 23.2,
    "Corrosion-Surface": 17.8,
    "Leaks": 16.6,
    "Missing": 7.2,
    "Loose": 2.5,
    "Coating Failure": 0.7,
}
HEALTHY_SHARE = 0.10
NEIGHBOUR_SHARE = 0.30  # of assets
NEIGHBOUR_SEEN = 0.62  # of their photos: 18.6 % of photos show two components
SECOND_DEFECT_SHARE = 0.04
EXIF_SHARE, NEAR_SHARE = 0.15, 0.02
PHOTOS_PER_ASSET = (0.20, 0.25, 0.22, 0.16, 0.10, 0.07)  # 1 to 6
TWINS_AFTER = (6, 12, 150)  # byte-identical copies follow the first asset past each of these photos
RARE, RARE_PHOTOS = 3.0, 2  # percent, below which a component is rare; most photos of a rare asset
MIN_ASSETS = 3  # of every label, so that training, validation and test can each have one
SIDES = (64, 4000)
MAX_PIXELS = 4000 * 3000
MAX_COUNT = 100_000

_AFFINITY = {  # how readily a defect occurs on a fixture of this sort; scaled to the shares above
    "bolt": (6, 30, 26, 5, 22, 9, 1),
    "steel": (16, 32, 26, 8, 6, 2, 3),
    "concrete": (56, 8, 6, 30, 2, 0, 0),
}
_SECOND = {  # possible second defects of a main one
    "Drummy": ("Leaks",),
    "Leaks": ("Drummy", "Corrosion-Surface"),
    "Corrosion-Heavy": ("Leaks", "Drummy"),
    "Corrosion-Surface": ("Drummy",),
    "Missing": ("Corrosion-Surface", "Drummy"),
    "Loose": ("Corrosion-Surface",),
    "Coating Failure": ("Corrosion-Surface",),
}


@dataclass(frozen=True)
class Photo:
    """One photo to draw.

    Attributes:
        index: place in the stream.
        id: file name without extension; without the label.
        asset: number of the photographed asset; drives everything that stays.
        components: visible ones, the main one first.
        defects: visible ones, the main one first; `("Intact",)` for a healthy asset.
        width: pixels across, as displayed.
        height: pixels down, as displayed.
        orientation: EXIF orientation it is stored with: 1, 3, 6 or 8.
        duplicate_of: ID of the photo that this one repeats, or empty.
        twin: true where the repetition is byte-identical.
        view: drives everything that changes from view to view; a repetition has its original's.
    """

    index: int
    id: str
    asset: int
    components: tuple[str, ...]
    defects: tuple[str, ...]
    width: int
    height: int
    orientation: int = 1
    duplicate_of: str = ""
    twin: bool = False
    view: int = 0

    @property
    def asset_name(self) -> str:
        """Return the asset's name in the tables."""
        return f"A{self.asset:05d}"


def sort_of(component: str) -> str:
    """Return the sort of a component, which decides its defects: `bolt`, `steel` or `concrete`."""
    if component.endswith("-Bolt"):
        return "bolt"
    return "steel" if component.endswith(("Bracket", "Support")) else "concrete"


def plan_demo(count: int = 600, seed: int = 7, width: int = 640, height: int = 480) -> list[Photo]:
    """Describe the demo set's photos without drawing them.

    Args:
        count: photos, 20 to 100,000.
        seed: of everything; from 0 on.
        width: pixels of most photos; some are portrait, 16:9 or square.
        height: pixels of most photos.

    Returns:
        `count` descriptions; with the same seed and size, those of a smaller count are a prefix of it.

    Raises:
        InputError: an argument is out of range.
    """
    _check(count, seed, width, height)
    stream = _Stream(seed, (width, height))
    while len(stream.photos) < count:
        stream.add_asset()
    return stream.photos[:count]


def _check(count: int, seed: int, width: int, height: int) -> None:
    """Raise InputError where an argument is out of range."""
    if not 20 <= count <= MAX_COUNT:
        raise InputError(f"demo: count={count} is out of range; ask for 20 to {MAX_COUNT} photos")
    if seed < 0:
        raise InputError(f"demo: seed={seed} is negative; use 0 or more")
    low, high = SIDES
    if min(width, height) < low or max(width, height) > high or width * height > MAX_PIXELS:
        raise InputError(
            f"demo: photos of {width}x{height} pixels are out of range; use {low}x{low} to {high}x3000"
        )


class _Stream:
    """The endless stream of assets and their photos; counts labels so that the shares are met early."""

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        self.seed, self.size = seed, size
        self.photos: list[Photo] = []
        self.assets = 0
        self.names = list(COMPONENTS)
        self.shares = np.array(list(COMPONENTS.values())) / 100  # per photo, main or second
        self.main_shares = self.shares / self.shares.sum()
        self.seen = np.zeros(len(self.names))
        self.main_seen = np.zeros(len(self.names))
        self.defect_names = [*DEFECTS, HEALTHY]
        sick = np.array(list(DEFECTS.values())) / sum(DEFECTS.values())
        self.defect_shares = np.append(sick * (1 - HEALTHY_SHARE), HEALTHY_SHARE)
        self.defect_seen = np.zeros(len(self.defect_names))
        self.given = _given_to(self.names, self.main_shares, self.defect_shares)
        self.twins = list(TWINS_AFTER)
        rare = [(name, None) for name in self.names if COMPONENTS[name] < RARE] * MIN_ASSETS
        rare += [(None, name) for name in ("Loose", "Coating Failure")] * MIN_ASSETS
        slots = 6 + np.sort(default_rng((seed, 10)).permutation(95)[: len(rare)])
        order = default_rng((seed, 11)).permutation(len(rare))
        self.reserved = {int(slot): rare[i] for slot, i in zip(slots, order, strict=True)}

    def add_asset(self) -> None:
        """Draw the next asset's labels and append its photos."""
        asset, rng = self.assets, default_rng((self.seed, 1, self.assets))
        self.assets += 1
        number = 1 + int(rng.choice(6, p=PHOTOS_PER_ASSET))
        component, defect = self.reserved.get(asset, (None, None))
        if component or defect:
            share = self.main_shares[self.names.index(component)] if component else DEFECTS[defect] / 104
            number = int(np.clip(round(600 * share / MIN_ASSETS), 1, RARE_PHOTOS))
        main = self._component(rng, number, component, defect)
        number = min(number, RARE_PHOTOS) if COMPONENTS[main] < RARE else number
        defect = defect or self._defect(rng, number, main)
        second = ""
        if rng.random() < SECOND_DEFECT_SHARE and defect != HEALTHY:
            second = str(rng.choice(_SECOND[defect]))
        neighbour = self._neighbour(rng, number, main) if rng.random() < NEIGHBOUR_SHARE else ""
        self.main_seen[self.names.index(main)] += number
        self.defect_seen[self.defect_names.index(defect)] += number
        first = len(self.photos)
        for _ in range(number):
            self._add_photo(asset, main, neighbour, tuple(filter(None, (defect, second))), first)
        if self.twins and len(self.photos) > self.twins[0]:
            self.twins.pop(0)
            original, index = self.photos[-1], len(self.photos)
            name = _name(self.seed, index, original.asset)
            twin = replace(original, index=index, id=name, duplicate_of=original.id, twin=True)
            self.photos.append(twin)

    def _component(self, rng: np.random.Generator, number: int, fixed: str | None, defect: str | None) -> str:
        """Draw the main component among those that are behind their share."""
        if fixed:
            return fixed
        behind = self.main_shares * (self.main_seen.sum() + number) - self.main_seen
        weights = np.maximum(behind, 0.02 * self.main_shares)
        if defect:
            weights = weights * self.given[:, self.defect_names.index(defect)]
        return self.names[rng.choice(len(self.names), p=weights / weights.sum())]

    def _defect(self, rng: np.random.Generator, number: int, main: str) -> str:
        """Draw the main defect among those that occur on the component and are behind their share."""
        behind = self.defect_shares * (self.defect_seen.sum() + number) - self.defect_seen
        boost = np.clip(behind / (self.defect_shares * 60), -1.5, 1.5)
        weights = self.given[self.names.index(main)] * np.exp(boost)
        return self.defect_names[rng.choice(len(weights), p=weights / weights.sum())]

    def _neighbour(self, rng: np.random.Generator, number: int, main: str) -> str:
        """Draw the second component: of another family, and behind its share."""
        family = main.removesuffix("-Bolt")
        behind = self.shares * (len(self.photos) + number) - self.seen
        weights = np.maximum(behind, 0.05 * self.shares)
        weights[[name.removesuffix("-Bolt") == family for name in self.names]] = 0
        return self.names[rng.choice(len(self.names), p=weights / weights.sum())]

    def _add_photo(self, asset: int, main: str, neighbour: str, defects: tuple[str, ...], first: int) -> None:
        """Append one photo of an asset whose first photo has the index `first`."""
        index = len(self.photos)
        rng = default_rng((self.seed, 2, index))
        seen = neighbour and rng.random() < NEIGHBOUR_SEEN
        components = (main, neighbour) if seen else (main,)
        size, orientation = _size(rng, *self.size)
        photo = Photo(
            index, _name(self.seed, index, asset), asset, components, defects, *size, orientation, view=index
        )
        if index > first and rng.random() < NEAR_SHARE / 0.65:  # 65 % of photos are not their asset's first
            original = self.photos[index - 1]
            if not original.duplicate_of:
                photo = replace(original, index=index, id=photo.id, orientation=1, duplicate_of=original.id)
        for name in photo.components:
            self.seen[self.names.index(name)] += 1
        self.photos.append(photo)


def _given_to(names: list[str], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return P(defect | component), [components, defects], with both margins met (iterative proportions)."""
    sick = np.array([_AFFINITY[sort_of(name)] for name in names], dtype=float)
    table = np.column_stack([sick / sick.sum(1, keepdims=True), np.full(len(names), HEALTHY_SHARE)])
    for _ in range(200):
        table *= (rows / table.sum(1))[:, None]
        table *= columns / table.sum(0)
    return table / table.sum(1, keepdims=True)


def _size(rng: np.random.Generator, width: int, height: int) -> tuple[tuple[int, int], int]:
    """Draw a photo's size as displayed, and the EXIF orientation that it is stored with."""
    draw, turn = rng.random(), rng.random()
    orientation = 1 if turn >= EXIF_SHARE else int(rng.choice((6, 6, 8, 3)))
    if draw < 0.80:
        return (width, height), orientation
    if draw < 0.90:
        return (height, width), orientation
    if draw < 0.96:
        return (width, max(SIDES[0], min(height, width * 9 // 16))), orientation
    return (min(width, height),) * 2, orientation


def _name(seed: int, index: int, asset: int) -> str:
    """Return a file name as teams give them: the asset's tag, a date, a shuffled number."""
    block, place = divmod(index, 10_000)
    number = (place * 7919 + 1237 * (seed % 10_000)) % 10_000  # 7919 is coprime to 10,000: no number twice
    day = date(2023, 1, 9) + timedelta(days=300 * block + int(default_rng((seed, 3, index)).integers(300)))
    return f"A{asset:05d}_{day:%Y%m%d}_{number:04d}"
