"""Dead letters that were replayed or discarded: how the next audit of a row table learns about their days.

Dead letters change in a log of their own, but the audit follows the log of the bronze table. So after each change of
dead letters, a commit to the bronze table names its days. If a kill comes between the two, the next `tell` mends it:
the position says which changes the bronze table's log already names.

A replay adds rows before it removes their dead letters. If a kill comes between the two, `remove_replayed` mends it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import duckdb
from deltalake import DeltaTable

from pipeline_assets.ingest.dead_letters.select import PLACE, REPLAYABLE
from pipeline_assets.lake import Table, audited_in, days_predicate
from pipeline_assets.lake.dead_letters import create, waiting

SETTLED = "settled"
"""Position in both logs: how many times dead letters were replayed or discarded."""

SETTLED_DAYS = "settled_days"
"""In the metadata of commits to both tables: partitions of the dead letters concerned, as a JSON list."""

REPLAYED_BATCH, REPLAYED_RECORDS = "replayed_batch", "replayed_records"
"""In the metadata of the commit that removes replayed dead letters of a change table: their batch, and how many records
they stood for. The rows that they became are in another batch."""

_COMMITS_LOOKED_AT = 200


def days_fact(days: Iterable[date]) -> dict[str, str]:
    """Give the metadata that names days."""
    return {SETTLED_DAYS: json.dumps(sorted(day.isoformat() for day in days))}


def settled_positions(dead_letters: Table) -> dict[str, int]:
    """Give the position that the next change of dead letters sets."""
    return {SETTLED: (dead_letters.position(SETTLED) or 0) + 1}


def tell(con: duckdb.DuckDBPyConnection, bronze: Table, dead_letters: Table) -> None:
    """Note in the log of a bronze table which days' dead letters were replayed or discarded since the last such note.

    A table that was never audited needs no note: its first audit covers all days. Change tables have no audit.
    """
    if not (bronze.exists() and dead_letters.exists()) or audited_in(bronze.open()) is None:
        return
    opened = dead_letters.open()
    done, told = opened.transaction_version(SETTLED) or 0, bronze.position(SETTLED) or 0
    if done <= told:
        return
    bronze.commit(con, [], positions={SETTLED: done}, metadata=days_fact(_days(_newest(opened, done - told))))


def _newest(dead_letters: DeltaTable, number: int) -> list[dict[str, str]]:
    """Give so many of the newest commits that name days.

    After a kill, any number of batches may have come before somebody replays or discards again.
    """

    def naming_days(commits: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
        return [commit for commit in commits if SETTLED_DAYS in commit][:number]

    return naming_days(_commits(dead_letters, are_enough=lambda newest: len(naming_days(newest)) == number))


def _commits(
    dead_letters: DeltaTable, *, are_enough: Callable[[Sequence[dict[str, Any]]], bool]
) -> Sequence[dict[str, Any]]:
    """Give the newest commits; the whole log, which costs more the longer it is, only if they are not enough."""
    newest = dead_letters.history(_COMMITS_LOOKED_AT)
    return newest if len(newest) < _COMMITS_LOOKED_AT or are_enough(newest) else dead_letters.history()


def replayed_sql(con: duckdb.DuckDBPyConnection, bronze: Table, relation: str) -> str:
    """Give a predicate on dead letters of a row table: whether a replay that was killed has added their rows.

    Args:
        con: A connection of the lake.
        bronze: The table.
        relation: The dead letters, as SQL after FROM; only their days are read from the table.
    """
    days = [day for (day,) in con.execute(f"SELECT DISTINCT _partition_date FROM {relation}").fetchall()]
    rows = f"SELECT {PLACE} FROM {bronze.scan()} WHERE {days_predicate('_partition_date', days)}"
    return f"{REPLAYABLE} AND {PLACE} IN ({rows})"


def remove_replayed(
    con: duckdb.DuckDBPyConnection, bronze: Table, dead_letters: Table, metadata: Mapping[str, str] | None = None
) -> tuple[int, frozenset[date]]:
    """Remove the waiting dead letters of a row table whose rows are in the table, because a replay was killed.

    Otherwise they could be discarded, and their records would count twice.

    Args:
        con: A connection of the lake.
        bronze: The table.
        dead_letters: Its dead letters.
        metadata: Kept in the commit.

    Returns:
        Their number and their days.
    """
    which = f"{waiting(dead_letters)} WHERE {REPLAYABLE}"
    if not bronze.exists() or con.execute(f"SELECT 1 FROM {which} LIMIT 1").fetchone() is None:
        return 0, frozenset()
    replayed = replayed_sql(con, bronze, which)
    count, days = con.execute(
        f"SELECT count(*), list(DISTINCT _partition_date) FROM {waiting(dead_letters)} WHERE {replayed}"
    ).fetchone() or (0, None)
    if not count:
        return 0, frozenset()
    remove(con, bronze, dead_letters, replayed, days, metadata)
    return count, frozenset(days)


def remove(
    con: duckdb.DuckDBPyConnection, bronze: Table, dead_letters: Table, which: str, days: Iterable[date],
    metadata: Mapping[str, str] | None,
) -> None:  # fmt: skip
    """Remove dead letters of some days whose rows are in the table, also those that were discarded meanwhile."""
    create(con, dead_letters)  # its columns, before a predicate names them
    days = frozenset(days)
    dead_letters.commit(
        con,
        [],
        where=f"{days_predicate('_partition_date', days)} AND {which}",
        metadata={**(metadata or {}), **days_fact(days)},
        positions=settled_positions(dead_letters),
    )
    tell(con, bronze, dead_letters)


def settled_days(opened: DeltaTable) -> frozenset[date]:
    """Give the days that the commits after the last audit name.

    Args:
        opened: The version of the bronze table that is audited.
    """
    newest, version = opened.version(), audited_in(opened)
    if version == newest:
        return frozenset()
    return _days(opened.history(newest - version if version is not None else None))


def _days(commits: Iterable[dict[str, str]]) -> frozenset[date]:
    return frozenset(
        date.fromisoformat(day) for commit in commits for day in json.loads(commit.get(SETTLED_DAYS, "[]"))
    )


def replayed_records(dead_letters: Table, since: int) -> Counter[str]:
    """Count, by batch, the records of change tables whose dead letters were replayed.

    Args:
        dead_letters: The table of dead letters.
        since: Milliseconds since 1970, the time of the oldest commit whose batches matter: replays come after it. One
            run may replay the dead letters of any number of batches, so the whole log is read if need be.
    """
    if not dead_letters.exists():
        return Counter()
    found: Counter[str] = Counter()
    for commit in _commits(dead_letters.open(), are_enough=lambda newest: newest[-1]["timestamp"] < since):
        if REPLAYED_BATCH in commit:
            found[commit[REPLAYED_BATCH]] += int(commit[REPLAYED_RECORDS])
    return found
