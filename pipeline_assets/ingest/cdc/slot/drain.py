"""A run of a change stream: snapshot tables that have none, then drain the slot up to the WAL position at its start.

The order makes a kill harmless: read, commit to every table, then advance the slot. A position is an exclusive bound:
a transaction whose commit starts before it is in the table, a transaction whose commit starts at or after it is not.
Events before a table's position are skipped when they are read again.

`postgres` reads the slot, `table.change_table` commits a batch, `health` finds what may be wrong.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb

from pipeline_assets.ingest.batch import counts
from pipeline_assets.ingest.batch.source import plan_anew
from pipeline_assets.ingest.cdc.errors import PublicationGapError
from pipeline_assets.ingest.cdc.events import ChangeEvent, lsn_text
from pipeline_assets.ingest.cdc.reconcile import store
from pipeline_assets.ingest.cdc.slot import altered
from pipeline_assets.ingest.cdc.slot.altered import KnownTable
from pipeline_assets.ingest.cdc.slot.health import RESNAPSHOT, ChangeSource, State, inspect, stream_position
from pipeline_assets.ingest.cdc.slot.postgres import Postgres, Snapshot
from pipeline_assets.ingest.cdc.table.change_table import (
    COMMIT_LSN,
    SNAPSHOT,
    ChangeTable,
    EventBatch,
    EventPlan,
    UnroutedBatch,
    create,
)
from pipeline_assets.ingest.cdc.table.chunks import in_chunks
from pipeline_assets.ingest.postgres_session import SourceDatabaseError
from pipeline_assets.lake import Lake

_ATTEMPTS = 5
# Messages per peek. A kill has at most so many read again, unless one transaction is larger.
_MESSAGES_PER_BATCH = 500_000


@dataclass
class Report(counts.Report):
    """What a run did.

    Attributes:
        target: WAL position that the run drained to; None if it could not read.
        suspects: Tables that were left alone, with the reason and the remedy.
        snapshots: Tables that were read whole.
        altered: Those of them that were read again without being asked for, with what was done to them at the source.
    """

    target: int | None = None
    suspects: Mapping[str, str] = field(default_factory=dict)
    snapshots: frozenset[str] = frozenset()
    altered: dict[str, str] = field(default_factory=dict)


@dataclass
class Drain:
    """A run that brings a stream's changes into bronze.

    Attributes:
        lake: The lake.
        con: A connection of it.
        source: The declaration.
        postgres: The database.
        run_id: Of the run, for the commits' metadata.
    """

    lake: Lake
    con: duckdb.DuckDBPyConnection
    source: ChangeSource
    postgres: Postgres
    run_id: str = ""

    def run(self, *, resnapshot: Collection[str] = (), reconcile: Collection[str] = ()) -> Report:
        """Drain the slot.

        Args:
            resnapshot: Names of tables to read whole again; the remedy for a gap.
            reconcile: Names of tables whose rows at the source are stored too, at one consistent point; the run
                drains exactly up to it.

        Returns:
            The report. Suspect tables are left as they are.

        Raises:
            SourceDatabaseError: The database cannot be reached, or refuses; or tables were altered again and again
                meanwhile.
            CommitConflictError: Other runs of the stream were faster each time.
        """
        if unknown := set(resnapshot) - {table.name for table in self.source.tables}:
            raise SourceDatabaseError(
                f"{self.source.name} has no table {', '.join(sorted(unknown))} that could be read again"
            )
        report = Report()
        why: Exception
        for _ in range(_ATTEMPTS):
            try:
                if not plan_anew(
                    f"bronze.{self.source.name}__...",
                    lambda: self._run(report, set(resnapshot) - report.snapshots, reconcile),
                ):
                    return report
                why = self._altered_again_and_again(report)
            except PublicationGapError as error:
                why = error
                # The rest of the slot is useless, and the tables as they are now hold what it would have brought.
                self._all_are_to_be_read_again()
                self.postgres.drop_slot()
        raise why

    def _altered_again_and_again(self, report: Report) -> SourceDatabaseError:
        altered = "; ".join(f"{name}: {problem}" for name, problem in sorted(report.altered.items()))
        return SourceDatabaseError(
            f"{self.source.name}: after {_ATTEMPTS} rounds the stream still tells of tables that were altered and "
            f"altered back ({altered}). Nothing is lost: whichever was not read whole since, is by the next run. Run "
            "again when whoever alters them has ended"
        )

    def _run(self, report: Report, resnapshot: Collection[str], reconcile: Collection[str]) -> bool:
        """Return whether to run again, because the stream reported tables that were altered and altered back."""
        state = inspect(self.lake, self.source, self.postgres, resnapshot=resnapshot)
        report.suspects = state.suspects
        report.altered |= state.altered
        slot = state.slot
        if state.blocked or ((slot is None or slot.is_lost) and not state.to_snapshot):
            return False
        if slot is not None and slot.is_lost:
            self.postgres.drop_slot()
            slot = None
        if slot is None:
            self.postgres.create_slot()
        healthy = [table for table in self.source.tables if table.name not in state.left_alone]
        if not healthy:
            return False
        if not state.suspects and not any(position is not None for position in state.positions.values()):
            # If the slot is older than the lake, the tables, which are read whole afterwards, hold what is in it.
            self.postgres.advance(self.postgres.flush_lsn())
        for table in self.source.tables:
            # The slot forgets the changes of a table that cannot be read now: note that the table lacks them.
            if table.name in state.left_alone - state.suspects.keys():
                self._is_to_be_read_again(table, state)
        for table in healthy:
            # Draining closes the gap between slot and lake, but does not bring what is missing: note that first.
            if table.name in state.to_snapshot:
                self._is_to_be_read_again(table, state)
            altered.note(create(self.con, table.bronze(self.lake)), state.described[table.source_table])
        before = dict(report.altered)
        point = self._snapshots(report, healthy, state, reconcile)
        self._drain(report, healthy, state, self.postgres.flush_lsn() if point is None else point)
        return report.altered != before

    def _is_to_be_read_again(self, table: ChangeTable, state: State) -> None:
        if state.positions[table.name] is not None:
            table.bronze(self.lake).commit(self.con, [], positions={RESNAPSHOT: 1})

    def _all_are_to_be_read_again(self) -> None:
        position = stream_position(self.postgres)
        for table in self.source.tables:
            if table.bronze(self.lake).position(position) is not None:
                table.bronze(self.lake).commit(self.con, [], positions={RESNAPSHOT: 1})

    def _drain(
        self,
        report: Report,
        tables: Sequence[ChangeTable],
        state: State,
        target: int,
        read_whole: Collection[str] = (),
    ) -> None:
        """Drain the slot up to `target`. The tables in `read_whole` are read whole right afterwards."""
        known = self._known(state) if tables else {}
        reached = 0
        while tables and reached < target:
            before, reached = reached, self._batch(report, tables, state.position, target, known, read_whole)
            report.target = reached
            if reached <= before:
                raise SourceDatabaseError(
                    f"the WAL of {self.postgres!r} ends at {lsn_text(reached)}, but ended at {lsn_text(target)} when "
                    "the run started: is this another server now?"
                )

    def _known(self, state: State) -> Mapping[int, KnownTable]:
        """Give the declared tables by OID, as the catalog has them after all that is drained: see `altered.known`."""
        found: dict[int, KnownTable] = {}
        described = self.postgres.describe([table.source_table for table in self.source.tables])
        for table in self.source.tables:
            if table.source_table in described:
                found |= altered.known(table.source_table, state.noted[table.name], described[table.source_table])
        return found

    def _snapshots(
        self, report: Report, tables: Sequence[ChangeTable], state: State, reconcile: Collection[str]
    ) -> int | None:
        """Read whole the tables that need it; store the rows of tables to be reconciled. Give the point of these."""
        to_read = [table for table in tables if table.name in state.to_snapshot]
        to_store = [table for table in tables if table.name in reconcile]
        wanted = [table for table in tables if table in to_read or table in to_store]
        if not wanted:
            return None
        streamed = [table for table in tables if state.positions[table.name] is not None]
        # The changes up to the snapshot come first, so that a table that is read again loses none of them. Most of them
        # are read now, because a snapshot holds locks and keeps the source from vacuuming.
        read_whole = [table.name for table in to_read]
        self._drain(report, streamed, state, self.postgres.flush_lsn(), read_whole)
        with self.postgres.snapshot([table.source_table for table in wanted]) as snapshot:
            self._drain(report, streamed, state, snapshot.point, read_whole)
            for table in to_read:
                expected = snapshot.point if table in streamed else None
                self._snapshot(report, table, snapshot, state.position, expected)
            for table in to_store:
                self._store_source(table, snapshot, state.position)
            return snapshot.point if to_store else None

    def _snapshot(
        self, report: Report, table: ChangeTable, snapshot: Snapshot, position: str, expected: int | None
    ) -> None:
        """Read one table whole, as one commit."""
        done = {} if expected is None else {RESNAPSHOT: 0}
        planned = EventPlan(
            expect={position: expected},
            positions={position: snapshot.point, **done},
            batch_id=f"{SNAPSHOT} {lsn_text(snapshot.point)}",
            extracted_at=datetime.now(UTC),
        )
        with EventBatch(self.lake, self.con, table, planned, run_id=self.run_id) as batch:
            newest = batch.bronze.position(COMMIT_LSN)
            if newest is not None and newest >= snapshot.point:
                raise SourceDatabaseError(
                    f"{table.name} holds changes up to {lsn_text(newest)}, but the source stands at "
                    f"{lsn_text(snapshot.point)}: this is another database cluster, or an older state of it, and "
                    "positions cannot be compared. Give the source another name, so that it gets tables of its own"
                )
            if newest is not None:
                # A row that is not in the snapshot is not in the table.
                batch.add([snapshot.truncate(table.source_table)])
            for chunk in in_chunks(snapshot.rows(table.source_table, table.row_keys)):
                batch.add(chunk.events)
            batch.commit()
        report.add(batch)
        report.snapshots |= {table.name}

    def _store_source(self, table: ChangeTable, snapshot: Snapshot, position: str) -> None:
        """Store the source's rows at the snapshot's point beside the change table, for `reconcile` to compare."""
        rows = in_chunks(snapshot.rows(table.source_table, table.row_keys))
        store(self.con, self.lake, table, (chunk.events for chunk in rows), {position: snapshot.point})

    def _batch(
        self,
        report: Report,
        tables: Sequence[ChangeTable],
        position: str,
        target: int,
        known: Mapping[int, KnownTable],
        read_whole: Collection[str],
    ) -> int:
        """Read some transactions, commit them to every table, let the slot forget them.

        Return the position that was reached.
        """
        before = {table.name: table.bronze(self.lake).position(position) or 0 for table in tables}
        start = min(before.values())
        batches = {table.source_table: self._begin(table, position, before[table.name]) for table in tables}
        unrouted = self._begin_unrouted(f"{position} {lsn_text(start)}")
        starts = {table.source_table: before[table.name] for table in tables}
        left_alone = {table.source_table for table in self.source.tables} - batches.keys()

        def is_new(event: ChangeEvent) -> bool:
            """Tell whether an event is to be added: its table is no suspect, and does not have it from a killed run."""
            return event.table not in left_alone and event.commit_lsn >= starts.get(event.table, start)

        keys = {table.source_table: table.row_keys for table in self.source.tables}
        changes = self.postgres.peek(target, _MESSAGES_PER_BATCH, keys, known)
        with ExitStack() as stack:
            for each in (unrouted, *batches.values()):
                stack.enter_context(each)
            for chunk in in_chunks(event for event in changes if is_new(event)):
                batches.get(chunk.table or "", unrouted).add(chunk.events)
            reached = changes.reached or target
            for source_table, batch in batches.items():
                # Also without events: the slot must not be further than the position in any table's log.
                batch.positions[position] = max(reached, before[batch.name])
                last, problem = changes.unlike.get(source_table, (-1, ""))
                if last >= before[batch.name] and batch.name not in read_whole:
                    report.altered[batch.name] = problem
                    # In one commit with the position: what was skipped does not come again.
                    batch.positions[RESNAPSHOT] = 1
            for each in (unrouted, *batches.values()):
                each.commit()
                report.add(each)
        self.postgres.advance(reached)
        return reached

    def _begin(self, table: ChangeTable, position: str, before: int) -> EventBatch:
        batch_id = f"{position} {lsn_text(before)}"
        planned = EventPlan(expect={position: before}, batch_id=batch_id, extracted_at=datetime.now(UTC))
        return EventBatch(self.lake, self.con, table, planned, run_id=self.run_id)

    def _begin_unrouted(self, batch_id: str) -> UnroutedBatch:
        planned = EventPlan(batch_id=batch_id, extracted_at=datetime.now(UTC))
        return UnroutedBatch(self.lake, self.con, self.source.name, planned, run_id=self.run_id)
