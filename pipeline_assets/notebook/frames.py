"""Frames of polars and pandas as Arrow columns that DuckDB reads, and back.

Holds conversions, what counts as missing, and the name of a frame's content. Does not hold what is done with frames
(`ingester`, `quality`, `delta`). pandas is imported only when a frame of it is asked for.

pandas: NaN, NaT, None and NA are missing. The levels of an index are columns if one of them has a name; else the index
is row numbers, and left out, or an error if it holds something else. Of objects all the Python values decide: one kind
of value is that type, Decimals are DECIMAL(38, most digits after the point). Values of several types go as JSON if JSON
keeps them; all other objects are refused.
"""

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.ingest.conform.fields import SourceField

if TYPE_CHECKING:
    import pandas as pd

FrameT = TypeVar("FrameT", pl.DataFrame, "pd.DataFrame")
Kind = Literal["polars", "pandas"]

METADATA = ("_extracted_at", "_source")
"""What `extract_from_database` adds: when and from where, as in bronze. No content of a record."""

SOURCE_TYPE = pa.struct([("file", pa.string()), ("line", pa.int64())])
EXTRACTED_TYPE = pa.timestamp("us", "UTC")

_MOST_DIGITS = 38
_PLAIN: dict[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    date: pa.date32(),
    time: pa.time64("us"),
    timedelta: pa.duration("us"),
}


class NotebookError(ValueError):
    """What was given cannot be used; the message says what to give instead."""


@dataclass(frozen=True)
class Column:
    """A column of a frame.

    Attributes:
        name: Its name.
        values: Its values.
        is_json: Whether they are JSON texts, because they have no one type. Equal texts are equal in type and value.
    """

    name: str
    values: pa.ChunkedArray
    is_json: bool = False


def check_text(what: str, value: object, example: str) -> None:
    """Refuse an argument that is no text.

    Raises:
        NotebookError: It is none, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise NotebookError(f"{what} is {value!r}: give a text, such as {example}")


def is_pandas(frame: object) -> bool:
    """Tell whether it is a pandas frame.

    Raises:
        NotebookError: It is a frame of neither library.
    """
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        return True
    if isinstance(frame, pl.DataFrame):
        return False
    hint = "call its .collect() first" if isinstance(frame, pl.LazyFrame) else "make one of it first"
    raise NotebookError(f"give a polars or a pandas DataFrame, not {type(frame).__name__}: {hint}")


def need_pandas() -> None:
    """Import pandas.

    Raises:
        NotebookError: It is not installed.
    """
    try:
        import pandas  # noqa: F401
    except ImportError:
        raise NotebookError(
            "config['frames'] is 'pandas', which is not installed: pip install pandas, or leave it out for polars"
        ) from None


def columns_of(frame: "pl.DataFrame | pd.DataFrame") -> list[Column]:
    """Give the columns of a frame, in order.

    Raises:
        NotebookError: It is no frame, has no column, or names that are no text, empty or not unique; or a column holds
            objects that no type of a table and no JSON keeps.
    """
    if is_pandas(frame):
        found = with_index(frame)
        names, series = list(found.columns), [found.iloc[:, number] for number in range(found.shape[1])]
        arrays = map(_of_pandas, series)
    else:
        names, arrays = list(frame.columns), map(_of_polars, cast(pl.DataFrame, frame).get_columns())
    _check_names(names)
    return [
        Column(name, _chunked(_exact(values)), is_json) for name, (values, is_json) in zip(names, arrays, strict=True)
    ]


def with_index(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Give a pandas frame with its index as columns, if it has names; otherwise without its index.

    Raises:
        NotebookError: It has neither names nor row numbers, or the name of a column.
    """
    if all(name is None for name in frame.index.names):
        if len(frame) and getattr(frame.index.dtype, "kind", "O") not in "iu":
            raise NotebookError("the index has values, but no name: name it, or reset_index(drop=True)")
        return frame.reset_index(drop=True)
    try:
        return frame.reset_index()
    except ValueError as error:
        raise NotebookError(f"the index cannot become columns ({error}): rename or drop it with reset_index") from None


def polars_of(columns: Iterable[Column]) -> pl.DataFrame:
    """Make a polars frame of columns."""
    return pl.DataFrame([pl.Series(column.name, pl.from_arrow(column.values)) for column in columns])


def frame_of(columns: Sequence[Column], kind: Kind) -> "pl.DataFrame | pd.DataFrame":
    """Make a frame of columns; in pandas, missing whole numbers or truths get its nullable types."""
    if kind == "polars":
        return polars_of(columns)
    import pandas as pd

    return pd.DataFrame({column.name: _pandas_series(column.values) for column in columns})


def assembled(
    frame: FrameT, rows: pa.ChunkedArray, changed: Mapping[str, pa.ChunkedArray], categorical: Collection[str]
) -> FrameT:
    """Select rows of a frame, with new values in some columns; all others stay as they are, whatever they hold.

    Args:
        frame: The frame.
        rows: 0-based numbers of its rows, in the order wanted.
        changed: Columns with the values of these rows.
        categorical: Columns that are to be categories.
    """
    if is_pandas(frame):
        found = with_index(frame).iloc[rows.to_numpy()].reset_index(drop=True)
        for name, values in changed.items():
            found[name] = _pandas_series(values)
        for name in categorical:
            found[name] = found[name].astype("category")
        return cast(FrameT, found)
    gathered = frame[pl.Series(pl.from_arrow(rows), dtype=pl.Int64)]
    gathered = gathered.with_columns(pl.Series(name, pl.from_arrow(values)) for name, values in changed.items())
    return gathered.with_columns(pl.col(name).cast(pl.Categorical) for name in categorical)


@contextmanager
def scratch() -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a DuckDB in memory, in UTC, for as long as the block lasts."""
    with duckdb.connect(":memory:") as con:
        con.execute("SET TimeZone = 'UTC'")
        yield con


def lent(con: duckdb.DuckDBPyConnection, columns: Sequence[Column]) -> list[SourceField]:
    """Register columns as the relation `frame` of a connection, with `_line` (1-based). Give its fields."""
    rows = len(columns[0].values)
    arrays = {f"f{n}": column.values for n, column in enumerate(columns)}
    # DuckDB knows no column without a type.
    arrays = {name: a.cast(pa.string()) if pa.types.is_null(a.type) else a for name, a in arrays.items()}
    con.register("frame", pa.table({**arrays, "_line": pa.arange(1, rows + 1)}))
    kinds = {name: str(kind) for name, kind, *_ in con.execute("DESCRIBE frame").fetchall()}
    return [
        SourceField(column.name, name, "JSON" if column.is_json else kinds[name])
        for name, column in zip(arrays, columns, strict=True)
    ]


def content_id(con: duckdb.DuckDBPyConnection, relation: str, fields: Iterable[SourceField]) -> str:
    """Name the content of a relation: the same rows have the same name, in whatever order of rows and columns.

    `METADATA` is no content.
    """
    content = sorted((field for field in fields if field.name not in METADATA), key=lambda field: field.name)
    found = blake2b(json.dumps([(field.name, field.dtype) for field in content]).encode(), digest_size=16)
    row = "struct_pack(" + ", ".join(f"c{number} := {field.column}" for number, field in enumerate(content)) + ")"
    for batch in con.sql(f"SELECT md5(to_json({row})::VARCHAR) AS row FROM {relation} ORDER BY row").to_arrow_reader():
        found.update("".join(batch.column(0).to_pylist()).encode())
    return found.hexdigest()


def _check_names(names: Sequence[object]) -> None:
    if not names:
        raise NotebookError("the frame has no columns")
    if "" in names:
        raise NotebookError("a column has no name: rename it")
    if other := [name for name in names if not isinstance(name, str)]:
        raise NotebookError(
            f"names of columns are text, not {', '.join(map(repr, other))}: rename them, by map(str, frame.columns)"
        )
    if twice := sorted({str(name) for name in names if list(names).count(name) > 1}):
        raise NotebookError(f"the frame has the column {', '.join(twice)} more than once: rename or drop one")


def _of_polars(series: pl.Series) -> tuple[pa.Array, bool]:
    if series.dtype in (pl.Categorical, pl.Enum):
        return series.cast(pl.String).to_arrow(), False
    if series.dtype != pl.Object:
        with suppress(pa.ArrowException):  # integers of 128 bits
            return series.to_arrow(), False
    return _of_values(series, series.to_list())


def _of_pandas(series: "pd.Series[Any]") -> tuple[pa.Array | pa.ChunkedArray, bool]:
    if series.dtype != object:
        try:
            values = pa.array(series, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError):
            return _of_values(series, list(series))
        if isinstance(values.type, pa.DictionaryType):
            values = values.dictionary_decode()
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        if not isinstance(values.type, pa.BaseExtensionType):
            return values, False
    return _of_values(series, list(series))


def _of_values(series: "pl.Series | pd.Series[Any]", given: Sequence[Any]) -> tuple[pa.Array, bool]:
    """Give the Python values of a series as Arrow, and whether they are JSON texts.

    Raises:
        NotebookError: They have no one type that keeps them, and JSON does not keep them either.
    """
    values = [_plain(value) for value in given]
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values)), False
    if len(kinds) == 1 and (typed := _typed(next(iter(kinds)), values)) is not None:
        return typed, False
    if kinds <= {date, datetime}:  # their texts tell dates, times, and times with a zone apart
        values = [value and value.isoformat() for value in values]
    texts = [None if value is None else _json(value) for value in values]
    lost = next((row for row, value in enumerate(values) if value is not None and texts[row] is None), None)
    if lost is not None:
        names = ", ".join(
            sorted({type(one).__name__ for one, value in zip(given, values, strict=True) if value is not None})
        )
        to_text = 'map_elements("{}".format, pl.String)' if isinstance(series, pl.Series) else 'astype("string")'
        raise NotebookError(
            f"the column {series.name} has values of {names}: neither one type nor JSON keeps that of row {lost + 1}, "
            f"of {type(given[lost]).__name__}; cast the column, by frame[{series.name!r}].{to_text} say"
        )
    return pa.array(texts, pa.string()), True


def _typed(kind: type, values: Sequence[Any]) -> pa.Array | None:
    """Give Python values of one kind as Arrow; None if no type keeps them all."""
    with suppress(pa.ArrowException, OverflowError, TypeError):  # the last one of an infinite Decimal
        if kind is Decimal:
            decimals = pa.array(values)
            scale = decimals.type.scale
            return decimals.cast(pa.decimal128(_MOST_DIGITS, scale)) if scale <= _MOST_DIGITS else None
        if kind is datetime:
            zones = {value.tzinfo is None for value in values if value is not None}
            return None if len(zones) > 1 else pa.array(values, pa.timestamp("us", None if zones.pop() else "UTC"))
        if kind in _PLAIN:
            return pa.array(values, _PLAIN[kind])
        if kind in (dict, list):
            found = pa.array(values)
            return found if _is_typed(found.type) and all(map(_is_same, found.to_pylist(), values)) else None
    return None


def _is_typed(kind: pa.DataType) -> bool:
    """Tell whether all that is nested in it has a type, which the elements of empty lists do not have."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_typed(field.type) for field in kind)
    return _is_typed(kind.value_type) if pa.types.is_list(kind) else not pa.types.is_null(kind)


def _plain(value: Any) -> Any:  # noqa: ANN401  whatever a frame holds
    """Give a value without its library; None if it is missing."""
    if type(value).__module__.startswith("numpy"):
        if type(value).__name__ == "ndarray":
            return [_plain(item) for item in value.tolist()]
        # the items of these two are Python's times, or numbers
        is_time = type(value).__name__ in ("datetime64", "timedelta64")
        return (None if value != value else value) if is_time else _plain(value.item())
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if value.is_nan() if isinstance(value, Decimal) else isinstance(value, float) and value != value:
        return None
    if isinstance(value, datetime):
        # pandas' own are finer than Python's
        return value if getattr(value, "nanosecond", 0) else datetime.combine(value.date(), value.timetz())
    return list(value) if isinstance(value, tuple) else value


def _is_same(found: Any, given: Any) -> bool:  # noqa: ANN401
    """Tell whether Arrow has kept nested values and their types; a key that is not there may have become null."""
    found, given = _plain(found), _plain(given)
    if type(found) is not type(given):
        return False
    if isinstance(found, dict):
        return found.keys() >= given.keys() and all(_is_same(value, given.get(key)) for key, value in found.items())
    if isinstance(found, list):
        return len(found) == len(given) and all(map(_is_same, found, given))
    return bool(found == given)


def _json(value: Any) -> str | None:  # noqa: ANN401
    """Give the JSON of a value; None if JSON does not keep it."""
    with suppress(TypeError, ValueError):
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if json.loads(text) == value:
            return text
    return None


def _exact(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Give values in types that DuckDB takes as they are: times in microseconds if that loses nothing."""
    if pa.types.is_float16(values.type):
        return values.cast(pa.float32())
    if not pa.types.is_timestamp(values.type) or values.type.unit == "us":
        return values
    try:
        return values.cast(pa.timestamp("us", values.type.tz))
    except pa.ArrowInvalid:
        # DuckDB has no nanoseconds with a zone, and would cut them: as UTC without one they are compared exactly.
        return values.cast(pa.timestamp("ns")) if values.type.unit == "ns" else values


def _chunked(values: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def _pandas_series(values: pa.ChunkedArray) -> "pd.Series[Any]":
    """Choose NumPy's types where they hold the values, pandas' nullable ones for gaps, Arrow's for what NumPy lacks."""
    import pandas as pd

    kind = values.type
    nullable = {
        pa.bool_(): pd.BooleanDtype(), pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.uint8(): pd.UInt8Dtype(),
        pa.uint16(): pd.UInt16Dtype(), pa.uint32(): pd.UInt32Dtype(), pa.uint64(): pd.UInt64Dtype(),
    }  # fmt: skip
    if kind in nullable:
        return pd.Series(values.to_pandas(types_mapper=nullable.get if values.null_count else None))
    is_known = any(
        check(kind)
        for check in (pa.types.is_floating, pa.types.is_string, pa.types.is_large_string, pa.types.is_timestamp)
    )
    return pd.Series(values.to_pandas(types_mapper=None if is_known else pd.ArrowDtype))
