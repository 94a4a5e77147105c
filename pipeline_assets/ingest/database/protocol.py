"""What all databases share when they are read: which part of which relation, and batches in the form that DuckDB takes.

`postgres`, `alchemy` and `duckdb_file` know how each database is asked.
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

_VALUES = 250_000  # values in a batch: 2,500 rows of 100 columns


@dataclass(frozen=True)
class Relation:
    """The relation that is read: either a table (or view) by name, or a query.

    Attributes:
        table: As `schema.table`.
        query: SQL, with `:lower` and `:upper` for its bounds; without them, it is bounded from outside, as a table is.
        keeps_bytes: Whether values without a declared type are read as bytes, so that `conform` finds those that are
            not text. Otherwise bytes among them become base64 text, for a notebook, which has no contract.
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
    """The rows and columns of a relation that are read. By default everything.

    Attributes:
        watermark: Column of the bounds, by its name in the contract or at the source.
        lower: Read rows from this watermark on, and those without a watermark.
        upper: Read rows below this watermark, and none without a watermark.
        newer_than: PostgreSQL: read row versions written by this transaction or later ones.
        members: PostgreSQL: partitions and children (oids) that are read completely, whatever bounds and `newer_than`
            are.
        columns: Columns, by their names in the contract; None means all.
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
        """The bounds that are given, by the names of a query's parameters."""
        given = {"lower": self.lower, "upper": self.upper}
        return {name: value for name, value in given.items() if value is not None}

    def condition(self, column: str, parameter: Callable[[str], str]) -> str:
        """Return the bounds as a condition on a table's column.

        Args:
            column: SQL of the watermark's column.
            parameter: Returns the driver's form of a parameter.
        """
        if self.upper is not None:
            return f"{column} >= {parameter('lower')} AND {column} < {parameter('upper')}"
        return f"({column} >= {parameter('lower')} OR {column} IS NULL)"


@dataclass(frozen=True)
class Member:
    """A table whose rows are read with those of another: its partition or child, or that table itself.

    Attributes:
        oid: Its number.
        created: Transaction that created it.
        joined: Transaction that made it, or a parent of it, a part of the table; 0 for the table itself.
        rewritten: A transaction not before the last one that rewrote all its rows (ALTER TABLE); 0 if no transaction
            did.
    """

    oid: int
    created: int
    joined: int
    rewritten: int


@dataclass(frozen=True)
class Transactions:
    """PostgreSQL's transactions at a snapshot.

    Attributes:
        stream: Names the counter of the transactions, and the table: cluster, timeline, database, table.
        xmin: All transactions before this one have ended.
        xmax: All transactions from this one on have not begun.
        members: The table, its partitions and children, and theirs.
    """

    stream: str
    xmin: int
    xmax: int
    members: Sequence[Member] = ()

    def attached(self, since: int) -> list[int]:
        """Return members that joined after a transaction but are older than it: their rows may be older, too."""
        return [member.oid for member in self.members if member.created < since <= member.joined]

    def rewritten(self, since: int) -> bool:
        """Tell whether rows that were written before a transaction may have been rewritten since."""
        return any(member.created < since <= member.rewritten for member in self.members)


@dataclass(frozen=True)
class Reading:
    """Rows that are being read, in the form that `conform_sql` takes.

    Attributes:
        sql: A SELECT with `_line` and the columns of `fields`. It can be read once.
        fields: The source's columns.
        counted: Returns how many rows the source says it sent. Call it when all was read.
        kinds: Returns the DuckDB type that each field has at the source, although it may be read as text. Call it when
            all was read. It is DECIMAL if the source gives no digits. If only Python values are known, it may be
            DATETIME (with or without zone), NUMBER (whole numbers beside floats), or NULL (a column of nulls only).
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
        """When it was taken, with its zone; by the source's clock if that can be asked."""

    @property
    def transactions(self) -> Transactions | None:
        """The transactions of a table whose row versions can be distinguished by them; None for other relations."""

    def read(self, con: duckdb.DuckDBPyConnection, selection: Selection) -> AbstractContextManager[Reading]:
        """Read for as long as the block lasts. Several threads may read at once if `splits` returned several parts."""

    def splits(self, keys: Sequence[str]) -> Sequence[Selection]:
        """Cut the whole relation into parts that are worth reading side by side; one part if it cannot be cut."""


class Database(Protocol):
    """A database, by URL. Shows no secret."""

    @property
    def place(self) -> str:
        """Where it is, for messages and to identify it: without user, driver and options, which may change."""

    def snapshot(self, relation: Relation) -> AbstractContextManager[Snapshot]:
        """Open a session at one point in time.

        Raises:
            DatabaseError: The database fails, here or within the block.
        """


@dataclass
class Stream:
    """Batches on their way into DuckDB, with the error that interrupted them, which would get lost on the way."""

    batches: Iterator[pa.RecordBatch]
    schema: pa.Schema
    rows: int = 0
    error: BaseException | None = field(default=None)

    def reader(self) -> pa.RecordBatchReader:
        """Return the batches with the number of each row, `_line`."""
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
            self.error = error  # DuckDB would only pass on its text
            raise


def _narrow(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut batches of many columns: DuckDB holds several copies of each value that it casts, 2,048 rows at a time."""
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
    """Lend a stream to DuckDB for as long as the block lasts.

    Args:
        con: Connection, or a cursor of it, that is going to read.
        stream: The stream; its columns are those of `fields`.
        fields: The fields of the result.
        columns: SQL of each, over the stream's columns.
        kinds: As in `Reading`.
        counted: Returns how many rows the source says it sent; by default, the rows that arrived.
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
        con.interrupt()  # a query that a signal left running still reads from it
        con.unregister(name)


_PART = re.compile(r'(?:"((?:[^"]|"")+)"|([^".]+))(?:\.(?=.)|$)', re.DOTALL)


def name_parts(table: str) -> list[str]:
    """Split a declared table at its dots into schema and name; double quotes hold names that contain dots.

    Capitals are kept either way. A quote within quotes is written twice, as in SQL.

    Raises:
        ValueError: It is not such a name.
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
    """Find the source's column that feeds a column of the contract: the one of exactly this name, else a similar one.

    Raises:
        DatabaseError: There is no such column, or there are several similar ones.
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
    """Refuse a query that gives two columns the same name.

    Raises:
        DatabaseError: It gives a name twice.
    """
    if twice := sorted({column for column in columns if list(columns).count(column) > 1}):
        raise DatabaseError(f"{place} gives the column {', '.join(twice)} more than once: name each with AS")
