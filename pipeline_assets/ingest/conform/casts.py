"""Faithful casts as SQL expressions: null where the value does not fit its type exactly.

Holds expressions by source type and target type. Which field feeds which column, and reasons, are in `conform`.
"""

import re
from collections.abc import Callable

from pipeline_assets.ingest.conform import json_numbers
from pipeline_assets.ingest.conform.json_text import text_of_bytes, to_json
from pipeline_assets.sql import quote_text

_ALIASES = {
    "TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE",
    "INT": "INTEGER",
    "TEXT": "VARCHAR",
    "STRING": "VARCHAR",
    "BOOL": "BOOLEAN",
}
_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_UNSIGNED = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")
_WHITESPACE = r"E' \t\r\n'"
_SHOWN_CHARACTERS = 100  # characters of a value that a reason shows

_DAY = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)-[0-9]{2}-[0-9]{2}"  # years 0001 to 9999
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6}0*)?)?"
_ZONE = "(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
_FLOAT = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_WITH_EXPONENT = r"[+-]?[0-9]{1,80}(\.[0-9]{0,80})?[eE][+-]?[0-9]{1,3}"


def normal(dtype: str) -> str:
    """Return a DuckDB type as DESCRIBE spells it."""
    upper = dtype.strip()
    if not upper.startswith(("STRUCT", "ENUM", "MAP", "UNION")):
        upper = upper.upper()
    return _ALIASES.get(upper, re.sub(r"^(?:DECIMAL|NUMERIC)\((\d+)\s*,\s*(\d+)\)$", r"DECIMAL(\1,\2)", upper))


def trimmed(text: str) -> str:
    """Return SQL for the text without surrounding white space."""
    return f"trim({text}, {_WHITESPACE})"


def misfit_reason(name: str, text: str, dtype: str) -> str:
    """Return SQL of the reason why a text does not fit a column; it quotes the beginning of the text."""
    before, after = quote_text(f"cast: {name}: '"), quote_text(f"' is not {dtype}")
    return f"{before} || left({text}, {_SHOWN_CHARACTERS}) || {after}"


def json_text(field: str) -> str:
    """Return SQL for the text of a JSON value: a string's characters, null for null, otherwise the JSON itself."""
    string = f"WHEN starts_with({field}, '\"') THEN json_extract_string({field}, '$')"
    return f"CASE {string} WHEN {field} <> 'null' THEN {field} END"


def json_value(field: str) -> str:
    """Return SQL for the JSON of a value as it is; null for null."""
    return f"nullif({field}, 'null')"


def from_text(text: str, target: str) -> str:
    """Cast a trimmed text; null where it is not exactly a value of the type."""
    tried = f"TRY_CAST({text} AS {target})"
    if decimal := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", target):
        return _decimal_from_text(text, target, int(decimal[2]))
    if target in (*_SIGNED, *_UNSIGNED):
        return f"CASE WHEN {_is(text, '[+-]?[0-9]+([.]0*)?')} THEN {tried} END"
    if target in ("DOUBLE", "FLOAT"):
        number = f"WHEN {_is(text, _FLOAT)} AND isfinite({tried}) THEN {tried}"
        return f"CASE {number} WHEN {_is(text, '(?i)nan|[+-]?inf(inity)?')} THEN {tried} END"
    if target == "BOOLEAN":
        true, false = (f"lower({text}) IN ({words})" for words in ("'true', 't', '1'", "'false', 'f', '0'"))
        return f"CASE WHEN {true} THEN true WHEN {false} THEN false END"
    if target == "DATE":
        midnight = f"{_DAY}([ T]00:00(:00([.]0+)?)?)?"
        return f"CASE WHEN {_is(text, midnight)} THEN TRY_CAST(left({text}, 10) AS DATE) END"
    if target in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        return _timestamp_from_text(text, target)
    if target == "VARCHAR":
        return text
    return f"CASE WHEN {tried}::VARCHAR = {text} THEN {tried} END"


def _decimal_from_text(text: str, target: str, scale: int) -> str:
    tried = f"TRY_CAST({text} AS {target})"
    fraction = f"[0-9]{{0,{scale}}}0*"
    plain = rf"[+-]?([0-9]+([.]{fraction})?|[.][0-9]{fraction})" if scale else "[+-]?[0-9]+([.]0*)?"
    if scale:  # the first digit of ".5" counts towards the scale
        plain = plain.replace(f"[.][0-9]{fraction}", f"[.][0-9][0-9]{{0,{scale - 1}}}0*")
    shifted = _without_exponent(text)
    with_exponent = f"{_is(text, _WITH_EXPONENT)} AND {_is(shifted, plain)} THEN TRY_CAST({shifted} AS {target})"
    return f"CASE WHEN {_is(text, plain)} THEN {tried} WHEN {with_exponent} END"


def _without_exponent(text: str) -> str:
    """Return SQL for the digits of a number with an exponent, with the point in its place: 1.5E-7 is 0.00000015."""
    whole, fraction = f"regexp_extract({text}, '[0-9]+')", f"regexp_extract({text}, '[.]([0-9]*)', 1)"
    exponent = f"TRY_CAST(regexp_extract({text}, '[eE](.*)', 1) AS INTEGER)"
    parts = f"struct_pack(digits := {whole} || {fraction}, point := len({whole}) + {exponent})"
    padded = "repeat('0', 1 + greatest(-n.point, 0)) || n.digits || repeat('0', greatest(n.point - len(n.digits), 0))"
    sign, at = f"regexp_extract({text}, '^-')", "1 + greatest(n.point, 0)"
    placed = f"{sign} || left({padded}, {at}) || '.' || substr({padded}, 1 + {at})"
    return f"list_transform([{parts}], lambda n: {placed})[1]"


def _timestamp_from_text(text: str, target: str) -> str:
    """Cast ISO 8601 to the microsecond. Seconds are optional, a zone is honoured, no zone means UTC (or local time)."""
    instant = rf"TRY_CAST(regexp_replace({text}, '^(.{{16}})([Z+-])', '\1:00\2') AS TIMESTAMPTZ)"
    naive = f"TRY_CAST({text} AS TIMESTAMP)"
    if target == "TIMESTAMP":
        instant = f"{instant} AT TIME ZONE 'UTC'"
    else:
        naive = f"{naive} AT TIME ZONE 'UTC'"
    without_zone, with_zone = f"{_DAY}([ T]{_CLOCK})?", f"{_DAY}[ T]{_CLOCK}{_ZONE}"
    return f"CASE WHEN {_is(text, without_zone)} THEN {naive} WHEN {_is(text, with_zone)} THEN {instant} END"


def from_json(text: str, target: str, depth: int = 0, *, scalar: Callable[[str, str], str] = from_text) -> str:
    """Cast a JSON value to a list; null where it is not an array, or an element does not fit its type.

    Args:
        text: SQL of JSON as text.
        target: Type of the list.
        depth: Number of lists around it.
        scalar: Casts the text of an element that is not a list.
    """
    element, item = target.removesuffix("[]"), f"e{depth}"
    unmarked = json_numbers.unmarked("part")
    value = f"nullif({trimmed(json_text(item))}, '')" if element not in ("VARCHAR", "BLOB") else json_text(item)
    cast = from_json(item, element, depth + 1, scalar=scalar) if element.endswith("[]") else scalar(value, element)
    kept = f"list_transform(json_extract({json_numbers.marked(text)}, '$[*]')::VARCHAR[], lambda part: {unmarked})"
    parts = f"CASE WHEN {json_numbers.is_at_risk(text)} THEN {kept} ELSE json_extract({text}, '$[*]')::VARCHAR[] END"
    misfits = f"list_filter({parts}, lambda {item}: {item} <> 'null' AND ({cast}) IS NULL)"
    return (
        f"CASE WHEN json_type({text}) = 'ARRAY' AND len({misfits}) = 0 "
        f"THEN list_transform({parts}, lambda {item}: {cast}) END"
    )


def from_native(value: str, source: str, target: str) -> str:
    """Cast a typed value; null where casting back does not give the same value."""
    if _is_wider(source, target):
        return f"{value}::{target}"
    if target == "VARCHAR":
        if source == "BLOB":
            return text_of_bytes(value)
        nested = source.startswith(("STRUCT", "MAP", "UNION")) or source.endswith("]")
        return to_json(value, source) if nested else f"{value}::VARCHAR"
    cast, back = f"TRY_CAST({value} AS {target})", f"TRY_CAST(TRY_CAST({value} AS {target}) AS {source})"
    if source.startswith("TIMESTAMP") and target.startswith("TIMESTAMP"):
        zoned = (source == "TIMESTAMP WITH TIME ZONE", target == "TIMESTAMP WITH TIME ZONE")
        if zoned == (True, False) or (zoned == (False, True) and source == "TIMESTAMP"):
            return f"({value} AT TIME ZONE 'UTC')"
        if zoned == (False, True):
            cast, back = f"TRY_CAST({value} AS TIMESTAMP)", f"TRY_CAST(TRY_CAST({value} AS TIMESTAMP) AS {source})"
            return f"CASE WHEN {back} = {value} THEN {cast} AT TIME ZONE 'UTC' END"
    return f"CASE WHEN {back} = {value} THEN {cast} END"


def out_of_range(value: str, dtype: str, depth: int = 0) -> str | None:
    """Return SQL for whether other engines cannot read a time: infinity and years outside 0001 to 9999.

    Args:
        value: SQL of a value of the type.
        dtype: The type, as `normal` spells it.
        depth: Number of lists around it.

    Returns:
        The condition; None for types that hold no time.
    """
    if dtype.endswith("[]"):
        inner = out_of_range(f"r{depth}", dtype.removesuffix("[]"), depth + 1)
        return inner and f"len(list_filter({value}, lambda r{depth}: {inner})) > 0"
    if dtype == "DATE":
        return f"{value} NOT BETWEEN DATE '0001-01-01' AND DATE '9999-12-31'"
    if dtype.startswith("TIMESTAMP"):
        if dtype == "TIMESTAMP_NS":  # it holds only the years 1677 to 2262, so no bound to compare with
            value = f"{value}::TIMESTAMP"
        kind = "TIMESTAMPTZ" if dtype == "TIMESTAMP WITH TIME ZONE" else "TIMESTAMP"
        return f"{value} NOT BETWEEN {kind} '0001-01-01 00:00:00' AND {kind} '9999-12-31 23:59:59.999999'"
    return None


def _is_wider(source: str, target: str) -> bool:
    """Tell whether every value of the source fits the target, so that no check is needed."""
    if source in _SIGNED and target in _SIGNED:
        return _SIGNED.index(source) < _SIGNED.index(target)
    if source in _UNSIGNED and target in _SIGNED:
        return _UNSIGNED.index(source) < _SIGNED.index(target)
    if source in _UNSIGNED and target in _UNSIGNED:
        return _UNSIGNED.index(source) < _UNSIGNED.index(target)
    decimals = [re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", dtype) for dtype in (source, target)]
    if decimals[0] and decimals[1]:
        (p1, s1), (p2, s2) = ((int(d[1]), int(d[2])) for d in decimals if d)
        return s2 >= s1 and p2 - s2 >= p1 - s1
    return (source, target) in (("DATE", "TIMESTAMP"), ("FLOAT", "DOUBLE"))


def _is(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, '{pattern}')"
