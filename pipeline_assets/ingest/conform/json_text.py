"""SQL that writes a typed value as strict JSON, exactly.

DuckDB's `to_json` writes NaN and infinities bare, which is not JSON, and bytes as text with backslashes, which looks
like a text with the same backslashes. Here NaN and infinities are strings, and bytes that are not UTF-8 are `{"base64":
"..."}`.
"""

from typing import cast

import duckdb
from duckdb.sqltypes import DuckDBPyType

from pipeline_assets.sql import quote_text

_FLOATS = ("float", "double")
_PARTS = ("list", "array", "struct", "map", "union")


def to_json(value: str, dtype: str) -> str:
    """Return SQL for a value's JSON as text; null for null.

    Args:
        value: SQL of the value.
        dtype: Its DuckDB type; "JSON" for text that is JSON already.
    """
    if dtype == "JSON":
        return value
    if not any(word in dtype for word in ("FLOAT", "DOUBLE", "BLOB")):
        return f"to_json({value})::VARCHAR"
    return _of_type(value, duckdb.sqltype(dtype), 0)


def text_of_bytes(value: str) -> str:
    """Return SQL for the text of bytes; null where they are not UTF-8."""
    return f"TRY(decode({value}))"


def _of_type(value: str, dtype: DuckDBPyType, depth: int) -> str:
    """Write a value as `to_json` does; `depth` keeps the names of nested lambdas apart."""
    if dtype.id in _FLOATS:
        written = f"to_json({value})::VARCHAR"
        return f"CASE WHEN isfinite({value}) THEN {written} ELSE '\"' || {value} || '\"' END"
    if dtype.id == "blob":
        text = text_of_bytes(value)
        return f"coalesce(to_json({text})::VARCHAR, '{{\"base64\":\"' || base64({value}) || '\"}}')"
    if dtype.id not in _PARTS or not _is_at_risk(dtype):
        return f"to_json({value})::VARCHAR"
    children = _children(dtype)
    if dtype.id == "struct":
        fields = [
            _member(
                f"to_json({quote_text(name)})", _of_type(f"struct_extract({value}, {quote_text(name)})", kind, depth)
            )
            for name, kind in children.items()
        ]
        return f"CASE WHEN {value} IS NOT NULL THEN '{{' || concat_ws(',', {', '.join(fields)}) || '}}' END"
    if dtype.id == "union":
        members = [
            f"WHEN {quote_text(tag)} THEN "
            + _member(
                f"'{{' || to_json({quote_text(tag)})",
                _of_type(f"union_extract({value}, {quote_text(tag)})", kind, depth),
            )
            for tag, kind in children.items()
        ]
        return f"CASE union_tag({value})::VARCHAR {' '.join(members)} END || '}}'"
    item = f"j{depth}"
    if dtype.id == "map":
        key = f"to_json({item}.key::VARCHAR)::VARCHAR"
        member = _member(key, _of_type(f"{item}.value", children["value"], depth + 1))
        return f"'{{' || array_to_string(list_transform(map_entries({value}), lambda {item}: {member}), ',') || '}}'"
    element = children["child"]
    part = f"coalesce({_of_type(item, element, depth + 1)}, 'null')"
    return f"'[' || array_to_string(list_transform({value}::{element}[], lambda {item}: {part}), ',') || ']'"


def _member(key: str, value: str) -> str:
    return f"{key} || ':' || coalesce({value}, 'null')"


def _is_at_risk(dtype: DuckDBPyType) -> bool:
    if dtype.id in _FLOATS or dtype.id == "blob":
        return True
    return dtype.id in _PARTS and any(_is_at_risk(kind) for kind in _children(dtype).values())


def _children(dtype: DuckDBPyType) -> dict[str, DuckDBPyType]:
    """Return the parts of a type: a struct's fields, a union's members, a list's "child", a map's "key" and "value"."""
    children = cast(list[tuple[str, DuckDBPyType]], dtype.children)
    left_out = {"array": "size", "union": ""}.get(dtype.id)  # the length of an array; the tag of a union
    return {name: kind for name, kind in children if name != left_out}
