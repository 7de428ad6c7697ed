"""The demo set's two tables: the team's labels (with their faults), and the truth."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.random import default_rng

from demo.plan import COMPONENTS, DEFECTS, HEALTHY, Photo
from src.errors import InputError

TABLE, TRUTH = "image_data.csv", "truth.csv"


@dataclass(frozen=True)
class Entry:
    """The team's labels of a photo.

    Attributes:
        photo: the truth.
        components: as written down; a label may lack or be wrong.
        defects: as written down; a label may lack or be wrong.
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
    """Return the team's labels of the photos, with planted errors.

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
    rng = default_rng((seed, 30, photo.index))
    planted: list[str] = []
    main: list[str] = []
    written: list[tuple[str, ...]] = []
    for labels, shares in ((photo.components, COMPONENTS), (photo.defects, DEFECTS)):
        kept: list[str] = []
        for rank, label in enumerate(labels):
            draw, name = rng.random(), other_label(rng, labels, shares)
            if not missing <= draw < missing + wrong:
                name = label
            else:
                planted.append(f"wrong:{label}->{name}")
            if draw < missing and label != HEALTHY:
                planted.append(f"missing:{label}")
            else:
                kept.append(name)
            if rank == 0:
                main.append(name)
        written.append(tuple(dict.fromkeys(kept)))
    return Entry(photo, written[0], written[1], tuple(planted), "_".join(main))


def other_label(rng: np.random.Generator, labels: tuple[str, ...], shares: dict[str, float]) -> str:
    """Draw another label of the kind, frequent ones more often."""
    names = [name for name in shares if name not in labels]
    weights = np.array([shares[name] for name in names])
    return names[rng.choice(len(names), p=weights / weights.sum())]


def table_rows(entry: Entry, seed: int) -> list[dict[str, str]]:
    """Return the rows of `image_data.csv` for one photo, in one of the ways that exports come in."""
    rng = default_rng((seed, 31, entry.photo.index))
    blank = (("nan", "nan"), ("component", "defect"), ("", ""))[rng.integers(3)]
    components, defects, way = entry.components, entry.defects, rng.random()
    if way < 0.4:  # one row per kind
        pairs = [(";".join(components), blank[1])] if components else []
        pairs += [(blank[0], ";".join(defects))] if defects else []
    elif way < 0.6:  # all in one row
        pairs = [(";".join(components) or blank[0], ";".join(defects) or blank[1])]
    elif way < 0.8:  # one row per label
        pairs = [(name, blank[1]) for name in components] + [(blank[0], name) for name in defects]
    else:  # one row per pair
        pairs = [(a or blank[0], b or blank[1]) for a, b in zip_longest(components, defects)]
    photo = entry.photo
    return [
        {"ID": photo.id, "component": component, "defect": defect, "asset": photo.asset_name}
        for component, defect in pairs or [blank]
    ]


def truth_row(entry: Entry) -> dict[str, str]:
    """Return the row of `truth.csv` for one photo."""
    photo = entry.photo
    return {
        "ID": photo.id,
        "path": entry.path,
        "asset": photo.asset_name,
        "components": ";".join(photo.components),
        "defects": ";".join(photo.defects),
        "main_component": photo.components[0],
        "main_defect": photo.defects[0],
        "duplicate_of": photo.duplicate_of,
        "planted": ";".join(entry.planted),
    }


def csv_bytes(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Return rows as a CSV file."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def read_truth(root: str | Path) -> list[dict[str, str]]:
    """Return the rows of the `truth.csv` of a complete demo set."""
    with (Path(root) / TRUTH).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
