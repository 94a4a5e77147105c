"""JSON documents in and out without changing a value: what cannot be kept exactly is refused, with a reason.

Holds reading and writing of JSON, and small helpers that every parser of records needs. `debezium` and `maxwell` know
what a record means.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import orjson

from pipeline_assets.ingest.conform import names

Document: TypeAlias = dict[str, Any]
Raw: TypeAlias = bytes | str | Document | None
"""A record or its key as it arrives: text, or parsed already; None is a null, or a missing key."""

UNDECLARED = "table: {} is not declared by the source; list it under tables, or leave it out at the source"

LAST_SECOND = 253_402_300_799
"""The last second of the year 9999, in seconds since 1970."""

_INT64_DIGITS = 19
_MAX_INT64 = 2**63 - 1
_BEYOND_DOUBLES = "infinity when parsed as double"


class RefusedError(Exception):
    """A record is not an event. The message is the reason of its dead letter.

    Attributes:
        table: The source table, as far as it is known.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.table: str | None = None


def decode(text: bytes | str) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON text; numbers that Python would change (1.50, 30 digits) are kept as their text.

    orjson is fast, but keeps the last of two equal fields and the nearest double of a number. So its result is written
    again: equal bytes prove that nothing was lost. Any other text is read by the standard library, which calls back for
    each number and each object.

    Raises:
        RefusedError: The text is not JSON, not UTF-8, nested too deep, or has a field twice.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        found = orjson.loads(data)
        if orjson.dumps(found) == data:
            return found
    except orjson.JSONDecodeError as error:
        if _BEYOND_DOUBLES not in str(error):  # 1e400 is valid JSON all the same
            raise RefusedError(_what_is_wrong(data, error)) from None
    except orjson.JSONEncodeError:
        raise RefusedError("json: nested too deep, 250 levels are read") from None
    try:
        return json.loads(
            data, object_pairs_hook=_object, parse_float=orjson.Fragment, parse_int=_integer, parse_constant=_no_number
        )
    except RecursionError:
        raise RefusedError("json: nested too deep, 250 levels are read") from None
    except ValueError as error:
        raise RefusedError(f"json: {error}") from None


def encode(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Write a JSON text, without spaces.

    Raises:
        RefusedError: The value is nested too deep.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise RefusedError("json: nested too deep, 250 levels are read") from None


def document(raw: Raw) -> Any:  # noqa: ANN401 - any JSON value
    """Return a record parsed, whether it came as text or not."""
    return decode(raw) if isinstance(raw, bytes | str) else raw


def raw_text(value: Raw, key: Raw = None) -> str:
    """Return a record as the text of a dead letter.

    If its key came separately, one JSON object holds both.
    """
    if key is None:
        return _text(value)
    shown = _text(key)
    try:
        decode(shown)
    except RefusedError:
        shown = encode(shown)  # a key that is not JSON
    return f'{{"key": {shown}, "value": {_text(value)}}}'


def integer(value: object) -> int | None:
    """Return a position or a count from a number or its digits; None if it is not an integer from 0 to 2^63 - 1."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _INT64_DIGITS:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INT64:
        return value
    return None


def key_of(columns: Sequence[str], *documents: Mapping[str, Any] | None) -> Document:
    """Return the declared keys in their order, each from the first of some documents that has it.

    Raises:
        RefusedError: A key is missing or null in all of them.
    """
    found = {}
    for name in columns:
        found[name] = next((d[name] for d in documents if d is not None and d.get(name) is not None), None)
    if missing := [name for name, value in found.items() if value is None]:
        raise RefusedError(f"key: {', '.join(missing)} is missing")
    return found


def named(keys: Sequence[str], *rows: Mapping[str, Any] | None) -> Mapping[str, str]:
    """Return the contract's names for the columns of a record's documents, as `names.renamed` gives them.

    Returns:
        Name at the source to name in the contract, where they differ.

    Raises:
        RefusedError: Two columns match the same column of the contract.
    """
    columns = keys.columns if isinstance(keys, names.Keys) else None
    if columns is None or all(columns.names.issuperset(row or ()) for row in rows):
        return {}
    own = tuple(dict.fromkeys(name for row in rows for name in row or ()))
    if clash := names.clashes(own, keys):
        raise RefusedError(f"names: {names.clash_text(clash)}; name one of them otherwise at the source")
    return {old: new for old, new in zip(own, names.renamed(own, keys), strict=True) if old != new}


def with_names(row: Document | None, naming: Mapping[str, str]) -> Document | None:
    """Return a row with other names for some columns."""
    return {naming.get(name, name): value for name, value in row.items()} if row and naming else row


def shown(value: object) -> str:
    """Return a value as a reason quotes it: short, and the same each time."""
    text = repr(value)
    if "orjson.Fragment" in text:  # a number that is kept as its text; repr() would show its address in memory
        text = encode(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _text(raw: Raw) -> str:
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "backslashreplace")
    if isinstance(raw, str):
        return raw.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is not valid text for any table
    return encode(raw)


def _what_is_wrong(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as wrong:
        return f"encoding: byte {wrong.start + 1} is not UTF-8"
    return f"json: {error}"


def _object(pairs: list[tuple[str, Any]]) -> Document:
    found = dict(pairs)
    if len(found) < len(pairs):
        given = [name for name, _ in pairs]
        raise RefusedError(f"json: field {shown(next(n for n in given if given.count(n) > 1))} is given twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _integer(digits: str) -> Any:  # noqa: ANN401 - an int, or the digits
    return int(digits) if len(digits) <= _INT64_DIGITS and digits != "-0" else orjson.Fragment(digits)
