"""Data files of a Delta table: DuckDB writes them, and this module turns what DuckDB reports into Delta's add actions.

No commit happens here. A file that no commit names is invisible, and its writer deletes it (`delete_uncommitted`).
DuckDB's own COPY is used because it streams, uses all cores and takes 0.6 times the CPU of an Arrow stream into
delta-rs (benchmarks/).
"""

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import Schema
from deltalake.transaction import AddAction

from pipeline_assets.lake import faults, leftovers
from pipeline_assets.lake.errors import LakeError, StorageError, reason
from pipeline_assets.lake.wide_files import copy_by_batches
from pipeline_assets.sql import quote_name, quote_names, quote_text

_FORMAT = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, RETURN_STATS"
# One row in 100,000 would need a longer prefix to be told apart; longer texts would only bloat the log.
_LONGEST_TEXT_IN_STATS = 64
_NUMBERS = {"byte", "short", "integer", "long"}


@dataclass
class DataFile:
    """One Parquet file below a table's root, written but not yet committed.

    Attributes:
        path: Relative to the table's root, as it is on disk (not URL-encoded).
        size_bytes: Size of the file.
        rows: Number of rows.
        partition_values: Partition column to value as Delta writes it; None is SQL null.
        columns: Column name to DuckDB's statistics of it (`min`, `max`, `null_count`, as text).
        may_be_named: Whether a version of the table names the file, or may name it: the file was sent with a commit,
            and nothing proves that this commit is not in the log. Such a file is never deleted.
    """

    path: str
    size_bytes: int
    rows: int
    partition_values: Mapping[str, str | None]
    columns: Mapping[str, Mapping[str, str]]
    may_be_named: bool = field(default=False, compare=False)

    def null_count(self, column: str) -> int:
        """Return the number of nulls in a top-level column."""
        return int(self.columns[column]["null_count"])

    def add_action(self, schema: Schema) -> AddAction:
        """Describe the file for the log, with the statistics by which readers skip files."""
        return AddAction(
            path=self.path,
            size=self.size_bytes,
            partition_values=dict(self.partition_values),
            modification_time=int(time.time() * 1000),
            data_change=True,
            stats=json.dumps(self._stats(schema)),
        )

    def _stats(self, schema: Schema) -> dict[str, Any]:
        low: dict[str, Any] = {}
        high: dict[str, Any] = {}
        nulls: dict[str, int] = {}
        for column in schema.fields:
            found = self.columns.get(column.name)
            if found is None:
                continue
            nulls[column.name] = int(found["null_count"])
            bounds = _bounds(str(getattr(column.type, "type", "")), found.get("min"), found.get("max"))
            if bounds is not None:
                low[column.name], high[column.name] = bounds
        return {"numRecords": self.rows, "minValues": low, "maxValues": high, "nullCount": nulls}


def write_parquet(
    con: duckdb.DuckDBPyConnection,
    select: str,
    table_uri: str,
    *,
    partition_by: Sequence[str] = (),
    partition_values: Mapping[str, str | None] | None = None,
    storage_options: Mapping[str, str] | None = None,
    is_wide: bool = False,
) -> list[DataFile]:
    """Stream a query into new Parquet files below a table's root. A failed write leaves no file behind.

    Args:
        con: Connection that the query's tables live in.
        select: The query. With `partition_by` it gives those columns too; with `partition_values` it must not.
        table_uri: Root of the table.
        partition_by: Columns whose values decide the folder; they are not stored in the files.
        partition_values: The one partition that all rows belong to, instead of `partition_by`.
        storage_options: How an object store is reached, to delete the files of a failed write.
        is_wide: The rows have many columns or are long, see `wide_files`; not allowed with `partition_by`.

    Returns:
        The files that hold rows; an empty list for an empty result.

    Raises:
        StorageError: The lake cannot be written, or the table cannot be read. The landing files are not the cause.
    """
    folder, name = table_uri, f"part-{uuid.uuid4()}"
    if partition_values is not None:
        folder += "".join(f"/{key}={value}" for key, value in partition_values.items())
    target, options = f"{folder}/{name}.parquet", ", WRITE_EMPTY_FILE false"
    if partition_by:
        target, options = folder, f", PARTITION_BY ({quote_names(partition_by)}), APPEND"
        options += f", FILENAME_PATTERN '{name}-{{uuid}}'"
    try:
        if "://" not in folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        if is_wide:
            return _write_by_batches(con, select, table_uri, target, partition_values or {}, storage_options)
        written = con.execute(f"COPY ({select}) TO {quote_text(target)} ({_FORMAT}{options})").fetchall()
    except BaseException as error:
        leftovers.sweep(con, select, table_uri, f"{folder}/{name}", partition_by, storage_options)
        if faults.is_of_table(error, table_uri):
            # A query can read the table that it writes (a merge, a change of types). DuckDB's message names the failing
            # file.
            tried = "written" if isinstance(error, OSError) or name in str(error) else "read or written"
            raise StorageError(table_uri, error, tried=tried) from error
        raise
    return [_described(row, table_uri, partition_values or {}) for row in written]


def _write_by_batches(
    con: duckdb.DuckDBPyConnection,
    select: str,
    table_uri: str,
    target: str,
    partition_values: Mapping[str, str | None],
    storage_options: Mapping[str, str] | None,
) -> list[DataFile]:
    path = target.removeprefix(table_uri).lstrip("/")
    rows, size_bytes, nulls = copy_by_batches(con, select, table_uri, path, storage_options)
    if not rows:
        leftovers.delete(table_uri, [path], storage_options)
        return []
    return [DataFile(path, size_bytes, rows, partition_values, nulls)]


def _described(row: Sequence[Any], table_uri: str, partition_values: Mapping[str, str | None]) -> DataFile:
    """Turn a row of COPY's answer into the file that it describes."""
    path, rows, size_bytes, _footer, columns, keys = row
    stats = {key[1:-1].replace('""', '"'): value for key, value in columns.items() if '"."' not in key}
    return DataFile(path.removeprefix(table_uri).lstrip("/"), size_bytes, rows, keys or partition_values, stats)


def delete_uncommitted(
    table_uri: str, files: Iterable[DataFile], storage_options: Mapping[str, str] | None = None
) -> None:
    """Delete written files, except those that a version may name. A writer that fails calls this with all its files.

    Args:
        table_uri: Root of the table.
        files: The files.
        storage_options: How an object store is reached.
    """
    leftovers.delete(table_uri, [file.path for file in files if not file.may_be_named], storage_options)


def query_schema(con: duckdb.DuckDBPyConnection, select: str) -> Schema:
    """Return the Delta schema of a query's result; all columns are nullable.

    The query is bound once and never run: it takes longest where it reads many tables.

    Raises:
        LakeError: A column has a type that Delta does not know.
    """
    bound = con.sql(f"SELECT * FROM ({select})")
    typed = [
        f"NULL::{kind} AS {quote_name(name)}" for name, kind in zip(bound.columns, map(str, bound.types), strict=True)
    ]
    arrow: pa.Schema = con.sql(f"SELECT {', '.join(typed)} LIMIT 0").to_arrow_table().schema
    try:
        return Schema.from_arrow(arrow)
    except Exception as error:  # delta-rs raises a bare Exception for an unknown type
        if not isinstance(error, Exception) or "Schema error" not in str(error):
            raise
        kinds = ", ".join(f"{column.name} {column.type}" for column in arrow)
        raise LakeError(
            f"the query has a column that Delta cannot store ({reason(error)}); its columns: {kinds}"
        ) from error


def _bounds(kind: str, low: str | None, high: str | None) -> tuple[Any, Any] | None:
    """Turn DuckDB's textual bounds into Delta's; return None where they could mislead a reader."""
    if low is None or high is None:
        return None
    if kind in _NUMBERS:
        return int(low), int(high)
    if kind.startswith("decimal"):
        # Most readers take JSON numbers as doubles: 15 digits survive, more could be rounded past a value.
        exact = all(len(text.lstrip("-").replace(".", "")) <= 15 for text in (low, high))
        return (float(low), float(high)) if exact else None
    if kind == "date":
        return (low, high) if _is_year_of_four(low, high) else None
    if kind in ("timestamp", "timestamp_ntz") and _is_year_of_four(low, high):
        suffix = "Z" if kind == "timestamp" else ""
        return tuple(text.removesuffix("+00").replace(" ", "T") + suffix for text in (low, high))  # type: ignore[return-value]
    if kind == "string" and low.isascii() and high.isascii() and max(len(low), len(high)) <= _LONGEST_TEXT_IN_STATS:
        return low, high
    return None


def _is_year_of_four(*texts: str) -> bool:
    """Tell whether dates are plain ISO: Delta knows no "infinity", no years BC and no years beyond 9999."""
    return all(len(text) >= 10 and text[4] == "-" and text[:4].isdigit() and "BC" not in text for text in texts)
