"""Decodes Avro records exactly, whatever their schema.

DuckDB's reader takes decimals on bytes for text and knows no unknown logical type, no union within a record and no
recursion. It ends at text that is not UTF-8, and after a `time-micros` that it cannot hold its whole database is
invalid. This decoder reads what DuckDB does not read correctly: five to ten times slower, in memory bounded by one
block.

Format: Apache Avro 1.12 specification. "Language implementations must ignore unknown logical types when reading, and
should use the underlying Avro type"; this also holds for logical types that are declared wrongly.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline_assets.ingest.conform import exact_text
from pipeline_assets.ingest.files.formats.avro import AvroError, Schema

Read = Callable[[bytes, int], tuple[Any, int]]
Write = Callable[[Any], str]

_NATIVE: dict[str, tuple[str, pa.DataType]] = {
    "boolean": ("BOOLEAN", pa.bool_()),
    "int": ("INTEGER", pa.int32()),
    "long": ("BIGINT", pa.int64()),
    "float": ("FLOAT", pa.float32()),
    "double": ("DOUBLE", pa.float64()),
    "bytes": ("BLOB", pa.binary()),
    "fixed": ("BLOB", pa.binary()),
    "string": ("BLOB", pa.binary()),
}
_PER_SECOND = {"millis": 1_000, "micros": 1_000_000, "nanos": 1_000_000_000}
# Logical types that DuckDB reads exactly; a value that it cannot hold ends its scan with an error.
_TRUSTED = {"date", "timestamp-millis", "timestamp-micros", "local-timestamp-millis", "uuid"}


@dataclass(frozen=True)
class Kind:
    """How a value is read from bytes, and written as JSON."""

    read: Read
    write: Write


@dataclass(frozen=True)
class Column:
    """A field of the records.

    Attributes:
        name: Its name.
        dtype: DuckDB type; "JSON" for JSON text.
        evolves_to: As in `records.SourceField`.
        arrow: Arrow type.
        read: Reads its value in the form that Arrow takes.
    """

    name: str
    dtype: str
    evolves_to: str | None
    arrow: pa.DataType
    read: Read


def is_trusted(schema: Schema) -> bool:
    """Tell whether a schema describes flat records of types that DuckDB reads correctly."""
    if not (isinstance(schema, dict) and schema.get("type") == "record"):
        return False
    names = [str(field["name"]).lower() for field in schema["fields"]]
    return len(set(names)) == len(names) > 0 and all(_is_trusted(field["type"]) for field in schema["fields"])


def _is_trusted(schema: Schema) -> bool:
    value = _unwrapped(schema)
    if isinstance(value, str):
        return value in _NATIVE
    if isinstance(value, list) or value["type"] not in (*_NATIVE, "enum"):
        return False
    return "logicalType" not in value or (value["logicalType"] in _TRUSTED and value["type"] != "fixed")


def _unwrapped(schema: Schema) -> Schema:
    """Return the schema without its null branch: `["null", "long"]` is a long."""
    if isinstance(schema, list):
        others = [branch for branch in schema if branch != "null"]
        return others[0] if len(others) == 1 else schema
    return schema


def columns(schema: Schema) -> list[Column]:
    """Return the columns of a file with this schema, which are read one after the other.

    Raises:
        AvroError: It is not a schema.
    """
    if not (isinstance(schema, dict) and schema.get("type") == "record"):
        schema = {"type": "record", "name": "record", "fields": [{"name": "avro_schema", "type": schema}]}
    compiler = _Compiler()
    try:
        names = compiler.declared(schema, "")
        compiler.names[names] = compiler.later(names)
        space = names.rpartition(".")[0]
        found = [_column(compiler, str(field["name"]), field["type"], space) for field in schema["fields"]]
        compiler.names[names] = compiler.record(schema, space)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise AvroError(f"the Avro schema cannot be read ({type(error).__name__}: {error})") from error
    return found


def _column(compiler: "_Compiler", name: str, schema: Schema, space: str) -> Column:
    kind, value = compiler.kind(schema, space), _unwrapped(schema)
    definition = value if isinstance(value, dict) else {"type": value}
    base, logical = definition["type"], compiler.logical(definition)
    if isinstance(base, str) and base in _NATIVE and logical is None:
        dtype, arrow = _NATIVE[base]
        return Column(name, dtype, "VARCHAR" if base == "string" else None, arrow, kind.read)

    def read(buf: bytes, pos: int) -> tuple[Any, int]:
        found, pos = kind.read(buf, pos)
        text = kind.write(found)
        return (None if text == "null" else text), pos

    return Column(name, "JSON", _evolves_to(logical, definition), pa.string(), read)


def _evolves_to(logical: str | None, definition: dict[str, Any]) -> str:
    if logical is None or logical.startswith("time-"):
        return ""
    if logical == "decimal":
        precision, scale = definition["precision"], definition.get("scale", 0)
        return f"DECIMAL({precision},{scale})" if precision <= 38 else "VARCHAR"
    return {"date": "DATE", "uuid": "VARCHAR"}.get(logical, "TIMESTAMP")


def read_long(buf: bytes, pos: int) -> tuple[int, int]:
    """Read a zig-zag variable-length integer of at most 64 bits; return it and the place after it."""
    byte = buf[pos]
    pos += 1
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        shift += 7
    if shift > 70 or value >> 64:
        raise AvroError("corrupt Avro file: an integer of more than 64 bits")
    return (value >> 1) ^ -(value & 1), pos


def _read_int(buf: bytes, pos: int) -> tuple[int, int]:
    value, pos = read_long(buf, pos)
    if not -(2**31) <= value < 2**31:
        raise AvroError("corrupt Avro file: an int of more than 32 bits")
    return value, pos


def _read_bytes(buf: bytes, pos: int) -> tuple[bytes, int]:
    size, pos = read_long(buf, pos)
    end = pos + size
    if size < 0 or end > len(buf):
        raise AvroError("corrupt Avro file: text or bytes end beyond their block")
    return buf[pos:end], end


def _fixed(size: int) -> Read:
    def read(buf: bytes, pos: int) -> tuple[bytes, int]:
        end = pos + size
        if end > len(buf):
            raise IndexError
        return buf[pos:end], end

    return read


def _number(layout: str) -> Read:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)
    return lambda buf, pos: (unpack(buf, pos)[0], pos + size)


_PRIMITIVES: dict[str, Kind] = {
    "null": Kind(lambda buf, pos: (None, pos), lambda value: "null"),
    "boolean": Kind(lambda buf, pos: (buf[pos] != 0, pos + 1), lambda value: "true" if value else "false"),
    "int": Kind(_read_int, str),
    "long": Kind(read_long, str),
    "float": Kind(_number("<f"), exact_text.of_float),
    "double": Kind(_number("<d"), exact_text.of_float),
    "bytes": Kind(_read_bytes, exact_text.of_bytes),
    "string": Kind(_read_bytes, exact_text.of_bytes),
}


class _Compiler:
    """Makes a `Kind` of a schema; `names` holds the named types seen so far."""

    def __init__(self) -> None:
        self.names: dict[str, Kind] = {}

    def kind(self, schema: Schema, space: str) -> Kind:
        if isinstance(schema, list):
            return self._union([self.kind(branch, space) for branch in schema])
        if isinstance(schema, str):
            if schema in _PRIMITIVES:
                return _PRIMITIVES[schema]
            full = f"{space}.{schema}" if space and "." not in schema else schema
            return self.names[full if full in self.names else schema]
        base = schema["type"]
        if not isinstance(base, str):
            return self.kind(base, space)
        logical = self.logical(schema)
        if base in ("record", "error", "enum", "fixed"):
            return self._named(schema, base, logical, space)
        if base == "array":
            return self._blocks(self.kind(schema["items"], space), is_map=False)
        if base == "map":
            return self._blocks(self.kind(schema["values"], space), is_map=True)
        kind = self.kind(base, space)
        return Kind(kind.read, _logical_text(schema, logical)) if logical else kind

    def declared(self, schema: dict[str, Any], space: str) -> str:
        """Return the full name of a named type."""
        name, own = str(schema["name"]), schema.get("namespace", space)
        return f"{own}.{name}" if own and "." not in name else name

    def logical(self, schema: dict[str, Any]) -> str | None:
        """Return the logical type if it is known and fits the type on which it is declared."""
        logical, base = schema.get("logicalType"), schema["type"]
        if logical == "decimal" and base in ("bytes", "fixed"):
            precision, scale = schema.get("precision"), schema.get("scale", 0)
            valid = isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision > 0
            return "decimal" if valid else None
        if logical in ("date", "time-millis"):
            return logical if base == "int" else None
        if logical == "uuid":
            return logical if base == "string" or (base == "fixed" and schema.get("size") == 16) else None
        kind, _, unit = str(logical).rpartition("-")
        is_time = kind in ("timestamp", "local-timestamp") or (kind, unit) == ("time", "micros")
        return logical if is_time and unit in _PER_SECOND and base == "long" else None

    def record(self, schema: dict[str, Any], space: str) -> Kind:
        keys = [json.dumps(field["name"], ensure_ascii=False) for field in schema["fields"]]
        kinds = [self.kind(field["type"], space) for field in schema["fields"]]

        def read(buf: bytes, pos: int) -> tuple[list[Any], int]:
            values = []
            for kind in kinds:
                value, pos = kind.read(buf, pos)
                values.append(value)
            return values, pos

        def write(values: list[Any]) -> str:
            parts = zip(keys, kinds, values, strict=True)
            return "{" + ",".join(f"{key}:{kind.write(value)}" for key, kind, value in parts) + "}"

        return Kind(read, write)

    def later(self, name: str) -> Kind:
        """Stand in for a record that may contain itself, until it is made."""

        def read(buf: bytes, pos: int) -> tuple[Any, int]:
            return self.names[name].read(buf, pos)

        def write(value: Any) -> str:  # noqa: ANN401  what `read` returned
            return self.names[name].write(value)

        return Kind(read, write)

    def _named(self, schema: dict[str, Any], base: str, logical: str | None, space: str) -> Kind:
        name = self.declared(schema, space)
        if base in ("record", "error"):
            self.names[name] = self.later(name)
            self.names[name] = self.record(schema, name.rpartition(".")[0])
        elif base == "enum":
            self.names[name] = _enum([str(symbol) for symbol in schema["symbols"]])
        else:
            write = _logical_text(schema, logical) if logical else exact_text.of_bytes
            self.names[name] = Kind(_fixed(int(schema["size"])), write)
        return self.names[name]

    @staticmethod
    def _union(kinds: list[Kind]) -> Kind:
        nullable = [kind for kind in kinds if kind is not _PRIMITIVES["null"]]

        def read(buf: bytes, pos: int) -> tuple[Any, int]:
            branch, pos = read_long(buf, pos)
            if not 0 <= branch < len(kinds):
                raise AvroError(f"corrupt Avro file: a union of {len(kinds)} types has no branch {branch}")
            value, pos = kinds[branch].read(buf, pos)
            if len(nullable) == 1:
                return value, pos
            return (kinds[branch].write, value), pos

        def write(found: tuple[Write, Any]) -> str:
            return found[0](found[1])

        if len(nullable) == 1:
            return Kind(read, lambda value: "null" if value is None else nullable[0].write(value))
        return Kind(read, write)

    @staticmethod
    def _blocks(item: Kind, *, is_map: bool) -> Kind:
        def read(buf: bytes, pos: int) -> tuple[list[Any], int]:
            found: list[Any] = []
            while True:
                count, pos = read_long(buf, pos)
                if count == 0:
                    return found, pos
                if count < 0:
                    count, (_, pos) = -count, read_long(buf, pos)
                if count > len(buf):
                    raise AvroError("corrupt Avro file: an array of more items than its block has bytes")
                for _ in range(count):
                    key = None
                    if is_map:
                        key, pos = _read_bytes(buf, pos)
                    value, pos = item.read(buf, pos)
                    found.append((key, value) if is_map else value)

        def write(values: list[Any]) -> str:
            if not is_map:
                return "[" + ",".join(map(item.write, values)) + "]"
            keys = ((key.decode("utf-8", "backslashreplace"), value) for key, value in values)
            return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{item.write(value)}" for k, value in keys) + "}"

        return Kind(read, write)


def _enum(symbols: list[str]) -> Kind:
    texts = [json.dumps(symbol, ensure_ascii=False) for symbol in symbols]

    def read(buf: bytes, pos: int) -> tuple[int, int]:
        value, pos = read_long(buf, pos)
        if not 0 <= value < len(texts):
            raise AvroError(f"corrupt Avro file: an enum of {len(texts)} symbols has none of number {value}")
        return value, pos

    return Kind(read, texts.__getitem__)


def _logical_text(schema: dict[str, Any], logical: str) -> Write:
    if logical == "decimal":
        return lambda data: _decimal(data, schema.get("scale", 0))
    if logical == "date":
        return exact_text.of_date
    if logical == "uuid":
        if schema["type"] == "fixed":
            return exact_text.of_uuid
        return exact_text.of_bytes
    kind, _, unit = logical.rpartition("-")
    per_second = _PER_SECOND[unit]
    if kind == "time":
        return lambda value: exact_text.of_time(value, per_second)
    return lambda value: exact_text.of_timestamp(value, per_second)


def _decimal(data: bytes, scale: int) -> str:
    if len(data) > 1_000:  # Python writes no number of more than 4,300 digits, and no table holds one
        return exact_text.of_bytes(data)
    return exact_text.of_decimal(int.from_bytes(data, "big", signed=True), scale)
