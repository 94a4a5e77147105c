"""Strict JSON of typed values, against Python's parser told to refuse what is no JSON."""

import json

import pytest

from pipeline_assets.ingest.conform.json_text import to_json


def strict(text):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        ("'nan'", "DOUBLE", "nan"),
        ("'-infinity'", "FLOAT", "-inf"),
        ("1.5", "DOUBLE", 1.5),
        ("['nan'::DOUBLE, NULL, 1.5]", "DOUBLE[]", ["nan", None, 1.5]),
        ("[]", "DOUBLE[]", []),
        ("[[1.5], NULL, ['inf'::DOUBLE]]", "DOUBLE[][]", [[1.5], None, ["inf"]]),
        ("[1, 2, 'nan'::DOUBLE]", "DOUBLE[3]", [1.0, 2.0, "nan"]),
        ("{'a': 'inf', 'b \"c': [{'d': 'nan'}]}", 'STRUCT(a DOUBLE, "b ""c" STRUCT(d FLOAT)[])',
         {"a": "inf", 'b "c': [{"d": "nan"}]}),
        ("MAP {'x\"': 'nan', 'y': NULL}", "MAP(VARCHAR, FLOAT)", {'x"': "nan", "y": None}),
        ("union_value(a := 'nan'::DOUBLE)", "UNION(a DOUBLE, b VARCHAR)", {"a": "nan"}),
        ("'caf\\xC3\\xA9'", "BLOB", "café"),
        ("'\\xFF\\x00'", "BLOB", {"base64": "/wA="}),
        ("['\\xFF'::BLOB, 'a'::BLOB]", "BLOB[]", [{"base64": "/w=="}, "a"]),
        ("[1234567890123456789.0123456789]", "DECIMAL(38,10)[]", [1234567890123456789.0123456789]),
    ],
)  # fmt: skip
def test_a_value_is_strict_json(con, value, dtype, expected):
    text = con.execute(f"SELECT {to_json('v', dtype)} FROM (SELECT CAST({value} AS {dtype}) AS v)").fetchone()[0]
    assert strict(text) == expected


@pytest.mark.parametrize("dtype", ["DOUBLE", "DOUBLE[]", "STRUCT(a DOUBLE)", "MAP(VARCHAR, DOUBLE)", "BLOB", "BIGINT"])
def test_null_stays_null(con, dtype):
    assert con.execute(f"SELECT {to_json('v', dtype)} FROM (SELECT NULL::{dtype} AS v)").fetchone() == (None,)


def test_digits_of_nested_decimals_stay(con):
    value = "[1234567890123456789012345678.0123456789::DECIMAL(38,10)]"
    sql = f"SELECT {to_json('v', 'DECIMAL(38,10)[]')} FROM (SELECT {value} AS v)"
    assert con.execute(sql).fetchone() == ("[1234567890123456789012345678.0123456789]",)
