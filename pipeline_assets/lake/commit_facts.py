"""The facts that a commit records beside its files: positions, rows added and removed, and the dates of both.

`changes` reads these dates, and downstream tables recompute by them.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date

import duckdb
from deltalake import CommitProperties, DeltaTable, Transaction

from pipeline_assets.lake.files import DataFile
from pipeline_assets.lake.removal import Removal
from pipeline_assets.sql import quote_name, quote_text

DATE_COLUMN = "pipeline_assets.date_column"
"""Table property: the column whose dates the table's commits list."""

TOUCHED_DATES = "touched_dates"
"""Commit metadata: dates of the added and of the removed rows, as a JSON list; absent if one of the rows has no date.
"""

ADDED_DATES = "added_dates"
"""Commit metadata: dates of the added rows, as a JSON list; absent when they equal the touched dates."""

UNDATED = "undated"
"""Commit metadata: "true" when an added or removed row has no date, so that anything may have changed."""

REPLACED_ALL = "replaced_all"
"""Commit metadata: "true" when the commit replaced all rows of a table that was not empty, and may have kept no row."""


def date_column(table: DeltaTable) -> str | None:
    """Return the column whose dates the table's commits list; None if the table has no such column."""
    return table.metadata().configuration.get(DATE_COLUMN)


def added_dates(commit: Mapping[str, str]) -> frozenset[date] | None:
    """Read the dates of the rows that a commit added; None if these dates do not tell all that changed.

    A commit that replaces all rows may lose a key, which the dates of the added rows do not show.
    """
    listed = commit.get(ADDED_DATES, commit.get(TOUCHED_DATES))
    if listed is None or REPLACED_ALL in commit:
        return None
    return frozenset(map(date.fromisoformat, json.loads(listed)))


def properties(positions: Mapping[str, int] | None, metadata: Mapping[str, str] | None) -> CommitProperties:
    """Pack positions and facts into the form that a commit takes. It becomes the next version or fails: no retries."""
    return CommitProperties(
        custom_metadata=dict(metadata or {}),
        max_commit_retries=0,
        app_transactions=[Transaction(name, value) for name, value in (positions or {}).items()],
    )


def describe(
    con: duckdb.DuckDBPyConnection,
    table: DeltaTable,
    uri: str,
    files: Sequence[DataFile],
    removal: Removal,
    *,
    replaces_all: bool,
) -> dict[str, str]:
    """Collect the facts of a commit that is about to be made.

    Args:
        con: A connection of the lake.
        table: The version that it changes.
        uri: The table's root.
        files: The new rows.
        removal: The rows that are removed.
        replaces_all: Whether all rows are removed.
    """
    facts = {"rows_added": str(sum(file.rows for file in files)), "rows_removed": str(removal.rows)}
    if replaces_all and removal.rows:
        facts[REPLACED_ALL] = "true"
    if column := date_column(table):
        came = _dates(con, uri, files, column)
        touched = came | removal.dates
        facts |= touched_dates(touched)
        if came != touched and UNDATED not in facts:
            facts[ADDED_DATES] = _listed(came)
    return facts


def touched_dates(dates: Collection[date | None]) -> dict[str, str]:
    """Build the fact that lists the touched dates.

    A row without a date touches anything: readers by day never see it.
    """
    return {UNDATED: "true"} if None in dates else {TOUCHED_DATES: _listed(dates)}


def of_new_shape(files: Sequence[DataFile]) -> dict[str, str]:
    """Build the facts of a commit that replaces columns and rows: without dates, because anything may have changed."""
    return {"rows_added": str(sum(file.rows for file in files)), REPLACED_ALL: "true"}


def _dates(con: duckdb.DuckDBPyConnection, uri: str, files: Sequence[DataFile], column: str) -> frozenset[date | None]:
    """Return the distinct dates in new files: from partition values if possible, else by reading that one column."""
    if all(column in file.partition_values for file in files):
        values = (file.partition_values[column] for file in files)
        return frozenset(None if value is None else date.fromisoformat(value) for value in values)
    names = ", ".join(quote_text(f"{uri}/{file.path}") for file in files)
    # With hive partitioning, a folder day=... above the lake would become a column.
    rows = f"read_parquet([{names}], hive_partitioning = false)"
    found = con.execute(f"SELECT DISTINCT CAST({quote_name(column)} AS DATE) FROM {rows}")
    return frozenset(row[0] for row in found.fetchall())


def _listed(dates: Iterable[date | None]) -> str:
    return json.dumps(sorted(str(day) for day in dates))
