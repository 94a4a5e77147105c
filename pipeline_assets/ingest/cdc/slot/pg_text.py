"""Turns PostgreSQL's text of a value into JSON in Debezium's encoding, chosen by the type's OID.

Replication and COPY both send the text that a type's output function makes, so one set of encoders gives the same JSON
for a row of the stream and a row of a snapshot. The text depends on the session's settings, which
`ingest.postgres_session` fixes. `pgoutput` knows the types of columns and the layout of messages.

    bool                              true, false
    smallint, integer, bigint, oid    JSON number
    real, double precision            JSON number; "NaN", "Infinity", "-Infinity"
    bytea                             string, base64
    array of any dimension            JSON array of the element's encoding; lower bounds are not kept
    domain                            as its base type
    anything else                     string: the text as it is (numeric, times, infinity, BC, enum, json, uuid, ...)
"""

import re
from binascii import b2a_base64, unhexlify
from collections.abc import Callable
from typing import NamedTuple

import orjson

Encoder = Callable[[bytes], bytes]
"""Turns the text of a value that is not null, in UTF-8, into JSON."""


class PgType(NamedTuple):
    """What the catalog says of a type that is neither built in nor plain text.

    Attributes:
        element: OID of the element type of an array; 0 for other types.
        delimiter: Delimiter between the elements of an array of this type.
        base: OID of the type below a domain; 0 for other types.
    """

    element: int
    delimiter: str
    base: int


def _string(raw: bytes) -> bytes:
    return orjson.dumps(raw.decode())


def _quoted(raw: bytes) -> bytes:
    """Quote a text that holds no character that JSON escapes."""
    return b'"' + raw + b'"'


def _bool(raw: bytes) -> bytes:
    return b"true" if raw == b"t" else b"false"


def _float(raw: bytes) -> bytes:
    return b'"' + raw + b'"' if raw[-1:] in b"Ny" else raw  # NaN, Infinity, -Infinity


def _bytes(raw: bytes) -> bytes:
    r"""Encode bytes given as `\x68656c6c6f`."""
    return b'"' + b2a_base64(unhexlify(raw[2:]), newline=False) + b'"'


# OIDs of the built-in types never change: src/include/catalog/pg_type.dat.
_BUILT_IN: dict[int, Encoder] = {
    **dict.fromkeys((20, 21, 23, 26), bytes),  # int8, int2, int4, oid: their text is JSON
    16: _bool,
    17: _bytes,
    **dict.fromkeys((700, 701), _float),
    # numeric, date, time, timestamp, timestamptz, timetz, interval, uuid
    **dict.fromkeys((1700, 1082, 1083, 1114, 1184, 1266, 1186, 2950), _quoted),
    # text, varchar, bpchar, json, jsonb: the catalog adds nothing
    **dict.fromkeys((25, 1043, 1042, 114, 3802), _string),
}


class Encoders:
    """Encoders by type OID, each looked up once."""

    def __init__(self, look_up: Callable[[int], PgType | None]) -> None:
        """Start with the built-in types.

        Args:
            look_up: Describes a type that is not among the built-in scalars; None if the type was dropped since.
        """
        self._look_up = look_up
        self._known = dict(_BUILT_IN)

    def __getitem__(self, oid: int) -> Encoder:
        found = self._known.get(oid)
        if found is None:
            found = self._known[oid] = self._make(self._look_up(oid))
        return found

    def _make(self, pg_type: PgType | None) -> Encoder:
        if pg_type is None:
            return _string
        if pg_type.base:
            return self[pg_type.base]
        if pg_type.element:
            return array_encoder(self[pg_type.element], pg_type.delimiter)
        return _string


def array_encoder(element: Encoder, delimiter: str = ",") -> Encoder:
    r"""Return an encoder of arrays: `{{1,2},{NULL,4}}`, `{"a \"b\"",c}`, `[2:3]={1,2}`.

    Args:
        element: Encoder of the element type.
        delimiter: The element type's delimiter; a comma for all built-in types but box.
    """
    mark = re.escape(delimiter.encode())
    token = re.compile(rb'"((?:[^"\\]|\\.)*)"|[^{}"' + mark + rb"]+|[{}" + mark + rb"]", re.DOTALL)
    fixed = {b"{": b"[", b"}": b"]", delimiter.encode(): b",", b"NULL": b"null"}

    def to_json(found: re.Match[bytes]) -> bytes:
        quoted: bytes | None = found[1]
        if quoted is not None:
            return element(_ESCAPED.sub(rb"\1", quoted))
        return fixed.get(found[0]) or element(found[0])

    # Text and JSON have the same structure, so each token is replaced in its place.
    return lambda raw: token.sub(to_json, raw[raw.index(b"{") :])


_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
