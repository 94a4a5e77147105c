"""What of a bronze table downstream may read: write, audit, publish.

Rows are written, then audited by checks, then published; a day that fails is withheld. Two facts in the table's log
say so, each changed by a commit: the version up to which all rows were audited (a position), and the list of withheld
days (a table property). Rows that nobody audited, because a run was killed before its checks, are not published either.

Which days are bad is decided by checks; nothing of that lives here.
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
    """Reads which landing days are withheld."""
    return held_in(table.open(version))


def held_in(opened: DeltaTable) -> frozenset[date]:
    """Gives the landing days that are withheld in the version that is opened."""
    listed = opened.metadata().configuration.get(_HELD_DAYS)
    return frozenset(map(date.fromisoformat, json.loads(listed))) if listed else frozenset()


def audited_in(opened: DeltaTable) -> int | None:
    """Gives the version up to which all rows were audited, as the version that is opened says; None: not audited."""
    return opened.transaction_version(_AUDITED)


def publish_or_withhold(
    con: duckdb.DuckDBPyConnection, table: Table, *, version: int, good: Collection[date], bad: Collection[date]
) -> frozenset[date]:
    """Withholds bad days, releases good ones, and publishes all rows up to a version.

    The commit that moves a day lists the dates in its rows, so that downstream recomputes them.

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
                break  # the property lies behind rows that were not audited: publish nothing, audit again
            version = committed
        if (audited_in(opened) or -1) < version:
            table.commit(con, [], positions={_AUDITED: version})
        return after
    raise CommitConflictError(table.name, _ATTEMPTS)


def published(opened: DeltaTable) -> str:
    """Gives the predicate on the rows that downstream may read of the version that is opened."""
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
        version=opened.version(),  # what the days were reckoned from
        metadata=touched_dates([row[0] for row in rows]),
    )
