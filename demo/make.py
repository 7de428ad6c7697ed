"""Makes the demo set: a folder of photos that serves the folder reader and the table reader alike."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from demo.notes import NOTES_TRUTH, Note, note_tables, write_notes
from demo.plan import HEALTHY, plan_demo
from demo.render import encode_photo
from demo.tables import TABLE, TRUTH, Entry, csv_bytes, table_rows, truth_row, write_down
from src.errors import InputError
from src.files import make_folder, write_whole
from src.parallel import cores

MARKER = "demo.json"  # the arguments; written first, so that a half-made set is not taken for a user's photos
FEW = 100  # photos that one process draws sooner than several start
FARTHEST = 4  # of `distance`
VERSION = 1  # of the drawing; a set of another version is not taken for this one


def make_demo(
    root: str | Path,
    count: int = 600,
    width: int = 640,
    height: int = 480,
    seed: int = 7,
    missing: float = 0.0,
    wrong: float = 0.0,
    distance: float = 1.0,
) -> dict:
    """Draw the demo set: photos of a tunnel's fixtures with real statistics and known truth, and notes.

    The same arguments give the same bytes. A complete set is left as it is, but for notes that it lacks; a
    half-made one is drawn again.

    Args:
        root: folder for it: new, empty, or with a demo set of the same arguments.
        count: photos, 20 to 100,000.
        width: pixels of most photos, as displayed.
        height: pixels of most photos; at most 4000x3000 in all.
        seed: of everything.
        missing: share of labels left out of `image_data.csv`.
        wrong: share of labels that `image_data.csv` gives as another one of their kind.
        distance: of the camera, 1 to 4: from 3 on, fixtures and defects are small in a photo.

    Returns:
        `root, count, assets, healthy, duplicates, twins, rotated, planted, notes, conflicts`, and the number
        of photos with each of the `components` and `defects`.

    Raises:
        InputError: an argument is out of range, or `root` holds other files.
    """
    root = Path(root)
    if not 1 <= distance <= FARTHEST:
        raise InputError(f"demo: distance={distance} is out of range; use 1 to {FARTHEST}")
    entries = write_down(plan_demo(count, seed, width, height), seed, missing, wrong)
    arguments = {"version": VERSION, "count": count, "width": width, "height": height, "seed": seed}
    arguments |= {"missing": missing, "wrong": wrong}
    arguments |= {} if distance == 1 else {"distance": distance}
    notes = write_notes(entries, seed)
    if _begun(root, arguments) and (root / TRUTH).is_file():
        if not (root / NOTES_TRUTH).is_file():  # drawn before there were notes
            _write_notes(root, notes)
        return _summary(root, entries, notes)
    make_folder(root)
    write_whole(root / MARKER, f"{json.dumps(arguments)}\n".encode())
    with closing(_drawn(entries, seed, distance)) as photos:
        for entry, content in zip(entries, photos, strict=True):
            (root / entry.folder).mkdir(exist_ok=True)
            (root / entry.path).write_bytes(content)
    write_whole(root / TABLE, csv_bytes([row for entry in entries for row in table_rows(entry, seed)]))
    _write_notes(root, notes)
    write_whole(root / TRUTH, csv_bytes([truth_row(entry) for entry in entries]))  # last: the set is complete
    return _summary(root, entries, notes)


def _write_notes(root: Path, notes: Sequence[Note]) -> None:
    """Write the notes and the truth about them, in this order."""
    for name, content in note_tables(notes).items():
        write_whole(root / name, content)


def _begun(root: Path, arguments: dict) -> bool:
    """Return whether `root` holds a set of these arguments; raise InputError for any other content."""
    if (root / MARKER).is_file():
        try:
            found = json.loads((root / MARKER).read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != arguments:
            raise InputError(f"demo: {root} holds another demo set, {found}; choose another folder")
        return True
    if root.is_dir() and (found := next(root.iterdir(), None)):
        raise InputError(f"demo: {root} holds other files ({found.name}); choose an empty folder")
    return False


def _drawn(entries: Sequence[Entry], seed: int, distance: float) -> Iterator[bytes]:
    """Yield the JPEG of each photo; that of a twin is the one before it."""
    alone = [entry.photo for entry in entries if not entry.photo.twin]
    draw, content = partial(encode_photo, seed=seed, distance=distance), b""
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


def _summary(root: Path, entries: Sequence[Entry], notes: Sequence[Note]) -> dict:
    """Return the counts of the set."""
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
        "notes": len(notes),
        "conflicts": sum(bool(note.conflict) for note in notes),
        "components": dict(Counter(name for photo in photos for name in photo.components).most_common()),
        "defects": dict(Counter(name for photo in photos for name in photo.defects).most_common()),
    }
