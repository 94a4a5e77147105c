"""Discarding dead letters that somebody has looked at and does not need. They stay, marked; what they count for ends.

A discarded dead letter is no longer replayed, nor weighed by the failure budget, nor shown as waiting. It still counts
among the records of its batch, so that the accounts of years ago go on adding up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

import duckdb

from pipeline_assets.ingest.dead_letters.select import Selection
from pipeline_assets.ingest.dead_letters.settled import days_fact, settled_positions, tell
from pipeline_assets.lake import Table
from pipeline_assets.lake import dead_letters as stored
from pipeline_assets.lake.dead_letters import WEIGHT, dead_letter_table

DISCARDED = "discarded_dead_letters"
"""In the metadata of the commit that discards dead letters: how many."""


@dataclass(frozen=True)
class Discarded:
    """What was discarded.

    Attributes:
        dead_letters: How many.
        records: How many records of the source they stand for.
        days: Their partitions.
    """

    dead_letters: int = 0
    records: int = 0
    days: frozenset[date] = frozenset()


def discard(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    selection: Selection | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
) -> Discarded:
    """Discard waiting dead letters of a table.

    Args:
        con: A connection of the lake.
        bronze: The table beside which they lie; of records that belong to no table it does not exist.
        selection: Which ones; all if not given.
        metadata: Kept in the commit.
    """
    dead_letters = dead_letter_table(bronze.lake, bronze.name)
    if not dead_letters.exists():
        return Discarded()
    tell(con, bronze, dead_letters)  # of an earlier change that was killed before it could be told
    selection, version = selection or Selection(), dead_letters.open().version()
    found = con.execute(
        f"SELECT count(*), coalesce(sum({WEIGHT}), 0)::BIGINT, list(DISTINCT _partition_date) "
        f"FROM {selection.relation(dead_letters, version)}"
    ).fetchone()
    count, records, days = found or (0, 0, None)
    if not count:
        return Discarded()
    stored.discard(
        con,
        dead_letters,
        selection.where(dead_letters, version),
        at=datetime.now(UTC),
        metadata={**(metadata or {}), **days_fact(days), DISCARDED: str(count)},
        positions=settled_positions(dead_letters),
    )
    tell(con, bronze, dead_letters)
    return Discarded(count, records, frozenset(days))
