"""`BatchDataIngester`: a database's query as a frame, and a frame's records cast or set aside as dead letters.

Holds the interface of a notebook. `extraction` reads and types a query, `dtypes` names types, `ingest.conform.conform`
casts values, and `dead_letters` keeps dead letters.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import duckdb
import polars as pl
import pyarrow as pa

from pipeline_assets.contracts.base import RawColumn
from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.batch.watermark import Value
from pipeline_assets.ingest.conform import casts
from pipeline_assets.ingest.conform.conform import fit_sql
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.database import parameters
from pipeline_assets.ingest.database.errors import retrying
from pipeline_assets.notebook import extraction, frames
from pipeline_assets.notebook.dead_letters import DeadLetterBox, dead_letters_of
from pipeline_assets.notebook.dtypes import Wanted, wanted
from pipeline_assets.notebook.frames import Column, FrameT, Kind, NotebookError
from pipeline_assets.sql import quote_text

if TYPE_CHECKING:
    import pandas as pd

_CONFIG = ("frames",)
_SCHEMA = ("required_fields", "dtypes")
_KINDS = ("polars", "pandas")


class BatchDataIngester:
    """Takes in batches of records, and keeps those that do not fit, with the reason, until they are saved.

    Attributes:
        counts: Counts of the last call that took in records: records in = rows + dead letters + duplicates.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        """Create an ingester that is connected to nothing yet.

        Args:
            config: `frames`: "polars" (the default) or "pandas", the kind of frame that an extraction returns.

        Raises:
            NotebookError: Another key or value, or pandas is not installed.
        """
        given = config or {}
        _only(given, _CONFIG, "config")
        kind = given.get("frames", "polars")
        if kind not in _KINDS:
            raise NotebookError(f"config['frames'] is {kind!r}: give {' or '.join(map(repr, _KINDS))}")
        if kind == "pandas":
            frames.need_pandas()
        self._kind: Kind = kind
        self._dead_letters = DeadLetterBox()
        self.counts = Counts()

    def extract_from_database(
        self,
        connection_string: str,
        query: str,
        watermark_column: str | None = None,
        last_watermark: object = None,
    ) -> "pl.DataFrame | pd.DataFrame":
        """Read a query, or its new rows. Passing failures are retried, as in the pipeline's own pulls.

        Args:
            connection_string: `postgresql://user:password@host:5432/db`, `duckdb:///path`, or any URL of SQLAlchemy
                whose driver is installed. No message shows the password.
            query: SQL that reads, without parameters. A LIMIT in it is applied before the watermark.
            watermark_column: Column of the query that grows with each change.
            last_watermark: Its greatest value so far: a time, a date, a whole number, or a text; None reads everything.
                Rows that equal it come again, because others with the same value may have been committed since, and so
                do rows without a watermark. A time without zone is UTC. Give a date for a column of dates. SQLite
                compares times as texts, so they must all be written in one way, and numbers only with numbers.

        Returns:
            The query's columns in the database's types (numeric is Decimal, times with a zone are UTC; see `extraction`
            for the rest), `_extracted_at` (UTC) and `_source` (file: the query, line: the record's number, from 1;
            objects in pandas, so `drop_duplicates` and `nunique` need the names of other columns). A record with a
            value that does not fit its type here (a timestamp of infinity, a numeric NaN) is a dead letter.

        Raises:
            DatabaseError: The database cannot be reached or refuses, or there is no such column.
            NotebookError: An argument cannot be used, or one of two that belong together is missing.
        """
        frames.check_text("connection_string", connection_string, "postgresql://host:5432/db")
        frames.check_text("query", query, "SELECT * FROM orders")
        if watermark_column is not None:
            frames.check_text("watermark_column", watermark_column, "updated_at")
        if has := parameters.names(query):
            raise NotebookError(
                f"the query has {', '.join(f':{name}' for name in sorted(has))}: give last_watermark instead"
            )
        lower = _bound(last_watermark)
        if lower is not None and watermark_column is None:
            raise NotebookError("last_watermark needs watermark_column: the column of the query that it is a value of")
        with frames.scratch() as con:
            staged = retrying()(extraction.stage, con, connection_string, query, watermark_column, lower)
            columns = extraction.fitted(con, staged)
            moment = f"TIMESTAMPTZ '{staged.taken_at.astimezone(UTC).isoformat(sep=' ')}'"
            dead_letters = dead_letters_of(
                con, "fitted", extracted_at=moment, batch=_batch(quote_text(staged.origin), moment),
                source=f"struct_pack(file := {quote_text(staged.origin)}, line := _line)",
            )  # fmt: skip
        *values, source = columns
        rows = len(source.values)
        moments = pa.chunked_array([pa.repeat(pa.scalar(staged.taken_at, frames.EXTRACTED_TYPE), rows)])
        self._dead_letters.add(dead_letters)
        self.counts = Counts(rows + dead_letters.num_rows, rows, dead_letters.num_rows)
        return frames.frame_of([*values, Column("_extracted_at", moments), source], self._kind)

    def validate_and_clean(self, df: FrameT, schema: Mapping[str, Any]) -> FrameT:
        """Cast columns, and set aside the records that do not fit, once for each of equal records.

        A record is a dead letter if a required field is missing (null, or only blanks), or if a value does not fit its
        type exactly: '1.5', 1.5 and '1e3' are not int64, 1.0 and '1' are; 0.1 is not a float32; a text without a zone
        is UTC. Records that are equal in all columns but `_extracted_at` and `_source` are one; the first stays. Equal
        objects also have equal types. Texts keep their blanks.

        Args:
            df: A frame of polars or pandas. NaN, NaT, None and NA of pandas are missing; NaN of polars is a value.
            schema: `required_fields`: names of columns. `dtypes`: column to type, by its name in pandas, NumPy or
                polars, or the type itself. Times become microseconds, those with a zone UTC.

        Returns:
            The other records in their order, in a frame of the same kind. Columns without a dtype stay as they are.

        Raises:
            NotebookError: A column does not exist, a type is not known, or the frame cannot be used.
        """
        columns = frames.columns_of(df)
        declared = _Schema.of(schema, [column.name for column in columns], is_pandas=frames.is_pandas(df))
        content = [column for column in columns if column.name not in frames.METADATA]
        if not content:
            raise NotebookError("the frame has no columns but those that the extraction adds")
        with frames.scratch() as con:
            fields = frames.lent(con, content)
            targets = _fit(con, fields, declared)
            dead_letters = dead_letters_of(
                con, _with_metadata(con, columns, fields), extracted_at="m0", source="m1", batch="m2"
            )
            selected = "".join(f", v{number} AS t{number}" for number, _ in targets)
            rows = con.execute(
                f"SELECT _line - 1 AS _row{selected} FROM fitted WHERE _reason IS NULL ORDER BY _line"
            ).to_arrow_table()
        self._dead_letters.add(dead_letters)
        n_in, n_rows, n_dead = len(columns[0].values), rows.num_rows, dead_letters.num_rows
        self.counts = Counts(n_in, n_rows, n_dead, n_in - n_rows - n_dead)
        changed = {name: rows[f"t{number}"] for number, name in targets}
        return cast(FrameT, frames.assembled(df, rows["_row"], changed, declared.categories))

    @property
    def dead_letters(self) -> "pl.DataFrame | pd.DataFrame":
        """The dead letters to save, with the columns of `lake.dead_letters.COLUMNS` (`reason`, `raw` as JSON ...)."""
        dead_letters = self._dead_letters.pending
        return frames.frame_of([Column(name, dead_letters[name]) for name in dead_letters.column_names], self._kind)

    def save_dead_letter_queue(self, path: str | Path) -> int:
        """Append the dead letters gathered since the last save to the Delta table at a path; create it if necessary.

        The dead letters of one call are written once into a table, however often and by whichever process the call is
        repeated and saved. Without dead letters, nothing is written. A record that is extracted again and fails again
        is a dead letter of that extraction, too.

        Args:
            path: A folder, or `s3://bucket/prefix/table` with credentials in the `AWS_*` variables. It need not be in a
                lake; `<lake>/dead_letters/orders` is `dead_letters.orders` for the pipeline's tools.

        Returns:
            The number of dead letters written.

        Raises:
            NotebookError: The path is not a place for tables.
            LakeError: There is another table at the path, or it cannot be opened. The dead letters are kept.
        """
        return self._dead_letters.save(path)


@dataclass(frozen=True)
class _Schema:
    """The schema that `validate_and_clean` is called with."""

    required: frozenset[str]
    dtypes: Mapping[str, Wanted]

    @classmethod
    def of(cls, schema: Mapping[str, Any], names: Iterable[str], *, is_pandas: bool) -> "_Schema":
        _only(schema, _SCHEMA, "schema")
        required, dtypes = schema.get("required_fields", ()), schema.get("dtypes", {})
        is_list = isinstance(required, Collection) and not isinstance(required, str | bytes)
        is_dict = isinstance(dtypes, Mapping)
        if not (is_list and is_dict and all(isinstance(name, str) for name in (*required, *dtypes))):
            raise NotebookError("schema: required_fields is a list of columns, dtypes a dict of column to type")
        has = list(names)
        if lacking := [name for name in dict.fromkeys((*required, *dtypes)) if name not in has]:
            raise NotebookError(f"the frame has no column {', '.join(lacking)}; it has {', '.join(has)}")
        if taken := [name for name in dtypes if name in frames.METADATA]:
            raise NotebookError(
                f"dtypes: {', '.join(taken)} is added by the extraction and keeps its type: leave it out"
            )
        found = {name: wanted(dtype, name) for name, dtype in dtypes.items()}
        if not is_pandas:  # in polars, categories are texts
            found = {name: Wanted("VARCHAR", True) if want.is_category else want for name, want in found.items()}
        return cls(frozenset(required), found)

    @property
    def categories(self) -> list[str]:
        return [name for name, want in self.dtypes.items() if want.is_category]


@dataclass(frozen=True)
class _Records:
    """The frame without its duplicates; it has the members of a `RecordSet`."""

    sql: str
    fields: tuple[SourceField, ...]
    has_problems: bool = False


def _fit(con: duckdb.DuckDBPyConnection, fields: list[SourceField], schema: _Schema) -> list[tuple[int, str]]:
    """Make the table `fitted` of the frame. Return the columns that are cast, with the numbers of their values."""
    pairs, targets, given = [], [], ""
    for number, field in enumerate(fields):
        want, fed = schema.dtypes.get(field.name, Wanted(None)), field
        is_required = field.name in schema.required
        if is_required and field.dtype in ("VARCHAR", "JSON"):
            text = casts.json_text(field.column) if field.dtype == "JSON" else field.column
            given += f", CASE WHEN {casts.trimmed(text)} <> '' THEN {field.column} END AS r{number}"
            fed = SourceField(field.name, f"r{number}", field.dtype)
        pairs.append((RawColumn(field.name, want.dtype or field.dtype, is_required), (fed,)))
        if want.dtype is not None:
            targets.append((number, field.name))
    first = f"SELECT min(_line) AS _line FROM frame GROUP BY {', '.join(field.column for field in fields)}"
    records = _Records(f"SELECT *{given} FROM frame SEMI JOIN ({first}) USING (_line)", tuple(fields))
    con.execute(f"CREATE TEMP TABLE fitted AS {fit_sql(records, pairs)}")
    return targets


def _with_metadata(con: duckdb.DuckDBPyConnection, columns: list[Column], fields: list[SourceField]) -> str:
    """Return the relation of `fitted` with the time (m0), place (m1) and batch (m2) of each record's extraction.

    A frame that was not extracted is named by its content.
    """
    found = {column.name: column.values for column in columns if column.name in frames.METADATA}
    kinds = {"_extracted_at": frames.EXTRACTED_TYPE, "_source": frames.SOURCE_TYPE}
    rows = len(columns[0].values)
    arrays = {"line": pa.arange(1, rows + 1)}
    for name, kind in kinds.items():
        try:
            arrays[name] = found[name].cast(kind) if name in found else pa.nulls(rows, kind)
        except pa.ArrowException:
            raise NotebookError(
                f"the column {name} is {found[name].type}, but it is what the extraction adds, {kind}: rename your own"
            ) from None
    con.register("metadata", pa.table(arrays))
    name = f"'frame {frames.content_id(con, 'frame', fields)[:8]}'" if arrays["_source"].null_count else "NULL"
    now = f"TIMESTAMPTZ '{datetime.now(UTC).isoformat(sep=' ')}'"
    return f"""(SELECT f._line, f._reason, f._raw, coalesce(m._extracted_at, {now}) AS m0,
        CASE WHEN m._source IS NULL THEN struct_pack(file := {name}, line := f._line) ELSE m._source END AS m1,
        CASE WHEN m._source IS NULL THEN {name} ELSE {_batch("m._source.file", "m._extracted_at")} END AS m2
        FROM fitted AS f JOIN metadata AS m ON m.line = f._line)"""


def _batch(origin: str, moment: str) -> str:
    """Return SQL of the name of an extraction."""
    return f"concat_ws(' ', {origin}, {moment})"


def _bound(value: Any) -> Value | str | None:  # noqa: ANN401
    """Convert a watermark to a value that drivers bind; None for no watermark, as the maximum of no rows is."""
    if type(value).__module__.startswith("numpy"):
        value = value.astype("datetime64[us]").item() if type(value).__name__ == "datetime64" else value.item()
    if value is None or type(value).__name__ in ("NaTType", "NAType") or value != value:  # NaN
        return None
    if isinstance(value, datetime):
        # Drop what is finer than a microsecond, which can only make the bound earlier; pandas' own times are finer.
        plain = datetime.combine(value.date(), value.timetz())
        return plain.replace(tzinfo=UTC) if plain.tzinfo is None else plain.astimezone(UTC)
    if isinstance(value, date | int | str) and not isinstance(value, bool):
        return value
    raise NotebookError(
        f"last_watermark is {value!r}, a {type(value).__name__}: give a datetime, a date, a whole number or a text"
    )


def _only(given: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    """Refuse keys that have no meaning here."""
    if not isinstance(given, Mapping):
        raise NotebookError(f"{what} is a dict with {', '.join(known)}, not {type(given).__name__}")
    if unknown := [key for key in given if key not in known]:
        raise NotebookError(f"{what} knows no {', '.join(map(repr, unknown))}: there is {', '.join(known)}")
