"""Predictions of many photos on many machines: parts that are finished once they are there, and their merge.

`<output>.parts/` holds `plan.json`, which says what the rows follow from and how the photos are shared out,
and one file per range of `PART` photos of a shard: rows of `predictions.csv` without its header. A part is
written under another name, flushed and renamed. Whoever sees at its end that all parts of all shards are
there merges them in order. There is no other word between the processes.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.decisions.parquet import need_pyarrow, read_about
from src.decisions.predictions import csv_line, write_failure
from src.errors import InputError, reason
from src.files import user_path
from src.inference.durable import write_durably
from src.inference.fingerprint import differences
from src.inference.made import made_before, refuse_other, refuse_unknown, said_of
from src.inference.parts import PLAN, Part, merge, parts_of, read_part, read_plan, start_job
from src.inference.shards import WHOLE, Shard
from src.inference.streamed import Row, RowsOf, StreamedOutput, check_rows, holds_something, side_file

if TYPE_CHECKING:
    from src.inference.photos import Photo

PART = 1000  # photos a part: a kill costs so many at most
SUFFIXES = (".csv", ".parquet")


def find_output(output: str | None, folder: str, resume: bool, shard: Shard | None) -> Path:
    """Return the file that `output=` means: itself, `predictions.csv` in a folder, or in this call's folder.

    Raises:
        InputError: for no `output=` where several calls have to agree on it.
    """
    if not output:
        if resume or shard:
            key = "resume=true" if resume else f"shard={shard}"
            raise InputError(f"{key} needs output=: without it each call has a dated folder of its own")
        return Path(folder) / "predictions.csv"
    path = user_path(output)
    return path / "predictions.csv" if path.is_dir() or output.endswith(("/", "\\")) else path


def open_output(
    output: Path,
    photos: Sequence["Photo"],
    made_of: Mapping[str, Any],
    shard: Shard | None = None,
    resume: bool = False,
) -> "StreamedOutput | PartedOutput":
    """Return the output of a call: rows as they come for the CSV of one process, else parts that are merged.

    Args:
        output: a `.csv` or a `.parquet`.
        photos: all photos in order, whatever the shard.
        made_of: from `fingerprint`.
        shard: which of them this process predicts; None: all.
        resume: leave a finished output alone, and go on with an unfinished CSV.

    Raises:
        InputError: for another suffix, Parquet without pyarrow, or an unfinished output of the other sort.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"output={output}: name a file that ends in .csv or .parquet, or a folder that ends in /"
        )
    if output.suffix.lower() == ".parquet":
        need_pyarrow(output)
    if output.is_dir():
        raise InputError(f"output={output}: that is a folder")
    real = output.resolve()  # it may be a link
    if real.name == "predictions.csv" and (real.parent / "checkpoints").is_dir():
        raise InputError(f"output={output}: a run's own predictions of its test photos: name another file")
    folder, side = parts_folder(output), side_file(output)
    if not (resume or side.exists()):  # else what is there is looked at row by row
        _refuse_what_is_no_output(output)
    if shard is None and output.suffix.lower() == ".csv":
        if folder.exists():
            raise InputError(f"{folder} holds an unfinished job in shards: give shard=, or delete it")
        return StreamedOutput(output, photos, made_of, resume)
    if side.exists():
        raise InputError(
            f"{output} is an unfinished output of one process ({side.name}): go on with resume=true and "
            "without shard=, or delete both"
        )
    return PartedOutput(output, photos, made_of, shard or WHOLE, resume)


def _refuse_what_is_no_output(output: Path) -> None:
    """Refuse to replace a table that `predict.py` has not written."""
    if not output.is_file() or not output.stat().st_size:
        return
    if output.suffix.lower() == ".parquet":
        ours = read_about(output) is not None
    else:
        with open(output, "rb") as file:
            ours = {b"path", b"status"} <= {*file.readline(100_000).strip().split(b",")}
    if not ours:
        raise InputError(
            f"output={output}: a table that holds no predictions, and would be replaced: name another file"
        )


def parts_folder(output: Path) -> Path:
    """Return the folder of an output's parts."""
    return output.with_name(f"{output.name}.parts")


class PartedOutput:
    """A CSV or Parquet file that is merged from parts of all shards once they are there.

    Args:
        output: the file.
        photos: all of them, in the order of the rows.
        made_of: from `fingerprint`.
        shard: the share of this process.
        resume: leave a finished output alone. Parts that are there are never predicted again anyway.
        size: photos a part.

    Attributes:
        done: rows of this shard that were there before this call.
        total: photos of this shard.
        unreadable: rows with `status=error`: of all shards once merged, else of this one.

    Raises:
        InputError: on entering, for parts or a finished output that were made of something else; while
            writing or merging, if the disk is full or the parts are gone.
    """

    def __init__(
        self,
        output: Path,
        photos: Sequence["Photo"],
        made_of: Mapping[str, Any],
        shard: Shard = WHOLE,
        resume: bool = False,
        size: int = PART,
    ):
        self.output, self.made_of, self.shard, self.resume = output, made_of, shard, resume
        self.folder = parts_folder(output)
        self.plan = {"shards": shard.count, "part": size, "made_of": made_of}
        self.photos, self.columns = photos, made_of["columns"]
        self.parts = parts_of(len(photos), shard, size)
        self.all = [p for i in range(shard.count) for p in parts_of(len(photos), Shard(i, shard.count), size)]
        self.done, self.total, self.unreadable = 0, sum(part.end - part.begin for part in self.parts), 0
        self.missing: list[Part] = []  # of all shards, at the end
        self._begun = 0  # when the job was, by the clock of its disk
        self._state = "begun"  # then: complete (before this call), incomplete, merged (here), elsewhere

    def __enter__(self) -> "PartedOutput":
        # in this order: a merge makes the output before it removes the folder
        if not self.folder.exists() and self.resume and holds_something(self.output):
            self.unreadable = self._finished_before()
            self._state, self.done = "complete", self.total
        else:
            self._join()
            there = self._there()
            self.done = sum(part.end - part.begin for part in self.parts if part.name in there)
        begin = self.parts[0].begin if self.parts else 0
        self.photos = self.photos[begin : begin + self.total]  # the others may go
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is open between parts."""

    def written(self, rows_of: RowsOf) -> Iterator[int]:
        """Write the parts that are not there yet, then merge if none is missing; yield how many rows came.

        Args:
            rows_of: gives the rows of photos in their order, as `Predictor.rows`.
        """
        if self._state == "complete":
            return
        for run in self._runs():
            waiting: list[Row] = []
            todo = iter(run)
            part = next(todo)
            begin = self.parts[0].begin
            for rows in rows_of(self.photos[run[0].begin - begin : run[-1].end - begin]):
                waiting += rows
                while part and len(waiting) >= part.end - part.begin:
                    if not self._write(part, waiting[: part.end - part.begin]):
                        return
                    del waiting[: part.end - part.begin]
                    part = next(todo, None)
                yield len(rows)
            if waiting or part:
                raise RuntimeError(f"shard {self.shard}: not as many rows as photos from {run[0].begin} on")
        self._end()

    @property
    def summary(self) -> str:
        """What became of the photos, in words that the output's name follows."""
        if self._state == "elsewhere":
            return f"shard {self.shard}: another process has merged all parts"
        if self._state == "incomplete":
            return (
                f"shard {self.shard}: {self.total - self.unreadable} photos predicted, {self.unreadable} "
                f"unreadable; {len(self.missing)} of {len(self.all)} parts of all shards are still missing, "
                f"{self.missing[0].name} first"
            )
        total = self.all[-1].end
        there = "nothing to do, complete already: " if self._state == "complete" else ""
        return f"{there}{total - self.unreadable} photos predicted, {self.unreadable} unreadable"

    @property
    def exit_code(self) -> int:
        """1 where photos were unreadable; of torchrun's processes only the one that merges says so.

        torchrun ends all its processes as soon as one fails, and the others have work left.
        """
        waits = self._state != "merged" and "TORCHELASTIC_RUN_ID" in os.environ
        return int(self.unreadable > 0 and not waits)

    def _join(self) -> None:
        """Make the folder with its plan, or compare the plan of the processes that are there already."""
        try:
            if not self.folder.exists():
                if self.resume and holds_something(self.output) and self._elsewhere():  # a moment ago
                    return
                start_job(self.folder, self.plan)
            before = read_plan(self.folder)
            self._begun = (self.folder / PLAN).stat().st_mtime_ns
        except FileNotFoundError:
            if self._elsewhere():
                return
            raise
        except OSError as error:
            raise InputError(f"cannot write {self.folder}: {reason(error)}") from None
        if before != self.plan:
            raise InputError(
                f"{self.folder} was begun with other {differences(before, self.plan)}: go on with what it "
                "was begun with, or delete it"
            )

    def _runs(self) -> Iterator[list[Part]]:
        """Yield the parts that are not there, those that follow each other together."""
        there, run = self._there(), []
        for part in self.parts:
            if part.name not in there:
                run.append(part)
            elif run:
                yield run
                run = []
        if run:
            yield run

    def _write(self, part: Part, rows: Sequence[Row]) -> bool:
        """Write a part; False where another process has merged all of them and removed the folder."""
        content = b"".join(csv_line([row[column] for column in self.columns]) for row in rows)
        try:
            write_durably(self.folder / part.name, content)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._elsewhere():
                return False
            raise InputError(
                f"{write_failure(error)}: the parts that are finished are kept in {self.folder}; the same "
                "command goes on"
            ) from None
        return True

    def _end(self) -> None:
        """Merge where no part is missing; else count the errors of this shard."""
        try:
            there = self._there()
            self.missing = [part for part in self.all if part.name not in there]
            if self._state == "elsewhere":
                return
            if self.missing:
                self._state = "incomplete"
                self.unreadable = sum(read_part(self.folder, part, self.columns)[1] for part in self.parts)
            else:
                self.unreadable = merge(self.folder, self.all, self.output, self.plan)
                self._state = "merged"
        except FileNotFoundError as error:
            if not self._elsewhere():
                raise InputError(f"{error.filename} is gone: the same command writes it again") from None

    def _there(self) -> set[str]:
        """Return the names of the files in the folder; of all parts where another process has merged them."""
        try:
            return set(os.listdir(self.folder))
        except FileNotFoundError:
            if not self._elsewhere():
                raise
            return {part.name for part in self.all}

    def _elsewhere(self) -> bool:
        """Whether the folder is gone because another process has merged it; refuse one that was deleted."""
        if self.folder.exists():
            return False
        older = self.output.is_file() and self.output.stat().st_mtime_ns < self._begun
        if older or self._made_of() != self.made_of:
            raise InputError(f"{self.folder} is gone: it was deleted while parts were being written")
        self._state = "elsewhere"
        return True

    def _made_of(self) -> Mapping[str, Any] | None:
        """Return what the output says it is made of; None for one that is not there or does not say."""
        if not self.output.is_file():
            return None
        if self.output.suffix.lower() == ".parquet":
            about = read_about(self.output)
            return about[1] if about else None
        return said_of(self.output)

    def _finished_before(self) -> int:
        """Return how many photos were unreadable in an output that is complete; refuse another one."""
        anew = "leave out resume=true to replace it"
        if self.output.suffix.lower() == ".parquet":
            rows, made_of, errors = read_about(self.output) or (0, {}, 0)
            if made_of != self.made_of or rows != len(self.photos):
                other = f" (other {differences(made_of, self.made_of)})" if made_of else ""
                raise InputError(f"resume=true: {self.output} is the output of something else{other}: {anew}")
            return errors
        before = made_before(self.output)
        refuse_other(self.output, before, self.made_of)
        kept, errors = check_rows(self.output, self.photos, self.columns)
        if kept is None or kept.rows < len(self.photos):
            raise InputError(f"resume=true: {self.output} is incomplete, and no parts are beside it: {anew}")
        refuse_unknown(self.output, before)
        return errors
