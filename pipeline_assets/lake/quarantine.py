"""Days of a bronze table that failed a blocking check and are withheld from downstream (write, audit, publish).

Stopping the run that wrote a bad day is not enough: the next run would carry the day's rows along. So the list of
held days is a property of the table, changed in its log, and the view that dbt reads leaves those days out. Whether a
day is bad is decided by checks; nothing of that lives here.
"""

import json
from collections.abc import Collection
from datetime import date

import duckdb
from deltalake import CommitProperties

from pipeline_assets.lake.storage import quote_name
from pipeline_assets.lake.table import DATE_COLUMN, TOUCHED_DATES, Table

PARTITION = "_partition_date"
_HELD_DAYS = "pipeline_assets.held_days"


def held_days(table: Table, version: int | None = None) -> frozenset[date]:
    """Reads which landing days are withheld."""
    listed = table.open(version).metadata().configuration.get(_HELD_DAYS)
    return frozenset(map(date.fromisoformat, json.loads(listed))) if listed else frozenset()


def judge(con: duckdb.DuckDBPyConnection, table: Table, *, good: Collection[date], bad: Collection[date]) -> None:
    """Withholds bad days and releases good ones; one commit, none if nothing changes.

    The commit lists the dates in the rows of the days that change sides, so that downstream recomputes them.

    Args:
        con: A connection of the lake.
        table: A table partitioned by `_partition_date`.
        good: Days that passed.
        bad: Days that failed.
    """
    before = held_days(table)
    after = (before - set(good)) | set(bad)
    if after == before:
        return
    opened = table.open()
    moved = ", ".join(f"DATE '{day}'" for day in sorted(before ^ after))
    column = opened.metadata().configuration.get(DATE_COLUMN, PARTITION)
    rows = con.execute(
        f"SELECT DISTINCT CAST({quote_name(column)} AS DATE) FROM {table.scan()} WHERE {PARTITION} IN ({moved})"
    ).fetchall()
    opened.alter.set_table_properties(
        {_HELD_DAYS: json.dumps(sorted(day.isoformat() for day in after))},
        raise_if_not_exists=False,
        commit_properties=CommitProperties(
            custom_metadata={TOUCHED_DATES: json.dumps(sorted(row[0].isoformat() for row in rows))}
        ),
    )


def published(table: Table, version: int | None = None) -> str:
    """Gives the predicate on the rows that downstream may read."""
    listed = ", ".join(f"DATE '{day}'" for day in sorted(held_days(table, version)))
    return f"{PARTITION} NOT IN ({listed})" if listed else "TRUE"
