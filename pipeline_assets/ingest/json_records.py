"""SQL that takes JSON objects apart without changing any value's text.

Holds the discovery of fields and the SELECT that yields them. Does not hold reading of files (`readers`).

DuckDB parses 1.50 to a double and prints 1.5, prints 1e5 as 100000.0 and 0.10000000000000000555 as 0.1. Lines that
hold such a number have all their numbers marked as strings before they are taken apart, and unmarked after.
"""

from dataclasses import dataclass

import duckdb

from pipeline_assets.ingest.sql import quoted

MAX_FIELDS = 2_000
"""More different fields than this in one file are keys used as data; such a file is not read."""

NOT_BLANK = r"trim(_text, E' \t\r\n') <> ''"

# A private-use character before the digits of a marked number. A line that holds it already, as it is or as an
# escape, is not marked, and only marked lines are unmarked: no text of the source is ever taken for a mark.
_MARK = "\ue0f1"
_MARK_ESCAPED = r"\ue0f1"
_STRING = r'"(?:[^"\\]|\\.)*"'
# Numbers whose text may not survive: a fraction that ends in 0, an exponent, a minus zero, 16 digits and more
# with a point among them (a double keeps 15), or so small that they are printed with an exponent.
_AT_RISK = r"\.[0-9]*0([^0-9]|$)|[0-9][eE][-+0-9]|[:,\[]\s*-0|[0-9.]{16}|\.000"


@dataclass(frozen=True)
class Keys:
    """The keys of a file's objects, and whether any object has one of them twice."""

    names: tuple[str, ...]
    any_twice: bool


def keys(con: duckdb.DuckDBPyConnection, source: str) -> Keys:
    """All keys of the objects in `source`, a relation with `_text`; one pass over the file.

    A sample would do for most files, but a key that first comes late must not be taken for missing.
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
    return Keys(tuple(names), any(len(set(found)) < len(found) for (found,) in rows))


def sql(source: str, found: Keys) -> str:
    """A SELECT of `_line`, `_text`, `_problem` and `f0`, `f1`, ... : the exact JSON text of each key's value.

    Blank records are left out, but counted in `_line`.
    """
    paths = ", ".join(quoted("/" + name.replace("~", "~0").replace("/", "~1")) for name in found.names)
    text = f"CASE WHEN _marked THEN {_with_marks()} ELSE _text END"
    values = f"json_extract({text}, [{paths}])" if paths else "NULL"
    columns = "".join(
        f", CASE WHEN _marked AND contains(_values[{i}]::VARCHAR, '{_MARK}') "
        f"THEN regexp_replace(_values[{i}]::VARCHAR, '\"{_MARK}([^\"]*)\"', '\\1', 'g') "
        f"ELSE _values[{i}]::VARCHAR END AS f{i - 1}"
        for i in range(1, len(found.names) + 1)
    )
    twice = (
        "WHEN len(list_distinct(json_keys(_text))) < len(json_keys(_text)) THEN 'json: a field is given twice' "
        if found.any_twice
        else ""
    )
    return f"""SELECT _line, _text, _problem{columns} FROM (
        SELECT *, CASE WHEN _problem IS NULL THEN {values} END AS _values FROM (
            SELECT _line, _text, {_is_at_risk()} AS _marked, CASE
                WHEN NOT json_valid(_text) THEN 'json: malformed'
                WHEN json_type(_text) <> 'OBJECT' THEN 'json: not an object'
                {twice}END AS _problem
            FROM (SELECT row_number() OVER () AS _line, _text FROM {source})
            WHERE {NOT_BLANK}))"""


def _is_at_risk() -> str:
    """Whether a number of the line may change its text, and the line can be marked."""
    return (
        f"regexp_matches(_text, '{_AT_RISK}') AND NOT contains(_text, '{_MARK}') "
        f"AND NOT contains(lower(_text), '{_MARK_ESCAPED}')"
    )


def _with_marks() -> str:
    """The line with all its numbers as marked strings."""
    return (
        f"array_to_string(list_transform(regexp_extract_all(_text, '{_STRING}|[^\"]+'), "
        "lambda part: CASE WHEN starts_with(part, '\"') THEN part "
        f"ELSE regexp_replace(part, '-?[0-9][0-9.eE+-]*', '\"{_MARK}\\0\"', 'g') END), '')"
    )
