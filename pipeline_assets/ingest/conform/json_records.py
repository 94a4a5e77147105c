"""SQL that takes JSON objects apart without changing any value's text.

Holds the discovery of fields and the SELECT that yields them. Files are read in `ingest.files.formats`; `json_numbers`
keeps the text of numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from pipeline_assets.ingest.conform import json_numbers
from pipeline_assets.ingest.conform.fields import SourceField
from pipeline_assets.sql import quote_text

MAX_FIELDS = 2_000
"""A file with more different fields than this uses keys as data; it is not read."""

OWN_PLACE = "row_number() OVER ()"
"""SQL of a record's number: its place in the relation."""

NOT_BLANK = r"trim(_text, E' \t\r\n') <> ''"


@dataclass(frozen=True)
class Keys:
    """The keys of a file's objects, and whether any object holds a key twice, or a key with U+0000 in it."""

    names: tuple[str, ...]
    any_twice: bool
    any_nul: bool = False

    @property
    def fields(self) -> tuple[SourceField, ...]:
        """The keys as fields of the SELECT of `sql`."""
        return tuple(SourceField(name, f"f{at}", "JSON") for at, name in enumerate(self.names))


@dataclass(frozen=True)
class JsonRecords:
    """Records as JSON texts, as `conform.fields.RecordSet` describes them.

    Attributes:
        sql: The SELECT of `sql`.
        fields: The keys that any of the objects has.
        has_problems: Some may be no objects.
    """

    sql: str
    fields: tuple[SourceField, ...]
    has_problems: bool = True


def record_set(con: duckdb.DuckDBPyConnection, source: str, line: str = OWN_PLACE) -> JsonRecords:
    """Give the records of `source`, a relation with `_text`; one pass over it finds the keys. `line` is as in `sql`."""
    found = keys(con, source)
    return JsonRecords(sql(source, found, line), found.fields)


def keys(con: duckdb.DuckDBPyConnection, source: str) -> Keys:
    """Collect all keys of the objects in `source`, a relation with `_text`, in one pass over the file.

    A sample would do for most files, but a key that first appears late must not count as missing.
    """
    rows = con.execute(
        f"""SELECT keys FROM (
            SELECT CASE WHEN json_valid(_text) THEN json_keys(_text) END AS keys, row_number() OVER () AS n
            FROM {source}
        ) WHERE len(keys) > 0 GROUP BY keys ORDER BY min(n)"""
    ).fetchall()
    names: dict[str, None] = {}
    for (found,) in rows:
        names.update(dict.fromkeys(found))
    usable = tuple(name for name in names if "\0" not in name)
    any_twice = any(len(set(found)) < len(found) for (found,) in rows)
    return Keys(usable, any_twice, any_nul=len(usable) < len(names))


def sql(source: str, found: Keys, line: str = OWN_PLACE) -> str:
    """Build a SELECT of `_line`, `_text`, `_problem` and `f0`, `f1`, ... : the exact JSON text of each key's value.

    Blank records are left out, but counted in `_line`.

    Args:
        source: A relation with `_text`.
        found: Its keys.
        line: SQL of a record's number, where it is not its place in the relation.
    """
    values = "NULL"
    if found.names:
        plain = f"json_extract(_text, {pointers(found.names)})"
        marked_names = [json_numbers.marked_name(name) for name in found.names]
        marked = f"json_extract({json_numbers.marked('_text')}, {pointers(marked_names)})"
        values = f"CASE WHEN _marked THEN {marked} ELSE {plain} END"
    columns = "".join(
        f", CASE WHEN _marked THEN {json_numbers.unmarked(f'_values[{i}]::VARCHAR')} "
        f"ELSE _values[{i}]::VARCHAR END AS f{i - 1}"
        for i in range(1, len(found.names) + 1)
    )
    twice = (
        "WHEN len(list_distinct(json_keys(_text))) < len(json_keys(_text)) THEN 'json: a field is given twice' "
        if found.any_twice
        else ""
    )
    # Neither SQL nor a column name can hold U+0000.
    nul = (
        "WHEN len(list_filter(json_keys(_text), lambda key: contains(key, chr(0)))) > 0 "
        "THEN 'json: a field has U+0000 in its name' "
        if found.any_nul
        else ""
    )
    return f"""SELECT _line, _text, _problem{columns} FROM (
        SELECT *, CASE WHEN _problem IS NULL THEN {values} END AS _values FROM (
            SELECT _line, _text, {json_numbers.is_at_risk("_text")} AS _marked, CASE
                WHEN NOT json_valid(_text) THEN 'json: malformed'
                WHEN json_type(_text) <> 'OBJECT' THEN 'json: not an object'
                {twice}{nul}END AS _problem
            FROM (SELECT {line} AS _line, _text FROM {source})
            WHERE {NOT_BLANK}))"""


def pointers(names: Sequence[str]) -> str:
    """Build SQL of the JSON pointers of some members of an object, as a list."""
    return f"[{', '.join(quote_text('/' + name.replace('~', '~0').replace('/', '~1')) for name in names)}]"
