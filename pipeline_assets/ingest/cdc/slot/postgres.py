"""A PostgreSQL database as a source of changes: everything that talks to it goes through this module.

Nothing is kept open between calls: each call opens its own session (5 ms) and closes it. `ingest.postgres_session`
makes sessions; `slot`, `snapshot` and `catalog` read what their names say; `drain` is a run. PostgreSQL 15 or later.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager

from pipeline_assets.ingest.cdc.events import EventStream
from pipeline_assets.ingest.cdc.slot import catalog, slot, snapshot
from pipeline_assets.ingest.cdc.slot.altered import KnownTable
from pipeline_assets.ingest.cdc.slot.catalog import ColumnDescription, Publication, TableDescription
from pipeline_assets.ingest.cdc.slot.pg_text import Encoders, PgType
from pipeline_assets.ingest.cdc.slot.pgoutput import Decoder
from pipeline_assets.ingest.cdc.slot.slot import Changes, Pending, SlotStatus
from pipeline_assets.ingest.cdc.slot.snapshot import Snapshot
from pipeline_assets.ingest.postgres_session import Database, SourceDatabaseError

__all__ = [
    "Changes", "ColumnDescription", "Pending", "Postgres", "Publication", "SlotStatus", "Snapshot",
    "TableDescription",
]  # fmt: skip


class Postgres:
    """A database, the slot of our stream in it, and the publication that decides what the slot sends.

    Every method raises `SourceDatabaseError` if the database cannot be reached or refuses; the text names the host and
    the database, never the password.

    Attributes:
        slot_name: The slot.
        publication_name: The publication.
    """

    def __init__(self, url: str, *, slot: str, publication: str) -> None:
        """Connect to nothing yet.

        Args:
            url: `postgresql://user:password@host:port/database` of a role with LOGIN, REPLICATION, and SELECT on the
                tables.
            slot: Name of the slot: lower case, digits, underscores.
            publication: Name of the publication.

        Raises:
            SourceDatabaseError: The URL is not valid.
        """
        self.slot_name = slot
        self.publication_name = publication
        self._database = Database(url, f"pipeline_assets {slot}")
        self._encoders = Encoders(self._look_up)

    def __repr__(self) -> str:
        return f"Postgres({self._database.place}, slot={self.slot_name}, publication={self.publication_name})"

    def system_identifier(self) -> str:
        """Return the number of the database cluster.

        Another one means another WAL, in which our positions are meaningless.
        """
        with self._database.connect(replication=True) as session:
            row = session.execute("IDENTIFY_SYSTEM").fetchone()
        return str(row[0]) if row else ""

    def flush_lsn(self) -> int:
        """Return the end of the WAL on disk: the target of a run. Every transaction committed by now starts before it.

        (With synchronous_commit = off the latest ones may start after it; they come in the next run.)
        """
        with self._database.connect() as session:
            return slot.flush_lsn(session)

    def slot(self) -> SlotStatus | None:
        """Return the slot's status; None if it does not exist."""
        with self._database.connect() as session:
            return slot.status(session, self.slot_name)

    def publication(self) -> Publication | None:
        """Return what the publication publishes; None if it does not exist."""
        with self._database.connect() as session:
            return catalog.publication(session, self.publication_name)

    def open_transactions(self) -> list[str]:
        """Return transactions that have written and not ended, the oldest first, each with the way to end it."""
        with self._database.connect() as session:
            return catalog.open_transactions(session)

    def describe(self, tables: Collection[str]) -> dict[str, TableDescription]:
        """Describe tables (`public.customers`); those that the database lacks are missing in the result."""
        with self._database.connect() as session:
            return catalog.tables(session, tables, self.publication_name)

    def came_with_rows(self, partitions: Collection[int]) -> bool:
        """Tell whether one of some partitions (OIDs) had rows when it was attached; there are no events for these."""
        with self._database.connect() as session:
            return catalog.came_with_rows(session, partitions)

    def create_slot(self) -> SlotStatus:
        """Create the slot after all transactions that are open now have ended, which may take a minute.

        Raises:
            SourceDatabaseError: There is no publication (the slot would not find one that comes later), a transaction
                does not end, or the database fails.
        """
        with self._database.connect() as session:
            slot.require_publication(session, self._database, self.publication_name)
            with slot.no_endless_wait(self._database):
                slot.create(session, self.slot_name)
            created = slot.status(session, self.slot_name)
        if created is None:
            raise SourceDatabaseError(
                f"PostgreSQL {self._database.place}: somebody dropped the slot {self.slot_name} again"
            )
        return created

    def drop_slot(self) -> None:
        """Drop the slot; do nothing if it does not exist."""
        with self._database.connect() as session:
            slot.drop(session, self.slot_name)

    def advance(self, lsn: int) -> None:
        """Let the slot forget the transactions whose commit starts before `lsn`. It never moves back."""
        with self._database.connect() as session:
            slot.advance(session, self.slot_name, lsn)

    def peek(
        self,
        upto: int,
        max_changes: int,
        keys: Mapping[str, Sequence[str]],
        known: Mapping[int, KnownTable] | None = None,
    ) -> EventStream:
        """Return the changes in the slot, which stay in it. Loop over them; then `reached` tells how far that was.

        Args:
            upto: Exclusive bound: a transaction whose commit starts there or later is left out.
            max_changes: Ends with the first transaction that brings the number of messages to this; so a larger
                transaction comes as a whole.
            keys: Table to its key columns, in the order that `key` has to have. Events of other tables come too.
            known: Tables by their OIDs; their events come under their present names, whatever their names were at the
                time.
        """
        decoder = Decoder(keys, self._encoders, f"slot {self.slot_name}", known or {})
        return Changes(self._database, self.slot_name, self.publication_name, upto, max_changes, decoder)

    def pending(self, limit: int) -> Pending:
        """Count what waits in the slot, for a sensor: up to about `limit` events, and for a few seconds at most."""
        with self._database.connect() as session:
            slot.require_publication(session, self._database, self.publication_name)
            return slot.pending(session, self.slot_name, self.publication_name, limit)

    def snapshot(self, tables: Collection[str]) -> AbstractContextManager[Snapshot]:
        """Take a consistent view of tables for as long as the block lasts.

        They cannot be altered or truncated meanwhile.

        Needs a free replication slot for a moment.

        Args:
            tables: Schema and name of each; in the publication.
        """
        return snapshot.take(self._database, tables, self.slot_name, self.publication_name, self._encoders)

    def _look_up(self, oid: int) -> PgType | None:
        with self._database.connect() as session:
            return catalog.pg_type(session, oid)
