"""Data files with many columns or long rows: written batch by batch, in the memory of one batch.

DuckDB's own COPY collects 122,880 rows before it writes, and at least one block of 256 KiB for each column: 1,500
columns of 300 rows do not fit in 1 GB. Arrow's writer takes twice the CPU, so only such files use it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import duckdb
import pyarrow as pa
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSystem, LocalFileSystem, PyFileSystem

from pipeline_assets.lake import faults

MANY_COLUMNS = 400
"""From this number of columns on, COPY is not even tried."""

_BATCH_ROWS = 1_024
_ROW_GROUP_BYTES = 32 * 1024 * 1024
# The number of threads is set for all cursors of a database, and a pull writes with several cursors at once.
_alone = Lock()


def copy_by_batches(
    con: duckdb.DuckDBPyConnection,
    select: str,
    table_uri: str,
    path: str,
    storage_options: Mapping[str, str] | None,
) -> tuple[int, int, dict[str, dict[str, str]]]:
    """Write a query into one Parquet file.

    Args:
        con: Connection that the query's tables live in.
        select: The query.
        table_uri: Root of the table.
        path: The file below it; its folder exists, where there are folders.
        storage_options: How an object store is reached.

    Returns:
        Rows and bytes written, and for each column the statistics that `files.DataFile` takes: the number of nulls.
    """
    from pyarrow import parquet  # importing takes 0.1 s, which only a wide file is worth

    store, target = _place(table_uri, path, storage_options)
    rows = size = 0
    waiting: list[pa.RecordBatch] = []
    with (
        _one_thread(con),
        con.execute(select).to_arrow_reader(_BATCH_ROWS) as batches,
        parquet.ParquetWriter(
            target, batches.schema, filesystem=store, compression="zstd", compression_level=1
        ) as writer,
    ):
        # Delta wants the nulls of each field of a struct: rather give no statistics.
        nulls = {column.name: 0 for column in batches.schema if not pa.types.is_nested(column.type)}
        for batch in _read(batches):
            rows += batch.num_rows
            size += batch.nbytes
            for name in nulls:
                nulls[name] += batch.column(name).null_count
            waiting.append(batch)
            if size >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting, size = [], 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return rows, int(store.get_file_info(target).size), {name: {"null_count": str(n)} for name, n in nulls.items()}


def _read(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a query; raise DuckDB's own error if the query fails after the first rows."""
    try:
        yield from batches
    except OSError as error:
        raise faults.of_duckdb(error) from error


@contextmanager
def _one_thread(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Read with one thread, which needs the memory of one."""
    with _alone:
        (threads,) = con.execute("SELECT current_setting('threads')").fetchone() or (1,)
        con.execute("SET threads = 1")
        try:
            yield
        finally:
            con.execute(f"SET threads = {threads}")


def _place(table_uri: str, path: str, storage_options: Mapping[str, str] | None) -> tuple[FileSystem, str]:
    if "://" not in table_uri:
        return LocalFileSystem(), str(Path(table_uri, path))
    return PyFileSystem(DeltaStorageHandler(table_uri, dict(storage_options or {}))), path
