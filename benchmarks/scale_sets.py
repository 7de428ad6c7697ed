"""The data sets that `benchmarks.scale` measures on: small photos of the demo set, and records alone."""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from demo.plan import MAX_COUNT, plan_demo
from demo.render import encode_photo
from demo.tables import TABLE, TABLE_COLUMNS, Entry, table_rows, write_csv, write_down
from src.datamodules.records import Record
from src.errors import InputError

SEED, WIDTH, HEIGHT = 7, 160, 120
COPIES, NEAR = 0.02, 0.02  # share of records that repeat the one before: bit by bit, but for one bit


def photo_set(root: Path, count: int, processes: int) -> Path:
    """Return the folder of the set of `count` photos below `root`, drawn at the first call.

    It serves the folder reader (`Component_Defect`, the asset in the file name) and the table reader alike.
    A smaller set is the beginning of a larger one; what another set holds already is linked, not drawn.

    Args:
        root: the folder of all sets.
        count: photos, 20 to 100,000.
        processes: that draw.

    Raises:
        InputError: for a number of photos that the demo set does not go to.
    """
    folder = root / f"photos_{count}"
    if (folder / TABLE).is_file():
        return folder
    if not 20 <= count <= MAX_COUNT:
        raise InputError(f"sizes={count}: sets of 20 to {MAX_COUNT:,} photos can be drawn")
    shutil.rmtree(folder, ignore_errors=True)  # one that was not finished
    entries = write_down(plan_demo(count, SEED, WIDTH, HEIGHT), SEED)
    for name in {entry.folder for entry in entries}:
        (folder / name).mkdir(parents=True, exist_ok=True)
    others = [other for other in root.glob("photos_*") if (other / TABLE).is_file()]
    with ProcessPoolExecutor(processes) as pool:
        for _ in pool.map(partial(_draw, folder, others), _parts(entries)):
            pass
    rows = [row for entry in entries for row in table_rows(entry, SEED)]
    write_csv(folder / TABLE, TABLE_COLUMNS, rows)  # last: the set is complete
    return folder


def _parts(entries: Sequence[Entry], least: int = 250) -> list[list[Entry]]:
    """Cut the entries into parts for one process each, none between a photo and its byte-identical copy."""
    parts: list[list[Entry]] = [[]]
    for entry in entries:
        if len(parts[-1]) >= least and not entry.photo.twin:
            parts.append([])
        parts[-1].append(entry)
    return parts


def _draw(folder: Path, others: Sequence[Path], entries: Sequence[Entry]) -> None:
    """Draw photos, or link those that another set holds."""
    last = b""
    for entry in entries:
        held = next((other / entry.path for other in others if (other / entry.path).is_file()), None)
        if held:
            os.link(held, folder / entry.path)
            continue
        last = last if entry.photo.twin and last else encode_photo(entry.photo, SEED)
        (folder / entry.path).write_bytes(last)


def made_records(count: int, seed: int = SEED) -> list[Record]:
    """Return records as reading photos would give them, without photos: random hashes, some of them near.

    Groups hold 1 to 6 records, 20 labels of two kinds are as unequally frequent as in a real set, and a few
    records are byte-identical to the one before or differ from it in one bit of the hash.

    Args:
        count: of the records, 20 or more.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, np.uint64)
    draw, bits = rng.random(count), rng.integers(0, 64, count).astype(np.uint64)
    groups = np.repeat(np.arange(count), rng.integers(1, 7, count))[:count]
    shares = 1 / np.arange(1, 11)
    labels = rng.choice(10, (count, 2), p=shares / shares.sum())
    copies, near = draw < COPIES, (draw >= COPIES) & (draw < COPIES + NEAR)
    copies[0] = near[0] = False
    records: list[Record] = []
    digest, phash = "", 0
    for i in range(count):
        if not copies[i]:
            digest = f"{i:016x}"
            phash = phash ^ (1 << int(bits[i])) if near[i] else int(hashes[i])
        found = {"component": (f"component {labels[i, 0]}",), "defect": (f"defect {labels[i, 1]}",)}
        folder = f"component {labels[i, 0]}_defect {labels[i, 1]}"
        id_ = f"{folder}/A{groups[i]:07d}_{i:08d}"
        records.append(Record(id_, f"{id_}.jpg", found, f"A{groups[i]:07d}", digest, phash))
    return records
