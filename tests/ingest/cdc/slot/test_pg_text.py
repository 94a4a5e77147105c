"""Texts of values as PostgreSQL prints them, and the JSON that they become."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingest.cdc.slot.pg_text import Encoders, PgType, array_encoder

BOX, BOX_ARRAY, TEXT_ARRAY, INT_ARRAY, BYTEA_ARRAY, MOOD, MOOD_ARRAY, AGE, AGES = (
    603,
    1020,
    1009,
    1007,
    1001,
    *range(20000, 20004),
)
CATALOG = {
    BOX: PgType(0, ";", 0), BOX_ARRAY: PgType(BOX, ";", 0), TEXT_ARRAY: PgType(25, ",", 0),
    INT_ARRAY: PgType(23, ",", 0), BYTEA_ARRAY: PgType(17, ",", 0), MOOD: PgType(0, ",", 0),
    MOOD_ARRAY: PgType(MOOD, ",", 0), AGE: PgType(0, ",", 23), AGES: PgType(0, ",", INT_ARRAY),
}  # fmt: skip


def encode(oid: int, text: str) -> str:
    return Encoders(CATALOG.get)[oid](text.encode()).decode()


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (20, "9223372036854775807", "9223372036854775807"),
        (23, "-1", "-1"),
        (26, "4294967295", "4294967295"),
        (16, "t", "true"),
        (16, "f", "false"),
        (701, "1e-07", "1e-07"),
        (701, "-0", "-0"),
        (701, "NaN", '"NaN"'),
        (700, "Infinity", '"Infinity"'),
        (700, "-Infinity", '"-Infinity"'),
        (1700, "99999999999999999999999999999999999999", '"99999999999999999999999999999999999999"'),
        (1700, "2.50", '"2.50"'),
        (1700, "NaN", '"NaN"'),
        (17, r"\x00ff", '"AP8="'),
        (17, r"\x", '""'),
        (1082, "0044-03-15 BC", '"0044-03-15 BC"'),
        (1114, "infinity", '"infinity"'),
        (1184, "2026-01-02 03:04:05.678+00", '"2026-01-02 03:04:05.678+00"'),
        (1186, "P1Y2M3DT4H5M6.789S", '"P1Y2M3DT4H5M6.789S"'),
        (2950, "b68a35a7-17ad-35b3-af2a-ae46edb4545a", '"b68a35a7-17ad-35b3-af2a-ae46edb4545a"'),
        (3802, '{"a": 2.50}', r'"{\"a\": 2.50}"'),
        (25, 'tab\t, "quotes", back\\slash, \x01, é, 🛒', r'"tab\t, \"quotes\", back\\slash, \u0001, é, 🛒"'),
        (25, "", '""'),
        (MOOD, "fine", '"fine"'),
        (AGE, "7", "7"),
        (AGES, "{7}", "[7]"),
        (99999, "{dropped,type}", '"{dropped,type}"'),
    ],
)
def test_a_value(oid: int, text: str, expected: str):
    assert encode(oid, text) == expected


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (INT_ARRAY, "{}", []),
        (INT_ARRAY, "{1,NULL,-3}", [1, None, -3]),
        (INT_ARRAY, "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        (INT_ARRAY, "[2:3]={1,2}", [1, 2]),
        (INT_ARRAY, "[0:0][-1:0]={{1,2}}", [[1, 2]]),
        (TEXT_ARRAY, '{NULL,"NULL","",null}', [None, "NULL", "", "null"]),
        (TEXT_ARRAY, r'{"a \"b\"","c\\d","{,}",plain text}', ['a "b"', "c\\d", "{,}", "plain text"]),
        (TEXT_ARRAY, '{"two\nlines"}', ["two\nlines"]),
        (BYTEA_ARRAY, r'{"\\x00ff","\\x"}', ["AP8=", ""]),
        (BOX_ARRAY, "{(3,4),(1,2);(1,1),(0,0)}", ["(3,4),(1,2)", "(1,1),(0,0)"]),
        (MOOD_ARRAY, "{fine,NULL}", ["fine", None]),
    ],
)  # fmt: skip
def test_an_array(oid: int, text: str, expected: list[Any]):
    assert json.loads(encode(oid, text)) == expected


def array_out(value: Any) -> str:
    """What src/backend/utils/adt/arrayfuncs.c prints."""
    if isinstance(value, list):
        return "{" + ",".join(map(array_out, value)) + "}"
    if value is None:
        return "NULL"
    if value == "" or value.upper() == "NULL" or any(c in '{},"\\ \t\n\r\v\f' for c in value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


ELEMENTS = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from('{},"\\')
ARRAYS = st.recursive(st.lists(ELEMENTS), lambda inner: st.lists(inner, min_size=1), max_leaves=20)


@given(ARRAYS)
def test_any_array_of_text_survives(value: list[Any]):
    assert json.loads(encode(TEXT_ARRAY, array_out(value))) == value


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_text_survives(value: str):
    assert json.loads(encode(25, value)) == value


@given(st.binary())
def test_any_bytes_survive(value: bytes):
    assert base64.b64decode(json.loads(encode(17, f"\\x{value.hex()}"))) == value


def test_a_type_is_looked_up_once():
    asked = []
    encoders = Encoders(lambda oid: asked.append(oid))
    assert encoders[50000] is encoders[50000]
    assert asked == [50000]


def test_an_element_decides_how_it_is_written():
    assert array_encoder(lambda raw: b"<" + raw + b">")(b"{a,NULL}") == b"[<a>,null]"
