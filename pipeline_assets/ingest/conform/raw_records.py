"""Raw records of dead letters made into records again, exactly as their source gave them.

A record of JSON is its own text. Of other formats the dead letter holds a JSON object of the fields, and their types
(`conform.raw_types`): each value is cast back to its type, and the object is written once more. Only if that gives the
very text of the dead letter is the record taken for the one that was read.
"""

import json

import duckdb

from pipeline_assets.ingest.conform import casts, json_records
from pipeline_assets.ingest.conform.conform import json_object
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.ingest.conform.json_records import JsonRecords
from pipeline_assets.sql import quote_text

_INEXACT = "replay: a value cannot be read from the raw record as it was; deliver or pull the record again"
_PLAIN = ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
          "UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE")  # fmt: skip


def raw_records(con: duckdb.DuckDBPyConnection, relation: str, raw_types: str) -> JsonRecords:
    """Give the records of dead letters; `_line` is their id.

    Args:
        con: A connection that has the relation.
        relation: `id` BIGINT and `_text`, the raw record.
        raw_types: As `conform.raw_types` gives it; of all of them the same.
    """
    if raw_types == "JSON":
        return json_records.record_set(con, relation, "id")
    fields = tuple(
        SourceField(name, f"f{at}", dtype, evolves_to)
        for at, (name, dtype, evolves_to) in enumerate(json.loads(raw_types))
    )
    keys = json_records.Keys(tuple(field.name for field in fields), any_twice=True)
    values = ", ".join(f"{_value(field)} AS {field.column}" for field in fields)
    typed = f"SELECT _line, _text, _problem, {values} FROM ({json_records.sql(relation, keys, 'id')})"
    same = f"{json_object(fields)} IS NOT DISTINCT FROM _text"
    return JsonRecords(
        f"SELECT * REPLACE (CASE WHEN _problem IS NOT NULL THEN _problem WHEN NOT ({same}) "
        f"THEN {quote_text(_INEXACT)} END AS _problem) FROM ({typed})",
        fields,
    )


def _value(field: SourceField) -> str:
    """Build SQL of a field's value in its type from its JSON; null where the JSON is no such value."""
    found, dtype = casts.json_value(field.column), field.dtype
    if dtype == "JSON":
        return found
    text = casts.json_text(field.column)
    if dtype == "VARCHAR":
        return text
    if dtype == "BLOB":
        base64 = f"TRY(from_base64(json_extract_string({found}, '$.base64')))"
        return f"CASE WHEN starts_with({found}, '\"') THEN encode({text}) ELSE {base64} END"
    kind = str(duckdb.sqltype(dtype))  # of the table, so that it is a type and nothing else
    if kind in _PLAIN or kind.startswith(("DECIMAL(", "DATE", "TIME", "ENUM", "INTERVAL", "UUID")):
        return f"TRY_CAST({text} AS {kind})"
    return f"TRY(CAST({found}::JSON AS {kind}))"
