"""PostgreSQL, read as text: COPY streams what a query gives, at one snapshot that several sessions may share.

Text, because it is the one exact form of every type: numeric keeps all digits and NaN, bytes are hex, arrays become
JSON. 2 million rows of 12 columns take 7 CPU seconds this way, and 180 MB (facts-cdc.md D). PostgreSQL 13 or later.

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

from pipeline_assets.ingest.cdc import connection
from pipeline_assets.ingest.cdc.errors import CdcError
from pipeline_assets.ingest.database import parameters
from pipeline_assets.ingest.database.errors import DatabaseError, of_postgres
from pipeline_assets.ingest.database.reading import (
    Reading,
    Relation,
    Selection,
    Stream,
    Transactions,
    column_of,
    distinct,
    reading,
)
from pipeline_assets.ingest.records import SourceField
from pipeline_assets.ingest.sql import identifier, quoted
from pipeline_assets.ingest.watermark import Value

WORKERS = 2
"""Sessions that read a large table side by side the first time. More give little: the server works as much as we do."""

SPLIT_FROM_ROWS = 500_000
"""Smaller tables are read by one session."""

_PARTS = 8  # more parts than workers, because keys are not spread evenly
_CHUNK_BYTES = 4 * 1024**2
_INTEGERS = {20: "bigint", 21: "smallint", 23: "integer"}
_BYTEA = 17
_NUMERIC = 1700
# What else is read as text is text. https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat
_KINDS = {
    16: "BOOLEAN", 17: "BLOB", 20: "BIGINT", 21: "SMALLINT", 23: "INTEGER", 26: "BIGINT", 700: "FLOAT", 701: "DOUBLE",
    1082: "DATE", 1114: "TIMESTAMP", 1184: "TIMESTAMP WITH TIME ZONE",
}  # fmt: skip

Session = psycopg.Connection[tuple[Any, ...]]

# Permanent transaction ids (0, 1, 2: rows of a cluster that was upgraded long ago) have no age. `xmin` has 32 bits, so
# the age is counted modulo 2^32 from the end of the snapshot.
_NEWER = (
    "(xmin::text::bigint > 2 AND (({xmax}::bigint & 4294967295) - xmin::text::bigint) & 4294967295 <= {age}::bigint)"
)

_STREAM = """
    SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
        CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
             ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
        (SELECT oid FROM pg_database WHERE datname = current_database()), %(oid)s::oid),
        (SELECT ('x' || left(md5(string_agg(concat(pg_relation_filenode(id)), ',' ORDER BY id)), 15))::bit(60)
         FROM (SELECT relid FROM pg_partition_tree(%(oid)s::oid) UNION SELECT %(oid)s::oid) AS tree(id))::bigint
"""

_TABLE = """
    SELECT c.oid::bigint, format('%%I.%%I', n.nspname, c.relname), greatest(c.reltuples, 0)::bigint,
        c.relkind IN ('r', 'p') AND NOT EXISTS (
            SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid WHERE p.relkind NOT IN ('r', 'p'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)
"""


class PostgresDatabase(connection.Database):
    """A PostgreSQL database, by URL. Every error is a `DatabaseError`."""

    def __init__(self, url: str) -> None:
        """Parses the connection string; connects to nothing.

        Raises:
            DatabaseError: It is none.
        """
        try:
            super().__init__(url, "pipeline_assets pull")
        except CdcError as error:
            raise DatabaseError(str(error)) from None
        self._password = str(conninfo_to_dict(url).get("password") or "") or None

    @contextmanager
    def snapshot(self, relation: Relation) -> Iterator["PostgresSnapshot"]:
        """Opens a transaction that sees the database at one point in time."""
        with self.session() as session:
            table = _described(session, relation, self.place) if relation.table is not None else None
            if table and table.has_transactions:
                # Before the snapshot is taken: a table that is rewritten after it would look empty.
                session.execute(f"LOCK TABLE {table.sql_name} IN ACCESS SHARE MODE".encode())
            found = session.execute(
                "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint, now()"
                " FROM pg_current_snapshot() s"
            ).fetchone()
            xmin, xmax, taken_at = found or (0, 0, None)
            transactions = None
            if table and table.has_transactions:
                stream, files = session.execute(_STREAM, {"oid": table.oid}).fetchone() or ("", 0)
                transactions = Transactions(str(stream), int(xmin), int(xmax), int(files))
            yield PostgresSnapshot(self, session, relation, table, taken_at, transactions)

    @contextmanager
    def session(self, snapshot: str | None = None) -> Iterator[Session]:
        """Opens a transaction that only reads; at the snapshot of another one, if it is named."""
        with self.connect() as session:
            # `Database` leaves no schema to be searched; a query is written for the role's own.
            session.execute("RESET search_path")
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if snapshot:
                session.execute(f"SET TRANSACTION SNAPSHOT {quoted(snapshot)}".encode())
            yield session

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise of_postgres(self.place, error, self._password) from None
        except CdcError as error:
            raise DatabaseError(str(error)) from None


@dataclass(frozen=True)
class _Table:
    oid: int
    sql_name: str
    estimated_rows: int
    has_transactions: bool


def _described(session: Session, relation: Relation, place: str) -> _Table:
    schema, _, name = str(relation.table).rpartition(".")
    quoted_name = ".".join(identifier(part) for part in (schema, name) if part)
    row = session.execute(_TABLE, [quoted_name]).fetchone()
    if row is None:
        raise DatabaseError(f"PostgreSQL {place}: there is no table {relation.table}: correct the declared table")
    return _Table(*row)


@dataclass(frozen=True)
class _Column:
    name: str
    oid: int
    is_array: bool
    element: int
    digits: tuple[int | None, int | None]

    @property
    def kind(self) -> str:
        """As in `Reading.kinds`."""
        if self.is_array:
            # Of a domain over an array the element is not told, of numeric its digits.
            if self.element in (0, _NUMERIC):
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
        self._exported: str | None = None
        self._place = f"{relation.name} of PostgreSQL {database.place}"

    def splits(self, keys: Sequence[str]) -> Sequence[Selection]:
        """Cuts a large table by ranges of its key, if that is one column of whole numbers."""
        if self._table is None or self._table.estimated_rows < SPLIT_FROM_ROWS or len(keys) != 1:
            return [Selection()]
        columns = self._columns(Selection())
        name = column_of([column.name for column in columns], keys[0], self._place)
        if not any(column.name == name and column.oid in _INTEGERS for column in columns):
            return [Selection()]
        query = f"SELECT min({identifier(name)}), max({identifier(name)}) FROM {self._table.sql_name}"
        low, high = self._session.execute(query.encode()).fetchone() or (None, None)
        if low is None or high - low < _PARTS:
            return [Selection()]
        (self._exported,) = self._session.execute("SELECT pg_export_snapshot()").fetchone() or (None,)
        edges = [low + (high - low) * part // _PARTS for part in range(1, _PARTS)]
        return [Selection(split=(name, first, end)) for first, end in zip([None, *edges], [*edges, None], strict=True)]

    @contextmanager
    def read(self, con: duckdb.DuckDBPyConnection, selection: Selection) -> Iterator[Reading]:
        """Streams rows; in a session of its own, if it is one of several parts."""
        if selection.split is None:
            with self._read(self._session, con, selection) as found:
                yield found
        else:
            with self._database.session(self._exported) as session, self._read(session, con, selection) as found:
                yield found

    @contextmanager
    def _read(self, session: Session, con: duckdb.DuckDBPyConnection, selection: Selection) -> Iterator[Reading]:
        columns = self._columns(selection, session)
        shown = ", ".join(
            f"array_to_json({identifier(column.name)})" if column.is_array else identifier(column.name)
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
                dtype, text = "JSON" if column.is_array else "VARCHAR", name
                if column.oid == _BYTEA:  # \x and hex digits
                    is_bytes = self._relation.is_bytes(column.name)
                    dtype, text = ("BLOB", "unhex({})") if is_bytes else ("VARCHAR", "to_base64(unhex({}))")
                    text = text.format(f"substr({name}, 3)")
                fields.append(SourceField(column.name, name, dtype))
                selected.append(text)
            kinds = [column.kind for column in columns]
            with reading(con, stream, tuple(fields), selected, lambda: kinds, lambda: cursor.rowcount) as found:
                yield found

    def _relation_of(self, selection: Selection) -> tuple[str, dict[str, Value | str]]:
        """What is read as SQL, and the parameters, which psycopg writes into a COPY as literals."""
        if self._table is not None:
            return _escaped(self._table.sql_name), selection.bounds
        query = str(self._relation.query).rstrip().rstrip(";")
        return f"({parameters.render(query, '%({})s'.format, _escaped)}\n) AS pulled", selection.bounds

    def _where(self, selection: Selection, columns: Sequence[str]) -> str:
        if self._relation.is_bounded_inside:
            return ""
        conditions = []
        if selection.watermark is not None and selection.bounds:
            name = _escaped(identifier(column_of(columns, selection.watermark, self._place)))
            conditions.append(selection.condition(name, "%({})s".format))
        if selection.newer_than is not None and self.transactions is not None:
            xmax = self.transactions.xmax
            conditions.append(_NEWER.format(xmax=xmax, age=xmax - selection.newer_than))
        if selection.split is not None:
            key, first, end = selection.split
            name = _escaped(identifier(key))
            # A key may be null where no primary key says that it is not; such rows are in the first part.
            null = f" OR {name} IS NULL" if first is None else ""
            bounds = [f"{name} >= {first}"] if first is not None else []
            bounds += [f"{name} < {end}"] if end is not None else []
            conditions.append(f"({' AND '.join(bounds)}{null})")
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _columns(self, selection: Selection, session: Session | None = None) -> list[_Column]:
        """The columns to read, with their types."""
        session = session or self._session
        relation, values = self._relation_of(selection)
        cursor = session.execute(f"SELECT * FROM {relation} LIMIT 0".encode(), values)
        described = list(cursor.description or ())
        distinct([column.name for column in described], self._place)
        oids = session.execute(
            "SELECT oid::bigint, CASE WHEN typbasetype <> 0 THEN typbasetype ELSE oid END::bigint, typcategory = 'A',"
            " typelem::bigint FROM pg_type WHERE oid = ANY(%s)",
            [[column.type_code for column in described]],
        ).fetchall()
        kinds = {oid: (base, is_array, element) for oid, base, is_array, element in oids}
        columns = [
            _Column(
                found.name, *kinds.get(found.type_code, (found.type_code, False, 0)), (found.precision, found.scale)
            )
            for found in described
        ]
        if selection.columns is None:
            return columns
        wanted = [column_of([column.name for column in columns], name, self._place) for name in selection.columns]
        return [column for column in columns if column.name in wanted]


def _batches(
    cursor: psycopg.Cursor[tuple[Any, ...]], query: str, values: dict[str, Value | str], names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Parses what COPY sends in chunks of whole rows: each message of the protocol is one row."""
    read = csv.ReadOptions(column_names=names, block_size=2**31 - 1, use_threads=False)
    parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        # Without quotes it is null, with quotes the empty text.
        null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
    )  # fmt: skip

    def parsed(rows: list[bytes]) -> Iterator[pa.RecordBatch]:
        yield from csv.read_csv(pa.BufferReader(b"".join(rows)), read, parse, convert).to_batches()

    waiting: list[bytes] = []
    size = 0
    # Without any parameter psycopg would send `%%` as it stands.
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
    """SQL in which psycopg finds no parameter."""
    return sql.replace("%", "%%")
