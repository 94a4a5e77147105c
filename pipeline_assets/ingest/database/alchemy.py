"""Any other database, through SQLAlchemy: rows stream from the driver, and each value becomes its exact text.

A snapshot is what one statement sees. SQLite does not enforce declared types, so each value is taken by its actual
type. A SQLite text that is not UTF-8 is read as bytes if the relation keeps bytes; otherwise it ends the reading with
an error.

Streaming: https://docs.sqlalchemy.org/en/20/core/connections.html#using-server-side-cursors-a-k-a-stream-results
"""

import json
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from pipeline_assets.ingest.batch.watermark import Value
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.database import parameters
from pipeline_assets.ingest.database.errors import DatabaseError, of_sqlalchemy
from pipeline_assets.ingest.database.protocol import (
    Reading,
    Relation,
    Selection,
    Stream,
    column_of,
    distinct,
    name_parts,
    reading,
)

_ROWS = 5_000
_UNREADABLE = (
    "the source's URL cannot be read: give dialect+driver://user:password@host:port/database, special characters of "
    "the password percent-encoded (@ is %40, / is %2F)"
)


class AlchemyDatabase:
    """A database for which SQLAlchemy has a dialect, by URL. Every error is a `DatabaseError`.

    Attributes:
        place: The URL without user, driver and options.
    """

    def __init__(self, url: str) -> None:
        """Load the driver; connect to nothing.

        Raises:
            DatabaseError: It is not a URL, or its driver is not installed.
        """
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):  # its text quotes the URL
            raise DatabaseError(_UNREADABLE) from None
        if "@" in (parsed.host or ""):  # the rest of a password with an @ in it
            raise DatabaseError(_UNREADABLE)
        # Copied field by field: a URL cannot be changed to have no user.
        server = URL.create(parsed.get_backend_name(), host=parsed.host, port=parsed.port, database=parsed.database)
        self.place = server.render_as_string()
        self._password = parsed.password
        try:
            # No pool: each snapshot has its own session, which is closed with it.
            self._engine = create_engine(parsed, poolclass=NullPool, hide_parameters=True)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise DatabaseError(
                f"{self.place}: no driver for {parsed.drivername} is installed ({error}): install the one that "
                "SQLAlchemy's page of this dialect names, e.g. `pip install pymysql` for mysql+pymysql://"
            ) from None
        except ArgumentError:
            raise DatabaseError(_UNREADABLE) from None
        self._file: Path | None = None
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _set_up_sqlite)
            if parsed.database not in (None, "", ":memory:") and not str(parsed.database).startswith("file:"):
                self._file = Path(str(parsed.database))

    def __repr__(self) -> str:
        return f"AlchemyDatabase({self.place})"

    @contextmanager
    def snapshot(self, relation: Relation) -> Iterator["AlchemySnapshot"]:
        """Open a session."""
        if self._file is not None and not self._file.exists():  # SQLite would create an empty one
            raise DatabaseError(
                f"{self.place}: there is no file {self._file}; sqlite:///path is relative, sqlite:////path not"
            )
        try:
            with self._engine.connect() as connection:
                yield AlchemySnapshot(self._engine, connection, relation, f"{relation.name} of {self.place}")
        except DBAPIError as error:
            raise of_sqlalchemy(self.place, error, self._password) from None
        finally:
            self._engine.dispose()


class AlchemySnapshot:
    """An open session. Made by `AlchemyDatabase.snapshot`."""

    transactions = None

    def __init__(self, engine: Engine, connection: Connection, relation: Relation, place: str) -> None:
        self.taken_at = datetime.now(UTC)
        self._quote = engine.dialect.identifier_preparer.quote_identifier
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._connection = connection
        self._relation = relation
        self._place = place

    def splits(self, keys: Sequence[str]) -> Sequence[Selection]:
        """Return one part: two sessions would not see the same rows."""
        return [Selection()]

    @contextmanager
    def read(self, con: duckdb.DuckDBPyConnection, selection: Selection) -> Iterator[Reading]:
        """Stream rows."""
        columns = self._columns(selection)
        query, values = self._query(selection, columns)
        names = [f"f{number}" for number in range(len(columns))]
        keeps_bytes = self._relation.keeps_bytes  # then for all columns: any value of SQLite's may be bytes
        dtype, kind, convert = ("BLOB", pa.binary(), _to_bytes) if keeps_bytes else ("VARCHAR", pa.string(), to_text)
        if keeps_bytes and self._is_sqlite:
            driver: Any = self._connection.connection.driver_connection
            driver.text_factory = bytes
        schema = pa.schema([pa.field(name, kind) for name in names])
        fields = tuple(
            SourceField(column, name, dtype, evolves_to="VARCHAR") for column, name in zip(columns, names, strict=True)
        )
        streaming = self._connection.execution_options(stream_results=True, yield_per=_ROWS)
        result = streaming.execute(text(query), values)
        seen: list[set[type]] = [set() for _ in columns]

        def batches() -> Iterator[pa.RecordBatch]:
            for rows in result.partitions(_ROWS):
                values = list(zip(*rows, strict=True))
                for found, column in zip(seen, values, strict=True):
                    found.update(map(type, column))
                arrays = [
                    pa.array([None if value is None else convert(value) for value in column], kind) for column in values
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        try:
            with reading(con, Stream(batches(), schema), fields, names, lambda: list(map(kind_of, seen))) as lent:
                yield lent
        finally:
            result.close()

    def _query(self, selection: Selection, columns: Sequence[str]) -> tuple[str, dict[str, Any]]:
        relation, values = self._relation_of(selection)
        where = ""
        if not self._relation.is_bounded_inside and selection.watermark is not None and selection.bounds:
            column = self._name(column_of(columns, selection.watermark, self._place))
            where = f" WHERE {selection.condition(column, ':{}'.format)}"
        return f"SELECT {', '.join(map(self._name, columns))} FROM {relation}{where}", values

    def _relation_of(self, selection: Selection) -> tuple[str, dict[str, Any]]:
        """Return the relation to read as SQL, and the parameters."""
        values = {name: _sqlite_text(value) if self._is_sqlite else value for name, value in selection.bounds.items()}
        if self._relation.query is None:
            return ".".join(self._name(part) for part in name_parts(str(self._relation.table))), values
        return f"({parameters.render(self._relation.query, ':{}'.format, _escaped)}\n) pulled", values

    def _name(self, name: str) -> str:
        return _escaped(self._quote(name))

    def _columns(self, selection: Selection) -> list[str]:
        relation, values = self._relation_of(selection)
        with self._connection.execute(text(f"SELECT * FROM {relation} WHERE 1 = 0"), values) as result:
            columns = list(result.keys())
        distinct(columns, self._place)
        if selection.columns is None:
            return columns
        return [column_of(columns, name, self._place) for name in selection.columns]


def kind_of(types: Collection[type]) -> str:
    """Return the kind of a column, as in `Reading.kinds`, by the Python types of all of its values."""
    found = frozenset(types) - {type(None)}
    if not found:
        return "NULL"
    if found == {int, float}:
        return "NUMBER"
    kinds = {_KINDS.get(kind, "VARCHAR") for kind in found}
    return kinds.pop() if len(kinds) == 1 else "VARCHAR"


def _escaped(sql: str) -> str:
    """Escape SQL so that SQLAlchemy finds no parameter in it."""
    return sql.replace(":", r"\:")


def to_text(value: Any) -> str:  # noqa: ANN401  whatever a driver gives
    """Return the exact text of a value that is not null, in the form that `casts` reads."""
    if isinstance(value, str):
        return value
    for kind, convert in _TEXTS.items():
        if isinstance(value, kind):
            return convert(value)
    return str(value)


def _to_bytes(value: Any) -> bytes:  # noqa: ANN401
    """Return the bytes of a value for a column of bytes."""
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else to_text(value).encode()


def _base64(value: bytes | bytearray | memoryview) -> str:
    return b64encode(bytes(value)).decode("ascii")


def _clock(value: timedelta) -> str:
    """Write a time of MySQL, which may be negative and may have more than 24 hours."""
    seconds, rest = divmod(abs(value), timedelta(seconds=1))
    fraction = f".{rest.microseconds:06}" if rest else ""
    sign = "-" if value < timedelta() else ""
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


# The order matters: a bool is also an int, a datetime is also a date.
_TEXTS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    int: str,
    float: repr,
    Decimal: lambda value: format(value, "f"),
    datetime: lambda value: value.isoformat(sep=" "),
    date: date.isoformat,
    time: time.isoformat,
    timedelta: _clock,
    bytes: _base64,
    bytearray: _base64,
    memoryview: _base64,
    dict: _json,
    list: _json,
}


_KINDS: dict[type, str] = {
    bool: "BOOLEAN",
    int: "BIGINT",
    float: "DOUBLE",
    Decimal: "DECIMAL",
    datetime: "DATETIME",
    date: "DATE",
    bytes: "BLOB",
    bytearray: "BLOB",
    memoryview: "BLOB",
}


def _sqlite_text(value: Value | str) -> Value | str:
    """Write a bound in SQLite's shortest form, which as text sorts before every other form of the same time."""
    if not isinstance(value, date):
        return value
    shown = value.isoformat(sep=" ").removesuffix("+00:00") if isinstance(value, datetime) else value.isoformat()
    return shown.rstrip("0").rstrip(".") if "." in shown else shown.removesuffix(":00").removesuffix(" 00:00")


def _set_up_sqlite(connection: Any, _: object) -> None:  # noqa: ANN401  a DBAPI connection
    """Forbid all writes in the session."""
    connection.execute("PRAGMA query_only = ON")
