"""The bronze table of a source: made from its contract, and Parquet files of it split into rows and dead letters.

What is the same for landed files and for pulls. Reading a source, and the commit, are theirs (`landing`, `pull`).
"""

from collections.abc import Iterable, Sequence
from datetime import date

import duckdb
from deltalake import Schema

from pipeline_assets.contracts.base import Model, RawColumn, RawShape, event_time, raw_shape
from pipeline_assets.lake import DataFile, SchemaMismatchError, Table, query_schema, quote_name, quote_text


def prepare(con: duckdb.DuckDBPyConnection, bronze: Table, model: Model, technical: Sequence[RawColumn]) -> RawShape:
    """Creates the table if need be; gives the columns to read, with those that evolution has added before.

    Args:
        con: A connection of the lake.
        bronze: The table.
        model: Its contract.
        technical: Columns that every row has beside those of the contract.

    Raises:
        SchemaMismatchError: A column has another type in the table than in the contract.
    """
    shape = raw_shape(model)
    bronze.create(
        schema_of(con, (*shape.columns, *technical)),
        partition_by=["_partition_date"],
        date_column=event_time(model) or "_partition_date",
        description=(model.__doc__ or "").strip(),
    )
    reserved = {column.name for column in technical}
    stored = con.execute(f"DESCRIBE SELECT * FROM {bronze.scan()}").fetchall()
    kinds = {name: kind for name, kind, *_ in stored}
    wrong = [
        f"column {column.name} is {column.dtype} in the contract, {kinds[column.name]} in the table"
        for column in shape.columns
        if duckdb.sqltype(kinds[column.name]) != duckdb.sqltype(column.dtype)
    ]
    if wrong:
        raise SchemaMismatchError(bronze.name, wrong)
    return shape.extended(RawColumn(name, kind) for name, kind, *_ in stored if name not in reserved)


def schema_of(con: duckdb.DuckDBPyConnection, columns: Iterable[RawColumn]) -> Schema:
    """Gives the Delta schema of some columns."""
    return query_schema(con, "SELECT " + ", ".join(f"NULL::{c.dtype} AS {quote_name(c.name)}" for c in columns))


def written_rows(uri: str, files: Iterable[DataFile]) -> str:
    """Gives the relation of written files, as `r`: the columns of `conform_sql` without the partition."""
    names = ", ".join(quote_text(f"{uri}/{file.path}") for file in files)
    return f"read_parquet([{names}], hive_partitioning = false) AS r"


def misfits(files: Iterable[DataFile]) -> int:
    """Counts the rows of written files that have a `_reason`; from statistics, without reading."""
    return sum(file.rows - file.null_count("_reason") for file in files)


def letters_sql(source: str, day: date, line: str = "r._source.line") -> str:
    """Gives the query of the dead letters in written files.

    Args:
        source: `written_rows`, perhaps with joins.
        day: Their partition.
        line: SQL of the record's line, where the files do not have the right one.
    """
    return (
        f"SELECT DATE '{day}' AS _partition_date, r._batch_id, r._extracted_at, "
        f"struct_pack(file := r._source.file, line := {line}) AS _source, r._reason AS reason, r._raw AS raw, "
        "1 AS records "
        f"FROM {source} WHERE r._reason IS NOT NULL"
    )


def rows_sql(source: str, line: str = "r._source.line") -> str:
    """Gives the query of the rows that fit in written files. Arguments as in `letters_sql`."""
    place = f"struct_pack(file := r._source.file, line := {line})"
    return f"SELECT r.* EXCLUDE (_reason, _raw) REPLACE ({place} AS _source) FROM {source} WHERE r._reason IS NULL"
