"""Discard dead letters that somebody has looked at and does not need. They stay in the table, marked as discarded.

A discarded dead letter is no longer replayed, does not count against the failure budget, and is not shown as waiting.
It still counts among the records of its batch, so that the counts of earlier years still add up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

import duckdb

from pipeline_assets.ingest.dead_letters.select import Selection
from pipeline_assets.ingest.dead_letters.settled import days_fact, remove_replayed, settled_positions, tell
from pipeline_assets.lake import Table
from pipeline_assets.lake import dead_letters as stored
from pipeline_assets.lake.dead_letters import WEIGHT, dead_letter_table

DISCARDED = "discarded_dead_letters"
"""Key in the metadata of the commit that discards dead letters: their number."""


@dataclass(frozen=True)
class Discarded:
    """What was discarded.

    Attributes:
        dead_letters: Their number.
        records: Number of records of the source that they stand for.
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
        bronze: The bronze table that they belong to; for records that belong to no table it does not exist.
        selection: Which dead letters; all if not given.
        metadata: Kept in the commit.
    """
    dead_letters = dead_letter_table(bronze.lake, bronze.name)
    if not dead_letters.exists():
        return Discarded()
    # For runs that were killed: before they wrote this log, or before they removed dead letters that they had replayed.
    tell(con, bronze, dead_letters)
    remove_replayed(con, bronze, dead_letters, metadata)
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
