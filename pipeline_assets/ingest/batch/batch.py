"""A pull: one batch of a database or an API into bronze, read whole or not committed at all.

The common spine of `database` and `rest`. The records of a batch become Parquet files that nobody sees (`Pull.write`,
once or several times, from several threads too); then `Pull.commit` makes them rows and dead letters: first the dead
letters, then the rows with the positions that the batch ends at. A kill in between is repaired by the next pull, which
starts at the same positions.

How a source is read, and which positions it has, is not known here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from types import TracebackType
from typing import Any, Self

import duckdb

from pipeline_assets.contracts.base import Model, RawColumn
from pipeline_assets.ingest.batch.bronze_table import (
    dead_letters_sql,
    misfits,
    prepare,
    rows_sql,
    schema_of,
    written_rows,
)
from pipeline_assets.ingest.batch.duplicates import WrittenBatch, find_duplicates, without_duplicates
from pipeline_assets.ingest.conform.conform import conform_sql, match_fields
from pipeline_assets.ingest.conform.fields import RecordSet
from pipeline_assets.lake import MANY_COLUMNS, DataFile, Lake, Table, schemas
from pipeline_assets.lake.dead_letters import COLUMNS as DEAD_LETTER_COLUMNS
from pipeline_assets.lake.dead_letters import dead_letter_table, record
from pipeline_assets.lake.schemas import Widening
from pipeline_assets.sql import quote_text

PULL_COLUMNS: tuple[RawColumn, ...] = (
    RawColumn("_partition_date", "DATE", True, "UTC date of the pull, or of the window that was pulled."),
    RawColumn("_batch_id", "VARCHAR", True, "The pull: what was read, and the positions from which and to which."),
    RawColumn("_extracted_at", "TIMESTAMP WITH TIME ZONE", True, "When the source was read, UTC."),
    RawColumn("_source", "STRUCT(file VARCHAR, line BIGINT)", True, "What was read, and the record's number, 1-based."),
    RawColumn("_rescued", "VARCHAR", False, "JSON object of the fields that the contract does not know."),
    RawColumn("_deleted", "BOOLEAN", True, "True: the key was found gone from the source; the rest is its last row."),
)


_PULLS = "pulls"
"""Position in the dead letters' log: how many pulls have replaced some there. Another one meanwhile is an error."""
_NO_DEAD_LETTERS = f"SELECT {', '.join(f'NULL AS {name}' for name in DEAD_LETTER_COLUMNS)} WHERE false"


class PullError(Exception):
    """A pull that cannot be completed; nothing of it was committed. The message says why and what to do.

    Attributes:
        is_transient: Whether the same again may work without anybody's help.
    """

    is_transient = False


class LostRecordsError(PullError):
    """Fewer records came out of the reading than went in, or more."""

    is_transient = True


@dataclass(frozen=True)
class PullSource:
    """A source as declared.

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
        """The bronze table of the source."""
        return Table(lake, f"bronze.{self.name}")


@dataclass(frozen=True)
class Batch:
    """What is about to be pulled, as known before anything is read.

    Attributes:
        name: What its positions count: `full`, `window:2026-01-04`, a cluster and a table. Never a secret.
        start: Where it starts. A pull that was killed is followed by one with the same name and start.
        end: Where it ends.
        partition_date: Partition of its rows: the UTC date of the pull, or that of the window.
        extracted_at: When the source was read, with its zone.
        expect: Positions in the table's log as they were when the batch was planned; other ones mean another pull.
        positions: Positions that its commit sets. `Pull.commit` takes those that are known only after reading.
        replaces: Predicate on the rows of the table that the batch replaces: `TRUE`, or a partition. None appends.
        mark: Position that whoever replaces the same rows moves, and nobody else. None: all `positions` are.
        may_repeat: Predicate on the rows of the table that may be read again by this batch: what equals the newest row
            of its key there, or an earlier record of the batch, is no row but a duplicate. None looks for none.
    """

    name: str
    start: str
    end: str
    partition_date: date
    extracted_at: datetime
    expect: Mapping[str, int | None] = field(default_factory=dict)
    positions: Mapping[str, int] = field(default_factory=dict)
    replaces: str | None = None
    mark: str | None = None
    may_repeat: str | None = None

    @property
    def id(self) -> str:
        """Name of the batch; each of its rows carries it."""
        return f"{self.name} {self.start}..{self.end}"

    @property
    def obsolete_dead_letters(self) -> str:
        """Predicate on the dead letters of what it replaces, and of pulls that were killed before their rows came.

        All, if nothing was ever read into the table: they are of one that was deleted.
        """
        if self.expect and all(position is None for position in self.expect.values()):
            return "TRUE"
        unfinished = f"starts_with(_batch_id, {quote_text(f'{self.name} {self.start}..')})"
        return f"({self.replaces}) OR {unfinished}" if self.replaces else unfinished


@dataclass(frozen=True)
class Counts:
    """Counts of a batch: records in = rows + dead letters + duplicates."""

    records_in: int = 0
    rows: int = 0
    dead_letters: int = 0
    duplicates: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Sums up."""
        mine, others = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class Pulled:
    """A pull that was committed.

    Attributes:
        version: The bronze table's version.
        batch: What was pulled.
        counts: Of all its records.
        widened: Columns of the table that took a wider type of the contract.
    """

    version: int
    batch: Batch
    counts: Counts
    widened: Sequence[Widening] = ()


@dataclass(frozen=True)
class _Part:
    """What one `Pull.write` wrote: the records of one origin."""

    origin: str
    files: Sequence[DataFile]
    removed: int

    @property
    def records(self) -> int:
        return sum(file.rows for file in self.files)


class Pull:
    """A pull in progress. Use it as a context manager: leaving without a commit deletes what was written.

    The flow::

        with Pull(lake, con, source, batch) as pull:
            pull.write(records, origin="public.payments", counted=lambda: n)
            pulled = pull.commit(positions={...}, run_id=run_id)
    """

    def __init__(self, lake: Lake, con: duckdb.DuckDBPyConnection, source: PullSource, batch: Batch) -> None:
        """Creates the table if need be.

        Args:
            lake: The lake.
            con: A connection of it.
            source: The declaration.
            batch: What is to be pulled.

        Raises:
            SchemaMismatchError: A column has another type in the table than in the contract.
        """
        self.batch = batch
        self.bronze = source.table(lake)
        self._source = source
        self._con = con
        self._shape, self._widened = prepare(con, self.bronze, source.model, PULL_COLUMNS)
        self._added: dict[str, RawColumn] = {}
        self._parts: list[_Part] = []
        self._kept: Sequence[DataFile] = ()
        self._is_wide = False
        self._dead_letters = dead_letter_table(lake, self.bronze.name)
        self._pulls = self._dead_letters.position(_PULLS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bronze.delete_uncommitted(self._written)
        self.bronze.delete_uncommitted(self._kept)

    @property
    def _written(self) -> list[DataFile]:
        return [file for part in self._parts for file in part.files]

    def write(
        self,
        records: RecordSet,
        *,
        origin: str,
        counted: Callable[[], int],
        removed: int = 0,
        con: duckdb.DuckDBPyConnection | None = None,
    ) -> Sequence[DataFile]:
        """Reads records of the batch into files of the table; nothing is committed.

        Args:
            records: What is read. Its `_line` numbers the records of this origin.
            origin: What was read, for `_source.file`; another one for each call. Never a secret.
            counted: Called after the last record: how many the source says it sent. Raises what interrupted them.
            removed: Duplicates that `records` leaves out, and that the source has sent beside those counted.
            con: A cursor of the pull's connection, for a thread of its own.

        Returns:
            The files, misfits among their rows.

        Raises:
            PullError: Records went missing, or no record has a column that the contract requires.
            duckdb.Error: The records cannot be read; the caller knows what from.
        """
        matching = match_fields(records.fields, self._shape, schema_evolution=self._source.schema_evolution)
        if matching.missing and not records.has_problems:
            raise PullError(
                f"{origin} has no column {', '.join(matching.missing)}, which the contract of {self.bronze.name} "
                "requires: add it to what is read, or make it nullable in the contract"
            )
        select = conform_sql(
            records,
            self._shape,
            file=origin,
            partition_date=self.batch.partition_date,
            batch_id=self.batch.id,
            extracted_at=self.batch.extracted_at,
            schema_evolution=self._source.schema_evolution,
        )
        query = f"SELECT * EXCLUDE (_partition_date), false AS _deleted FROM ({select})"
        self._is_wide |= len(records.fields) > MANY_COLUMNS
        part = _Part(origin, self._write(query, con or self._con), removed)
        self._parts.append(part)
        if part.records != (expected := counted()):
            raise LostRecordsError(
                f"{self.bronze.name}: {origin} sent {expected} records, but {part.records} came out of the reading: "
                "nothing was committed; run again, and report it if it happens twice"
            )
        self._added |= {column.name: column for column in matching.added}
        return part.files

    def greatest(self, expression: str) -> int | None:
        """Evaluates an aggregate over what was written, misfits included: the watermark that the batch ends at.

        Args:
            expression: SQL that gives a whole number, or null.
        """
        if not self._written:
            return None
        found = self._con.execute(f"SELECT {expression} FROM {written_rows(self.bronze.uri, self._written)}").fetchone()
        return None if found is None or found[0] is None else int(found[0])

    def commit(self, *, positions: Mapping[str, int] | None = None, run_id: str = "") -> Pulled:
        """Commits what was written: the dead letters, then the rows with the positions.

        Args:
            positions: Positions that were not known before reading.
            run_id: Of the run, for the commit's metadata.

        Raises:
            PositionMovedError: Another pull was faster; nothing was committed.
            TypesMovedError: The table was retyped meanwhile; nothing was committed.
        """
        facts = {"run_id": run_id} if run_id else {}
        counts, dead_letters = self._sort_out()
        # Not only when the rows come: who was slower must not replace the dead letters of who was faster.
        self.bronze.commit(self._con, [], expect=self.batch.expect)
        record(
            self._con,
            self._dead_letters,
            dead_letters or _NO_DEAD_LETTERS,
            where=self.batch.obsolete_dead_letters,
            metadata=facts,
            expect={_PULLS: self._pulls},
            positions={_PULLS: (self._pulls or 0) + 1},
        )
        if self._added:
            self.bronze.create(schema_of(self._con, self._added.values()))
        total = sum(counts.values(), start=Counts())
        described = {name: str(value) for name, value in asdict(total).items()}
        read = json.dumps([self._entry(origin, found) for origin, found in counts.items()])
        version = self.bronze.commit(
            self._con,
            self._kept,
            types=schemas.types(schema_of(self._con, self._shape.extended(self._added.values()).columns)),
            where=self.batch.replaces,
            expect=self.batch.expect,
            positions={**self.batch.positions, **(positions or {})},
            metadata={**facts, "batch_id": self.batch.id, **described, "read": read},
        )
        return Pulled(version, self.batch, total, self._widened)

    def _entry(self, origin: str, counts: Counts) -> dict[str, Any]:
        """What the audit compares with the tables; `holds`: for as long as the log has these positions."""
        positions = self.batch.positions
        own = {self.batch.mark: positions[self.batch.mark]} if self.batch.mark else dict(positions)
        return {
            "file": origin,
            "day": self.batch.partition_date.isoformat(),
            "content_id": self.batch.id,
            "holds": own if self.batch.replaces else {},
            **asdict(counts),
        }

    def _sort_out(self) -> tuple[dict[str, Counts], str | None]:
        """Separates rows from dead letters and duplicates. Gives counts by origin, and the dead letters' query."""
        written = self._written
        repeated = self._find_duplicates(written) if written and self.batch.may_repeat is not None else 0
        if not repeated and not misfits(written):
            self._kept = written
            whole = (Counts(p.records + p.removed, p.records, 0, p.removed) for p in self._parts)
            return dict(zip((part.origin for part in self._parts), whole, strict=True)), None
        source = written_rows(self.bronze.uri, written)
        if repeated:
            source = without_duplicates(source)
        fit, unfit = rows_sql(source), dead_letters_sql(source, self.batch.partition_date)
        self._kept = self._write(fit, self._con)
        rows, dead = self._by_origin(fit), self._by_origin(unfit)
        counts = {}
        for part in self._parts:
            n = part.records + part.removed
            good, bad = rows.get(part.origin, 0), dead.get(part.origin, 0)
            counts[part.origin] = Counts(n, good, bad, n - good - bad)
        found = sum(count.duplicates for count in counts.values())
        if found != repeated + sum(part.removed for part in self._parts):
            raise PullError(f"{self.bronze.name}: {found} duplicates left out, {repeated} found; report this")
        return counts, unfit

    def _find_duplicates(self, written: Sequence[DataFile]) -> int:
        known = f"SELECT raw FROM {self._dead_letters.scan()} WHERE NOT ({self.batch.obsolete_dead_letters})"
        has = [*(column.name for column in self._shape.columns), "_rescued"]
        batch = WrittenBatch(written_rows(self.bronze.uri, written), [*has, *self._added], self._source.keys)
        rows = f"SELECT * FROM {self.bronze.scan()} WHERE {self.batch.may_repeat}"
        return find_duplicates(
            self._con, batch, rows=rows, has=has, dead_letters=known if self._dead_letters.exists() else None
        )

    def _by_origin(self, query: str) -> dict[str, int]:
        found = self._con.execute(f"SELECT _source.file, count(*) FROM ({query}) GROUP BY ALL").fetchall()
        return {str(origin): int(count) for origin, count in found}

    def _write(self, query: str, con: duckdb.DuckDBPyConnection) -> list[DataFile]:
        partition = {"_partition_date": self.batch.partition_date.isoformat()}
        return self.bronze.write(con, query, partition_values=partition, is_wide=self._is_wide)
