"""Days whose dead letters were replayed or discarded: how the next audit of a row table learns about them.

Dead letters change in a log of their own, but the audit follows the log of the bronze table. So after each change of
dead letters, a commit to the bronze table names its days. If a kill comes between the two, the next `tell` mends it:
the position says which changes the bronze table's log already names.
"""

import json
from collections.abc import Iterable
from datetime import date

import duckdb
from deltalake import DeltaTable

from pipeline_assets.lake import Table, audited_in

SETTLED = "settled"
"""Position in both logs: how many times dead letters were replayed or discarded."""

SETTLED_DAYS = "settled_days"
"""In the metadata of commits to both tables: partitions of the dead letters concerned, as a JSON list."""

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
    commits = [commit for commit in opened.history(_COMMITS_LOOKED_AT) if SETTLED_DAYS in commit][: done - told]
    bronze.commit(con, [], positions={SETTLED: done}, metadata=days_fact(_days(commits)))


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
