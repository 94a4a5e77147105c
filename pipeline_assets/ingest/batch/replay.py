"""Try dead letters of row tables again with today's contract: what fits takes the place it had when it was read.

The row gets the day, batch, time and source of its dead letter. So a corrected delivery of the file replaces it
together with the file's other rows, a version of its key that was read later still wins in silver, and the counts of
its batch add up. A dead letter that still does not fit stays as it is.

The order makes a kill harmless: first the rows are added, each only if its place is empty; then their dead letters are
removed. `ReplaySource.standing` is how each kind of source says that the rows of a batch are still in its table. Change
tables have a replay of their own: `ingest.cdc.table.replay`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import duckdb

from pipeline_assets.contracts.base import Model, RawColumn, RawShape, raw_shape
from pipeline_assets.ingest.batch.bronze_table import prepare, schema_of
from pipeline_assets.ingest.batch.source import plan_anew
from pipeline_assets.ingest.conform import json_records
from pipeline_assets.ingest.conform.conform import conform_sql, match_fields
from pipeline_assets.ingest.conform.json_records import JsonRecords
from pipeline_assets.ingest.conform.raw_records import raw_records
from pipeline_assets.ingest.dead_letters.select import ORDER, PLACE, REPLAYABLE, Selection
from pipeline_assets.ingest.dead_letters.settled import days_fact, remove, remove_replayed, replayed_sql, tell
from pipeline_assets.lake import (
    MANY_COLUMNS,
    DataFile,
    Lake,
    Positions,
    Table,
    schemas,
)
from pipeline_assets.lake.dead_letters import dead_letter_table
from pipeline_assets.sql import quote_text

REPLAYS = "replays"
"""Position in the bronze table's log: how many replays have added rows. If it moves during a replay, the replay's
commit fails."""

REPLAYED = "replayed"
"""Key in the metadata of the commit that adds the rows: their number."""

# Positions in the dead letters' log: the contract that they were last tried with, how many would have fit, and the
# version of the log that this is true of.
_TRIED_CONTRACT, _FITTING, _TRIED_VERSION = "tried:contract", "tried:fitting", "tried:version"
_TRIED, _CONFORMED, _DONE = "replay_tried", "replay_conformed", "replay_done"
_NO_TIME = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True)
class ReplaySource:
    """What a replay needs to know about a source.

    Attributes:
        name: `<source>__<entity>`.
        model: The contract of its rows.
        technical: Columns that every row has besides those of the contract.
        schema_evolution: Whether unknown fields become columns.
        by_partition: As in `bronze_table.prepare`.
        standing: Gives the positions in a log that say that the rows of a batch (its id, day and time) are in the
            table; None if they are not, or no longer.
    """

    name: str
    model: Model
    technical: Sequence[RawColumn]
    standing: Callable[[Positions, str, date, datetime], Mapping[str, int] | None]
    schema_evolution: bool = False
    by_partition: bool = False


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    Attributes:
        tried: Dead letters that were tried.
        rows: Those of them that are rows now.
        repaired: Dead letters whose rows were in the table already, from a replay that was killed; they were removed.
        passed_over: Dead letters of batches whose rows are not in the table, or no longer; they were left out.
        not_replayable: Dead letters without a record that could be tried, such as a file that cannot be read.
        days: Partitions that got rows or lost dead letters.
    """

    tried: int = 0
    rows: int = 0
    repaired: int = 0
    passed_over: int = 0
    not_replayable: int = 0
    days: frozenset[date] = field(default_factory=frozenset)


def replay(
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    source: ReplaySource,
    selection: Selection | None = None,
    *,
    run_id: str = "",
) -> Replayed:
    """Try waiting dead letters of a row table again.

    Args:
        lake: The lake.
        con: A connection of it.
        source: The source.
        selection: Which dead letters; all if not given.
        run_id: Of the run, for the commits' metadata.

    Raises:
        SchemaMismatchError: A column has another type in the table than in the contract.
        CommitConflictError: Other runs of the source were faster each time.
    """
    facts = {"run_id": run_id} if run_id else {}
    attempt = _Attempt(lake, con, source)
    if not (attempt.bronze.exists() and attempt.dead_letters.exists()):
        return Replayed()
    # For a change of dead letters whose run was killed before it wrote this log.
    tell(con, attempt.bronze, attempt.dead_letters)
    return plan_anew(attempt.bronze.name, lambda: attempt.carry_out(selection or Selection(), facts))


def proposed(lake: Lake, con: duckdb.DuckDBPyConnection, source: ReplaySource) -> int:
    """Count the waiting dead letters that would fit today's contract; read only the log if nothing has changed.

    A dead letter did not fit the contract when it was read. So there is nothing to find until the contract changes, and
    a result stays true until the dead letters change.
    """
    dead_letters = dead_letter_table(lake, f"bronze.{source.name}")
    if not dead_letters.exists():
        return 0
    opened = dead_letters.open()
    contract = _hash(source)
    tried, fitting, version = (opened.transaction_version(name) for name in (_TRIED_CONTRACT, _FITTING, _TRIED_VERSION))
    if tried == contract and (not fitting or version == opened.version()):
        return fitting or 0
    found = would_fit(lake, con, source, Selection())
    dead_letters.commit(
        con,
        [],
        positions={_TRIED_CONTRACT: contract, _FITTING: found, _TRIED_VERSION: opened.version() + 1},
    )
    return found


def _hash(source: ReplaySource) -> int:
    """Hash everything that decides whether a record fits."""
    content = f"{raw_shape(source.model)} {source.schema_evolution}"
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest()) >> 1


def would_fit(lake: Lake, con: duckdb.DuckDBPyConnection, source: ReplaySource, selection: Selection) -> int:
    """Count the waiting dead letters that a replay would turn into rows now. This writes nothing."""
    attempt = _Attempt(lake, con, source)
    if not (attempt.bronze.exists() and attempt.dead_letters.exists()):
        return 0
    return attempt.count(selection)


class _Attempt:
    """One replay of a table's dead letters."""

    def __init__(self, lake: Lake, con: duckdb.DuckDBPyConnection, source: ReplaySource) -> None:
        self.bronze = Table(lake, f"bronze.{source.name}")
        self.dead_letters = dead_letter_table(lake, self.bronze.name)
        self._con, self._source = con, source

    def carry_out(self, selection: Selection, facts: Mapping[str, str]) -> Replayed:
        """Add the rows of the dead letters that fit.

        Raises PositionMovedError or TypesMovedError if another run was faster.
        """
        con, source = self._con, self._source
        shape, _ = prepare(con, self.bronze, source.model, source.technical, by_partition=source.by_partition)
        # The log first: if another replay adds rows after this, the commit fails, and all is planned anew.
        log = Positions(self.bronze.open())
        repaired, repaired_days = remove_replayed(con, self.bronze, self.dead_letters, facts)
        not_replayable = self._take(selection)
        tried, replays = self._count(_TRIED), log.get(REPLAYS)
        expect, passed_over = self._drop_stale(log)
        files: list[DataFile] = []
        try:
            for relation, records in self._groups():
                shape = self._conform(relation, records, shape)
                files += self._write(len(records.fields) > MANY_COLUMNS)
        except BaseException:
            self.bronze.delete_uncommitted(files)
            raise
        days = self._days()
        rows = sum(file.rows for file in files)
        if files:
            self.bronze.create(schema_of(con, shape.columns))  # the columns that schema evolution adds
            self.bronze.commit(
                con,
                files,
                types=schemas.types(schema_of(con, shape.columns)),
                expect={**expect, REPLAYS: replays},
                positions={REPLAYS: (replays or 0) + 1},
                metadata={**facts, REPLAYED: str(rows), **days_fact(days)},
            )
            which = f"{REPLAYABLE} AND {PLACE} IN (SELECT {PLACE} FROM {_DONE})"
            remove(con, self.bronze, self.dead_letters, which, days, facts)
        return Replayed(tried + repaired, rows, repaired, passed_over, not_replayable, days | repaired_days)

    def count(self, selection: Selection) -> int:
        """Count the dead letters that would fit."""
        self._take(selection)
        self._drop_stale(Positions(self.bronze.open()))
        self._con.execute(f"DELETE FROM {_TRIED} WHERE {replayed_sql(self._con, self.bronze, _TRIED)}")
        technical = {column.name for column in self._source.technical}
        stored = self.bronze.columns(self._con)
        added = (RawColumn(name, kind) for name, kind in stored.items() if name not in technical)
        shape, fitting = raw_shape(self._source.model).extended(added), 0
        for _, records in self._groups():
            fitting += self._count(f"({self._conformed(records, shape)}) WHERE _reason IS NULL")
        return fitting

    def _take(self, selection: Selection) -> int:
        """Put the dead letters to be tried into a temporary table. Give the number of those that cannot be tried."""
        version = self.dead_letters.open().version()
        rest = self._count(f"{selection.relation(self.dead_letters, version)} WHERE NOT {REPLAYABLE}")
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE {_TRIED} AS SELECT row_number() OVER (ORDER BY {ORDER}) AS id, * "
            f"FROM {selection.relation(self.dead_letters, version, also=REPLAYABLE)}"
        )
        self._con.execute(f"CREATE OR REPLACE TEMP TABLE {_DONE} AS SELECT * EXCLUDE (raw) FROM {_TRIED} WHERE false")
        return rest

    def _drop_stale(self, log: Positions) -> tuple[dict[str, int | None], int]:
        """Drop dead letters of batches that are no longer in the table.

        Give the positions of the other batches, and how many were dropped.
        """
        batches = self._con.execute(
            f"SELECT DISTINCT _batch_id, _partition_date, _extracted_at FROM {_TRIED}"
        ).fetchall()
        expect: dict[str, int | None] = {}
        stale = []
        for batch_id, day, at in batches:
            found = self._source.standing(log, batch_id, day, at)
            if found is None:
                stale.append((batch_id, day))
            else:
                expect |= found
        before = self._count(_TRIED)
        if stale:
            listed = ", ".join(f"({quote_text(batch_id)}, DATE '{day}')" for batch_id, day in stale)
            self._con.execute(f"DELETE FROM {_TRIED} WHERE (_batch_id, _partition_date) IN ({listed})")
        return expect, before - self._count(_TRIED)

    def _groups(self) -> Iterator[tuple[str, JsonRecords]]:
        """Yield records whose raw is read alike: of one format and, in formats with types, with the same fields."""
        for (types,) in self._con.execute(f"SELECT DISTINCT raw_types FROM {_TRIED} ORDER BY 1").fetchall():
            alike = f"raw_types = {quote_text(types)}"
            records = self._records(alike, types)
            if len(records.fields) <= json_records.MAX_FIELDS:
                yield alike, records
                continue
            # No file has so many records, but all files together may.
            of_files = f"SELECT DISTINCT _batch_id, _source.file FROM {_TRIED} WHERE {alike} ORDER BY ALL"
            for batch_id, file in self._con.execute(of_files).fetchall():
                part = f"{alike} AND _batch_id = {quote_text(batch_id)} AND _source.file = {quote_text(file)}"
                yield part, self._records(part, types)

    def _records(self, which: str, types: str) -> JsonRecords:
        return raw_records(self._con, f"(SELECT id, raw AS _text FROM {_TRIED} WHERE {which})", types)

    def _conformed(self, records: JsonRecords, shape: RawShape) -> str:
        """Give the query of records as columns of the table. Until a record is written, its id stands for its place."""
        return conform_sql(
            records, shape, file="", partition_date=_NO_TIME.date(), batch_id="", extracted_at=_NO_TIME,
            schema_evolution=self._source.schema_evolution,
        )  # fmt: skip

    def _conform(self, which: str, records: JsonRecords, shape: RawShape) -> RawShape:
        """Put the records that fit into a temporary table.

        Give the columns, with those that schema evolution adds for them.
        """
        query = f"SELECT * EXCLUDE (_reason, _raw, _raw_types) FROM ({self._conformed(records, shape)})"
        self._con.execute(f"CREATE OR REPLACE TEMP TABLE {_CONFORMED} AS {query} WHERE _reason IS NULL")
        done = f"SELECT * EXCLUDE (raw) FROM {_TRIED} WHERE {which} AND id IN (SELECT _source.line FROM {_CONFORMED})"
        self._con.execute(f"INSERT INTO {_DONE} {done}")
        matching = match_fields(records.fields, shape, schema_evolution=self._source.schema_evolution)
        return shape.extended(matching.added)

    def _write(self, is_wide: bool) -> list[DataFile]:
        names = ("_partition_date", "_batch_id", "_extracted_at", "_source")
        place = ", ".join(f"t.{name} AS {name}" for name in names)
        deleted = ", false AS _deleted" if any(column.name == "_deleted" for column in self._source.technical) else ""
        query = (
            f"SELECT c.* REPLACE ({place}){deleted} FROM {_CONFORMED} AS c JOIN {_TRIED} AS t ON t.id = c._source.line"
        )
        if not self._count(_CONFORMED):
            return []
        return self.bronze.write(self._con, query, partition_by=["_partition_date"], is_wide=is_wide)

    def _days(self) -> frozenset[date]:
        found = self._con.execute(f"SELECT DISTINCT _partition_date FROM {_DONE}").fetchall()
        return frozenset(day for (day,) in found)

    def _count(self, relation: str) -> int:
        (count,) = self._con.execute(f"SELECT count(*) FROM {relation}").fetchone() or (0,)
        return int(count)
