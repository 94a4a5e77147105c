"""Reads Parquet columns exactly that DuckDB reads wrongly or fails at.

DuckDB cuts INT96 and `TIMESTAMP(NANOS, UTC)` to microseconds without a message, turns decimals of more than 38 digits
into (wrong) doubles, and ends the scan of a file at text that is not UTF-8 and at times that it cannot hold. Arrow
reads them all. Its own limit, INT96 nanoseconds before 1677 and after 2262, is overcome by reading these columns twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from pipeline_assets.ingest.conform import exact_text
from pipeline_assets.ingest.files.limits import check_time
from pipeline_assets.sql import quote_text

_ROWS = 20_000
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DUCKDB_TYPES = {
    "bool": "BOOLEAN", "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
    "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT",
    "float": "FLOAT", "double": "DOUBLE", "binary": "BLOB",
}  # fmt: skip


@dataclass(frozen=True)
class Top:
    """A field of the records: its name, and whether it may hold values that DuckDB reads wrongly."""

    name: str
    is_doubtful: bool


@dataclass(frozen=True)
class Decoded:
    """A field that Arrow has read: its place, and its attributes as in `records.SourceField`."""

    index: int
    dtype: str
    evolves_to: str | None


def top_fields(con: duckdb.DuckDBPyConnection, path: Path) -> list[Top]:
    """Return the fields as they are written; DESCRIBE renames a second one that differs only by case to `Id_1`."""
    rows = con.execute(
        "SELECT name, coalesce(num_children, 0), coalesce(type, ''), coalesce(logical_type, ''), "
        f"coalesce(precision, 0) FROM parquet_schema({quote_text(str(path))})"
    ).fetchall()
    found: list[Top] = []
    below = 0
    for name, children, kind, logical, precision in rows[1:]:  # the first is the root
        doubtful = _is_doubtful(kind, logical, precision)
        if below == 0:
            found.append(Top(name, doubtful))
        elif doubtful:  # nested fields follow their parent
            found[-1] = Top(found[-1].name, True)
        below += children - (below > 0)
    return found


def _is_doubtful(kind: str, logical: str, precision: int) -> bool:
    nanos = "NANOS=NanoSeconds" in logical
    is_cut = nanos and (logical.startswith("TimeType") or "isAdjustedToUTC=1" in logical)
    return kind == "INT96" or is_cut or precision > 38


def inexact(path: Path, indexes: Sequence[int]) -> list[int]:
    """Find those among some fields in which DuckDB would lose something."""
    lost: set[int] = set()
    for _, rows in _batches(path, indexes):
        lost |= {index for index, (values, micros) in rows.items() if index not in lost and _loses(values, micros)}
        if len(lost) == len(indexes):
            break
    return sorted(lost)


def decode(path: Path, indexes: Sequence[int] | None, target: Path) -> list[Decoded]:
    """Write some fields, or all, as Parquet that DuckDB reads correctly: `_line`, and `e0`, `e1`, ... by place."""
    writer, decoded, line = None, [], 1
    for count, rows in _batches(path, indexes):
        fields = [(index, *_exact(values, micros)) for index, (values, micros) in rows.items()]
        arrays = {"_line": pa.array(range(line, line + count), pa.int64())}
        arrays |= {f"e{index}": array for index, array, _ in fields}
        decoded = [Decoded(index, dtype, evolves_to) for index, _, (dtype, evolves_to) in fields]
        batch = pa.table(arrays)
        writer = writer or parquet.ParquetWriter(target, batch.schema, compression="lz4")
        writer.write_table(batch)
        line += count
    if writer:
        writer.close()
    return decoded


def _batches(path: Path, indexes: Sequence[int] | None) -> Iterator[tuple[int, dict[int, tuple[pa.Array, pa.Array]]]]:
    """Yield rows and their number, each field twice: INT96 in nanoseconds (may overflow), and cut to microseconds."""
    with parquet.ParquetFile(path) as file, parquet.ParquetFile(path, coerce_int96_timestamp_unit="us") as again:
        names = file.schema_arrow.names
        chosen = list(range(len(names))) if indexes is None else sorted(indexes)
        by_name = len(set(names)) == len(names) and not any("." in names[index] for index in chosen)
        columns = [names[index] for index in chosen] if by_name else None
        empty = [pa.RecordBatch.from_pylist([], schema=pa.schema(each.schema_arrow)) for each in (file, again)]
        both = zip(file.iter_batches(_ROWS, columns=columns), again.iter_batches(_ROWS, columns=columns), strict=True)
        for rows, micros in chain(both, [empty] if file.metadata.num_rows == 0 else []):
            check_time()
            places = [rows.schema.get_field_index(names[i]) for i in chosen] if by_name else chosen
            yield (
                rows.num_rows,
                {index: (rows.column(at), micros.column(at)) for index, at in zip(chosen, places, strict=True)},
            )


def _loses(values: pa.Array, micros: pa.Array) -> bool:
    kind = values.type
    if pa.types.is_decimal256(kind):
        return True
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind):
        if kind.unit != "ns":
            return False
        nanos = values.cast(pa.int64())
        cut = pc.divide(nanos, 1000) if kind == micros.type else micros.cast(pa.int64())
        return bool(pc.any(pc.not_equal(pc.multiply(cut, 1000), nanos)).as_py())
    return any(_loses(*pair) for pair in zip(_inner(values), _inner(micros), strict=True))


def _inner(values: pa.Array) -> list[pa.Array]:
    if pa.types.is_struct(values.type):
        return list(values.flatten())
    if pa.types.is_map(values.type):
        return [values.keys, values.items]
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return [values.flatten()]
    return []


def _exact_numbers(values: pa.Array, micros: pa.Array) -> list[int | None]:
    """Return the whole units of each value; for INT96 the nanoseconds, whatever the year."""
    numbers: list[int | None] = values.cast(pa.int64()).to_pylist()
    if values.type == micros.type:
        return numbers
    pairs = zip(numbers, micros.cast(pa.int64()).to_pylist(), strict=True)
    return [None if nanos is None or cut is None else cut * 1000 + (nanos - cut * 1000) % 2**64 for nanos, cut in pairs]


def _exact(values: pa.Array, micros: pa.Array) -> tuple[pa.Array, tuple[str, str | None]]:
    """Return a top field in a form that DuckDB reads correctly, with its type there and the type that it evolves to."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _exact(values.dictionary_decode(), micros.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return values.cast(pa.binary()), ("BLOB", "VARCHAR")
    if pa.types.is_fixed_size_binary(kind):
        return values.cast(pa.binary()), ("BLOB", "")
    if pa.types.is_float16(kind):
        return values.cast(pa.float32()), ("FLOAT", None)
    if pa.types.is_decimal128(kind):
        return values, (f"DECIMAL({kind.precision},{kind.scale})", None)
    if str(kind) in _DUCKDB_TYPES:
        return values, (_DUCKDB_TYPES[str(kind)], "VARCHAR" if pa.types.is_binary(kind) else None)
    texts = pa.array([None if text == "null" else text for text in _texts(values, micros)], pa.string())
    return texts, ("JSON", _evolves_to(kind))


def _evolves_to(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP WITH TIME ZONE" if kind.tz else "TIMESTAMP"
    if pa.types.is_date(kind):
        return "DATE"
    return "VARCHAR" if pa.types.is_decimal(kind) else ""


def _texts(values: pa.Array, micros: pa.Array) -> list[str]:
    """Return the JSON text of each value."""
    kind = values.type
    if isinstance(kind, pa.UuidType):
        return ["null" if data is None else exact_text.of_uuid(data) for data in values.storage.to_pylist()]
    if isinstance(kind, pa.BaseExtensionType):
        return _texts(values.storage, micros.storage)
    if pa.types.is_dictionary(kind):
        return _texts(values.dictionary_decode(), micros.dictionary_decode())
    if pa.types.is_struct(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return _nested(values, micros)
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        numbers = _numbers_of(values, micros)
        write = _writer(kind)
        return ["null" if number is None else write(number) for number in numbers]
    if pa.types.is_date(kind):
        numbers = values.cast(pa.int32() if kind == pa.date32() else pa.int64()).to_pylist()
        per_day = 1 if kind == pa.date32() else 86_400_000
        return ["null" if number is None else exact_text.of_date(number // per_day) for number in numbers]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_fixed_size_binary(kind):
        values = values.cast(pa.binary())
    return ["null" if value is None else _scalar(value) for value in values.to_pylist()]


def _numbers_of(values: pa.Array, micros: pa.Array) -> list[int | None]:
    if pa.types.is_time32(values.type):
        return list(values.cast(pa.int32()).to_pylist())
    return _exact_numbers(values, micros)


def _writer(kind: pa.DataType) -> Callable[[int], str]:
    per_second = _PER_SECOND[kind.unit]
    if pa.types.is_time(kind):
        return lambda value: exact_text.of_time(value, per_second)
    zone = "+00:00" if kind.tz else ""
    return lambda value: exact_text.of_timestamp(value, per_second, zone)


def _scalar(value: Any) -> str:  # noqa: ANN401  whatever Arrow gives
    if isinstance(value, bytes):
        return exact_text.of_bytes(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return exact_text.of_float(value)
    return f"{value:f}" if hasattr(value, "as_tuple") else str(value)  # a decimal without exponent


def _nested(values: pa.Array, micros: pa.Array) -> list[str]:
    present = values.is_valid().to_pylist()
    if pa.types.is_struct(values.type):
        keys = [exact_text.of_bytes(values.type.field(i).name.encode()) for i in range(values.type.num_fields)]
        parts = [_texts(*pair) for pair in zip(values.flatten(), micros.flatten(), strict=True)]
        rows = zip(*parts, strict=True) if parts else [() for _ in present]
        return [
            "{" + ",".join(f"{key}:{text}" for key, text in zip(keys, row, strict=True)) + "}" if valid else "null"
            for valid, row in zip(present, rows, strict=True)
        ]
    if pa.types.is_map(values.type):
        texts = _entries(values, micros)
        opening, closing = "{", "}"
    else:
        texts = _texts(values.flatten(), micros.flatten())
        opening, closing = "[", "]"
    found, at = [], 0
    for valid, length in zip(present, _lengths(values), strict=True):
        found.append(opening + ",".join(texts[at : at + length]) + closing if valid else "null")
        at += length
    return found


def _lengths(values: pa.Array) -> list[int]:
    if pa.types.is_map(values.type):
        values = _as_list(values)
    return [length or 0 for length in pc.list_value_length(values).to_pylist()]


def _entries(values: pa.Array, micros: pa.Array) -> list[str]:
    keys, items = _as_list(values).flatten().flatten()
    key_micros, item_micros = _as_list(micros).flatten().flatten()
    pairs = zip(_texts(keys, key_micros), _texts(items, item_micros), strict=True)
    return [f"{key if key.startswith(chr(34)) else exact_text.of_bytes(key.encode())}:{item}" for key, item in pairs]


def _as_list(values: pa.Array) -> pa.Array:
    return values.cast(pa.list_(pa.struct([("key", values.type.key_type), ("value", values.type.item_type)])))
