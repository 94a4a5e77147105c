"""A query of a database as typed columns, read by the readers of `ingest.database`. Misfits become dead letters.

Types: PostgreSQL and DuckDB name them. Elsewhere only Python values are known, so all values of a column decide: values
of one kind have that type, whole numbers beside floats are DOUBLE if that keeps each of them, anything else is text,
and a column of nulls has no type. A numeric without digits is DECIMAL(38,18), so that batches have one type, or text if
a value has more than 20 digits before the point or 18 after it. Intervals, times, UUIDs, structs and a database's
user-defined types come as text.
"""

from dataclasses import dataclass, replace
from datetime import datetime

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import RawColumn
from pipeline_assets.ingest.batch.watermark import Value
from pipeline_assets.ingest.conform.conform import fit_sql
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.database import parameters
from pipeline_assets.ingest.database.errors import DatabaseError
from pipeline_assets.ingest.database.protocol import Database, Reading, Relation, Selection, Snapshot, column_of
from pipeline_assets.ingest.database.pulls import connect
from pipeline_assets.notebook.frames import METADATA, Column, NotebookError, scratch
from pipeline_assets.sql import quote_name, quote_text

_STAGED = "pulled"
_EXACT_IN_DOUBLE = 2**53
_NUMERIC = (38, 18)


@dataclass(frozen=True)
class Staged:
    """Records as read, in a table of a connection; they have the members of a `RecordSet`.

    Attributes:
        fields: The source's columns.
        kinds: The type of each, as in `Reading.kinds`.
        taken_at: When they were read, UTC.
        origin: What was read, for `_source`.
    """

    sql: str
    fields: tuple[SourceField, ...]
    kinds: tuple[str, ...]
    taken_at: datetime
    origin: str
    has_problems: bool = False


def stage(
    con: duckdb.DuckDBPyConnection, url: str, query: str, column: str | None, lower: Value | str | None
) -> Staged:
    """Read a query into a table of the connection.

    Args:
        con: The connection.
        url: URL of the database.
        query: SQL without parameters.
        column: The watermark's column; it must exist even if there is no bound.
        lower: Read rows from this watermark on, and those without a watermark; None reads all.

    Raises:
        DatabaseError: The database cannot be reached or refuses, or the column does not exist.
        NotebookError: The query uses a reserved column name, or the bound cannot be compared with the column.
    """
    database = connect(url)
    staged = _read(con, database, Relation(query=query), Selection(watermark=column, lower=lower))
    if lower is not None and column is not None and url.startswith("sqlite"):
        _check_classes(database, query, column, lower)
    return staged


def _check_classes(database: Database, query: str, column: str, lower: Value | str) -> None:
    """Check that SQLite can compare the column with the bound: to it, every number is less than every text.

    Raises:
        NotebookError: The column has values that cannot be compared with the bound.
    """
    relation = f"SELECT DISTINCT typeof({quote_name(column)}) FROM ({parameters.bare(query)}\n)"
    with scratch() as con:
        kinds = {
            kind for _, kind in con.execute(_read(con, database, Relation(query=relation), Selection()).sql).fetchall()
        }
    if other := kinds - {"null"} - ({"integer", "real"} if isinstance(lower, int) else {"text"}):
        raise NotebookError(
            f"{column} has {', '.join(sorted(other))} values, which SQLite does not compare with {lower!r}: give a "
            "last_watermark like them, or cast the column in the query"
        )


def fitted(con: duckdb.DuckDBPyConnection, staged: Staged) -> list[Column]:
    """Return the records that fit their types, in order. All records are then in the table `fitted`, see `fit_sql`.

    Args:
        con: The connection that holds them.
        staged: The records.

    Returns:
        Their columns, and `_source`.
    """
    kinds = [_resolved(con, field, kind) for field, kind in zip(staged.fields, staged.kinds, strict=True)]
    decoded, pairs = "", []
    for number, (field, kind) in enumerate(zip(staged.fields, kinds, strict=True)):
        fed = field
        if kind == "BLOB" and field.dtype == "VARCHAR":
            decoded += f", from_base64({field.column}) AS b{number}"
            fed = SourceField(field.name, f"b{number}", "BLOB")
        pairs.append((RawColumn(field.name, "VARCHAR" if kind in ("NULL", "JSON") else kind), (fed,)))
    records = replace(staged, sql=f"SELECT *{decoded} FROM ({staged.sql})")
    con.execute(f"CREATE OR REPLACE TEMP TABLE fitted AS {fit_sql(records, pairs)}")
    values = ", ".join(f"v{number}" for number in range(len(pairs)))
    rows = con.execute(
        f"SELECT {values}, struct_pack(file := {quote_text(staged.origin)}, line := _line) AS _source "
        "FROM fitted WHERE _reason IS NULL ORDER BY _line"
    ).to_arrow_table()
    columns = [
        Column(field.name, pa.chunked_array([pa.nulls(rows.num_rows)]) if kind == "NULL" else rows[f"v{number}"])
        for number, (field, kind) in enumerate(zip(staged.fields, kinds, strict=True))
    ]
    return [*columns, Column("_source", rows["_source"])]


def _read(con: duckdb.DuckDBPyConnection, database: Database, relation: Relation, selection: Selection) -> Staged:
    with database.snapshot(relation) as snapshot, snapshot.read(con, selection) as reading:
        names = [field.name for field in reading.fields]
        place = f"{relation.name} of {database.place}"
        if taken := [name for name in names if name in METADATA]:
            raise NotebookError(
                f"{place}: {', '.join(taken)} is what the extraction adds: give it another name with AS"
            )
        if selection.watermark is not None and column_of(names, selection.watermark, place) != selection.watermark:
            raise DatabaseError(
                f"{place} has no column {selection.watermark}: it has {', '.join(names)}. "
                "Give watermark_column as the query calls it"
            )
        return _staged(con, reading, snapshot, relation)


def _staged(con: duckdb.DuckDBPyConnection, reading: Reading, snapshot: Snapshot, relation: Relation) -> Staged:
    con.execute(f"CREATE OR REPLACE TEMP TABLE {_STAGED} AS {reading.sql}")
    (found,) = con.execute(f"SELECT count(*) FROM {_STAGED}").fetchone() or (0,)
    if found != (sent := reading.counted()):
        raise DatabaseError(
            f"{relation.name}: {sent} records were sent, but {found} came out of the reading: run again, and report it "
            "if it happens twice"
        )
    return Staged(f"SELECT * FROM {_STAGED}", reading.fields, tuple(reading.kinds()), snapshot.taken_at, relation.name)


def _resolved(con: duckdb.DuckDBPyConnection, field: SourceField, kind: str) -> str:
    """Return the exact type of a column whose kind does not decide it."""
    text = field.column
    if kind == "DECIMAL":
        return _decimal(con, text)
    if kind == "BIGINT" and field.dtype == "VARCHAR":
        return "VARCHAR" if _count(con, f"TRY_CAST({text} AS BIGINT) IS NULL AND {text} IS NOT NULL") else "BIGINT"
    if kind == "NUMBER":
        whole = f"TRY_CAST({text} AS HUGEINT)"
        is_inexact = f"{whole} IS NULL OR abs({whole}) > {_EXACT_IN_DOUBLE}"
        return "VARCHAR" if _count(con, f"regexp_full_match({text}, '-?[0-9]+') AND ({is_inexact})") else "DOUBLE"
    if kind == "DATETIME":
        zoned, others = (_count(con, f"{test} regexp_matches({text}, '[+-][0-9:]+$')") for test in ("", "NOT"))
        return "VARCHAR" if zoned and others else "TIMESTAMP WITH TIME ZONE" if zoned else "TIMESTAMP"
    return kind


def _decimal(con: duckdb.DuckDBPyConnection, text: str) -> str:
    digits, scale = _NUMERIC
    whole, fraction = f"ltrim(split_part({text}, '.', 1), '-')", f"split_part({text}, '.', 2)"
    is_long = f"length({whole}) > {digits - scale} OR length({fraction}) > {scale}"
    is_text = _count(con, f"regexp_full_match({text}, '-?[0-9]+([.][0-9]+)?') AND ({is_long})")
    return "VARCHAR" if is_text else f"DECIMAL({digits},{scale})"


def _count(con: duckdb.DuckDBPyConnection, condition: str) -> int:
    (found,) = con.execute(f"SELECT count(*) FILTER ({condition}) FROM {_STAGED}").fetchone() or (0,)
    return int(found)
