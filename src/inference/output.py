"""The output of `predict.py`: a job folder of finished chunks, merged into a CSV or Parquet file. No torch.

`<output>.job/` holds `manifest.json`, which names everything that the rows depend on, and a CSV for each
chunk of `batches.CHUNK` consecutive photos, written atomically and never changed, named after the manifest so
that chunks of another job never count. One process, shards on many machines and a call after a kill run the
same code: skip the chunks that are present, predict the others, merge when none is missing. Processes share
nothing but these files. A finished output has its manifest and its SHA-256 in a hidden file next to it.
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from src.decisions.predictions import kept_from_running, number_columns
from src.errors import InputError, did_you_mean, reason
from src.files import file_digest, read_json, user_path, whole_file, write_json
from src.inference import batches
from src.inference.batches import Photo
from src.preprocess import decoder

Row = Mapping[str, str]
GROUP = 128  # chunks in a row group of Parquet: 65,536 rows


def find_shard(given: str | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Return the shard for `shard=`, counted from 0, and the number of shards; None for null."""
    if given is None:
        return None
    if given == "auto":
        index, count = _launched(environment)
    elif found := re.fullmatch(r"(\d+)/(\d+)", given, re.ASCII):
        index, count = int(found[1]) - 1, int(found[2])
    else:
        raise InputError(f"shard={given}: name one of many as 3/16, or auto")
    if not 0 <= index < count:
        raise InputError(f"shard={given}: {index + 1}/{count} is not one of 1/{count} to {count}/{count}")
    return index, count


def _launched(environment: Mapping[str, str]) -> tuple[int, int]:
    array = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    for index, count in (("RANK", "WORLD_SIZE"), array, ("SLURM_PROCID", "SLURM_NTASKS")):
        if index in environment and count in environment:
            first = environment.get("SLURM_ARRAY_TASK_MIN", 0) if index == array[0] else 0
            return int(environment[index]) - int(first), int(environment[count])
    raise InputError("shard=auto: neither torchrun nor SLURM started this process: name it as shard=3/16")


def find_output(output: str | None, folder: str, resume: bool, shard: str | None) -> Path:
    """Return the file for `output=`, or `predictions.csv` in a folder, by default the call's own."""
    if not output:
        if resume or shard:
            key = "resume=true" if resume else f"shard={shard}"
            raise InputError(f"{key} needs output=: without it each call has a dated folder of its own")
        path = Path(folder) / "predictions.csv"
        if path.exists():  # of a call in the same second
            raise InputError(f"{path} is there already: name another file with output=")
        return path
    path = user_path(output)
    path = path / "predictions.csv" if path.is_dir() or output.endswith(("/", "\\")) else path
    if path.suffix.lower() not in (".csv", ".parquet") or path.is_dir():
        raise InputError(f"output={path}: name a file that ends in .csv or .parquet, or a folder ending in /")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            cure = 'python -m pip install -e ".[parquet]", or name a .csv'
            raise InputError(f"output={path}: Parquet needs the extra `parquet`: {cure}") from None
    return path


def make_manifest(
    model: Path, photos: Sequence[Photo], columns: Sequence[str], **settings: Any
) -> dict[str, Any]:
    """Return everything that the rows of an output depend on, as plain JSON.

    Of the model its content counts, of the photos their IDs, paths and notes, not their folder. Settings are
    other values that decide about rows, such as thresholds and the batch size.
    """
    named = hashlib.sha256()
    for photo in photos:
        text = "" if photo.text is None else f"\0{photo.text}"
        named.update(f"{photo.id}\0{photo.path}{text}\n".encode("utf-8", "backslashreplace"))
    about = {"checkpoint": file_digest(model), "photos": named.hexdigest(), "number of photos": len(photos)}
    about |= {"chunk": batches.CHUNK, "columns": list(columns), "decoder": decoder()}
    return json.loads(json.dumps(about | settings))


def find_columns(given: object, columns: Sequence[str]) -> dict[str, str] | None:
    """Return `{new name: column}` for `columns=`; None for null."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given:
        raise InputError("columns= needs new names with their columns: columns='{Id: ID, Category: label}'")
    for name in map(str, given.values()):
        if name not in columns:
            raise InputError(f"columns: no column '{name}': {did_you_mean(name, columns)}")
    return {str(new): str(name) for new, name in given.items()}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    texts = []
    for name in {**before, **now}:
        old, new = json.dumps(before.get(name)), json.dumps(now.get(name))
        if old != new:
            texts.append(
                name if name in ("checkpoint", "photos", "columns") else f"{name} ({old}, now {new})"
            )
    return ", ".join(texts)


def write_rows(output: Path, columns: Sequence[str], found: Iterable[Iterable[Row]], cure: str = "") -> None:
    """Write the rows of some batches to a CSV, whole or not at all; `cure` ends the message of a failure."""
    try:
        with whole_file(output) as file:
            file.write(_csv([columns]))
            for rows in found:
                file.write(_csv([row[column] for column in columns] for row in rows))
    except OSError as error:
        raise InputError(f"{output} cannot be written ({reason(error)}){cure}") from None


def _csv(lines: Iterable[Sequence[str]]) -> bytes:
    """Return lines of CSV: UTF-8 with LF; a file name that is no UTF-8 gets backslash escapes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode("utf-8", "backslashreplace")


class Output:
    """A CSV or Parquet file that is merged from chunks: joins the job for it, begins one, or refuses to.

    Args:
        photos: all photos in order, also those of other shards.
        shard: from `find_shard`; None: all photos in one call.
        resume: go on with an unfinished output, and leave a finished one alone, as a shard always does.

    Attributes:
        total: photos of this shard.
        done: those in chunks that were present before this call.
        unreadable: rows with `status=error`: of all shards after the merge, else of this one.
        missing: chunks of all shards, at the end.
    """

    def __init__(
        self,
        output: Path,
        photos: Sequence[Photo],
        manifest: Mapping[str, Any],
        shard: tuple[int, int] | None = None,
        resume: bool = False,
    ):
        self.output, self.photos, self.manifest = output, photos, manifest
        self.folder = output.with_name(f"{output.name}.job")
        self.sidecar = output.with_name(f".{output.name}.manifest.json")
        self.chunks = range(-(-len(photos) // batches.CHUNK))
        index, shards = shard or (0, 1)  # contiguous shares of the chunks, equally long or one shorter
        self.own = range(len(self.chunks) * index // shards, len(self.chunks) * (index + 1) // shards)
        self.total, self.unreadable, self.missing = self._photos_in(self.own), 0, 0
        self._state = "begun"  # then: complete (before this call), incomplete, merged (here), elsewhere
        job = self._job()  # before the output is looked at: a merge writes before it removes
        chunks, finished = len(list(self.folder.glob("chunk-*.csv"))), self._finished()
        if job and (chunks or shard):
            if not (resume or shard):
                cure = "go on with resume=true, or delete it"
                raise InputError(f"{self.folder} holds {chunks} chunks of an unfinished job: {cure}")
            if job != manifest:
                differing = _differences(job, manifest)
                cure = "use those again, or delete it"
                raise InputError(f"{self.folder} was begun with other {differing}: {cure}")
        elif (resume or shard) and finished.get("manifest") == manifest:
            self._state, self.unreadable = "complete", finished["unreadable"]
            if not job:  # left by a kill right after the merge
                shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self._begin(finished, resume)
        own = self.own if self._state == "complete" else self._present().intersection(self.own)
        self.done = self._photos_in(own)

    def _begin(self, finished: Mapping[str, Any], resume: bool) -> None:
        if resume and finished:
            differing = _differences(finished["manifest"], self.manifest)
            cure = "leave out resume=true to replace it, or name another output"
            raise InputError(f"resume=true: {self.output} was made with other {differing}: {cure}")
        if self._digest() and not finished:
            why = "a table that predict.py did not write, that was changed since, or of an earlier version"
            raise InputError(f"output={self.output}: {why}: name another file, or delete it")
        if len(self.own) == len(self.chunks) and self.folder.exists():
            shutil.rmtree(self.folder)  # chunks without a manifest are left over from a killed merge
        try:
            write_json(self.folder / "manifest.json", self.manifest)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({reason(error)})") from None

    def written(self, rows_of: Callable[[Sequence[Photo]], Iterable[Sequence[Row]]]) -> Iterator[int]:
        """Write the missing chunks of this shard, then merge if none is missing; yield each batch's length.

        Args:
            rows_of: gives the rows of photos in batches that end where a chunk ends, as `Predictor.rows`.
        """
        if self._state == "complete":
            return
        kept = f"; the same command with resume=true goes on from {self.folder}"
        for present, run in groupby(self.own, self._present().__contains__):
            if present:
                continue
            numbers, rows = list(run), []
            photos = self.photos[numbers[0] * batches.CHUNK : (numbers[-1] + 1) * batches.CHUNK]
            for batch in rows_of(photos):
                rows += batch
                if len(rows) == self._photos_in(numbers[:1]):
                    if self._job() != self.manifest:
                        return self._gone()
                    if self.manifest.get("spreadsheet_safe"):
                        rows = [{key: kept_from_running(cell) for key, cell in row.items()} for row in rows]
                    write_rows(self._chunk(numbers.pop(0)), self.manifest["columns"], [rows], kept)
                    rows = []
                yield len(batch)
        try:
            self._end()
        except FileNotFoundError:
            self._gone()
        except OSError as error:
            raise InputError(f"{self.output} cannot be written ({reason(error)}){kept}") from None

    @property
    def summary(self) -> str:
        """The number of photos predicted, in words for a line that ends with the output's name."""
        if self._state == "elsewhere":
            return "another process has merged all chunks"
        total = self.total if self._state == "incomplete" else len(self.photos)
        noun = "photo" if self.photos and self.photos[0].path else "text"
        counts = f"{total - self.unreadable} {noun}s predicted, {self.unreadable} unreadable"
        if self._state == "incomplete":
            return f"{counts} in this shard; {self.missing} of {len(self.chunks)} chunks are still missing"
        return f"nothing to do, complete already: {counts}" if self._state == "complete" else counts

    @property
    def exit_code(self) -> int:
        """1 where photos were unreadable."""
        # torchrun ends all its processes as soon as one fails: only the one that merges does
        waits = self._state != "merged" and "TORCHELASTIC_RUN_ID" in os.environ
        return int(self.unreadable > 0 and not waits)

    def _photos_in(self, chunks: Iterable[int]) -> int:
        return sum(min(batches.CHUNK, len(self.photos) - number * batches.CHUNK) for number in chunks)

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06}-{_short(self.manifest)}.csv"

    def _present(self) -> set[int]:
        return {
            int(path.name[6:12]) for path in self.folder.glob(f"chunk-??????-{_short(self.manifest)}.csv")
        }

    def _job(self) -> dict[str, Any]:
        return read_json(self.folder / "manifest.json")

    def _finished(self) -> dict[str, Any]:
        found, digest = read_json(self.sidecar), self._digest()
        return found if digest and found.get("sha256") == digest else {}

    def _digest(self) -> str:
        return file_digest(self.output) if self.output.is_file() and self.output.stat().st_size else ""

    def _gone(self) -> None:
        """Note that another process has merged; refuse a folder that was deleted or is another job's."""
        if self._job() or self._finished().get("manifest") != self.manifest:
            raise InputError(f"{self.folder} was deleted, or begun anew by another call, during this one")
        self._state, self.unreadable = "elsewhere", 0

    def _end(self) -> None:
        self.missing = len(self.chunks) - len(self._present())
        if self._job() != self.manifest:
            return self._gone()
        chunks = [self._chunk(number) for number in (self.own if self.missing else self.chunks)]
        self.unreadable = sum(map(_errors, chunks))
        if not self.missing:
            self._merge(chunks)
        self._state = "incomplete" if self.missing else "merged"

    def _merge(self, chunks: Sequence[Path]) -> None:
        """Write all chunks into the output in one step; processes that merge at once write the same bytes."""
        write = _write_parquet if self.output.suffix.lower() == ".parquet" else _write_csv
        with whole_file(self.output, self.folder) as file:  # what a kill leaves of it goes with the folder
            write(file, chunks, self.manifest["columns"], self.manifest.get("renamed"))
            file.flush()
            digest = file_digest(Path(file.name))
        # a kill from here on leaves the job, which is merged again
        about = {"sha256": digest, "unreadable": self.unreadable, "manifest": self.manifest}
        write_json(self.sidecar, about)
        # the manifest first: a process that does not find it looks for the finished output
        (self.folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _short(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]


def _errors(chunk: Path) -> int:
    with open(chunk, newline="", encoding="utf-8") as file:
        return sum(row["status"] == "error" for row in csv.DictReader(file))


def _write_csv(
    file: BinaryIO, chunks: Sequence[Path], columns: Sequence[str], renamed: Mapping[str, str] | None
) -> None:
    """Write the rows of the chunks behind one header; with `renamed`, those columns under their new names."""
    header = _csv([columns])
    file.write(_csv([renamed]) if renamed else header)
    for chunk in chunks:
        if not renamed:
            file.write(chunk.read_bytes()[len(header) :])
            continue
        with open(chunk, newline="", encoding="utf-8") as lines:
            file.write(_csv([row[name] for name in renamed.values()] for row in csv.DictReader(lines)))


def _write_parquet(
    file: BinaryIO, chunks: Sequence[Path], columns: Sequence[str], renamed: Mapping[str, str] | None
) -> None:
    """Write the rows of the chunks as typed columns; a number that is empty in the CSV is null."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    numbers, renamed = number_columns(columns), renamed or {name: name for name in columns}
    types = pa.schema([(name, numbers.get(name, "string")) for name in columns])
    schema = pa.schema([(name, types.field(old).type) for name, old in renamed.items()])
    parse = csv.ParseOptions(newlines_in_values=True)
    convert = csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=False)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for begin in range(0, len(chunks), GROUP):
            tables = [csv.read_csv(c, None, parse, convert) for c in chunks[begin : begin + GROUP]]
            found = pa.concat_tables(tables).combine_chunks()
            writer.write_table(found.select([*renamed.values()]).rename_columns([*renamed]))
