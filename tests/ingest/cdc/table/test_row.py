"""Rows out of JSON documents: every digit is what the source wrote."""

from decimal import Decimal

import duckdb
import pytest

from pipeline_assets.ingest.cdc.table import row


@pytest.fixture(scope="module")
def con():
    with duckdb.connect() as con:
        yield con


def texts(con, document, *columns):
    return con.execute(f"SELECT {row.texts(columns, 'd')} FROM (SELECT ?::VARCHAR AS d)", [document]).fetchone()[0]


@pytest.mark.parametrize(
    "number",
    ["12345678901234567890.123456", "1.50", "18446744073709551615", "-0", "-0.0", "1e400", "1.0E300", "5e-324", "0E-30",
     "0.1", "1.0", "3.4028235e+38"],
)  # fmt: skip
def test_a_number_is_its_exact_text(con, number):
    assert texts(con, f'{{"id":1,"n":{number},"s":"{number}"}}', "n", "s", "id") == [number, number, "1"]


def test_nested_json_is_its_exact_text(con):
    nested = '{"a":[1,2.50,null,-0,1e400],"b":"x","c":{"d":12345678901234567890.10}}'
    assert texts(con, f'{{"j":{nested},"l":[1.10,"2.20",null]}}', "j", "l") == [nested, '[1.10,"2.20",null]']


def test_a_json_string_within_a_string_keeps_its_quotes(con):
    assert texts(con, '{"j":"\\"s\\"","k":"null","n":null,"x":1.50}', "j", "k", "n") == ['"s"', "null", None]


def test_columns_are_found_by_any_name(con):
    document = '{"a/b":1.10,"c~d":2.20,"":3.30,"\ue0f1":4.40,"\\"":5.50,"1.50":6.60}'
    assert texts(con, document, "a/b", "c~d", "", "\ue0f1", '"', "1.50", "none") == [
        "1.10", "2.20", "3.30", "4.40", "5.50", "6.60", None,
    ]  # fmt: skip


def test_of_no_document_there_are_no_texts(con):
    assert texts(con, None, "a") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-1E-10", "-0.0000000001"),
        ("0E-30", "0"),
        ("1.234E-7", "0.0000001234"),
        ("1.5e+3", "1500"),
        ("1234567890123456789012345.6E2", "123456789012345678901234560"),
        ("1.23456789012E-7", None),  # eleven digits after the point
        ("1E28", None),  # 29 before it
        ("1E-999", None),
    ],
)
def test_decimals_with_an_exponent_are_exact(con, text, expected):
    (found,) = con.execute(
        f"SELECT {row.typed('t', 'DECIMAL(38,10)')} FROM (SELECT ?::VARCHAR AS t)", [text]
    ).fetchone()
    assert found == (None if expected is None else Decimal(expected))
