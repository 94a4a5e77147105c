"""Finds what is wrong with a change stream before it is read: slot, publication, keys, gaps between slot and lake.

A gap makes a table suspect: nothing is written to it until it is read again as a whole. `drain` reads it again; the
components decide what a suspect table means for downstream.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline_assets.ingest.cdc.events import lsn_text
from pipeline_assets.ingest.cdc.slot import altered
from pipeline_assets.ingest.cdc.slot.postgres import Postgres, SlotStatus, TableDescription
from pipeline_assets.ingest.cdc.table.change_table import COMMIT_LSN, ChangeTable
from pipeline_assets.ingest.conform.names import clash_text, clashes, renamed
from pipeline_assets.lake import Lake
from pipeline_assets.sql import quote_text

_SHOWN = 5  # transactions that a message names

RESNAPSHOT = "resnapshot"
"""Position in a change table's log: 1 from the decision to read the table again until that is done."""


@dataclass(frozen=True)
class ChangeSource:
    """A change stream as declared.

    Attributes:
        name: Name of the source: `shop_db`.
        tables: The tables that it captures.
        max_lag_bytes: WAL that the slot may hold back.
    """

    name: str
    tables: tuple[ChangeTable, ...]
    max_lag_bytes: int


@dataclass(frozen=True)
class State:
    """The state of a change stream.

    Attributes:
        slot_name: Name of the slot.
        position: Name of the stream's position in each table's log.
        slot: The slot; None if it does not exist.
        end: End of the source's WAL.
        described: Source table to its description; a table that the database does not have is missing.
        positions: Table name to its position in the lake; None for a table that was never read.
        suspects: Table name to what is wrong and what to run.
        to_snapshot: Names of tables that have to be read as a whole.
        altered: Those of them that were altered without a change event, with what was done to them.
        noted: Table name to the notes of its log about the source's table; None without notes.
        blocked: Why the slot cannot be read at all; empty if it can.
        slot_problems: Further problems of the slot.
        unreadable: Table name to problems that keep it from being read: it does not exist, or is not published.
        publication: Problems of the publication that concern every table.
        identity: Table name to problems of its keys or its replica identity: its changes would not identify the row.
    """

    slot_name: str
    position: str
    slot: SlotStatus | None
    end: int
    described: Mapping[str, TableDescription]
    positions: Mapping[str, int | None]
    suspects: dict[str, str] = field(default_factory=dict)
    to_snapshot: set[str] = field(default_factory=set)
    altered: dict[str, str] = field(default_factory=dict)
    noted: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    slot_problems: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    publication: list[str] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)

    @property
    def left_alone(self) -> set[str]:
        """Names of the tables of which nothing is read."""
        return {*self.suspects, *self.unreadable, *self.identity}


def inspect(lake: Lake, source: ChangeSource, postgres: Postgres, *, resnapshot: Collection[str] = ()) -> State:
    """Inspect the database and the tables' logs; change nothing.

    Args:
        lake: The lake.
        source: The declaration.
        postgres: The database.
        resnapshot: Names of tables that are to be read again as a whole, and so are not suspect.

    Raises:
        SourceDatabaseError: The database cannot be reached.
    """
    position = stream_position(postgres)
    # The order matters, because another run may go on meanwhile: the slot is never ahead of the tables, and these are
    # never ahead of the WAL.
    slot = postgres.slot()
    positions = {table.name: table.bronze(lake).position(position) for table in source.tables}
    end = postgres.flush_lsn()
    described = postgres.describe([table.source_table for table in source.tables])
    state = State(postgres.slot_name, position, slot, end, described, positions)
    _check_slot(state, source, postgres)
    _check_publication(state, postgres)
    for table in source.tables:
        state.noted[table.name] = altered.noted(table.bronze(lake))
        _check_table(state, table, postgres.publication_name)
        if table.name in resnapshot or table.bronze(lake).position(RESNAPSHOT) == 1:
            state.to_snapshot.add(table.name)
        elif reason := _suspicion(state, lake, table):
            state.suspects[table.name] = f"{reason}. {remedy(source.name, table.name)}"
        elif positions[table.name] is None:
            state.to_snapshot.add(table.name)
        elif reason := _alteration(state, postgres, table):
            state.altered[table.name] = reason
            state.to_snapshot.add(table.name)
    return state


def stream_position(postgres: Postgres) -> str:
    """Name the position that every table keeps in its log; another slot or database cluster gets another name."""
    return f"slot:{postgres.slot_name}@{postgres.system_identifier()}"


def remedy(source: str, table: str) -> str:
    """Say what to run when the lake and the slot have diverged."""
    return (
        f"Changes may be missing from {table}, so nothing is written to it: run the job {source}__resnapshot, which "
        "reads the tables whole again and then goes on with the stream"
    )


def toasted(state: State, table: ChangeTable) -> list[str]:
    """Return the columns whose unchanged long values an update does not send, so that silver keeps its values."""
    found = state.described.get(table.source_table)
    if found is None or found.replica_identity == "f":
        return []
    return [column.name for column in found.columns if column.is_toastable]


def _suspicion(state: State, lake: Lake, table: ChangeTable) -> str | None:
    """Return why changes of a table may be missing; None if they cannot be missing."""
    position, slot = state.positions[table.name], state.slot
    if position is None:
        if table.bronze(lake).position(COMMIT_LSN) is None:
            return None
        return f"bronze.{table.name} holds changes of another slot or database cluster"
    if position > state.end:
        return (
            f"bronze.{table.name} was read up to {lsn_text(position)}, and the WAL of the source ends at "
            f"{lsn_text(state.end)}: the source was put back to an older state"
        )
    if slot is None:
        return f"the slot {state.slot_name} is gone"
    if slot.is_lost:
        return f"the slot {state.slot_name} is lost ({slot.invalidation_reason or slot.wal_status})"
    if slot.confirmed_flush_lsn > position:
        return (
            f"the slot stands at {lsn_text(slot.confirmed_flush_lsn)}, bronze.{table.name} at {lsn_text(position)}: "
            "another reader advanced the slot, or the table was restored to an older version"
        )
    return None


def _alteration(state: State, postgres: Postgres, table: ChangeTable) -> str | None:
    """Return what was done to a table's rows without a change event; None if nothing was done."""
    found, before = state.described.get(table.source_table), state.noted[table.name]
    if found is None:
        return None
    if reason := altered.reason(before, found):
        return reason
    fresh = altered.new_partitions(before, found)
    return "a partition was attached with rows" if fresh and postgres.came_with_rows(fresh) else None


def _check_slot(state: State, source: ChangeSource, postgres: Postgres) -> None:
    slot, name = state.slot, state.slot_name
    if slot is None:
        return  # it will be created; a table that was read through it is suspect
    if slot.plugin != "pgoutput":
        what = f"uses {slot.plugin}, not pgoutput" if slot.plugin else "is one of physical replication"
        state.blocked.append(f"the slot {name} {what}: {_another_slot(name)}")
    elif not slot.is_in_database:
        state.blocked.append(f"the slot {name} belongs to the database {slot.database}: {_another_slot(name)}")
    elif slot.other_reader:
        state.blocked.append(f"the slot {name} is being read by {slot.other_reader}: end it, or {_another_slot(name)}")
    elif slot.is_lost:
        state.slot_problems.append(f"the slot {name} is lost ({slot.invalidation_reason or slot.wal_status})")
    elif slot.wal_status == "unreserved":
        state.slot_problems.append(
            f"the slot {name} is about to be lost: WAL that it needs may go with the next checkpoint, as the source's "
            "max_slot_wal_keep_size is reached: run the stream now, and raise that setting"
        )
    elif slot.lag_bytes > source.max_lag_bytes:
        state.slot_problems.append(
            f"the slot {name} is {slot.lag_bytes:,} bytes of WAL behind, more than max_lag_mb allows: look for failed "
            "runs, or raise max_lag_mb"
        )
    elif slot.retained_bytes > source.max_lag_bytes:
        transactions = "; ".join(postgres.open_transactions()[:_SHOWN]) or "it has just ended"
        state.slot_problems.append(
            f"the slot {name} holds back {slot.retained_bytes:,} bytes of WAL, more than max_lag_mb allows, as long as "
            f"a transaction is open: {transactions}"
        )


def _another_slot(name: str) -> str:
    return (
        "give the source another slot name; if nobody needs this one, SELECT "
        f"pg_drop_replication_slot({quote_text(name)}) lets the next run create its own"
    )


def _check_publication(state: State, postgres: Postgres) -> None:
    found, name = postgres.publication(), postgres.publication_name
    if found is None:
        state.blocked.append(
            f"there is no publication {name}: CREATE PUBLICATION {name} FOR TABLE ... as the owner of the tables"
        )
    elif missing := {"insert", "update", "delete", "truncate"} - found.operations:
        state.publication.append(
            f"the publication {name} leaves out {', '.join(sorted(missing))}: ALTER PUBLICATION {name} SET "
            "(publish = 'insert, update, delete, truncate')"
        )


def _check_table(state: State, table: ChangeTable, publication: str) -> None:
    found = state.described.get(table.source_table)
    if found is None:
        state.unreadable[table.name] = f"the database has no table {table.source_table}"
    elif not found.is_published:
        mend = "SET (publish_via_partition_root = true)" if found.is_partitioned else f"ADD TABLE {found.sql_name}"
        state.unreadable[table.name] = (
            f"{table.source_table} is not published under this name: ALTER PUBLICATION {publication} {mend}. The "
            "next run reads it whole again then, as changes until then are lost"
        )
    elif problem := _identity_problem(table, found):
        state.identity[table.name] = f"{problem}. Nothing is read of it until then"


def _identity_problem(table: ChangeTable, found: TableDescription) -> str | None:
    columns, keys = [column.name for column in found.columns], table.row_keys
    if clash := clashes(columns, keys):
        return f"in {table.source_table}, {clash_text(clash)} of the contract: rename one of them"
    if missing := set(keys) - set(renamed(columns, keys)):
        return f"{table.source_table} has no column {', '.join(sorted(missing))}, which the source declares as key"
    if missing := set(keys) - set(renamed(found.identity_columns, keys)):
        return (
            f"updates and deletes of {table.source_table} do not tell {', '.join(sorted(missing))} of the old row: "
            f"make the keys its primary key (not DEFERRABLE), or ALTER TABLE {found.sql_name} REPLICA IDENTITY FULL"
        )
    return None
