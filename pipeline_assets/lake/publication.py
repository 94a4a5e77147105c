"""Which rows of a bronze table downstream may read: write, audit, publish.

Rows are written, then audited by checks, then published; a day that fails is withheld. Two facts in the table's log
record this, each changed by a commit: the version up to which all rows were audited (a position), and the list of
withheld days (a table property). Rows without an audit, because a run was killed before its checks, are not published
either.

Checks decide which days are bad; they do not live here.
"""

import json
import time
from collections.abc import Collection
from datetime import date

import duckdb
from deltalake import DeltaTable

from pipeline_assets.lake.commit_facts import DATE_COLUMN, touched_dates
from pipeline_assets.lake.errors import CommitConflictError
from pipeline_assets.lake.table import Table
from pipeline_assets.sql import quote_name

PARTITION = "_partition_date"
_HELD_DAYS = "pipeline_assets.held_days"
_AUDITED = "audited"
_ATTEMPTS = 10


def held_days(table: Table, version: int | None = None) -> frozenset[date]:
    """Read which landing days are withheld."""
    return held_in(table.open(version))


def held_in(opened: DeltaTable) -> frozenset[date]:
    """Return the landing days that are withheld in the opened version."""
    listed = opened.metadata().configuration.get(_HELD_DAYS)
    return frozenset(map(date.fromisoformat, json.loads(listed))) if listed else frozenset()


def audited_in(opened: DeltaTable) -> int | None:
    """Return the version up to which all rows were audited, according to the opened version; None: not audited."""
    return opened.transaction_version(_AUDITED)


def publish_or_withhold(
    con: duckdb.DuckDBPyConnection, table: Table, *, version: int, good: Collection[date], bad: Collection[date]
) -> frozenset[date]:
    """Withhold bad days, release good ones, and publish all rows up to a version.

    The commit that withholds or releases a day lists the dates in its rows, so that downstream recomputes them.

    Args:
        con: A connection of the lake.
        table: A table partitioned by `_partition_date`.
        version: The version that was audited.
        good: Days that passed.
        bad: Days that failed.

    Returns:
        All days that are withheld now.
    """
    for attempt in range(_ATTEMPTS):
        opened = table.open()
        before = held_in(opened)
        after = (before - set(good)) | set(bad)
        newest = opened.version()
        if after != before:
            try:
                committed = _hold(con, table, opened, before ^ after, after)
            except CommitConflictError:
                time.sleep(0.05 * attempt)
                continue
            if newest != version:
                break  # the property follows rows that were not audited: publish nothing, audit again
            version = committed
        if (audited_in(opened) or -1) < version:
            table.commit(con, [], positions={_AUDITED: version})
        return after
    raise CommitConflictError(table.name, _ATTEMPTS)


def published(opened: DeltaTable) -> str:
    """Build the predicate on the rows of the opened version that downstream may read."""
    listed = ", ".join(f"DATE '{day}'" for day in sorted(held_in(opened)))
    return f"{PARTITION} NOT IN ({listed})" if listed else "TRUE"


def _hold(
    con: duckdb.DuckDBPyConnection, table: Table, opened: DeltaTable, moved: Collection[date], held: Collection[date]
) -> int:
    column = opened.metadata().configuration.get(DATE_COLUMN, PARTITION)
    days = " OR ".join(f"{PARTITION} = DATE '{day}'" for day in sorted(moved))
    rows = con.execute(
        f"SELECT DISTINCT CAST({quote_name(column)} AS DATE) FROM {table.scan(opened.version())} WHERE {PARTITION} "
        f"BETWEEN DATE '{min(moved)}' AND DATE '{max(moved)}' AND ({days})"
    ).fetchall()
    return table.set_properties(
        {_HELD_DAYS: json.dumps(sorted(day.isoformat() for day in held))},
        version=opened.version(),  # the version from which the days were computed
        metadata=touched_dates([row[0] for row in rows]),
    )
