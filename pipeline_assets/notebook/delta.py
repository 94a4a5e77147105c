"""`DeltaLakeManager`: writes frames into tables of a lake. `lake.table` makes each commit, and makes it once."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import duckdb
import polars as pl
import pyarrow as pa

from pipeline_assets.ingest.conform import casts
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.lake import Table, query_schema
from pipeline_assets.notebook.frames import Column, NotebookError, check_text, columns_of, content_id, lent
from pipeline_assets.notebook.places import lake_at
from pipeline_assets.sql import quote_name

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger(__name__)

Mode = Literal["append", "overwrite"]

_OVERWRITES = "notebook:overwrites"
"""Position: the time of the last overwrite, different for each one.

Rows appended before it are no longer in the table.
"""

_FILES = "filename"
"""Column that `delta_scan` adds; it cannot read a table that has one of this name."""

_PARTITIONS = ("string", "byte", "short", "integer", "long", "date", "boolean")

# Delta has no unsigned integers.
_SIGNED = {"UTINYINT": "SMALLINT", "USMALLINT": "INTEGER", "UINTEGER": "BIGINT", "UBIGINT": "DECIMAL(20,0)"}


class DeltaLakeManager:
    """Writes frames into the Delta tables of a lake."""

    def __init__(self, storage_path: str | Path) -> None:
        """Open nothing yet.

        Args:
            storage_path: Root of the lake: a folder, or `s3://bucket/prefix` with credentials in the `AWS_*` variables
                (`AWS_ENDPOINT_URL` and `AWS_ALLOW_HTTP` for a server of your own).

        Raises:
            NotebookError: It is neither.
        """
        self._lake = lake_at(storage_path)

    def create_or_update_table(
        self,
        df: "pl.DataFrame | pd.DataFrame",
        table_name: str,
        partition_columns: Sequence[str] | None = None,
        mode: Mode = "append",
    ) -> int:
        """Write a frame in one commit; create the table if necessary.

        Appending the same content again changes nothing and logs a warning, whatever the order of rows and columns and
        whenever they were extracted. So rows that happened twice must differ in something, such as a time. After an
        overwrite the content counts as new again, but not after another tool has deleted rows of it. An empty frame
        makes no commit.

        Args:
            df: A frame of polars or pandas. Delta has no type for times finer than a microsecond, times of day,
                durations and objects of several types; unsigned integers become signed ones that hold them, except
                inside lists and structs. Appended values take the table's types if they fit exactly: 2.0 is a whole
                number, 2.5 is not.
            table_name: `orders` means `bronze.orders`; `silver.orders` is taken as it is.
            partition_columns: Columns whose values decide the folder: texts, whole numbers, dates. Once the table
                exists, repeat them or leave them out.
            mode: "append", or "overwrite", which replaces all rows, and the columns if they differ.

        Returns:
            The table's version afterwards.

        Raises:
            NotebookError: An argument cannot be used, or a value does not fit the table's type.
            SchemaMismatchError: The table has other columns than the frame.
            LakeError: The table name is not valid, Delta has no type for a column, or the table cannot be opened.
        """
        check_text("table_name", table_name, "orders")
        if mode not in get_args(Mode):
            raise NotebookError(f"mode is {mode!r}: give {' or '.join(map(repr, get_args(Mode)))}")
        parts = [] if partition_columns is None else partition_columns
        if not isinstance(parts, list | tuple) or not all(isinstance(name, str) for name in parts):
            raise NotebookError(f"partition_columns is a list of columns: give ['order_date'], say, not {parts!r}")
        table = Table(self._lake, table_name if "." in table_name else f"bronze.{table_name}")
        columns = columns_of(df)
        with self._lake.errors_explained(), self._lake.connect() as con:
            fields = lent(con, columns)
            rows = _rows(con, table, columns, fields, is_cast=mode == "append")
            _prepare(con, table, rows, list(parts))
            if mode == "overwrite":
                return table.overwrite(con, rows, positions={_OVERWRITES: time.time_ns()})
            if len(columns[0].values):
                _append(con, table, rows, len(columns[0].values))
            return table.open().version()


def _append(con: duckdb.DuckDBPyConnection, table: Table, rows: str, number: int) -> None:
    """Append rows, unless they were appended since the last overwrite."""
    fields = [SourceField(name, quote_name(name), kind) for name, kind in _types(con, f"({rows})").items()]
    content = content_id(con, f"({rows})", fields)
    while True:
        before = table.position(_OVERWRITES)
        batch_id = f"notebook {before or 0} {content}"
        version = table.append(con, rows, batch_id=batch_id, expect={_OVERWRITES: before})
        if version is not None:
            return
        if table.position(batch_id) is not None:  # otherwise another writer has just overwritten it
            commits = table.open().history()
            known = (str(commit.get("version")) for commit in commits if commit.get("batch_id") == batch_id)
            since = next(known, "that is not in its log any more")
            _LOG.warning("%s has these %s rows since version %s: nothing was appended", table.name, number, since)
            return


def _rows(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    columns: Sequence[Column],
    fields: Sequence[SourceField],
    *,
    is_cast: bool,
) -> str:
    """Build a query that gives the frame in types of Delta, or in the table's types if it is to be cast.

    Raises:
        NotebookError: Delta has no type for a column, or a value does not fit the table's type.
    """
    lower = [column.name.lower() for column in columns]
    if alike := sorted(column.name for column in columns if lower.count(column.name.lower()) > 1):
        raise NotebookError(
            f"{table.name}: the columns {', '.join(alike)} differ only in case, which Delta ignores: rename them"
        )
    if _FILES in lower:
        name = columns[lower.index(_FILES)].name
        raise NotebookError(f"{table.name}: readers use the name {name} for the files of a table: rename the column")
    is_asked = is_cast or any(pa.types.is_null(column.values.type) for column in columns)
    stored = table.columns(con) if is_asked and table.exists() else {}
    selected = []
    for column, field in zip(columns, fields, strict=True):
        known = stored.get(column.name)
        value = _value(table, column, field, known)
        if is_cast and known is not None and not pa.types.is_null(column.values.type):
            value = _cast(con, table, SourceField(column.name, value, _SIGNED.get(field.dtype, field.dtype)), known)
        selected.append(f"{value} AS {quote_name(column.name)}")
    return f"SELECT {', '.join(selected)} FROM frame"


def _types(con: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """Return each column's DuckDB type."""
    found = con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return {str(name): str(kind) for name, kind, *_ in found}


def _cast(con: duckdb.DuckDBPyConnection, table: Table, field: SourceField, stored: str) -> str:
    """Return SQL of a column in the table's type.

    Raises:
        NotebookError: A value does not fit it exactly.
    """
    if field.dtype == stored:
        return field.column
    value = casts.from_native(field.column, field.dtype, stored)
    lost = f"SELECT {field.column}::VARCHAR FROM frame WHERE {field.column} IS NOT NULL"
    try:
        found = con.execute(f"{lost} AND ({value}) IS NULL LIMIT 1").fetchone()
    except duckdb.Error:  # types that have nothing in common
        found = con.execute(f"{lost} LIMIT 1").fetchone() or ("",)
    if found is not None:
        raise NotebookError(
            f"{table.name}: the column {field.name} has {found[0]!r}, a {field.dtype}, which does not fit the table's "
            f"{stored}: give the column one type in each batch, with validate_and_clean(df, "
            f"{{'dtypes': {{{field.name!r}: ...}}}}), or change the table's type with mode='overwrite'"
        )
    return value


def _value(table: Table, column: Column, field: SourceField, stored: str | None) -> str:
    """Return SQL of a column in a type that Delta has; a column without any value takes the table's type."""
    cast_it = "cast it, with validate_and_clean(df, {'dtypes': {...}}) say"
    if pa.types.is_null(column.values.type):
        if stored is None:
            raise NotebookError(f"{table.name}: the column {column.name} has neither a value nor a type: {cast_it}")
        return f"NULL::{stored}"
    if column.is_json:
        raise NotebookError(
            f"{table.name}: the column {column.name} has values of several types, or too large for one: {cast_it}"
        )
    if field.dtype in ("TIMESTAMP_NS", "TIMESTAMP_S", "TIMESTAMP_MS"):
        raise NotebookError(
            f"{table.name}: the column {column.name} has times that do not fit in microseconds: round them"
        )
    if unknown := [str(kind) for kind in _nested(column.values.type) if _is_unknown(kind)]:
        raise NotebookError(
            f"{table.name}: the column {column.name} has {', '.join(unknown)} inside, which Delta does not know: "
            "cast it to signed numbers, or microseconds"
        )
    return f"{field.column}::{_SIGNED[field.dtype]}" if field.dtype in _SIGNED else field.column


def _nested(kind: pa.DataType) -> Iterator[pa.DataType]:
    """Yield the types inside a type."""
    for number in range(kind.num_fields):
        yield kind.field(number).type
        yield from _nested(kind.field(number).type)


def _is_unknown(kind: pa.DataType) -> bool:
    return bool(pa.types.is_unsigned_integer(kind) or (pa.types.is_timestamp(kind) and kind.unit != "us"))


def _prepare(con: duckdb.DuckDBPyConnection, table: Table, rows: str, partition_by: Sequence[str]) -> None:
    """Create the table if necessary.

    Raises:
        NotebookError: The table is partitioned otherwise, or cannot be partitioned as asked.
    """
    schema = query_schema(con, rows)
    kinds = {column.name: str(getattr(column.type, "type", column.type)) for column in schema.fields}
    has = table.open().metadata().partition_columns if table.exists() else None
    if has is not None and partition_by and list(partition_by) != has:
        raise NotebookError(
            f"{table.name} is partitioned by {', '.join(has) or 'nothing'}, not by {', '.join(partition_by)}: leave "
            "partition_columns out, or write another table"
        )
    _check_partitions(con, table, rows, kinds, partition_by if has is None else has)
    if has is None:
        table.create(schema, partition_by=partition_by)


def _check_partitions(
    con: duckdb.DuckDBPyConnection, table: Table, rows: str, kinds: Mapping[str, str], partition_by: Sequence[str]
) -> None:
    if unknown := [name for name in partition_by if name not in kinds]:
        raise NotebookError(f"{table.name}: the frame has no column {', '.join(unknown)}, which is a partition")
    if other := [f"{name} ({kinds[name]})" for name in partition_by if kinds[name] not in _PARTITIONS]:
        raise NotebookError(
            f"{table.name}: {', '.join(other)} cannot be a partition: derive a text, a whole number or a date from it"
        )
    if partition_by and len(partition_by) == len(kinds):
        raise NotebookError(f"{table.name}: all columns are partitions, so its files would be empty: name fewer")
    for name in partition_by:
        empty = f"SELECT count(*) FROM ({rows}) WHERE {quote_name(name)} = ''"
        if kinds[name] == "string" and con.execute(empty).fetchone() != (0,):
            raise NotebookError(
                f"{table.name}: {name} is a partition and has empty texts, which Delta would take for null: make them "
                "null, or name them"
            )
