"""Opens an Avro file as a DuckDB relation of records.

DuckDB reads flat records of plain types. All other files, and those at which DuckDB fails, are decoded here into a
temporary Parquet file (`avro_values`).
"""

import importlib.resources
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.files.formats import avro, avro_values
from pipeline_assets.ingest.files.formats.records import Records, UnreadableFile
from pipeline_assets.ingest.files.limits import check_time
from pipeline_assets.sql import quote_text

if TYPE_CHECKING:
    from pyarrow import parquet

_BATCH_ROWS = 20_000
_EMPTY_ROWS = 1_000_000  # records of zero bytes (a schema of nulls) that a block may declare


def open_avro(con: duckdb.DuckDBPyConnection, path: Path, scratch: Path, *, careful: bool) -> Records:
    """Open an Avro container file.

    Args:
        con: The connection to read with.
        path: The file.
        scratch: An existing directory.
        careful: True if DuckDB has failed at this file.

    Raises:
        UnreadableFile: The file is not a complete Avro file.
    """
    try:
        container = avro.read_container(path)
        columns = avro_values.columns(container.schema)
        if careful or not avro_values.is_trusted(container.schema):
            target = scratch / "decoded.parquet"
            _decode(path, container, columns, target)
            source = f"read_parquet({quote_text(str(target))}, hive_partitioning = false)"
            dtypes = [column.dtype for column in columns]
        else:
            load_avro(con)
            source = f"read_avro({quote_text(str(path))}, hive_partitioning = false)"
            dtypes = [dtype for _, dtype, *_ in con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    except avro.AvroError as error:
        raise UnreadableFile(f"file: {error}") from error
    fields = tuple(
        SourceField(column.name, f"f{i}", dtype, column.evolves_to)
        for i, (column, dtype) in enumerate(zip(columns, dtypes, strict=True))
    )
    names = ", ".join(field.column for field in fields)
    sql = f"SELECT row_number() OVER () AS _line, * FROM {source} AS t({names})"
    return Records("avro", sql, fields, con, path, scratch, expected_rows=container.records)


def load_avro(con: duckdb.DuckDBPyConnection) -> None:
    """Load the extension from its wheel: nothing is downloaded at run time."""
    wheel = importlib.resources.files("duckdb_extension_avro")
    extension = wheel.joinpath(f"extensions/v{duckdb.__version__}/avro.duckdb_extension")
    con.execute(f"LOAD {quote_text(str(extension))}")


def _decode(path: Path, container: avro.Container, columns: Sequence[avro_values.Column], target: Path) -> None:
    """Write all records as Parquet, a batch at a time."""
    schema = pa.schema([(f"f{i}", column.arrow) for i, column in enumerate(columns)])
    reads = [column.read for column in columns]
    values: list[list[Any]] = [[] for _ in columns]
    from pyarrow import parquet  # importing takes 0.1 s, which files that DuckDB reads do not pay

    with parquet.ParquetWriter(target, schema, compression="lz4") as writer:
        for count, data in avro.blocks(path, container):
            check_time()
            _decode_block(count, data, reads, values)
            if len(values[0]) >= _BATCH_ROWS:
                _flush(writer, schema, values)
        _flush(writer, schema, values)


def _decode_block(count: int, data: bytes, reads: Sequence[avro_values.Read], values: list[list[Any]]) -> None:
    if count > max(len(data), _EMPTY_ROWS):
        raise avro.AvroError("corrupt Avro file: a block of more records than bytes")
    pos = 0
    fields = list(zip(reads, [column.append for column in values], strict=True))
    try:
        for _ in range(count):
            for read, append in fields:
                value, pos = read(data, pos)
                append(value)
    except (IndexError, RecursionError, struct.error) as error:
        raise avro.AvroError("corrupt Avro file: a record ends beyond its block") from error
    if pos != len(data):
        raise avro.AvroError("corrupt Avro file: a block is longer than its records")


def _flush(writer: "parquet.ParquetWriter", schema: pa.Schema, values: list[list[Any]]) -> None:
    arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
    writer.write_batch(pa.record_batch(arrays, schema=schema))
    for column in values:
        column.clear()
