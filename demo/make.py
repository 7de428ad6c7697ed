"""Makes the demo set: a folder of photos that serves the folder reader and the table reader alike."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from demo.plan import HEALTHY, plan_demo
from demo.render import encode_photo
from demo.tables import (
    TABLE,
    TABLE_COLUMNS,
    TRUTH,
    TRUTH_COLUMNS,
    Entry,
    table_rows,
    truth_row,
    write_csv,
    write_down,
)
from src.errors import InputError
from src.parallel import cores

MARKER = "demo.json"  # written first: tells a folder of ours, even a half-made one, from a person's photos
FEW = 100  # photos that one process draws sooner than several start
VERSION = 1  # of the drawing; a set of another version is not taken for this one


def make_demo(
    root: str | Path,
    count: int = 600,
    width: int = 640,
    height: int = 480,
    seed: int = 7,
    missing: float = 0.0,
    wrong: float = 0.0,
) -> dict:
    """Draw the demo set: photos of a tunnel's fixtures with real statistics and known truth.

    The same arguments give the same bytes. A complete set is left as it is; a half-made one is made anew.

    Args:
        root: folder for it: new, empty, or with a demo set of the same arguments.
        count: photos, 20 to 100,000.
        width: pixels of most photos, as displayed.
        height: pixels of most photos; at most 4000x3000 in all.
        seed: of everything.
        missing: share of labels left out of `image_data.csv`.
        wrong: share of labels that `image_data.csv` gives as another one of their kind.

    Returns:
        `root, count, assets, healthy, duplicates, twins, rotated, planted`, and how many photos show each of
        the `components` and `defects`.

    Raises:
        InputError: an argument is out of range, or `root` holds other files.
    """
    root = Path(root)
    entries = write_down(plan_demo(count, seed, width, height), seed, missing, wrong)
    arguments = {"version": VERSION, "count": count, "width": width, "height": height, "seed": seed}
    arguments |= {"missing": missing, "wrong": wrong}
    if _complete(root, arguments):
        return _summary(root, entries)
    _clear(root, arguments, entries)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{root}: the folder cannot be made ({error.strerror})") from error
    (root / MARKER).write_text(json.dumps(arguments) + "\n", encoding="utf-8")
    with closing(_drawn(entries, seed)) as photos:
        for entry, content in zip(entries, photos, strict=True):
            (root / entry.folder).mkdir(exist_ok=True)
            (root / entry.path).write_bytes(content)
    write_csv(root / TABLE, TABLE_COLUMNS, [row for entry in entries for row in table_rows(entry, seed)])
    write_csv(root / TRUTH, TRUTH_COLUMNS, map(truth_row, entries))  # last: the set is complete
    return _summary(root, entries)


def _drawn(entries: Sequence[Entry], seed: int) -> Iterator[bytes]:
    """Yield the JPEG of each photo; that of a twin is the one before it."""
    alone = [entry.photo for entry in entries if not entry.photo.twin]
    draw, content = partial(encode_photo, seed=seed), b""
    with ExitStack() as stack:
        if len(alone) < FEW or cores() == 1:
            drawn = map(draw, alone)
        else:
            pool = ProcessPoolExecutor(cores(), get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            drawn = pool.map(draw, alone, chunksize=8)
        for entry in entries:
            content = content if entry.photo.twin else next(drawn)
            yield content


def _complete(root: Path, arguments: dict) -> bool:
    """Return whether `root` holds the complete set; raise InputError where it holds another one."""
    if not (root / TRUTH).is_file() or not (root / MARKER).is_file():
        return False
    held = _held(root)
    if held != arguments:
        told = ", ".join(f"{key}={value}" for key, value in held.items() if value != arguments.get(key))
        raise InputError(f"demo: {root} holds another demo set ({told}); choose another folder or delete it")
    return True


def _held(root: Path) -> dict:
    """Return the arguments that the marker in `root` names."""
    try:
        held = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except ValueError:  # cut short when the making was killed
        return {}
    return held if isinstance(held, dict) else {}


def _clear(root: Path, arguments: dict, entries: Sequence[Entry]) -> None:
    """Delete what a killed making left; raise InputError where `root` holds anything else."""
    if root.exists() and not root.is_dir():
        raise InputError(f"demo: {root} is a file; choose a new folder")
    found = sorted(path for path in root.rglob("*") if not path.is_dir()) if root.exists() else []
    if not found:
        return
    ours = {MARKER, TABLE, TABLE + ".part", TRUTH + ".part"}
    if (root / MARKER).is_file() and _held(root) in (arguments, {}):
        ours |= {entry.path for entry in entries}
    foreign = [path for path in found if path.relative_to(root).as_posix() not in ours]
    if foreign or not (root / MARKER).is_file():
        name = (foreign or found)[0].relative_to(root)
        raise InputError(
            f"demo: {root} holds files that are not this demo set's ({name}); choose an empty folder"
        )
    for path in found:
        path.unlink()


def _summary(root: Path, entries: Sequence[Entry]) -> dict:
    """Return what the set holds."""
    photos = [entry.photo for entry in entries]
    return {
        "root": str(root),
        "count": len(photos),
        "assets": len({photo.asset for photo in photos}),
        "healthy": sum(photo.defects == (HEALTHY,) for photo in photos),
        "duplicates": sum(bool(photo.duplicate_of) for photo in photos),
        "twins": sum(photo.twin for photo in photos),
        "rotated": sum(photo.orientation != 1 for photo in photos),
        "planted": sum(len(entry.planted) for entry in entries),
        "components": dict(Counter(name for photo in photos for name in photo.components).most_common()),
        "defects": dict(Counter(name for photo in photos for name in photo.defects).most_common()),
    }
