"""Reads tables as a whole at one point of the WAL, so that the stream continues exactly there.

A temporary slot gives the point and exports the snapshot that belongs to it: a transaction whose commit starts before
the point is in the rows, any other is in the stream.

Protocol: https://www.postgresql.org/docs/current/protocol-replication.html
"""

import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.slot import catalog
from pipeline_assets.ingest.cdc.slot.catalog import TableDescription
from pipeline_assets.ingest.cdc.slot.pg_text import Encoders
from pipeline_assets.ingest.cdc.slot.pgoutput import Relation
from pipeline_assets.ingest.cdc.slot.slot import PLUGIN, no_endless_wait
from pipeline_assets.ingest.conform.names import renamed
from pipeline_assets.ingest.postgres_session import Database, Session, SourceDatabaseError
from pipeline_assets.sql import quote_name, quote_text


class Snapshot:
    """Rows of tables as of one point.

    Attributes:
        point: The position: exclusive bound of what is in the rows.
        ts_us: When it was taken, microseconds since 1970 UTC, by the source's clock.
    """

    def __init__(
        self, session: Session, described: dict[str, TableDescription], encoders: Encoders, origin: str, point: int,
        ts_us: int,
    ) -> None:  # fmt: skip
        """Keep what `take` has opened."""
        self.point = point
        self.ts_us = ts_us
        self._session = session
        self._described = described
        self._encoders = encoders
        self._origin = origin

    def truncate(self, table: str) -> ChangeEvent:
        """Return the event that comes before the first row: the table holds only the rows that follow."""
        return self._event((table, "t", None, None, None, ()), 0)

    def rows(self, table: str, keys: Sequence[str]) -> Iterator[ChangeEvent]:
        """Yield a table's rows as `r` events, in no order; what the publication leaves out is left out here, too.

        Read one table at a time: finish a loop before the next one starts.

        Args:
            table: One of the tables of the snapshot.
            keys: Its key columns.

        Raises:
            SourceDatabaseError: The table lacks these columns, or cannot be read.
        """
        described = self._described[table]
        columns = [column for column in described.columns if column.name in described.published_columns]
        names = [column.name for column in columns]
        if missing := [key for key in keys if key not in renamed(names, keys)]:
            raise SourceDatabaseError(
                f"{table}: the key column {', '.join(missing)} is not published: correct the declared keys, or the "
                "column list of the publication"
            )
        relation = Relation(table, names, [column.type_oid for column in columns], (), keys, self._encoders)
        query = _select(described, names)
        with self._session.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
            for number, line in enumerate(copy, 1):
                values = relation.text_row(bytes(line))
                yield self._event((table, "r", relation.key(values), None, relation.row(values), ()), number)

    def _event(
        self, change: tuple[str, str, str | None, None, str | None, tuple[str, ...]], number: int
    ) -> ChangeEvent:
        # Records are 8-aligned, so none starts one byte before another and no transaction has this commit position. The
        # change gets the same position: a commit is never before its changes, and `debezium.parse` relies on that.
        lsn = self.point - 1
        return ChangeEvent(*change, lsn, number, lsn, None, self.ts_us, self._origin, self.point)


@contextmanager
def take(
    database: Database, tables: Collection[str], slot: str, publication: str, encoders: Encoders
) -> Iterator[Snapshot]:
    """Take a snapshot for as long as the block lasts. See `Postgres.snapshot`."""
    with database.connect() as session, database.connect() as reader:
        before = _described(database, session, tables, publication)
        with database.connect(replication=True) as exporter:
            with no_endless_wait(database):
                point, name = _export(exporter, slot)
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            reader.execute(f"SET TRANSACTION SNAPSHOT {quote_text(name)}".encode())
        listed = ", ".join(described.sql_name for described in before.values())
        reader.execute(f"LOCK TABLE {listed} IN ACCESS SHARE MODE".encode())
        # From here on the tables stay as they are. A TRUNCATE, or an ALTER TABLE that rewrites, between the snapshot
        # and the lock would have left the snapshot without rows, because these commands are not versioned. Locking
        # first could block the source for as long as the slot waits for open transactions.
        after = _described(database, session, tables, publication)
        for table, described in after.items():
            if described.files != before[table].files:
                raise SourceDatabaseError(
                    f"{table} was truncated or rewritten just as its snapshot was taken: run again"
                )
        (ts_us,) = session.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetchone() or (
            0,
        )
        yield Snapshot(reader, after, encoders, f"slot {slot}", point, ts_us)


def _described(
    database: Database, session: Session, tables: Collection[str], publication: str
) -> dict[str, TableDescription]:
    found = catalog.tables(session, tables, publication)
    for table in tables:
        if table not in found:
            raise SourceDatabaseError(
                f"PostgreSQL {database.place}: there is no table {table}: create it, or take it off the list"
            )
        if not found[table].is_published:
            raise SourceDatabaseError(
                f"PostgreSQL {database.place}: {table} is not in the publication {publication}: ALTER PUBLICATION "
                f"{quote_name(publication)} ADD TABLE {found[table].sql_name}"
            )
    return found


def _export(exporter: Session, slot: str) -> tuple[int, str]:
    """Create a temporary slot, which ends with its session. Return its position and the name of its snapshot.

    The snapshot can be used until the session's next command.
    """
    name = f"{slot[:40]}_snapshot_{secrets.token_hex(4)}"
    command = f"CREATE_REPLICATION_SLOT {quote_name(name)} TEMPORARY LOGICAL {PLUGIN} (SNAPSHOT 'export')"
    row = exporter.execute(command.encode()).fetchone()
    if row is None:
        raise SourceDatabaseError(f"the server did not answer {command}")
    high, _, low = str(row[1]).partition("/")
    return (int(high, 16) << 32) + int(low, 16), str(row[2])


def _select(described: TableDescription, columns: Sequence[str]) -> str:
    # Rows of tables that inherit from this one are published under their own names.
    only = "" if described.is_partitioned else "ONLY "
    where = f" WHERE {described.row_filter}" if described.row_filter else ""
    return f"SELECT {', '.join(quote_name(name) for name in columns)} FROM {only}{described.sql_name}{where}"
