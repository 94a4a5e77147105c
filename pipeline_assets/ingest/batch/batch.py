"""A batch for one bronze table: its files, its dead letters, its counts, and the one commit that ends it.

Every source commits through `Batch`, in the same order: first the dead letters, then the rows with the positions that
the batch ends at. Only the second commit makes the batch "read". A kill in between leaves dead letters that the next
reading replaces. Each source decides what is read, and how records become files: `rows.RowBatch` writes rows of a
contract, `cdc.table.change_table.EventBatch` writes change events, `files.read_file` reads landed files.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from types import TracebackType
from typing import Self

import duckdb

from pipeline_assets.contracts.base import RawColumn, RawShape
from pipeline_assets.ingest.batch.bronze_table import schema_of
from pipeline_assets.ingest.batch.counts import Counts, Reading, total
from pipeline_assets.ingest.batch.dead_letter_buffer import DeadLetterBuffer
from pipeline_assets.lake import DataFile, Lake, Table, schemas
from pipeline_assets.lake.dead_letters import create, dead_letter_table, record
from pipeline_assets.lake.schemas import Widening

READ = "readings"
"""Commit metadata: the readings of a batch, as a JSON list."""

FENCE = "batches"
"""Position that counts the batches in the logs of both tables: see `Batch.is_fenced`."""


def has_half_a_batch(bronze: Table) -> bool:
    """Tell whether the newest fenced batch has committed dead letters and no rows, as one that was killed in between.

    Then the dead letters of the rows in the table may be gone. False for a table that only older releases wrote.
    """
    fence = bronze.position(FENCE)
    return fence is not None and dead_letter_table(bronze.lake, bronze.name).position(FENCE) != fence


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a batch was planned on, and what its commit does besides adding rows.

    Attributes:
        expect: Positions in the bronze table's log when the batch was planned. If they differ at the commit, another
            run was faster.
        positions: Positions that the commit sets.
        replaces: Predicate on the rows of the table that the same commit removes; None appends.
    """

    expect: Mapping[str, int | None] = field(default_factory=dict)
    positions: Mapping[str, int] = field(default_factory=dict)
    replaces: str | None = None

    @property
    def obsolete(self) -> str | None:
        """Predicate on the dead letters that go with those of the batch; None if there can be none.

        They are those of what it reads again or replaces, and of attempts that were killed.
        """
        return None


class Batch:
    """A batch in progress. Use it as a context manager: leaving without a commit deletes what was written.

    Attributes:
        name: `<source>__<entity>`.
        bronze: The table that its rows go to.
        dead_letters: The table of its dead letters.
        plan: What the batch was planned on.
        buffer: Its dead letters until they are committed.
        files: Its rows, written and not committed.
        readings: What was read, with counts.
        positions: Positions that are known only after reading; the commit sets them besides those of the plan.
        stale: Predicate on the dead letters that are no longer true once the rows are in.
        facts: Further metadata of its commits.
        rows_facts: Further metadata of the commit of its rows alone.
        shape: The contract's columns as the files have them; None for a batch that gives `types` or none.
        added: Columns that it adds to the table, by name.
        types: Column to Delta type as the files have them, of a batch without `shape`.
        widened: Columns of the table that were widened to the contract's type.
        version: The bronze table's version after the commit.
    """

    has_rows = True
    """Whether there is a bronze table. Records that belong to no table only have dead letters."""

    is_fenced = False
    """Whether two batches that begin at the same positions would replace each other's dead letters.

    If so, each batch moves the fence: in the log of the dead letters, and with its rows in the log of the bronze table.
    A batch that finds the fence of the dead letters moved since it began is planned anew.
    """

    def __init__(self, lake: Lake, con: duckdb.DuckDBPyConnection, name: str, plan: Plan, *, run_id: str = "") -> None:
        """Begin a batch; nothing is written yet.

        Args:
            lake: The lake.
            con: A connection of it.
            name: `<source>__<entity>`.
            plan: What the batch rests on.
            run_id: Of the run, for the commits' metadata.
        """
        self.name, self.plan, self.con, self.lake = name, plan, con, lake
        self.bronze = Table(lake, f"bronze.{name}")
        self.dead_letters = dead_letter_table(lake, self.bronze.name)
        self.buffer = DeadLetterBuffer(con)
        self.files: list[DataFile] = []
        self.readings: list[Reading] = []
        self.positions: dict[str, int] = {}
        self.stale: str | None = None
        self.facts: dict[str, str] = {"run_id": run_id} if run_id else {}
        self.rows_facts: dict[str, str] = {}
        self.types: Mapping[str, str] | None = None
        self.widened: Sequence[Widening] = ()
        self.version = 0
        self.shape: RawShape | None = None
        self.added: dict[str, RawColumn] = {}
        self._fence = self.dead_letters.position(FENCE) if self.is_fenced else None
        self._moved_fence = {FENCE: (self._fence or 0) + 1} if self.is_fenced else {}
        self._is_committed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    def evolve(self, added: Sequence[RawColumn]) -> None:
        """Note columns that this batch adds to the table."""
        self.added |= {column.name: column for column in added}

    @property
    def counts(self) -> Counts:
        """Counts of all records of the batch."""
        return total(reading.counts for reading in self.readings)

    @property
    def counts_by_day(self) -> Mapping[date, Counts]:
        """Counts by partition."""
        found: dict[date, Counts] = defaultdict(Counts)
        for reading in self.readings:
            for day in reading.days:
                found[day] += reading.counts
        return found

    def commit(self) -> int:
        """Commit the batch: first its dead letters, then its rows with the positions; last, remove stale dead letters.

        Returns:
            The bronze table's version; for records that belong to no table, the version of the dead letters.

        Raises:
            PositionMovedError: Another run was faster; no row was committed.
            TypesMovedError: The table got other types meanwhile; no row was committed.
        """
        self.finish()
        self._commit_dead_letters()
        self.buffer.drop()
        if self.has_rows:
            self.version = self._commit_rows()
        elif self.dead_letters.exists():
            self.version = self.dead_letters.open().version()
        self._is_committed = True
        if self.stale and self.dead_letters.exists():
            self.dead_letters.commit(self.con, [], where=self.stale, metadata=self.facts)
        return self.version

    def finish(self) -> None:
        """Complete `files` and `readings` after the last record, before anything is committed."""

    def discard(self) -> None:
        """Delete the files of a batch that was not committed, and its temporary tables on the connection."""
        if not self._is_committed:
            self.bronze.delete_uncommitted(self.files)
        self.buffer.drop()

    def prepare_table(self) -> None:
        """Create the bronze table unless it exists."""

    def dead_letter_queries(self) -> list[str]:
        """Give queries of the dead letters, with the columns of `lake.dead_letters.COLUMNS`."""
        return [f"FROM {table}" for table in self.buffer.tables]

    def _commit_dead_letters(self) -> None:
        """Replace the dead letters of what was read again by those of this reading; without any, make no commit."""
        queries, where = self.dead_letter_queries(), self.plan.obsolete
        if not self.is_fenced and not queries and not self._has_obsolete(where):
            if self.readings and not self.dead_letters.exists():
                create(self.con, self.dead_letters)
            return
        if self.plan.expect:
            # Check here too, not only when the rows are committed: a slower run must not replace the dead letters of a
            # faster one.
            self.prepare_table()
            self.bronze.commit(self.con, [], expect=self.plan.expect)
        record(
            self.con,
            self.dead_letters,
            *queries,
            where=where or "FALSE",
            metadata=self.facts,
            expect={FENCE: self._fence} if self.is_fenced else None,
            positions=self._moved_fence,
        )

    def _has_obsolete(self, where: str | None) -> bool:
        if where is None or not self.dead_letters.exists():
            return False
        return (
            self.con.execute(f"SELECT 1 FROM {self.dead_letters.scan()} WHERE {where} LIMIT 1").fetchone() is not None
        )

    def _commit_rows(self) -> int:
        self.prepare_table()
        if self.added:
            self.bronze.create(schema_of(self.con, self.added.values()))
        if self.shape is not None:
            columns = self.shape.extended(self.added.values()).columns
            self.types = schemas.types(schema_of(self.con, columns))
        counted = {name: str(value) for name, value in asdict(self.counts).items()} if self.readings else {}
        read = {READ: json.dumps([reading.as_dict() for reading in self.readings])} if self.readings else {}
        return self.bronze.commit(
            self.con,
            self.files,
            types=self.types,
            where=self.plan.replaces,
            expect=self.plan.expect,
            positions={**self.plan.positions, **self.positions, **self._moved_fence},
            metadata={**self.facts, **self.rows_facts, **counted, **read},
        )
