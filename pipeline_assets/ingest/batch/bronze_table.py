"""The bronze table of a source: made from its contract, and Parquet files of it split into rows and dead letters.

This is what landed files, pulls and polls have in common. Reading a source is in `ingest.files`, `ingest.database` and
`ingest.rest`; the commit is in `ingest.batch.batch`.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

import duckdb
from deltalake import Schema

from pipeline_assets.contracts.base import Model, RawColumn, RawShape, event_time, raw_shape
from pipeline_assets.lake import DataFile, SchemaMismatchError, Table, query_schema
from pipeline_assets.lake.schemas import Widening
from pipeline_assets.sql import quote_name, quote_text


def prepare(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    model: Model,
    technical: Sequence[RawColumn],
    *,
    by_partition: bool = False,
) -> tuple[RawShape, list[Widening]]:
    """Create the table if it does not exist, and widen its columns where the contract's types are wider.

    Args:
        con: A connection of the lake.
        bronze: The table.
        model: Its contract.
        technical: Columns that every row has besides those of the contract.
        by_partition: Whether commits list the partitions that they touched, whatever times the rows have.

    Returns:
        The columns to read, with those that schema evolution added before; and the columns that were widened.

    Raises:
        SchemaMismatchError: A column has another type in the table than in the contract; a change could lose values.
    """
    shape = raw_shape(model)
    bronze.create(
        schema_of(con, (*shape.columns, *technical)),
        partition_by=["_partition_date"],
        date_column="_partition_date" if by_partition else event_time(model) or "_partition_date",
        description=(model.__doc__ or "").strip(),
    )
    reserved = {column.name for column in technical}
    stored = bronze.columns(con)
    widened = bronze.widen(con, schema_of(con, shape.columns)) if _otherwise(shape, stored) else []
    if widened:
        stored = bronze.columns(con)
    if wrong := _otherwise(shape, stored):
        problems = [f"column {name} is {wrong[name]} in the contract, {stored[name]} in the table" for name in wrong]
        raise SchemaMismatchError(bronze.name, problems, remedy=retype_command(bronze.name, wrong))
    return shape.extended(RawColumn(name, kind) for name, kind in stored.items() if name not in reserved), widened


def _otherwise(shape: RawShape, stored: Mapping[str, str]) -> dict[str, str]:
    """Give the contract's columns that have another type in the table, with the contract's type."""
    return {
        column.name: column.dtype
        for column in shape.columns
        if duckdb.sqltype(stored[column.name]) != duckdb.sqltype(column.dtype)
    }


def retype_command(name: str, columns: Mapping[str, str]) -> str:
    """Give the sentence that names the command by which a table's columns get other types."""
    listed = " ".join(shlex.quote(f"{column}={kind}") for column, kind in columns.items())
    return f"To give the table these types: pipeline tables retype {name} {listed} (it says first what it would do)"


def schema_of(con: duckdb.DuckDBPyConnection, columns: Iterable[RawColumn]) -> Schema:
    """Give the Delta schema of some columns."""
    return query_schema(con, "SELECT " + ", ".join(f"NULL::{c.dtype} AS {quote_name(c.name)}" for c in columns))


def written_rows(uri: str, files: Iterable[DataFile]) -> str:
    """Give the relation of written files, as `r`: the columns of `conform_sql` without the partition."""
    names = ", ".join(quote_text(f"{uri}/{file.path}") for file in files)
    return f"read_parquet([{names}], hive_partitioning = false) AS r"


def misfits(files: Iterable[DataFile]) -> int:
    """Count the rows of written files that have a `_reason`, from their statistics: no file is read."""
    return sum(file.rows - file.null_count("_reason") for file in files)


def dead_letters_sql(source: str, day: date, line: str = "r._source.line") -> str:
    """Give the query of the dead letters in written files.

    Args:
        source: `written_rows`, perhaps with joins.
        day: Their partition.
        line: SQL of the record's line, where the files do not have the right one.
    """
    return (
        f"SELECT DATE '{day}' AS _partition_date, r._batch_id, r._extracted_at, "
        f"struct_pack(file := r._source.file, line := {line}) AS _source, r._reason AS reason, r._raw AS raw, "
        "1 AS records, r._raw_types AS raw_types "
        f"FROM {source} WHERE r._reason IS NOT NULL"
    )


def rows_sql(source: str, line: str = "r._source.line") -> str:
    """Give the query of the rows in written files that fit. The arguments are as in `dead_letters_sql`."""
    place = f"struct_pack(file := r._source.file, line := {line})"
    columns = f"r.* EXCLUDE (_reason, _raw, _raw_types) REPLACE ({place} AS _source)"
    return f"SELECT {columns} FROM {source} WHERE r._reason IS NULL"
