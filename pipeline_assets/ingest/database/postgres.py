"""PostgreSQL, read as text: COPY streams the result of a query, at one snapshot that several sessions may share.

Text is the one exact form of every type: numeric keeps all digits and NaN, bytes are hex, arrays become JSON. 2 million
rows of 12 columns take 7 CPU seconds this way, and 180 MB. PostgreSQL 13 or later.

COPY: https://www.postgresql.org/docs/current/sql-copy.html
Snapshots: https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
from psycopg.conninfo import conninfo_to_dict
from pyarrow import csv

from pipeline_assets.ingest import postgres_session
from pipeline_assets.ingest.batch.watermark import Value
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.database import parameters
from pipeline_assets.ingest.database.errors import DatabaseError, of_postgres
from pipeline_assets.ingest.database.protocol import (
    Member,
    Reading,
    Relation,
    Selection,
    Stream,
    Transactions,
    column_of,
    distinct,
    name_parts,
    reading,
)
from pipeline_assets.ingest.postgres_session import Session, SourceDatabaseError
from pipeline_assets.sql import quote_name, quote_text

WORKERS = 2
"""Number of sessions that read a large table side by side the first time.

More add little: the server works as much as we do.
"""

SPLIT_FROM_ROWS = 500_000
"""A table with fewer rows is read by one session."""

_PARTS = 8  # more parts than workers, because keys are not spread evenly
_CHUNK_BYTES = 4 * 1024**2
_INTEGERS = {20: "bigint", 21: "smallint", 23: "integer"}
_BYTEA = 17
_NUMERIC = 1700
# All other types that are read as text stay text.
# https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat
_KINDS = {
    16: "BOOLEAN", 17: "BLOB", 20: "BIGINT", 21: "SMALLINT", 23: "INTEGER", 26: "BIGINT", 700: "FLOAT", 701: "DOUBLE",
    1082: "DATE", 1114: "TIMESTAMP", 1184: "TIMESTAMP WITH TIME ZONE",
}  # fmt: skip

# Permanent transaction ids (0, 1, 2: rows of a cluster that was upgraded long ago) have no age. `xmin` has 32 bits, so
# the age is counted modulo 2^32 from the end of the snapshot.
_WRITTEN_BY = (
    "(CASE WHEN {row}.xmin::text::bigint > 2 THEN {xmax}::bigint"
    " - ((({xmax}::bigint & 4294967295) - {row}.xmin::text::bigint) & 4294967295) ELSE 0 END)"
)
"""SQL of the transaction that wrote a row version, with all its bits."""

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

# Partitions and plain inheritance: `pg_partition_tree` knows only the former.
_TABLE = """
    WITH RECURSIVE tree(id) AS (
        SELECT to_regclass(%(name)s)::oid UNION SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = id)
    SELECT c.oid::bigint, format('%%I.%%I', n.nspname, c.relname), greatest(c.reltuples, 0)::bigint,
        c.relkind IN ('r', 'p', 'v'),
        NOT EXISTS (SELECT FROM tree JOIN pg_class t ON t.oid = tree.id WHERE t.relkind NOT IN ('r', 'p'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%(name)s)
"""

_STREAM = """
    SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
        CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
             ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
        (SELECT oid FROM pg_database WHERE datname = current_database()), %(oid)s::oid)
"""

# As in `Member`. The catalog never writes the row of a system column again; most DDL writes that of a table again. A
# table that was never rewritten still has its first file, whose number is the table's.
_MEMBERS = """
    WITH RECURSIVE tree(id, joined) AS (
        SELECT %(oid)s::oid, 0::bigint
        UNION SELECT i.inhrelid, greatest(t.joined, {joined}) FROM tree t JOIN pg_inherits i ON i.inhparent = t.id)
    SELECT c.oid::bigint, {created}, t.joined,
        CASE WHEN pg_relation_filenode(c.oid) <> c.oid THEN {rewritten} ELSE 0 END
    FROM (SELECT id, max(joined) AS joined FROM tree GROUP BY id) t
    JOIN pg_class c ON c.oid = t.id JOIN pg_attribute a ON a.attrelid = t.id AND a.attname = 'tableoid'
"""


class PostgresDatabase(postgres_session.Database):
    """A PostgreSQL database, by URL. Every error is a `DatabaseError`."""

    def __init__(self, url: str) -> None:
        """Parse the connection string; connect to nothing.

        Raises:
            DatabaseError: It is not a connection string.
        """
        try:
            super().__init__(url, "pipeline_assets pull")
        except SourceDatabaseError as error:
            raise DatabaseError(str(error)) from None
        self._password = str(conninfo_to_dict(url).get("password") or "") or None

    @contextmanager
    def snapshot(self, relation: Relation) -> Iterator["PostgresSnapshot"]:
        """Open a transaction that sees the database at one point in time.

        A table, or the tables that a view reads, are locked first (ACCESS SHARE: they can be written, but not
        rewritten). The tables of a query are not locked: a TRUNCATE or a rewrite that commits while they are read can
        show them as empty.
        """
        with self._connected() as session:
            table = self._begun(session, relation)
            found = session.execute(
                "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint, now()"
                " FROM pg_current_snapshot() s"
            ).fetchone()
            xmin, xmax, taken_at = found or (0, 0, None)
            transactions = None
            if table and table.has_transactions:
                transactions = _transactions(session, table, int(xmin), int(xmax))
            yield PostgresSnapshot(self, session, relation, table, taken_at, transactions)

    @contextmanager
    def session(self, snapshot: str) -> Iterator[Session]:
        """Open a transaction that only reads, at the snapshot of another one, which holds the lock."""
        with self._connected() as session:
            session.execute(_BEGIN)
            session.execute(f"SET TRANSACTION SNAPSHOT {quote_text(snapshot)}".encode())
            yield session

    @contextmanager
    def _connected(self) -> Iterator[Session]:
        with self.connect() as session:
            # `Database` empties the search path; a query is written for the role's own.
            session.execute("RESET search_path")
            yield session

    def _begun(self, session: Session, relation: Relation) -> "_Table | None":
        """Begin the transaction, with a lock on the table if one is read, and describe the table as it is then."""
        if relation.table is None:
            session.execute(_BEGIN)
            return None
        before = _described(session, relation, self.place)
        session.execute(_BEGIN)
        # This is the transaction's first statement, because any query would take the snapshot; LOCK takes none. If a
        # table is rewritten or truncated between snapshot and lock, the snapshot sees it empty, or sees all its rows
        # twice.
        _lock(session, before)
        table = _described(session, relation, self.place)
        if (table.sql_name, table.can_be_locked) != (before.sql_name, before.can_be_locked):
            raise DatabaseError(
                f"PostgreSQL {self.place}: {relation.table} became another table while it was locked: run again",
                is_transient=True,
            )
        return table

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise of_postgres(self.place, error, self._password) from None
        except SourceDatabaseError as error:
            raise DatabaseError(str(error)) from None


def _lock(session: Session, table: "_Table", *, wait: bool = True) -> None:
    if table.can_be_locked:
        session.execute(f"LOCK TABLE {table.sql_name} IN ACCESS SHARE MODE{'' if wait else ' NOWAIT'}".encode())


@dataclass(frozen=True)
class _Table:
    oid: int
    sql_name: str
    estimated_rows: int
    can_be_locked: bool
    has_transactions: bool


def _described(session: Session, relation: Relation, place: str) -> _Table:
    quoted_name = ".".join(map(quote_name, name_parts(str(relation.table))))
    row = session.execute(_TABLE, {"name": quoted_name}).fetchone()
    if row is None:
        raise DatabaseError(
            f"PostgreSQL {place}: there is no table {relation.table}: correct the declared table; a name with "
            'dots is written in double quotes, public."Order.Items"'
        )
    return _Table(*row)


def _transactions(session: Session, table: _Table, xmin: int, xmax: int) -> Transactions:
    """Return what is known of a table's transactions at the session's snapshot."""
    (stream,) = session.execute(_STREAM, {"oid": table.oid}).fetchone() or ("",)
    joined, created, rewritten = (_WRITTEN_BY.format(row=row, xmax=xmax) for row in "iac")
    members = _MEMBERS.format(joined=joined, created=created, rewritten=rewritten)
    found = session.execute(members.encode(), {"oid": table.oid}).fetchall()
    return Transactions(str(stream), xmin, xmax, tuple(Member(*row) for row in found))


@dataclass(frozen=True)
class _Column:
    name: str
    oid: int
    element: int | None
    digits: tuple[int | None, int | None]

    @property
    def is_array(self) -> bool:
        return self.element is not None

    @property
    def kind(self) -> str:
        """As in `Reading.kinds`."""
        if self.element is not None:
            # The digits of its numbers are not known.
            if self.element == _NUMERIC:
                return "VARCHAR"
            return "VARCHAR[]" if self.element == _BYTEA else f"{_KINDS.get(self.element, 'VARCHAR')}[]"
        if self.oid != _NUMERIC:
            return _KINDS.get(self.oid, "VARCHAR")
        precision, scale = self.digits
        has_digits = precision is not None and scale is not None and 0 <= scale <= precision <= 38
        return f"DECIMAL({precision},{scale})" if has_digits else "DECIMAL"


class PostgresSnapshot:
    """A database at one point in time, for as long as its session is open. Made by `PostgresDatabase.snapshot`."""

    def __init__(
        self, database: PostgresDatabase, session: Session, relation: Relation, table: _Table | None,
        taken_at: datetime, transactions: Transactions | None,
    ) -> None:  # fmt: skip
        self.taken_at = taken_at
        self.transactions = transactions
        self._database = database
        self._session = session
        self._relation = relation
        self._table = table
        self._exported = ""
        self._place = f"{relation.name} of PostgreSQL {database.place}"

    def splits(self, keys: Sequence[str]) -> Sequence[Selection]:
        """Cut a large table by ranges of its key, if that is one column of whole numbers."""
        if self._table is None or self._table.estimated_rows < SPLIT_FROM_ROWS or len(keys) != 1:
            return [Selection()]
        columns = self._columns(Selection())
        name = column_of([column.name for column in columns], keys[0], self._place)
        if not any(column.name == name and column.oid in _INTEGERS for column in columns):
            return [Selection()]
        query = f"SELECT min({quote_name(name)}), max({quote_name(name)}) FROM {self._table.sql_name}"
        low, high = self._session.execute(query.encode()).fetchone() or (None, None)
        if low is None or high - low < _PARTS:
            return [Selection()]
        (self._exported,) = self._session.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        edges = [low + (high - low) * part // _PARTS for part in range(1, _PARTS)]
        return [Selection(split=(name, first, end)) for first, end in zip([None, *edges], [*edges, None], strict=True)]

    @contextmanager
    def read(self, con: duckdb.DuckDBPyConnection, selection: Selection) -> Iterator[Reading]:
        """Stream rows; each of several parts gets its own session."""
        if selection.split is None or self._table is None:
            with self._read(self._session, con, selection) as found:
                yield found
            return
        with self._database.session(self._exported) as session:
            # If this waited behind an ALTER that waits for our own first session, it would wait for ever, and the
            # source's users with it. So it fails at once, and the next attempt lets the ALTER go first.
            _lock(session, self._table, wait=False)
            with self._read(session, con, selection) as found:
                yield found

    @contextmanager
    def _read(self, session: Session, con: duckdb.DuckDBPyConnection, selection: Selection) -> Iterator[Reading]:
        columns = self._columns(selection, session)
        shown = ", ".join(
            f"array_to_json({quote_name(column.name)})" if column.is_array else quote_name(column.name)
            for column in columns
        )
        relation, values = self._relation_of(selection)
        where = self._where(selection, [column.name for column in columns])
        query = f"COPY (SELECT {_escaped(shown)} FROM {relation}{where}\n) TO STDOUT (FORMAT csv, FORCE_QUOTE *)"
        names = [f"f{number}" for number in range(len(columns))]
        with session.cursor() as cursor:
            batches = _batches(cursor, query, values, names)
            stream = Stream(batches, pa.schema([(name, pa.string()) for name in names]))
            fields, selected = [], []
            for column, name in zip(columns, names, strict=True):
                dtype, text, evolves_to = "JSON" if column.is_array else "VARCHAR", name, None
                if column.oid == _BYTEA:  # \x and hex digits
                    dtype, text, evolves_to = "BLOB", f"unhex(substr({name}, 3))", "VARCHAR"
                fields.append(SourceField(column.name, name, dtype, evolves_to))
                selected.append(text)
            kinds = [column.kind for column in columns]
            with reading(con, stream, tuple(fields), selected, lambda: kinds, lambda: cursor.rowcount) as found:
                yield found

    def _relation_of(self, selection: Selection) -> tuple[str, dict[str, Value | str]]:
        """Return the relation to read as SQL, and its parameters, which psycopg writes into a COPY as literals."""
        if self._table is not None:
            return f"{_escaped(self._table.sql_name)} AS pulled", selection.bounds
        query = parameters.render(str(self._relation.query), "%({})s".format, _escaped)
        return f"({query}\n) AS pulled", selection.bounds

    def _where(self, selection: Selection, columns: Sequence[str]) -> str:
        if self._relation.is_bounded_inside:
            return ""
        conditions = []
        if selection.watermark is not None and selection.bounds:
            name = _escaped(quote_name(column_of(columns, selection.watermark, self._place)))
            conditions.append(selection.condition(name, "%({})s".format))
        if selection.newer_than is not None and self.transactions is not None:
            written_by = _WRITTEN_BY.format(row="pulled", xmax=self.transactions.xmax)
            conditions.append(f"{written_by} >= {selection.newer_than}")
        if selection.members and conditions:
            members = ", ".join(map(str, selection.members))
            conditions = [f"({' AND '.join(conditions)} OR tableoid IN ({members}))"]
        if selection.split is not None:
            key, first, end = selection.split
            name = _escaped(quote_name(key))
            # A key may be null unless a primary key forbids it; such rows belong to the first part.
            null = f" OR {name} IS NULL" if first is None else ""
            bounds = [f"{name} >= {first}"] if first is not None else []
            bounds += [f"{name} < {end}"] if end is not None else []
            conditions.append(f"({' AND '.join(bounds)}{null})")
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _columns(self, selection: Selection, session: Session | None = None) -> list[_Column]:
        """Return the columns to read, with their types."""
        session = session or self._session
        relation, values = self._relation_of(selection)
        cursor = session.execute(f"SELECT * FROM {relation} LIMIT 0".encode(), values)
        described = list(cursor.description or ())
        distinct([column.name for column in described], self._place)
        # The description names the type below a domain, through all domains between.
        arrays = session.execute(
            "SELECT oid::bigint, typelem::bigint FROM pg_type WHERE typcategory = 'A' AND oid = ANY(%s)",
            [[column.type_code for column in described]],
        ).fetchall()
        elements: dict[int, int] = dict(arrays)
        columns = [
            _Column(found.name, found.type_code, elements.get(found.type_code), (found.precision, found.scale))
            for found in described
        ]
        if selection.columns is None:
            return columns
        wanted = [column_of([column.name for column in columns], name, self._place) for name in selection.columns]
        return [column for column in columns if column.name in wanted]


def _batches(
    cursor: psycopg.Cursor[tuple[Any, ...]], query: str, values: dict[str, Value | str], names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Parse what COPY sends in chunks of whole rows: each message of the protocol is one row."""
    read = csv.ReadOptions(column_names=names, block_size=2**31 - 1, use_threads=False)
    parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        # Without quotes it is null, with quotes it is the empty text.
        null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
    )  # fmt: skip

    def parsed(rows: list[bytes]) -> Iterator[pa.RecordBatch]:
        yield from csv.read_csv(pa.BufferReader(b"".join(rows)), read, parse, convert).to_batches()

    waiting: list[bytes] = []
    size = 0
    # Without any parameter psycopg would send `%%` unchanged.
    with cursor.copy(query.encode(), {"none": None, **values}) as copy:
        for row in copy:
            waiting.append(bytes(row))
            size += len(row)
            if size >= _CHUNK_BYTES:
                yield from parsed(waiting)
                waiting, size = [], 0
    if waiting:
        yield from parsed(waiting)


def _escaped(sql: str) -> str:
    """Escape SQL so that psycopg finds no parameter in it."""
    return sql.replace("%", "%%")
