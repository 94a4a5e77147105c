"""Rows that are gone from the source: its keys are compared with those of bronze. A watermark cannot show such rows.

A key that bronze has and the source no longer has gets a tombstone: its last row once more, with `_deleted` true. From
the source all keys are read, at one snapshot; from bronze, its key columns.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import duckdb

from pipeline_assets.contracts.base import RawShape, raw_shape
from pipeline_assets.ingest.batch import source as spine
from pipeline_assets.ingest.batch.batch import Batch, Plan
from pipeline_assets.ingest.batch.counts import Counts, Reading
from pipeline_assets.ingest.batch.errors import BatchError, LostRecordsError
from pipeline_assets.ingest.batch.watermark import EXTRACTED, at, next_extracted
from pipeline_assets.ingest.conform.conform import conform_sql
from pipeline_assets.ingest.database.errors import retrying
from pipeline_assets.ingest.database.protocol import Database, Selection, Snapshot
from pipeline_assets.ingest.database.pulls import DatabaseSource
from pipeline_assets.lake import Lake, Table, schemas
from pipeline_assets.sql import quote_name, quote_names, quote_text

_KEYS, _STORED, _GONE = "pull_keys", "pull_stored", "pull_gone"


@dataclass(frozen=True)
class KeyComparison:
    """The result of a comparison.

    Attributes:
        keys: Keys that the source has.
        gone: Keys that got a tombstone.
        missing: Keys of the source that bronze does not have. Their rows wait for the next pull, are dead letters, or
            have a watermark below the lookback.
    """

    keys: int
    gone: int
    missing: int


def compare_keys(
    lake: Lake, con: duckdb.DuckDBPyConnection, source: DatabaseSource, database: Database, *, run_id: str = ""
) -> KeyComparison:
    """Compare the keys and commit the tombstones. Errors that may pass by themselves are tried again.

    Args:
        lake: The lake.
        con: A connection of it.
        source: The declaration; of a whole table or query, not of windows.
        database: The database.
        run_id: Of the run, for the commit's metadata.

    Raises:
        DatabaseError: The database cannot be reached, refuses, or does not have what is declared.
        BatchError: Keys went missing on the way.
    """
    run = _Run(lake, con, source, database, run_id)
    retrying()(spine.ingest, run)
    return run.found


@dataclass
class _Run:
    """One comparison, as a `Source` of the spine: its batch holds the tombstones."""

    lake: Lake
    con: duckdb.DuckDBPyConnection
    source: DatabaseSource
    database: Database
    run_id: str
    found: KeyComparison = KeyComparison(0, 0, 0)

    @property
    def name(self) -> str:
        return self.source.table(self.lake).name

    def plan(self, stack: ExitStack) -> Sequence[Batch]:
        """Compare the keys; give no batch if no key has gone."""
        con, source, bronze = self.con, self.source, self.source.table(self.lake)
        if not bronze.exists():
            raise BatchError(f"{bronze.name} has no rows yet: pull {source.name} first, then compare its keys")
        # Before the snapshot, so that a pull in between is noticed.
        before = bronze.position(EXTRACTED)
        with self.database.snapshot(source.relation) as snapshot:
            self._extracted = next_extracted(before, snapshot.taken_at)
            _read_keys(con, source, snapshot)
        self.found = _find_gone(con, bronze, source)
        if not self.found.gone:
            return []
        planned = Plan(expect={EXTRACTED: before}, positions={EXTRACTED: self._extracted})
        self._batch = Batch(self.lake, con, source.name, planned, run_id=self.run_id)
        self._batch.facts["batch_id"] = f"keys {before or ''}..{self._extracted}"
        return [self._batch]

    def read(self, batches: Sequence[Batch]) -> None:
        """Write the tombstones."""
        _write_tombstones(self._batch, self.source, self._extracted, self.found.gone)


def _read_keys(con: duckdb.DuckDBPyConnection, source: DatabaseSource, snapshot: Snapshot) -> None:
    """Read the source's keys with bronze's types; a key that does not fit its type is in no row of bronze."""
    shape = RawShape(
        tuple(replace(c, required=False) for c in raw_shape(source.model).columns if c.name in source.keys)
    )
    lower = source.watermark.first if source.query is not None and source.watermark else None
    with snapshot.read(con, Selection(columns=source.keys, lower=lower)) as reading:
        select = conform_sql(
            reading, shape, file="", partition_date=at(0).date(), batch_id="", extracted_at=at(0)
        )  # fmt: skip
        keys = quote_names(source.keys)
        con.execute(f"CREATE OR REPLACE TEMP TABLE {_KEYS} AS SELECT {keys}, _reason FROM ({select})")
        came, sent = _count(con, _KEYS), reading.counted()
    if came != sent:
        raise LostRecordsError(
            f"{source.relation.name} sent {sent} keys, {came} came: nothing was committed; run again"
        )


def _find_gone(con: duckdb.DuckDBPyConnection, bronze: Table, source: DatabaseSource) -> KeyComparison:
    keys = quote_names(source.keys)
    same = " AND ".join(f"b.{name} IS NOT DISTINCT FROM k.{name}" for name in map(quote_name, source.keys))
    there = f"(SELECT DISTINCT {keys} FROM {_KEYS} WHERE _reason IS NULL)"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {_STORED} AS SELECT {keys} FROM {bronze.scan()} GROUP BY {keys} "
        "HAVING NOT max_by(_deleted, _extracted_at)"
    )
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {_GONE} AS SELECT b.* FROM {_STORED} AS b ANTI JOIN {there} AS k ON {same}"
    )
    missing = _count(con, f"{there} AS k ANTI JOIN {_STORED} AS b ON {same}")
    return KeyComparison(_count(con, _KEYS), _count(con, _GONE), missing)


def _write_tombstones(batch: Batch, source: DatabaseSource, extracted: int, gone: int) -> None:
    """Write the tombstone of each key that is gone: its last row once more, with `_deleted` true."""
    keys, day, batch_id = quote_names(source.keys), at(extracted).date(), batch.facts["batch_id"]
    origin = f"keys of {source.relation.name}"
    same = " AND ".join(f"s.{name} IS NOT DISTINCT FROM g.{name}" for name in map(quote_name, source.keys))
    rows = f"""
        SELECT * EXCLUDE (_partition_date, place) REPLACE (
            true AS _deleted, {quote_text(batch_id)} AS _batch_id, TIMESTAMPTZ '{at(extracted)}' AS _extracted_at,
            struct_pack(file := {quote_text(origin)}, line := row_number() OVER ()) AS _source)
        FROM (SELECT s.*, row_number() OVER (PARTITION BY {keys} ORDER BY _extracted_at DESC) AS place
              FROM {batch.bronze.scan()} AS s SEMI JOIN {_GONE} AS g ON {same})
        WHERE place = 1"""
    batch.types = schemas.types(batch.bronze.open().schema())
    batch.files += batch.bronze.write(batch.con, rows, partition_values={"_partition_date": day.isoformat()})
    if (written := sum(file.rows for file in batch.files)) != gone:
        raise BatchError(f"{batch.bronze.name}: {written} tombstones for {gone} keys that are gone; report this")
    batch.readings.append(Reading(batch_id, Counts(gone, gone), frozenset({day}), origin))


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    found = con.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(found[0]) if found else 0
