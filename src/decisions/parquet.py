"""The rows of `predictions.csv` as a Parquet file with typed columns (extra `parquet`)."""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from src.errors import InputError

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = (
    65_536  # rows; the same whatever parts the rows come in, so that the same rows give the same bytes
)
_KEY = b"corbel"


def need_pyarrow(output: Path) -> None:
    """Refuse a Parquet output where pyarrow is not installed, before anything is computed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise InputError(
            f'output={output}: Parquet needs the extra `parquet` (python -m pip install -e ".[parquet]"); '
            "or name a .csv"
        ) from None


def number_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return the columns of `predictions.csv` that hold a single number, with their Parquet type.

    Confidences and averages are `double`, `p:<label>` are `float`. All others are strings as in the CSV:
    lists of labels joined by `;`, confidences as `Label:0.1234`, status, error.

    Args:
        columns: as `decisions.predictions.columns` gives them. Their places tell the task and the kinds.
    """
    end = columns.index("path")
    if "average_confidence" in columns[:end]:  # dual_head: a label and its confidence for each kind
        numbers = [*columns[2 : end - 2 : 2], "average_confidence"]
    elif "overall_avg_confidence" in columns[:end]:  # multilabel: lists, their confidences, their averages
        numbers = list(columns[1 + 2 * ((end - 2) // 3) : end])
    else:
        numbers = ["confidence"]
    types = dict.fromkeys(numbers, "double")
    return types | dict.fromkeys(columns[columns.index("error") + 1 :], "float")


class ParquetSink:
    """Turn lines of `predictions.csv` into a Parquet file, one row group after the other.

    A number that is empty in the CSV is null. The same lines give the same bytes, in whatever portions they
    come.

    Args:
        file: an open binary file; its errors come out as they are.
        columns: as `number_columns` takes them.
        about: what the file was made of, kept in its metadata (`read_about`).
    """

    def __init__(self, file: BinaryIO, columns: Sequence[str], about: Mapping[str, Any]):
        import pyarrow as pa
        from pyarrow import parquet

        types = number_columns(columns)
        fields = [(name, pa.float64() if types.get(name) == "double" else
                   pa.float32() if name in types else pa.string()) for name in columns]  # fmt: skip
        self._schema = pa.schema(fields, {_KEY: json.dumps(about, sort_keys=True)})
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting = self._schema.empty_table()

    def write(self, lines: bytes) -> None:
        """Append whole lines of the CSV, without a header."""
        import pyarrow as pa

        self._waiting = pa.concat_tables([self._waiting, self._table(lines)])
        while len(self._waiting) >= ROW_GROUP:
            self._write_group(self._waiting.slice(0, ROW_GROUP))
            self._waiting = self._waiting.slice(ROW_GROUP)

    def _write_group(self, table: "pyarrow.Table") -> None:
        """Write one row group; pages end where chunks do, so it is made of one."""
        self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)

    def _table(self, lines: bytes) -> "pyarrow.Table":
        """Return lines of the CSV as a typed table."""
        from pyarrow import csv

        return csv.read_csv(
            io.BytesIO(lines),
            csv.ReadOptions(column_names=self._schema.names, use_threads=False),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(column_types=self._schema, null_values=[""], strings_can_be_null=False),
        ).replace_schema_metadata(self._schema.metadata)

    def __enter__(self) -> "ParquetSink":
        return self

    def __exit__(self, *exception: object) -> None:
        """Write what is waiting and the end of the file; let go of one that cannot be finished."""
        if exception == (None, None, None):
            if len(self._waiting):
                self._write_group(self._waiting)
            self._writer.close()
        else:
            with suppress(Exception):  # closing writes an end, where the first failure may come again
                self._writer.close()


def read_about(path: Path) -> tuple[int, dict[str, Any], int] | None:
    """Return how many rows a Parquet file of predictions has, what it was made of, and its error rows.

    None for a file that is not one.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            about = json.loads((file.schema_arrow.metadata or {})[_KEY])
            errors = 0
            for batch in file.iter_batches(ROW_GROUP, columns=["status"]):
                errors += batch.column(0).to_pylist().count("error")
            return file.metadata.num_rows, about, errors
    except (pa.ArrowException, KeyError, ValueError):
        return None
