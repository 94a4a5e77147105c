"""A logical replication slot: what it holds back, and the changes in it.

Holds the statements about one slot, and `Changes`, which reads it without taking anything out. `pgoutput` turns
messages into events; `drain` decides what a run does with them, and when the slot may move on.

Functions: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from pipeline_assets.ingest.cdc.errors import PublicationGapError
from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.slot import catalog
from pipeline_assets.ingest.cdc.slot.pgoutput import POSTGRES_EPOCH_US, Decoder
from pipeline_assets.ingest.postgres_session import LOCK_TIMEOUT_SECONDS, Database, Session, SourceDatabaseError
from pipeline_assets.sql import quote_name, quote_text

PLUGIN = "pgoutput"
COUNT_SECONDS = 5

# If PostgreSQL 18 does not find a publication, it goes on without it, and so without the changes, with this warning.
# Older versions end with an error.
_PUBLICATION_SKIPPED = "55000"


@dataclass(frozen=True)
class SlotStatus:
    """A slot as the server sees it. Positions are WAL positions (LSN) as numbers.

    Attributes:
        plugin: Its output plugin; None for a physical slot.
        database: Its database.
        is_in_database: Whether that is the database we are connected to: it can only be read there.
        is_active: Whether some process reads it now.
        other_reader: The process that reads it now, if it is not this program.
        wal_status: reserved, extended, unreserved or lost; None before it has reserved any WAL.
        confirmed_flush_lsn: Transactions whose commit starts before it are not sent again.
        lag_bytes: WAL from `confirmed_flush_lsn` to the end: what a run has to go through.
        retained_bytes: All WAL that the disk holds for it. More than `lag_bytes` if a transaction has been open for
            long.
        invalidation_reason: Why it was lost (PostgreSQL 17 and later).
    """

    plugin: str | None
    database: str | None
    is_in_database: bool
    is_active: bool
    other_reader: str | None
    wal_status: str | None
    confirmed_flush_lsn: int
    lag_bytes: int
    retained_bytes: int
    invalidation_reason: str | None

    @property
    def is_lost(self) -> bool:
        """Whether WAL that it needs is gone: it can never be read again."""
        return self.wal_status == "lost" or self.invalidation_reason is not None


@dataclass(frozen=True)
class Pending:
    """What waits in a slot.

    Attributes:
        events: Number of events, if `is_complete`; otherwise there are at least this many.
        is_complete: Whether all were counted.
        first_commit_at: When the earliest counted transaction was committed; None without one.
    """

    events: int
    is_complete: bool
    first_commit_at: datetime | None


def status(session: Session, name: str) -> SlotStatus | None:
    """Return a slot's status; None if it does not exist."""
    row = session.execute(
        """SELECT s.plugin, s.database, coalesce(s.database = current_database(), false), s.active,
               CASE WHEN s.active AND a.application_name IS DISTINCT FROM current_setting('application_name')
                   THEN concat('PID ', s.active_pid, ' ', a.application_name) END, s.wal_status,
               coalesce(s.confirmed_flush_lsn - '0/0', 0)::bigint,
               greatest(coalesce(f.lsn - s.confirmed_flush_lsn, 0), 0)::bigint,
               greatest(coalesce(f.lsn - s.restart_lsn, 0), 0)::bigint,
               to_jsonb(s) ->> 'invalidation_reason'
           FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid,
               pg_current_wal_flush_lsn() AS f (lsn) WHERE s.slot_name = %s""",
        [name],
    ).fetchone()
    return None if row is None else SlotStatus(*row)


def create(session: Session, name: str) -> None:
    """Create a slot; return when all transactions that were open have ended."""
    session.execute("SELECT pg_create_logical_replication_slot(%s, %s)", [name, PLUGIN])


@contextmanager
def no_endless_wait(database: Database) -> Iterator[None]:
    """Wrap the creation of a slot, which waits for every open transaction that has written, in any database.

    Raises:
        SourceDatabaseError: A transaction does not end: it was prepared long ago, or outlasts the time that a session
            waits for a lock.
    """
    with database.connect() as session:
        if stuck := catalog.open_transactions(session, prepared_before_seconds=LOCK_TIMEOUT_SECONDS):
            raise _waits(database, stuck)
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        with database.connect() as session:
            found = catalog.open_transactions(session)
        raise _waits(database, found) from None


def _waits(database: Database, transactions: Sequence[str]) -> SourceDatabaseError:
    return SourceDatabaseError(
        f"PostgreSQL {database.place}: a slot is created when all transactions that write have ended, and these have "
        f"not: {'; '.join(transactions) or 'they have just ended'}. End them, and run again"
    )


def drop(session: Session, name: str) -> None:
    """Drop a slot; do nothing if it does not exist."""
    session.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [name])


def advance(session: Session, name: str, lsn: int) -> None:
    """Move a slot forward; do nothing if it is there or further already."""
    session.execute(
        """SELECT pg_replication_slot_advance(slot_name, '0/0'::pg_lsn + %(lsn)s::numeric)
           FROM pg_replication_slots
           WHERE slot_name = %(name)s AND confirmed_flush_lsn < '0/0'::pg_lsn + %(lsn)s::numeric""",
        {"name": name, "lsn": lsn},
    )


def pending(session: Session, name: str, publication: str, limit: int) -> Pending:
    """Count events in a slot, up to about `limit` messages, or for `COUNT_SECONDS`."""
    query = f"""
        SELECT count(*), count(*) FILTER (WHERE kind IN ('I', 'U', 'D', 'T')), min(time)
        FROM (SELECT chr(get_byte(data, 0)) AS kind,
                  CASE get_byte(data, 0) WHEN ascii('B') THEN
                      ('x' || encode(substring(data FROM 10 FOR 8), 'hex'))::bit(64)::bigint END AS time
              FROM {_peek(name, publication, None, limit)}) m"""
    session.execute(f"SET statement_timeout = '{COUNT_SECONDS}s'".encode())
    try:
        row = session.execute(query.encode()).fetchone()
    except psycopg.errors.QueryCanceled:  # one transaction of millions of rows: its run counts them
        return Pending(limit, False, None)
    messages, events, time = row or (0, 0, None)
    first = None if time is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time + POSTGRES_EPOCH_US)
    return Pending(events, messages < limit, first)


class Changes:
    """The events of a slot up to a bound, in commit order, whole transactions only. Each loop reads them again.

    They stream: the server keeps what it decoded in temporary files, and this side holds one row at a time. Leaving a
    loop early ends its session.

    Attributes:
        reached: After a loop that ran to its end, the position up to which (exclusively) all was yielded; None before.
    """

    def __init__(
        self, database: Database, slot: str, publication: str, upto: int, max_changes: int, decoder: Decoder
    ) -> None:
        """Read nothing yet. See `Postgres.peek`."""
        self.reached: int | None = None
        self._database = database
        self._slot = slot
        self._publication = publication
        self._upto = upto
        self._max_changes = max_changes
        self._decoder = decoder
        self._messages = 0
        self._is_cut = False

    @property
    def unlike(self) -> Mapping[str, tuple[int, str]]:
        """Tables whose changes were passed over; see `EventStream`."""
        return self._decoder.unlike

    def __iter__(self) -> Iterator[ChangeEvent]:
        self.reached, self._messages, self._is_cut = None, 0, False
        with self._database.connect() as session:
            warnings: list[str | None] = []
            session.add_notice_handler(lambda notice: warnings.append(notice.sqlstate))
            require_publication(session, self._database, self._publication)
            upto = min(self._upto, flush_lsn(session))
            query = f"""COPY (SELECT (lsn - '0/0')::bigint, data
                FROM {_peek(self._slot, self._publication, upto, self._max_changes)}) TO STDOUT (FORMAT binary)"""
            try:
                with session.cursor() as cursor, cursor.copy(query.encode()) as copy:
                    copy.set_types(["int8", "bytea"])
                    yield from self._decoder.events(self._counted(copy.rows()), upto)
            except psycopg.errors.UndefinedObject:  # it exists now, so it was missing when something committed
                raise self._gap() from None
        if _PUBLICATION_SKIPPED in warnings:
            raise self._gap()
        self.reached = self._decoder.commit_lsn + 1 if self._is_cut else upto

    def _gap(self) -> PublicationGapError:
        return PublicationGapError(
            f"PostgreSQL {self._database.place}: the publication {self._publication} was missing for a part of what "
            f"the slot {self._slot} holds, and changes of that time are lost: read the tables whole again"
        )

    def _counted(self, rows: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        for row in rows:
            self._messages += 1
            yield row
        # Not set if the decoder stopped at the bound: then nothing is missing, however many messages there were.
        self._is_cut = self._messages >= self._max_changes


def flush_lsn(session: Session) -> int:
    """Return the end of the WAL that is on disk: a slot can be read up to there."""
    (lsn,) = session.execute("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint").fetchone() or (0,)
    return int(lsn)


def require_publication(session: Session, database: Database, name: str) -> None:
    """Check that a publication exists.

    Raises:
        SourceDatabaseError: It does not exist.
    """
    if catalog.publication(session, name) is None:
        raise SourceDatabaseError(
            f"PostgreSQL {database.place}: there is no publication {name}: CREATE PUBLICATION {quote_name(name)} FOR "
            "TABLE ... (as the tables' owner), before the slot is created"
        )


def _peek(slot: str, publication: str, upto: int | None, max_changes: int) -> str:
    """Return a FROM clause with the messages of a slot: lsn, xid, data. Both limits take effect at a commit only."""
    bound = "NULL" if upto is None else f"'0/0'::pg_lsn + {upto}::numeric"
    # The option is a list of SQL identifiers, and unquoted identifiers are folded to lower case.
    return (
        f"pg_logical_slot_peek_binary_changes({quote_text(slot)}, {bound}, {max_changes}, 'proto_version', '1', "
        f"'publication_names', {quote_text(quote_name(publication))})"
    )
