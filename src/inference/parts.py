"""The parts of an output: which photos each holds, how one is read, and how all become one file."""

import csv
import errno
import glob
import io
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from src.decisions.parquet import ParquetSink
from src.decisions.predictions import csv_line, read_lines, write_failure
from src.errors import InputError
from src.inference.durable import folder_to_disk, read_json, to_disk, write_durably
from src.inference.made import note_made
from src.inference.shards import Shard

log = logging.getLogger(__name__)
PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of the photos from `begin` to before `end` of the whole list, and the name of their file."""

    name: str
    begin: int
    end: int


def parts_of(total: int, shard: Shard, size: int) -> list[Part]:
    """Return the parts of a shard in the order of its photos: `size` photos each, the last one the rest.

    Args:
        total: photos of all shards.
        shard: the share.
        size: photos a part.
    """
    begin, end = shard.range(total)
    return [
        Part(f"{shard.index + 1:05}-{number + 1:06}.csv", first, min(first + size, end))
        for number, first in enumerate(range(begin, end, size))
    ]


def start_job(folder: Path, plan: Mapping[str, Any]) -> None:
    """Make the folder of the parts with its plan in it, in one step; of several processes that try, one does.

    Raises:
        OSError: if it cannot be written.
    """
    beside = folder.with_name(f"{folder.name}.{uuid4().hex}.tmp")
    try:
        beside.mkdir(parents=True)
        write_durably(beside / PLAN, (json.dumps(plan, indent=1) + "\n").encode())
        try:
            os.rename(beside, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        folder_to_disk(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_plan(folder: Path) -> dict[str, Any]:
    """Return the plan of a job.

    Raises:
        FileNotFoundError: if the folder is gone.
        InputError: if the folder holds no plan.
    """
    try:
        return read_json(folder / PLAN)
    except InputError:
        if folder.exists():
            raise InputError(
                f"{folder}: its {PLAN} is missing or damaged: delete the folder, or name another output="
            ) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder)) from None


def read_part(folder: Path, part: Part, columns: Sequence[str]) -> tuple[bytes, int]:
    """Return the lines of a part, which must be as many as its photos, and how many are errors.

    Raises:
        InputError: if they are not.
    """
    content = (folder / part.name).read_bytes()
    status = columns.index("status")
    try:
        lines = list(read_lines(io.BytesIO(content)))
    except csv.Error:
        lines = []
    rows = [values for values, _ in lines]
    torn = bool(lines) and lines[-1][1] != len(content)
    if torn or len(rows) != part.end - part.begin or any(len(values) != len(columns) for values in rows):
        raise InputError(
            f"{folder / part.name} does not hold the rows of {part.end - part.begin} photos: delete it and "
            "call its shard again"
        )
    return content, sum(values[status] == "error" for values in rows)


def merge(folder: Path, parts: Sequence[Part], output: Path, plan: Mapping[str, Any]) -> int:
    """Write all parts into the output, in order and in one step, remove them, and return how many are errors.

    Several processes may merge at once: all write the same bytes. Memory does not grow with the parts.

    Args:
        folder: of the parts.
        parts: of all shards.
        output: a `.csv` or a `.parquet`.
        plan: of the job.

    Raises:
        FileNotFoundError: if another process has merged and removed the parts.
        InputError: if the disk is full or a part is broken; the parts stay.
    """
    merging = folder / f"merged.{uuid4().hex}.tmp"
    try:
        with open(merging, "wb") as file:
            write = _write_parquet if output.suffix.lower() == ".parquet" else _write_csv
            unreadable = write(file, folder, parts, plan["made_of"])
            to_disk(file)
        if read_plan(folder) != plan:
            raise InputError(f"{folder} has become that of another job")
        os.replace(merging, output)
        folder_to_disk(output.parent)
        if output.suffix.lower() != ".parquet":  # which holds it itself
            beside = folder / f"made.{uuid4().hex}.tmp"
            note_made(output, plan["made_of"], beside)  # before the parts go: a kill in between merges again
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"{write_failure(error)}: {output} could not be merged; all its parts are kept in {folder}, and "
            "the same command merges them"
        ) from None
    finally:
        merging.unlink(missing_ok=True)
    _remove(folder)
    return unreadable


def _write_csv(file: BinaryIO, folder: Path, parts: Sequence[Part], made_of: Mapping[str, Any]) -> int:
    """Write the parts behind one header; return how many rows are errors."""
    file.write(csv_line(made_of["columns"]))
    unreadable = 0
    for part in parts:
        content, errors = read_part(folder, part, made_of["columns"])
        file.write(content)
        unreadable += errors
    return unreadable


def _write_parquet(file: BinaryIO, folder: Path, parts: Sequence[Part], made_of: Mapping[str, Any]) -> int:
    """Write the parts as typed columns; return how many rows are errors."""
    unreadable = 0
    with ParquetSink(file, made_of["columns"], made_of) as sink:
        for part in parts:
            content, errors = read_part(folder, part, made_of["columns"])
            try:
                sink.write(content)
            except ValueError as error:
                name = folder / part.name
                raise InputError(f"{name} is damaged ({error}): delete it and call its shard again") from None
            unreadable += errors
    return unreadable


def _remove(folder: Path) -> None:
    """Remove the parts of a merged output: first their name, or half of them could be taken for a job."""
    done = folder.with_name(f"{folder.name}.merged")
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.*.tmp"):  # of a process killed in start_job
        shutil.rmtree(left, ignore_errors=True)
    try:
        shutil.rmtree(done, ignore_errors=True)
        os.rename(folder, done)
        shutil.rmtree(done)
    except FileNotFoundError:
        log.debug("%s: another process removes it", folder)
    except OSError as error:
        log.warning("%s is merged but could not be removed (%s): delete it", folder, error.strerror)
