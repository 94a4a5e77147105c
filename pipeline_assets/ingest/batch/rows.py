"""Batches of a contract's rows, as databases and APIs give them: records in; rows, dead letters and duplicates out.

`RowBatch.add` writes records into Parquet files that nobody sees yet, misfits among them. It may be called several
times, also from several threads. Before the commit, misfits and duplicates are separated from the rows; a second pass
is only made if there are any. The commit itself is in `batch`. How a source is read, and which positions it has, is in
`ingest.database` and `ingest.rest`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import duckdb

from pipeline_assets.contracts.base import Model, RawColumn, RawShape
from pipeline_assets.ingest.batch.batch import Batch, Plan
from pipeline_assets.ingest.batch.bronze_table import dead_letters_sql, misfits, prepare, rows_sql, written_rows
from pipeline_assets.ingest.batch.counts import Counts, Reading
from pipeline_assets.ingest.batch.duplicates import WrittenBatch, find_duplicates, without_duplicates
from pipeline_assets.ingest.batch.errors import BatchError, LostRecordsError
from pipeline_assets.ingest.conform.conform import conform_sql, match_fields
from pipeline_assets.ingest.conform.fields import RecordSet
from pipeline_assets.lake import MANY_COLUMNS, DataFile, Lake, Table
from pipeline_assets.sql import quote_text

BATCH_COLUMNS: tuple[RawColumn, ...] = (
    RawColumn("_partition_date", "DATE", True, "UTC date of the batch, or of the window that was pulled."),
    RawColumn("_batch_id", "VARCHAR", True, "The batch: what was read, and the positions from which and to which."),
    RawColumn("_extracted_at", "TIMESTAMP WITH TIME ZONE", True, "When the source was read, UTC."),
    RawColumn("_source", "STRUCT(file VARCHAR, line BIGINT)", True, "What was read, and the record's number, 1-based."),
    RawColumn("_rescued", "VARCHAR", False, "JSON object of the fields that the contract does not know."),
    RawColumn("_deleted", "BOOLEAN", True, "True: the key was found gone from the source; the rest is its last row."),
)


@dataclass(frozen=True)
class RowSource:
    """A source of rows as declared.

    Attributes:
        name: `<source>__<entity>`.
        model: The contract of its rows.
        keys: Columns of the contract that name a record at the source.
        schema_evolution: Whether unknown fields become columns instead of going to `_rescued`.
    """

    name: str
    model: Model
    keys: tuple[str, ...]
    schema_evolution: bool = False

    def table(self, lake: Lake) -> Table:
        """Give the bronze table of the source."""
        return Table(lake, f"bronze.{self.name}")


@dataclass(frozen=True, kw_only=True)
class RowPlan(Plan):
    """What is about to be read, as it is known before the first record.

    Attributes:
        name: What its positions count: `full`, `window 2026-01-04`, `poll`. Never a secret.
        start: Where it starts. After a batch was killed, the next one has the same name and start.
        end: Where it ends.
        partition_date: Partition of its rows: the UTC date of the reading, or that of the window.
        extracted_at: When the source was read, with its zone.
        mark: Position that a batch moves if, and only if, it replaces the same rows. None: all `positions` are such.
        may_repeat: Predicate on the rows of the table that this batch may read again. A record that equals the newest
            row of its key there, or an earlier record of the batch, is a duplicate. None looks for no duplicates.
    """

    name: str
    start: str
    end: str
    partition_date: date
    extracted_at: datetime
    mark: str | None = None
    may_repeat: str | None = None

    @property
    def id(self) -> str:
        """Name of the batch; each of its rows has it in `_batch_id`."""
        return f"{self.name} {self.start}..{self.end}"

    @property
    def obsolete(self) -> str:
        """Predicate on the dead letters of what the batch replaces, and of batches killed before their rows came.

        All go if nothing was ever read into the table: they belong to an earlier table that was deleted.
        """
        if self.expect and all(position is None for position in self.expect.values()):
            return "TRUE"
        unfinished = f"starts_with(_batch_id, {quote_text(f'{self.name} {self.start}..')})"
        return f"({self.replaces}) OR {unfinished}" if self.replaces else unfinished


@dataclass(frozen=True)
class _Part:
    """What one `RowBatch.add` wrote: the records of one origin."""

    origin: str
    files: Sequence[DataFile]
    removed: int

    @property
    def records(self) -> int:
        return sum(file.rows for file in self.files)


class RowBatch(Batch):
    """A batch of a contract's rows.

    The flow::

        with RowBatch(lake, con, source, plan) as batch:
            batch.add(records, origin="public.payments", counted=lambda: n)
            batch.positions |= {...}
            batch.commit()
    """

    plan: RowPlan
    shape: RawShape
    is_fenced = True

    def __init__(
        self, lake: Lake, con: duckdb.DuckDBPyConnection, source: RowSource, plan: RowPlan, *, run_id: str = ""
    ) -> None:
        """Create the table if it does not exist.

        Args:
            lake: The lake.
            con: A connection of it.
            source: The declaration.
            plan: What is to be read.
            run_id: Of the run, for the commits' metadata.

        Raises:
            SchemaMismatchError: A column has another type in the table than in the contract.
        """
        super().__init__(lake, con, source.name, plan, run_id=run_id)
        self.facts["batch_id"] = plan.id
        self._source = source
        self.shape, self.widened = prepare(con, self.bronze, source.model, BATCH_COLUMNS)
        self._parts: list[_Part] = []
        self._is_wide = False
        self._misfits: str | None = None

    @property
    def _written(self) -> list[DataFile]:
        return [file for part in self._parts for file in part.files]

    def add(
        self,
        records: RecordSet,
        *,
        origin: str,
        counted: Callable[[], int],
        removed: int = 0,
        con: duckdb.DuckDBPyConnection | None = None,
    ) -> Sequence[DataFile]:
        """Read records of the batch into files of the table; nothing is committed.

        Args:
            records: What is read. Its `_line` numbers the records of this origin.
            origin: What was read, for `_source.file`; each call has another one. Never a secret.
            counted: Called after the last record. Gives how many records the source says it sent; raises the error that
                interrupted them.
            removed: Number of duplicates that the source sent besides those counted, and that `records` leaves out.
            con: A cursor of the batch's connection, for a thread of its own.

        Returns:
            The files, misfits among their rows.

        Raises:
            BatchError: Records went missing, or no record has a column that the contract requires.
            duckdb.Error: The records cannot be read; the caller knows from where.
        """
        plan = self.plan
        matching = match_fields(records.fields, self.shape, schema_evolution=self._source.schema_evolution)
        if matching.missing and not records.has_problems:
            raise BatchError(
                f"{origin} has no column {', '.join(matching.missing)}, which the contract of {self.bronze.name} "
                "requires: add it to what is read, or make it nullable in the contract"
            )
        select = conform_sql(
            records,
            self.shape,
            file=origin,
            partition_date=plan.partition_date,
            batch_id=plan.id,
            extracted_at=plan.extracted_at,
            schema_evolution=self._source.schema_evolution,
        )
        query = f"SELECT * EXCLUDE (_partition_date), false AS _deleted FROM ({select})"
        self._is_wide |= len(records.fields) > MANY_COLUMNS
        part = _Part(origin, self._write(query, con or self.con), removed)
        self._parts.append(part)
        if part.records != (expected := counted()):
            raise LostRecordsError(
                f"{self.bronze.name}: {origin} sent {expected} records, but {part.records} came out of the reading: "
                "nothing was committed; run again, and report it if it happens twice"
            )
        self.evolve(matching.added)
        return part.files

    def greatest(self, expression: str) -> int | None:
        """Evaluate an aggregate over what was written, misfits included; gives the watermark that the batch ends at.

        Args:
            expression: SQL that gives a whole number, or null.
        """
        if not self._written:
            return None
        found = self.con.execute(f"SELECT {expression} FROM {written_rows(self.bronze.uri, self._written)}").fetchone()
        return None if found is None or found[0] is None else int(found[0])

    def finish(self) -> None:
        """Separate rows from dead letters and duplicates, and count them by origin."""
        written, plan = self._written, self.plan
        repeated = self._find_duplicates(written) if written and plan.may_repeat is not None else 0
        if not repeated and not misfits(written):
            self.files = written
            whole = (Counts(part.records + part.removed, part.records, 0, part.removed) for part in self._parts)
            self.readings = [self._reading(part, counts) for part, counts in zip(self._parts, whole, strict=True)]
            return
        source = written_rows(self.bronze.uri, written)
        if repeated:
            source = without_duplicates(source)
        fit, self._misfits = rows_sql(source), dead_letters_sql(source, plan.partition_date)
        self.files = self._write(fit, self.con)
        rows, dead = self._by_origin(fit), self._by_origin(self._misfits)
        for part in self._parts:
            n = part.records + part.removed
            good, bad = rows.get(part.origin, 0), dead.get(part.origin, 0)
            self.readings.append(self._reading(part, Counts(n, good, bad, n - good - bad)))
        found = self.counts.duplicates
        if found != repeated + sum(part.removed for part in self._parts):
            raise BatchError(f"{self.bronze.name}: {found} duplicates left out, {repeated} found; report this")

    def dead_letter_queries(self) -> list[str]:
        """Give the query of the misfits among the written rows."""
        return [self._misfits] if self._misfits else []

    def discard(self) -> None:
        """Delete what was written; if the batch was committed, only the files that held misfits beside rows."""
        super().discard()
        kept = {file.path for file in self.files}
        self.bronze.delete_uncommitted([file for file in self._written if file.path not in kept])

    def _reading(self, part: _Part, counts: Counts) -> Reading:
        plan = self.plan
        own = {plan.mark: plan.positions[plan.mark]} if plan.mark else dict(plan.positions)
        holds = own if plan.replaces else {}
        return Reading(plan.id, counts, frozenset({plan.partition_date}), part.origin, holds)

    def _find_duplicates(self, written: Sequence[DataFile]) -> int:
        known = f"SELECT raw FROM {self.dead_letters.scan()} WHERE NOT ({self.plan.obsolete})"
        has = [*(column.name for column in self.shape.columns), "_rescued"]
        batch = WrittenBatch(written_rows(self.bronze.uri, written), [*has, *self.added], self._source.keys)
        rows = f"SELECT * FROM {self.bronze.scan()} WHERE {self.plan.may_repeat}"
        letters = known if self.dead_letters.exists() else None
        return find_duplicates(self.con, batch, rows=rows, has=has, dead_letters=letters)

    def _by_origin(self, query: str) -> dict[str, int]:
        found = self.con.execute(f"SELECT _source.file, count(*) FROM ({query}) GROUP BY ALL").fetchall()
        return {str(origin): int(count) for origin, count in found}

    def _write(self, query: str, con: duckdb.DuckDBPyConnection) -> list[DataFile]:
        partition = {"_partition_date": self.plan.partition_date.isoformat()}
        return self.bronze.write(con, query, partition_values=partition, is_wide=self._is_wide)
