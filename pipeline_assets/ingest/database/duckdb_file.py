"""A DuckDB file, read by DuckDB itself: typed columns, no text in between.

A process that writes the file keeps it locked; then the pull tries again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from pipeline_assets.ingest.batch.watermark import Value
from pipeline_assets.ingest.conform.casts import normal
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.conform.json_text import to_json
from pipeline_assets.ingest.database import parameters
from pipeline_assets.ingest.database.errors import DatabaseError, of_duckdb
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
from pipeline_assets.sql import quote_name

_ROWS = 100_000
# Types that Arrow and Delta take as they are. All other types become text, or JSON if they are nested.
_PLAIN = {
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
    "FLOAT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE",
}  # fmt: skip


class DuckDBFile:
    """A DuckDB file, by `duckdb:///relative/path` or `duckdb:////absolute/path`. Every error is a `DatabaseError`.

    Attributes:
        place: The path, for messages.
    """

    def __init__(self, url: str) -> None:
        """Open nothing yet.

        Raises:
            DatabaseError: It is not the path of a file.
        """
        rest = url.removeprefix("duckdb:")
        self._path = rest.removeprefix("///") if rest.startswith("///") else rest.removeprefix("//")
        if "?" in self._path or self._path.startswith("md:"):  # perhaps with a token
            raise DatabaseError("a DuckDB source is a file: give duckdb:///path, without parameters")
        self.place = f"DuckDB file {self._path}"

    def __repr__(self) -> str:
        return f"DuckDBFile({self._path})"

    @contextmanager
    def snapshot(self, relation: Relation) -> Iterator["DuckDBSnapshot"]:
        """Open the file read-only, in one transaction."""
        with _errors(self.place):
            source = duckdb.connect(self._path, read_only=True)
        with source:
            source.execute("SET TimeZone = 'UTC'")
            source.execute("BEGIN TRANSACTION")
            yield DuckDBSnapshot(source, relation, self.place)


class DuckDBSnapshot:
    """An open file. Made by `DuckDBFile.snapshot`."""

    transactions = None

    def __init__(self, source: duckdb.DuckDBPyConnection, relation: Relation, place: str) -> None:
        self.taken_at = datetime.now(UTC)
        self._source = source
        self._relation = relation
        self._file = place
        self._place = f"{relation.name} of {place}"

    def splits(self, keys: Sequence[str]) -> Sequence[Selection]:
        """Return one part: DuckDB already reads with all cores."""
        return [Selection()]

    @contextmanager
    def read(self, con: duckdb.DuckDBPyConnection, selection: Selection) -> Iterator[Reading]:
        """Stream rows."""
        columns = self._columns(selection)
        fields, shown = [], []
        for number, (name, kind) in enumerate(columns):
            sql, dtype = _as_arrow_takes_it(quote_name(name), kind)
            fields.append(SourceField(name, f"f{number}", dtype, "VARCHAR" if dtype == "BLOB" else None))
            shown.append(f"{sql} AS f{number}")
        relation, values = self._relation_of(selection)
        where = ""
        if not self._relation.is_bounded_inside and selection.watermark is not None and selection.bounds:
            column = column_of([name for name, _ in columns], selection.watermark, self._place)
            where, values = f" WHERE {selection.condition(quote_name(column), '${}'.format)}", selection.bounds
        kinds = [_kind(kind) for _, kind in columns]
        with _errors(self._file):
            query = f"SELECT {', '.join(shown)} FROM {relation}{where}"
            reader = self._source.execute(query, values or None).to_arrow_reader(_ROWS)

        def batches() -> Iterator[pa.RecordBatch]:
            with _errors(self._file):
                yield from reader

        stream = Stream(batches(), reader.schema)
        try:
            with reading(con, stream, tuple(fields), [field.column for field in fields], lambda: kinds) as found:
                yield found
        finally:
            # A reader that was not read to its end keeps the file open, and the next connection of the process waits
            # for ever.
            reader.close()

    def _relation_of(self, selection: Selection) -> tuple[str, dict[str, Value | str]]:
        """Return the relation to read as SQL, and exactly the parameters that it has: DuckDB accepts no other."""
        if self._relation.query is None:
            return ".".join(quote_name(part) for part in name_parts(str(self._relation.table))), {}
        query = self._relation.query
        values = {name: selection.bounds[name] for name in parameters.names(query)}
        return f"({parameters.render(query, '${}'.format)}\n) AS pulled", values

    def _columns(self, selection: Selection) -> list[tuple[str, str]]:
        relation, values = self._relation_of(selection)
        with _errors(self._file):
            found = self._source.execute(f"DESCRIBE SELECT * FROM {relation}", values or None).fetchall()
        columns = [(str(name), str(kind)) for name, kind, *_ in found]
        distinct([name for name, _ in columns], self._place)
        if selection.columns is None:
            return columns
        wanted = [column_of([name for name, _ in columns], name, self._place) for name in selection.columns]
        return [column for column in columns if column[0] in wanted]


def _as_arrow_takes_it(name: str, kind: str) -> tuple[str, str]:
    """Return SQL of a column, and the type that it then has."""
    dtype = normal(kind)
    if dtype in _PLAIN or dtype == "BLOB" or dtype.startswith("DECIMAL("):
        return name, dtype
    if dtype in ("TIMESTAMP_S", "TIMESTAMP_MS"):
        return f"{name}::TIMESTAMP", "TIMESTAMP"
    if dtype.endswith("[]") and normal(dtype.removesuffix("[]")) in _PLAIN:
        return name, dtype
    if dtype.endswith("]") or dtype.startswith(("STRUCT", "MAP", "UNION")):
        return to_json(name, dtype), "JSON"
    return f"{name}::VARCHAR", "VARCHAR"


def _kind(kind: str) -> str:
    """Return the kind of a type, as in `Reading.kinds`."""
    dtype = normal(kind)
    if dtype in ("HUGEINT", "UHUGEINT"):  # the type of a sum() of whole numbers
        return "DECIMAL(38,0)"
    return _as_arrow_takes_it("x", dtype)[1]


@contextmanager
def _errors(place: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise of_duckdb(place, error) from None
