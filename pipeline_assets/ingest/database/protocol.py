"""What all databases have in common when they are read: what of which relation, and batches as DuckDB takes them.

How a database is asked is in `postgres`, `alchemy` and `duckdb_file`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Protocol
from uuid import uuid4

import duckdb
import pyarrow as pa

from pipeline_assets.ingest.batch.watermark import Value
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.conform.names import Columns
from pipeline_assets.ingest.database import parameters
from pipeline_assets.ingest.database.errors import DatabaseError

_VALUES = 250_000  # in a batch: all of one of 100 columns


@dataclass(frozen=True)
class Relation:
    """What is read: a table (or view) by name, or a query. One of the two.

    Attributes:
        table: As `schema.table`.
        query: SQL, with `:lower` and `:upper` for its bounds; without them, it is bounded from outside, as a table is.
        keeps_bytes: Whether values of no declared type are read as bytes, and `conform` tells those that are no text;
            else bytes among them are base64 text, as a notebook takes them, which has no contract.
    """

    table: str | None = None
    query: str | None = None
    keeps_bytes: bool = False

    @property
    def name(self) -> str:
        """The table, or a short name of the query that changes with its text."""
        if self.table is not None:
            return self.table
        return f"query {blake2b((self.query or '').encode(), digest_size=4).hexdigest()}"

    @property
    def is_bounded_inside(self) -> bool:
        """Whether a selection's bounds are parameters of the query."""
        return self.query is not None and bool(parameters.names(self.query))


@dataclass(frozen=True)
class Selection:
    """Which rows and columns of a relation are read. Everything, if nothing is said.

    Attributes:
        watermark: Column, as the contract or the source calls it, that the bounds speak of.
        lower: Rows from this watermark on, and those without one.
        upper: Rows below this watermark, without those that have none.
        newer_than: PostgreSQL: row versions written by this transaction or later ones.
        members: PostgreSQL: partitions and children (oids) of which all is read, whatever bounds and `newer_than` say.
        columns: Columns, as the contract calls them; None is all.
        split: PostgreSQL: key column, and the range of it (from, below; None is open) that is read.
    """

    watermark: str | None = None
    lower: Value | str | None = None
    upper: Value | str | None = None
    newer_than: int | None = None
    members: Sequence[int] = ()
    columns: Sequence[str] | None = None
    split: tuple[str, int | None, int | None] | None = None

    @property
    def bounds(self) -> dict[str, Value | str]:
        """The bounds that there are, by the names of a query's parameters."""
        given = {"lower": self.lower, "upper": self.upper}
        return {name: value for name, value in given.items() if value is not None}

    def condition(self, column: str, parameter: Callable[[str], str]) -> str:
        """The bounds as a condition on a table's column.

        Args:
            column: SQL of the watermark's column.
            parameter: Gives the driver's form of a parameter.
        """
        if self.upper is not None:
            return f"{column} >= {parameter('lower')} AND {column} < {parameter('upper')}"
        return f"({column} >= {parameter('lower')} OR {column} IS NULL)"


@dataclass(frozen=True)
class Member:
    """A table whose rows are read with those of another one, its partition or child; or that table itself.

    Attributes:
        oid: Its number.
        created: Transaction that made it.
        joined: Transaction that made it, or what it belongs to, a part of the table; 0 for the table itself.
        rewritten: A transaction not before the last one that wrote all its rows anew (ALTER TABLE); 0 if none did.
    """

    oid: int
    created: int
    joined: int
    rewritten: int


@dataclass(frozen=True)
class Transactions:
    """What PostgreSQL says of the transactions at a snapshot.

    Attributes:
        stream: Names what numbers them, and the table: cluster, timeline, database, table.
        xmin: All before this one have ended.
        xmax: All from this one on have not begun.
        members: The table, its partitions and children, and theirs.
    """

    stream: str
    xmin: int
    xmax: int
    members: Sequence[Member] = ()

    def attached(self, since: int) -> list[int]:
        """Members that have joined since a transaction, and were made before it: rows of theirs may be older, too."""
        return [member.oid for member in self.members if member.created < since <= member.joined]

    def rewritten(self, since: int) -> bool:
        """Whether rows that were written before a transaction may have been written anew since."""
        return any(member.created < since <= member.rewritten for member in self.members)


@dataclass(frozen=True)
class Reading:
    """Rows that are being read, as `conform_sql` takes them.

    Attributes:
        sql: A SELECT with `_line` and the columns of `fields`. Can be read once.
        fields: The source's columns.
        counted: To be called when all was read: how many rows the source says it sent.
        kinds: To be called when all was read: the DuckDB type that each field has at the source, though it may be read
            as text. DECIMAL where the source names no digits, and where Python values are all that is known:
            DATETIME with or without zone, NUMBER for whole numbers beside floats, NULL for a column of nothing else.
    """

    sql: str
    fields: tuple[SourceField, ...]
    counted: Callable[[], int]
    kinds: Callable[[], Sequence[str]]
    has_problems: bool = False


class Snapshot(Protocol):
    """A database at one point in time, for as long as it is open."""

    @property
    def taken_at(self) -> datetime:
        """When it was taken, by the source's clock where it can be asked; with its zone."""

    @property
    def transactions(self) -> Transactions | None:
        """Of a table whose row versions can be told by their transactions; else None."""

    def read(self, con: duckdb.DuckDBPyConnection, selection: Selection) -> AbstractContextManager[Reading]:
        """Reads for as long as the block lasts. From several threads at once, if `splits` gave several parts."""

    def splits(self, keys: Sequence[str]) -> Sequence[Selection]:
        """Cuts the whole relation into parts that are worth being read side by side; one part if it cannot be."""


class Database(Protocol):
    """A database, by URL. Shows no secret."""

    @property
    def place(self) -> str:
        """Where it is, for messages, and to tell it from others: without user, driver and options, which may change."""

    def snapshot(self, relation: Relation) -> AbstractContextManager[Snapshot]:
        """Opens a session at one point in time.

        Raises:
            DatabaseError: As everything in the block does that has to do with the database.
        """


@dataclass
class Stream:
    """Batches on their way into DuckDB, with what would be lost on the way: the error that interrupted them."""

    batches: Iterator[pa.RecordBatch]
    schema: pa.Schema
    rows: int = 0
    error: BaseException | None = field(default=None)

    def reader(self) -> pa.RecordBatchReader:
        """The batches with the number of each row, `_line`."""
        schema = pa.schema([*self.schema, pa.field("_line", pa.int64())])
        return pa.RecordBatchReader.from_batches(schema, self._numbered(schema))

    def _numbered(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        try:
            for batch in _narrow(self.batches):
                first = self.rows + 1
                self.rows += batch.num_rows
                lines = pa.array(range(first, self.rows + 1), pa.int64())
                yield pa.RecordBatch.from_arrays([*batch.columns, lines], schema=schema)
        except BaseException as error:
            self.error = error  # DuckDB would tell its text only
            raise


def _narrow(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cuts batches of many columns: DuckDB holds several copies of each value that it casts, of 2,048 rows a time."""
    for batch in batches:
        rows = max(_VALUES // max(batch.num_columns, 1), 1)
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


@contextmanager
def reading(
    con: duckdb.DuckDBPyConnection,
    stream: Stream,
    fields: tuple[SourceField, ...],
    columns: Sequence[str],
    kinds: Callable[[], Sequence[str]],
    counted: Callable[[], int] | None = None,
) -> Iterator[Reading]:
    """Lends a stream to DuckDB for as long as the block lasts.

    Args:
        con: Connection, or a cursor of it, that is going to read.
        stream: The stream; its columns are those of `fields`.
        fields: What comes out.
        columns: SQL of each, over the stream's columns.
        kinds: As in `Reading`.
        counted: How many rows the source says it sent; those that came in, if it does not say.
    """
    name = f"pulled_{uuid4().hex}"
    con.register(name, stream.reader())
    selected = "".join(f", {sql} AS {found.column}" for found, sql in zip(fields, columns, strict=True))
    try:
        yield Reading(f"SELECT _line{selected} FROM {name}", fields, counted or (lambda: stream.rows), kinds)
    except duckdb.Error:
        if stream.error is not None:
            raise stream.error from None
        raise
    finally:
        con.interrupt()  # what a signal has left running reads from it still
        con.unregister(name)


_PART = re.compile(r'(?:"((?:[^"]|"")+)"|([^".]+))(?:\.(?=.)|$)', re.DOTALL)


def name_parts(table: str) -> list[str]:
    """Takes a declared table apart: dots separate schema and name, double quotes hold what has dots of its own.

    Capitals are kept either way. A quote within quotes is written twice, as in SQL.

    Raises:
        ValueError: It is no such name.
    """
    parts, at = [], 0
    while at < len(table):
        match = _PART.match(table, at)
        if match is None:
            raise ValueError(
                f'table {table!r}: write schema.table, and a name with dots or quotes as public."Order.Items"'
            )
        parts.append(match[2] or match[1].replace('""', '"'))
        at = match.end()
    if not parts:
        raise ValueError("table: there is no name")
    return parts


def column_of(columns: Sequence[str], wanted: str, place: str) -> str:
    """Finds the source's column that feeds a column of the contract: the one of its very name, else the one like it.

    Raises:
        DatabaseError: There is none, or there are several, none of them of the very name.
    """
    like = Columns([wanted])
    found = [wanted] if wanted in columns else [name for name in columns if like.column(name) is not None]
    if len(found) > 1:
        raise DatabaseError(f"{place}: {' and '.join(found)} are both {wanted}: name one of them otherwise, with AS")
    if found:
        return found[0]
    raise DatabaseError(
        f"{place} has no column {wanted}: it has {', '.join(columns)}. Correct the declaration, or what is read"
    )


def distinct(columns: Sequence[str], place: str) -> None:
    """Refuses a query that gives two columns the same name.

    Raises:
        DatabaseError: It does.
    """
    if twice := sorted({column for column in columns if list(columns).count(column) > 1}):
        raise DatabaseError(f"{place} gives the column {', '.join(twice)} more than once: name each with AS")
