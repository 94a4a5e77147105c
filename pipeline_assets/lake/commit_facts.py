"""What a commit says beside its files: positions, rows added and removed, and the dates of both.

Downstream recomputes by these dates (`changes`).
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
"""Table property: the column whose dates commits list."""

TOUCHED_DATES = "touched_dates"
"""Commit metadata: dates of the rows that came and of those that went, as a JSON list; absent if one has no date."""

ADDED_DATES = "added_dates"
"""Commit metadata: dates of the rows that came, as a JSON list; absent when they are the touched dates."""

UNDATED = "undated"
"""Commit metadata: "true" when a row is concerned that has no date, so that anything may have changed."""

REPLACED_ALL = "replaced_all"
"""Commit metadata: "true" when other rows stood in the table before, and none of them was kept for sure."""


def date_column(table: DeltaTable) -> str | None:
    """Names the column whose dates the table's commits list; None if it has none."""
    return table.metadata().configuration.get(DATE_COLUMN)


def added_dates(commit: Mapping[str, str]) -> frozenset[date] | None:
    """Reads the dates of the rows that a commit brought; None if that says nothing of what changed.

    A commit that replaces all rows may lose a key: the rows that came do not tell that.
    """
    listed = commit.get(ADDED_DATES, commit.get(TOUCHED_DATES))
    if listed is None or REPLACED_ALL in commit:
        return None
    return frozenset(map(date.fromisoformat, json.loads(listed)))


def properties(positions: Mapping[str, int] | None, metadata: Mapping[str, str] | None) -> CommitProperties:
    """Puts positions and facts in the form that a commit takes. It becomes the next version, or none."""
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
    """Gives the facts of a commit that is about to be made.

    Args:
        con: A connection of the lake.
        table: The version that it changes.
        uri: The table's root.
        files: The new rows.
        removal: The rows that go.
        replaces_all: Whether all rows go.
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
    """Gives the fact of which dates' rows are concerned: who follows by days would never see a row that has none."""
    return {UNDATED: "true"} if None in dates else {TOUCHED_DATES: _listed(dates)}


def of_new_shape(files: Sequence[DataFile]) -> dict[str, str]:
    """Gives the facts of a commit that replaces columns and rows: no dates, so that anything may have changed."""
    return {"rows_added": str(sum(file.rows for file in files)), REPLACED_ALL: "true"}


def _dates(con: duckdb.DuckDBPyConnection, uri: str, files: Sequence[DataFile], column: str) -> frozenset[date | None]:
    """The distinct dates in files just written: from partition values, else by reading that one column."""
    if all(column in file.partition_values for file in files):
        values = (file.partition_values[column] for file in files)
        return frozenset(None if value is None else date.fromisoformat(value) for value in values)
    names = ", ".join(quote_text(f"{uri}/{file.path}") for file in files)
    rows = f"read_parquet([{names}], hive_partitioning = false)"  # else a folder day=... above the lake is the column
    found = con.execute(f"SELECT DISTINCT CAST({quote_name(column)} AS DATE) FROM {rows}")
    return frozenset(row[0] for row in found.fetchall())


def _listed(dates: Iterable[date | None]) -> str:
    return json.dumps(sorted(str(day) for day in dates))
