"""The CSV of one process: written as rows come, and gone on with after a kill."""

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.decisions.predictions import Kept, PredictionWriter, read_lines, write_failure
from src.errors import InputError, reason
from src.files import held
from src.inference.durable import read_json, to_disk, write_durably
from src.inference.fingerprint import differences
from src.inference.made import made_before, made_file, note_made, refuse_other, refuse_unknown

if TYPE_CHECKING:
    from src.inference.photos import Photo

Row = Mapping[str, str]
RowsOf = Callable[[Sequence["Photo"]], Iterable[list[Row]]]


class StreamedOutput:
    """A CSV with a row for each photo, written as rows come.

    While it is unfinished, `<output>.unfinished` beside it says what it is made of. A call with `resume` that
    is made of the same goes on behind the last whole row: the file ends with the bytes of an
    uninterrupted call.

    Args:
        output: the CSV.
        photos: all of them, in the order of the rows.
        made_of: from `fingerprint`.
        resume: go on with an unfinished output, and leave a finished one alone.

    Attributes:
        done: rows that were there before this call.
        total: rows in the end.
        unreadable: rows with `status=error`.

    Raises:
        InputError: on entering, if the file cannot be written or holds something that `resume` does not allow
            for; while writing, as `PredictionWriter`.
    """

    def __init__(self, output: Path, photos: Sequence["Photo"], made_of: Mapping[str, Any], resume: bool):
        self.output, self.photos, self.made_of, self.resume = output, photos, made_of, resume
        self.side = side_file(output)
        self.done, self.total, self.unreadable = 0, len(photos), 0

    def __enter__(self) -> "StreamedOutput":
        self._new = not self.output.exists()
        # such a one is only read, and may lie where nobody writes any more
        self._finished = self.resume and not self.side.exists() and holds_something(self.output)
        with ExitStack() as held_here:
            if self._finished:
                self._clear_lock()
            else:
                self._hold(held_here)
            try:
                self._kept = self._earlier()
            except BaseException:
                self._leave_nothing()
                raise
            self.done = self._kept.rows if self._kept else 0
            self._held = held_here.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.close()

    @property
    def _lock(self) -> Path:
        """The file that is held while rows are written."""
        return self.output.with_name(f".{self.output.name}.lock")

    def _clear_lock(self) -> None:
        """Take away what a call left that was killed in its last moment, where that can be written."""
        if self._lock.exists():
            with suppress(OSError), held(self._lock):
                pass

    def _hold(self, held_here: ExitStack) -> None:
        """Make the file, and keep other calls from it."""
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            alone = held_here.enter_context(held(self._lock))
            if alone:
                open(self.output, "ab").close()
        except OSError as error:
            raise InputError(f"cannot write {self.output}: {reason(error)}") from None
        if not alone:
            raise InputError(f"{self.output}: another process is writing it")

    def written(self, rows_of: RowsOf) -> Iterator[int]:
        """Write the rows that are not there yet; yield how many each time some have come.

        Args:
            rows_of: gives the rows of photos in their order, as `Predictor.rows`.
        """
        if self._finished:
            return
        if self.done < self.total:
            if not self._kept:
                self._begin()
            cure = "the same command with resume=true goes on"
            with PredictionWriter(self.output, self.made_of["columns"], self._kept, cure) as writer:
                for rows in rows_of(self.photos[self.done :]):
                    writer.write(rows)
                    self.unreadable += sum(row["status"] == "error" for row in rows)
                    yield len(rows)
            if writer.rows != self.total:
                raise RuntimeError(f"{writer.rows} rows for {self.total} photos")
        try:
            with open(self.output, "rb+") as file:
                to_disk(file)
            if self.side.exists():
                note_made(self.output, self.made_of, _beside(made_file(self.output)))
                self.side.unlink()
        except OSError as error:
            raise InputError(
                f"{write_failure(error)}: all rows are in {self.output}; resume=true ends it"
            ) from None

    def _begin(self) -> None:
        """Empty the file and say what it will be made of; an older one stays where the disk refuses that."""
        content = json.dumps(self.made_of, indent=1).encode()
        beside = _beside(self.side)
        try:
            beside.write_bytes(content)
            # before the side file has its name: beside the rows of an older call it would make them ours
            os.truncate(self.output, 0)
            write_durably(self.side, content, beside)
        except OSError as error:
            beside.unlink(missing_ok=True)
            self._leave_nothing()
            raise InputError(f"cannot write {self.side}: {reason(error)}") from None

    def _leave_nothing(self) -> None:
        """Take away the empty file that this call has made."""
        if self._new and not self.output.stat().st_size:
            self.output.unlink()

    @property
    def summary(self) -> str:
        """What became of the photos, in words that the output's name follows."""
        there = "nothing to do, complete already: " if self.done == self.total else ""
        return f"{there}{self.total - self.unreadable} photos predicted, {self.unreadable} unreadable"

    @property
    def exit_code(self) -> int:
        """1 where photos were unreadable."""
        return int(self.unreadable > 0)

    def _earlier(self) -> Kept | None:
        """Return the rows to go on behind; refuse to lose any, or to mix those of two calls."""
        if self._finished:
            before = made_before(self.output)
            refuse_other(self.output, before, self.made_of)
            kept = self._counted()
            if kept is None or kept.rows < self.total:
                raise InputError(
                    f"resume=true: {self.output} is incomplete and {self.side.name} is not beside it, so it "
                    "cannot be told what it is made of: leave out resume=true to replace it"
                )
            refuse_unknown(self.output, before)
            return kept
        if not self.side.exists():
            return None
        before = read_json(self.side)
        if holds_no_row(self.output, before.get("columns")):
            return None
        if not self.resume:
            raise InputError(
                f"{self.output} holds {lines_in(self.output)} rows of an unfinished call: go on with "
                f"resume=true, or delete {self.output} and {self.side.name}"
            )
        if before != self.made_of:
            raise InputError(
                f"resume=true: {self.output} was begun with other {differences(before, self.made_of)}: go on "
                f"with what it was begun with, or delete {self.output} and {self.side.name}"
            )
        return self._counted()

    def _counted(self) -> Kept | None:
        """Return the whole rows in the file, those of the first photos; None without a header."""
        kept, errors = check_rows(self.output, self.photos, self.made_of["columns"])
        self.unreadable = errors
        return kept


def holds_something(output: Path) -> bool:
    """Whether a file is there that is not empty."""
    return output.exists() and output.stat().st_size > 0


def holds_no_row(output: Path, columns: object) -> bool:
    """Whether a CSV of predictions has its header, or not even that, and nothing behind it."""
    try:
        with open(output, "rb") as file:
            lines = [values for values, _ in itertools.islice(read_lines(file), 2)]
    except csv.Error:
        return False
    return lines == [columns] if lines else not holds_something(output)


def _beside(path: Path) -> Path:
    """Return what is written before it gets this name: the same each time, so the next call takes it away."""
    return path.with_name(f"{path.name}.tmp")


def side_file(output: Path) -> Path:
    """Return the file that stands beside a CSV while it is unfinished."""
    return output.with_name(f"{output.name}.unfinished")


def lines_in(output: Path) -> int:
    """Return how many whole rows a CSV of predictions holds."""
    try:
        with open(output, "rb") as file:
            return max(0, sum(1 for _ in read_lines(file)) - 1)
    except (csv.Error, FileNotFoundError):
        return 0


def check_rows(output: Path, photos: Sequence["Photo"], columns: Sequence[str]) -> tuple[Kept | None, int]:
    """Return the whole rows of a CSV, checked against the photos one by one, and how many are errors.

    Raises:
        InputError: if its header or a row is not the one of `columns` and `photos`.
    """
    kept, errors = None, 0
    path, status = columns.index("path"), columns.index("status")
    try:
        with open(output, "rb") as file:
            for number, (values, end) in enumerate(read_lines(file), -1):
                if number == -1:
                    _same(values, columns, output, "the header")
                else:
                    wanted = escaped(photos[number].path) if number < len(photos) else ""
                    found = values[path] if len(values) == len(columns) else ""
                    _same(found, wanted or None, output, f"row {number + 1}")
                    errors += values[status] == "error"
                kept = Kept(number + 1, end)
    except csv.Error as error:
        raise InputError(f"resume=true: {output} is no CSV of predictions ({error}): delete it") from None
    return kept, errors


def _same(found: object, wanted: object, output: Path, where: str) -> None:
    """Refuse a file that another call wrote."""
    if found != wanted:
        raise InputError(
            f"resume=true: {where} of {output} is not what these photos and this model give: it is the "
            "output of something else; name another file"
        )


def escaped(text: str) -> str:
    """Return a path as it stands in the CSV."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
