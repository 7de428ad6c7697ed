"""The demo set's two tables: what the team wrote down (with its faults), and the truth."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo.plan import COMPONENTS, DEFECTS, HEALTHY, Photo, rng_for
from src.errors import InputError

TABLE, TRUTH = "image_data.csv", "truth.csv"
TABLE_COLUMNS = ("ID", "component", "defect", "asset")
TRUTH_COLUMNS = (
    "ID", "path", "asset", "components", "defects", "main_component", "main_defect", "duplicate_of", "planted"
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What is written down about a photo.

    Attributes:
        photo: the truth.
        components: as written down; a label may lack or be wrong.
        defects: likewise.
        planted: the errors, such as `missing:Leaks` or `wrong:Loose->Missing`.
        folder: `<Component>_<Defect>` of the main pair; follows the truth, but for a wrong main label.
    """

    photo: Photo
    components: tuple[str, ...]
    defects: tuple[str, ...]
    planted: tuple[str, ...]
    folder: str

    @property
    def path(self) -> str:
        """Return the file's path, relative to the set's root."""
        return f"{self.folder}/{self.photo.id}.jpg"


def write_down(
    photos: Sequence[Photo], seed: int = 7, missing: float = 0.0, wrong: float = 0.0
) -> list[Entry]:
    """Return what the team wrote down about the photos, with planted errors.

    Args:
        photos: as planned.
        seed: of the errors.
        missing: share of labels, 0 to 0.5, that are not written down (`Intact` always is).
        wrong: share of labels, 0 to 0.5, written down as another one of their kind.

    Raises:
        InputError: a share is out of range.
    """
    for name, share in (("missing", missing), ("wrong", wrong)):
        if not 0 <= share <= 0.5:
            raise InputError(f"demo: {name}={share} is out of range; use a share from 0 to 0.5")
    return [_entry(photo, seed, missing, wrong) for photo in photos]


def _entry(photo: Photo, seed: int, missing: float, wrong: float) -> Entry:
    """Write down one photo."""
    rng = rng_for(seed, 30, photo.index)
    planted: list[str] = []
    main: list[str] = []
    written: list[tuple[str, ...]] = []
    for labels, shares in ((photo.components, COMPONENTS), (photo.defects, DEFECTS)):
        kept: list[str] = []
        for rank, label in enumerate(labels):
            draw, other = rng.random(), _other(rng, labels, shares)
            name = label
            if draw < missing and label != HEALTHY:
                planted.append(f"missing:{label}")
            elif missing <= draw < missing + wrong:
                name = other
                planted.append(f"wrong:{label}->{other}")
                kept.append(other)
            else:
                kept.append(label)
            if rank == 0:
                main.append(name)
        written.append(tuple(dict.fromkeys(kept)))
    return Entry(photo, written[0], written[1], tuple(planted), f"{main[0]}_{main[1]}")


def _other(rng: np.random.Generator, labels: tuple[str, ...], shares: dict[str, float]) -> str:
    """Draw another label of the kind, frequent ones more often."""
    names = [name for name in shares if name not in labels]
    weights = np.array([shares[name] for name in names])
    return names[rng.choice(len(names), p=weights / weights.sum())]


def table_rows(entry: Entry, seed: int) -> list[tuple[str, str, str, str]]:
    """Return the rows of `image_data.csv` for one photo, in one of the ways that exports come in."""
    rng = rng_for(seed, 31, entry.photo.index)
    blank = (("nan", "nan"), ("component", "defect"), ("", ""))[rng.integers(3)]
    components, defects, way = entry.components, entry.defects, rng.random()
    if way < 0.4:  # one row per kind
        pairs = [(";".join(components), blank[1]), (blank[0], ";".join(defects))]
        pairs = [pair for pair, labels in zip(pairs, (components, defects), strict=True) if labels]
    elif way < 0.6:  # all in one row
        pairs = [(";".join(components) or blank[0], ";".join(defects) or blank[1])]
    elif way < 0.8:  # one row per label
        pairs = [(name, blank[1]) for name in components] + [(blank[0], name) for name in defects]
    else:  # one row per pair
        number = max(len(components), len(defects))
        left = (*components, *[blank[0]] * (number - len(components)))
        right = (*defects, *[blank[1]] * (number - len(defects)))
        pairs = list(zip(left, right, strict=True))
    pairs = pairs or [blank]
    return [(entry.photo.id, component, defect, entry.photo.asset_name) for component, defect in pairs]


def truth_row(entry: Entry) -> tuple[str, ...]:
    """Return the row of `truth.csv` for one photo."""
    photo = entry.photo
    return (
        photo.id,
        entry.path,
        photo.asset_name,
        ";".join(photo.components),
        ";".join(photo.defects),
        photo.components[0],
        photo.defects[0],
        photo.duplicate_of,
        ";".join(entry.planted),
    )


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    os.replace(part, path)


def read_truth(root: str | Path) -> list[dict[str, str]]:
    """Return the rows of a demo set's `truth.csv`.

    Raises:
        InputError: there is no complete demo set.
    """
    path = Path(root) / TRUTH
    if not path.is_file():
        raise InputError(f"demo: {path} does not exist; make the demo set there first")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
