"""Data files of a Delta table: DuckDB writes them, this module turns what DuckDB reports into Delta's add actions.

No commit happens here: a file that no commit names is invisible, and is deleted by who wrote it (`discard`). DuckDB's
own COPY is used because it streams, uses all cores and takes 0.6 times the CPU of an Arrow stream into delta-rs
(benchmarks/).
"""

import json
import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import Schema
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction
from pyarrow.fs import FileSelector, PyFileSystem

from pipeline_assets.lake.errors import LakeError, StorageError, reason
from pipeline_assets.lake.storage import quote_name, quote_text
from pipeline_assets.lake.wide_files import copy_by_batches

_LOG = logging.getLogger(__name__)

_FORMAT = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, RETURN_STATS"
# One row in 100,000 needs a longer prefix to be told apart; long texts would only bloat the log.
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
        may_be_named: Whether a version of the table names the file, or may do so: it was sent with a commit, and
            nothing proves that this commit is not there. Such a file is never deleted.
    """

    path: str
    size_bytes: int
    rows: int
    partition_values: Mapping[str, str | None]
    columns: Mapping[str, Mapping[str, str]]
    may_be_named: bool = field(default=False, compare=False)

    def null_count(self, column: str) -> int:
        """Number of nulls in a top-level column."""
        return int(self.columns[column]["null_count"])

    def add_action(self, schema: Schema) -> AddAction:
        """Describes the file for the log, with the statistics that readers skip files by."""
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
    """Streams a query into new Parquet files below a table's root. What fails leaves none behind.

    Args:
        con: Connection that the query's tables live in.
        select: The query. With `partition_by` it gives those columns too; with `partition_values` it must not.
        table_uri: Root of the table.
        partition_by: Columns whose values decide the folder; they are not stored in the files.
        partition_values: The one partition that all rows belong to, instead of `partition_by`.
        storage_options: How an object store is reached, to delete what a failure left there.
        is_wide: Of many columns or long rows, see `wide_files`; not with `partition_by`.

    Returns:
        The files that hold rows; none for an empty result.

    Raises:
        StorageError: The lake cannot be written, or the table not be read. What lands is not to blame.
    """
    folder, options = table_uri, ", WRITE_EMPTY_FILE false"
    name = f"part-{uuid.uuid4()}"
    if partition_values is not None:
        folder += "".join(f"/{key}={value}" for key, value in partition_values.items())
    if partition_by:
        columns = ", ".join(quote_name(column) for column in partition_by)
        options = f", PARTITION_BY ({columns}), APPEND, FILENAME_PATTERN '{name}-{{uuid}}'"
    target = folder if partition_by else f"{folder}/{name}.parquet"
    try:
        if "://" not in folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        if is_wide:
            path = target.removeprefix(table_uri).lstrip("/")
            count, size_bytes, nulls = copy_by_batches(con, select, table_uri, path, storage_options)
            file = DataFile(path, size_bytes, count, partition_values or {}, nulls)
            if not count:
                discard(table_uri, [file], storage_options)
            return [file] if count else []
        written = con.execute(f"COPY ({select}) TO {quote_text(target)} ({_FORMAT}{options})").fetchall()
    except BaseException as error:
        _sweep(table_uri, f"{folder}/{name}", len(partition_by), storage_options)
        if _is_of_storage(error, table_uri):
            # A query can read the table that it writes: a merge, other types. DuckDB names the file that it means.
            tried = "written" if isinstance(error, OSError) or name in str(error) else "read or written"
            raise StorageError(table_uri, error, tried=tried) from error
        raise
    files = []
    for path, rows, size_bytes, _footer, columns_, keys in written:
        stats = {key[1:-1].replace('""', '"'): value for key, value in columns_.items() if '"."' not in key}
        relative = path.removeprefix(table_uri).lstrip("/")
        files.append(DataFile(relative, size_bytes, rows, keys or partition_values or {}, stats))
    return files


def _is_of_storage(error: BaseException, table_uri: str) -> bool:
    """Whether an error of a COPY is that of the table's storage: DuckDB names the file, whatever else the query reads.

    Only object stores are reached by HTTP, and what lands never is.
    """
    if isinstance(error, duckdb.HTTPException):  # an IOException, too, but with the address that was asked
        return True
    return table_uri in str(error) if isinstance(error, duckdb.IOException) else isinstance(error, OSError)


def discard(table_uri: str, files: Iterable[DataFile], storage_options: Mapping[str, str] | None = None) -> None:
    """Deletes files that were written, less those that a version may name. Whoever fails calls this with all it wrote.

    Args:
        table_uri: Root of the table.
        files: The files.
        storage_options: How an object store is reached.
    """
    _delete(table_uri, [file.path for file in files if not file.may_be_named], storage_options)


def _sweep(table_uri: str, target: str, depth: int, storage_options: Mapping[str, str] | None) -> None:
    """Deletes what a failed COPY left.

    Args:
        table_uri: Root of the table.
        target: Start of the names of its files; with `depth` they lie as many folders deeper, in partitions.
        depth: Number of partition columns that the COPY made folders of.
        storage_options: How an object store is reached.
    """
    folder, _, name = target.rpartition("/")
    try:
        if "://" not in table_uri:
            found = Path(folder).glob(f"{'*/' * depth}*{name}*")  # DuckDB writes tmp_<name> first where it may
            paths = [path.relative_to(table_uri).as_posix() for path in found]
        elif not depth:
            paths = [f"{target}.parquet".removeprefix(table_uri).lstrip("/")]
        elif storage_options is None:
            return
        else:
            store = PyFileSystem(DeltaStorageHandler(table_uri, dict(storage_options)))
            listed = store.get_file_info(FileSelector("", recursive=True))
            paths = [file.path for file in listed if file.base_name.startswith(name)]
    except OSError as error:
        _LOG.warning("%s cannot be searched for what a failed write left, vacuum will find it: %s", table_uri, error)
    else:
        _delete(table_uri, paths, storage_options)


def _delete(table_uri: str, paths: Sequence[str], storage_options: Mapping[str, str] | None) -> None:
    """Deletes files, trying twice. One that stays is no reason to fail: nobody sees it."""
    is_local = "://" not in table_uri
    if not paths or (not is_local and storage_options is None):
        return
    for _ in range(2):
        paths, error = _undeleted(table_uri, paths, storage_options or {}, is_local=is_local)
        if not paths:
            return
    _LOG.warning("%s keeps %s files that no version names, for vacuum: %s", table_uri, len(paths), reason(error))


def _undeleted(
    table_uri: str, paths: Sequence[str], storage_options: Mapping[str, str], *, is_local: bool
) -> tuple[list[str], BaseException]:
    left, last = [], BaseException()
    store = None if is_local else DeltaStorageHandler(table_uri, dict(storage_options))
    for path in paths:
        try:
            if store is None:
                Path(table_uri, path).unlink(missing_ok=True)
            else:
                store.delete_file(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            left.append(path)
            last = error
    return left, last


def query_schema(con: duckdb.DuckDBPyConnection, select: str) -> Schema:
    """Gives the Delta schema of a query's result; all columns nullable.

    Raises:
        LakeError: A column has a type that Delta does not know.
    """
    arrow: pa.Schema = con.sql(f"SELECT * FROM ({select}) LIMIT 0").to_arrow_table().schema
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
    """Turns DuckDB's textual bounds into Delta's; None where they could mislead a reader."""
    if low is None or high is None:
        return None
    if kind in _NUMBERS:
        return int(low), int(high)
    if kind.startswith("decimal"):
        # JSON numbers are doubles to most readers: 15 digits survive, more could round past a value.
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
    """Whether dates are plain ISO: "infinity" and years BC or beyond 9999 are not Delta's."""
    return all(len(text) >= 10 and text[4] == "-" and text[:4].isdigit() and "BC" not in text for text in texts)
