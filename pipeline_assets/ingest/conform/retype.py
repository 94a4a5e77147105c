"""Gives the columns of an existing table other types: first plans what each row would become, then rewrites the table.

A value that does not fit its new type is kept as text in `_rescued`, if the table has that column; otherwise nothing is
changed. `Table.widen` handles types that cannot lose a value.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from pipeline_assets.ingest.conform import casts
from pipeline_assets.lake import LakeError, Table
from pipeline_assets.sql import quote_name, quote_text

_RESCUED = "_rescued"
_SAMPLES, _SHOWN_CHARACTERS = 5, 100
_NOWHERE = (
    f"and the table has no column {_RESCUED} to keep that in: nothing was done. Choose a type that holds it, or "
    "rebuild the table from what it is made of"
)


@dataclass(frozen=True)
class Retyped:
    """What becomes of one column.

    Attributes:
        name: The column.
        stored: Its type.
        wanted: Its new type.
        value: SQL of the new value; null where the stored one does not fit.
        is_misfit: SQL of whether the stored value does not fit.
        fits: Number of values that fit the new type.
        misfits: Number of values that do not fit.
        samples: Some values that do not fit.
    """

    name: str
    stored: str
    wanted: str
    value: str
    is_misfit: str
    fits: int
    misfits: int
    samples: tuple[str, ...]


def plan(con: duckdb.DuckDBPyConnection, table: Table, columns: Mapping[str, str]) -> list[Retyped]:
    """Find out what other types would do. Writes nothing.

    Args:
        con: A connection of the lake.
        table: The table.
        columns: Column name to type, as DuckDB calls it.

    Raises:
        LakeError: There is no such column or type, or the column's type cannot change.
    """
    partitions = table.open().metadata().partition_columns
    kinds = table.columns(con)
    if unknown := [name for name in columns if name not in kinds]:
        raise LakeError(f"{table.name} has no column {', '.join(unknown)}; it has {', '.join(kinds)}")
    if fixed := [name for name in columns if name in partitions]:
        raise LakeError(f"{table.name} is partitioned by {', '.join(fixed)}: such a type cannot change")
    return [_column(con, table, name, kinds[name], kind) for name, kind in columns.items()]


def carry_out(con: duckdb.DuckDBPyConnection, table: Table, found: Sequence[Retyped]) -> int:
    """Rewrite the table as planned, in one commit, and return its version.

    Raises:
        LakeError: Some values do not fit, and the table has no column that keeps them.
    """
    values = {column.name: column.value for column in found}
    # Look at the columns again, not at those that the plan found: rows may have come since.
    if _RESCUED in {column.name for column in table.open().schema().fields}:
        return table.retype(con, {**values, _RESCUED: _with_misfits(found)})
    if names := ", ".join(column.name for column in found if column.misfits):
        raise LakeError(f"{table.name}: values of {names} do not fit, {_NOWHERE}")
    try:
        return table.retype(con, {column.name: _or_error(table, column) for column in found})
    except duckdb.InvalidInputException as error:
        if _NOWHERE in str(error):
            raise LakeError(str(error).removeprefix("Invalid Input Error: ")) from error
        raise


def _or_error(table: Table, column: Retyped) -> str:
    """Return SQL of the new value, which fails if a value came after the plan and does not fit."""
    before, after = quote_text(f"{table.name}: '"), quote_text(f"' in {column.name} does not fit, {_NOWHERE}")
    said = f"{before} || left({quote_name(column.name)}::VARCHAR, {_SHOWN_CHARACTERS}) || {after}"
    return f"CASE WHEN {column.is_misfit} THEN error({said}) ELSE {column.value} END"


def _with_misfits(columns: Sequence[Retyped]) -> str:
    """Return SQL of `_rescued` plus the values that do not fit.

    It edits text: a JSON function would round numbers in it.
    """
    members = ", ".join(
        f"CASE WHEN {column.is_misfit} THEN {quote_text(json.dumps(column.name, ensure_ascii=False) + ':')} || "
        f"to_json({quote_name(column.name)}::VARCHAR)::VARCHAR END"
        for column in columns
    )
    before = f"regexp_replace(nullif(trim({_RESCUED}), '{{}}'), '[ ]*[}}]$', '')"
    kept = f"coalesce({before} || ',', '{{') || array_to_string([{members}], ',') || '}}'"
    return f"CASE WHEN {' OR '.join(column.is_misfit for column in columns)} THEN {kept} ELSE {_RESCUED} END"


def _column(con: duckdb.DuckDBPyConnection, table: Table, name: str, stored: str, wanted: str) -> Retyped:
    try:
        target = casts.normal(str(duckdb.sqltype(wanted)))
    except duckdb.Error as error:
        raise LakeError(f"{name}: {wanted!r} is not a type that DuckDB knows") from error
    column, source = quote_name(name), casts.normal(stored)
    text = f"nullif({casts.trimmed(column)}, '')"
    value = casts.from_text(text, target) if source == "VARCHAR" else casts.from_native(column, source, target)
    given = text if source == "VARCHAR" and target != "VARCHAR" else column
    fits, misfits, samples = con.execute(
        f"SELECT count(*) FILTER (fit IS NOT NULL), count(*) FILTER (fit IS NULL), "
        f"list(DISTINCT given::VARCHAR ORDER BY given::VARCHAR) FILTER (fit IS NULL) FROM "
        f"(SELECT {given} AS given, ({value})::{target} AS fit FROM {table.scan()} WHERE {given} IS NOT NULL)"
    ).fetchone() or (0, 0, [])
    value, shown = f"({value})::{target}", tuple((samples or [])[:_SAMPLES])
    is_misfit = f"({given} IS NOT NULL AND {value} IS NULL)"
    return Retyped(name, source, target, value, is_misfit, fits, misfits, shown)
