"""Values that many readers change in silence come exactly, or are dead letters with the value in the reason."""

import json
from pathlib import Path
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from bank import Bank

DEAD = object()


class Unusual(pa.DataFrameModel):
    """A column of each kind; what else a source has goes to `_rescued`."""

    id: int
    moment: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)
    local: Annotated[pl.Datetime, "us", None] = pa.Field(nullable=True)
    day: pl.Date = pa.Field(nullable=True)
    digits: Annotated[pl.Decimal, 38, 10] = pa.Field(nullable=True)
    double: float = pa.Field(nullable=True)
    text: str = pa.Field(nullable=True)
    code: str = pa.Field(nullable=True)
    words: Annotated[pl.List, pl.String] = pa.Field(nullable=True)


NO_TIMES = ("infinity", "-infinity", "20000-01-01")
POSTGRES: dict[tuple[str, str], Any] = {
    **{(column, f"'{value}'"): DEAD for column in ("moment", "local", "day") for value in NO_TIMES},
    **{(column, "'0044-03-15 BC'"): DEAD for column in ("moment", "local", "day")},
    **{("digits", value): DEAD for value in ("'NaN'", "'Infinity'", "'-Infinity'", "1e-11", "1e29")},
    ("double", "'NaN'"): "nan", ("double", "'Infinity'"): "inf", ("double", "'-Infinity'"): "-inf",
    ("code", "'a'"): "a    ",
    ("words", "'{infinity}'::timestamptz[]::text[]"): "[infinity]",
    ("code_of_none", "'a'"): "a    ",
    ("bytes", r"'\x00ff'"): {"base64": "AP8="}, ("bytes", r"'\x636166c3a9'"): "café",
    ("ends", "'infinity'"): "infinity",
    ("clock", "'12:00:00.5+02'"): "12:00:00.5+02",
    ("price", "'$1,234.50'"): "$1,234.50",
    ("span", "'[2020-01-01,infinity)'"): '["2020-01-01 00:00:00",infinity)',
    ("spans", "'{[1,2),[4,5)}'"): "{[1,2),[4,5)}",
    ("pairs", "ARRAY[ROW(1, 'x \"y')::pair, NULL]"): [{"a": 1, "b": 'x "y'}, None],
    ("one_pair", "ROW(1, NULL)"): "(1,)",
    ("bits", "B'101'"): "101",
    ("doubles", "'{NaN,Infinity,1.5}'"): ["NaN", "Infinity", 1.5],
    ("numerics", "'{NaN,0.10}'"): ["NaN", 0.10],
    ("document", "'{\"a\": 1.0000000000000000001}'"): '{"a": 1.0000000000000000001}',
}  # fmt: skip
POSTGRES_TABLE = """
    CREATE TABLE unusual (id int, moment timestamptz, local timestamp, day date, digits numeric, double float8,
        text text, code char(5), words text[], code_of_none char(5), bytes bytea, ends moment, clock timetz,
        price money, span tsrange, spans int4multirange, pairs pair[], one_pair pair, bits bit(3), doubles float8[],
        numerics numeric[], document json)
"""

DUCKDB: dict[tuple[str, str], Any] = {
    **{(column, f"'{value}'"): DEAD for column in ("moment", "local", "day") for value in NO_TIMES},
    **{(column, "'0044-03-15 (BC)'"): DEAD for column in ("moment", "local", "day")},
    **{("digits", value): DEAD for value in ("'nan'", "'inf'", "1e300")},
    ("digits", "0.1"): "0.1000000000",
    ("double", "'nan'"): "nan", ("double", "'inf'"): "inf", ("double", "'-inf'"): "-inf",
    ("text", r"'\x00\xFF'::BLOB"): DEAD, ("text", r"'caf\xC3\xA9'::BLOB"): "café",
    ("words", "['infinity'::TIMESTAMPTZ]"): "[infinity]",
    ("clock", "'12:00:00.5+02'"): "12:00:00.5+02",
    ("nanoseconds", "'2020-01-01 00:00:00.123456789'"): "2020-01-01 00:00:00.123456789",
    ("pair", "{'a': 'nan'::DOUBLE, 'b': 'infinity'::TIMESTAMP}"): {"a": "nan", "b": "infinity"},
    ("pairs", "[{'a': 'inf'::DOUBLE}]"): [{"a": "inf"}],
    ("doubles", "['nan'::DOUBLE, 1.5]"): ["nan", 1.5],
    ("either", "union_value(n := 'nan'::DOUBLE)"): {"n": "nan"},
    ("huge", "170141183460469231731687303715884105727"): "170141183460469231731687303715884105727",
    ("span", "INTERVAL '1 month 2 days'"): "1 month 2 days",
}  # fmt: skip
DUCKDB_TABLE = """
    CREATE TABLE unusual (id INT, moment TIMESTAMPTZ, local TIMESTAMP, day DATE, digits DOUBLE, double DOUBLE,
        text BLOB, words TIMESTAMPTZ[], clock TIMETZ, nanoseconds TIMESTAMP_NS, pair STRUCT(a DOUBLE, b TIMESTAMP),
        pairs STRUCT(a DOUBLE)[], doubles DOUBLE[], either UNION(n DOUBLE, s VARCHAR), huge HUGEINT, span INTERVAL)
"""

SQLITE: dict[tuple[str, str], Any] = {
    **{(column, f"'{value}'"): DEAD for column in ("moment", "local", "day") for value in NO_TIMES},
    **{("moment", value): DEAD for value in ("'0044-03-15 BC'", "'-0044-03-15'", "1577836800")},
    ("local", "'2020-01-01 00:00:00.1234567'"): DEAD,
    ("day", "'2020-02-30'"): DEAD,
    **{("digits", value): DEAD for value in ("'NaN'", "9e999", "x'ff'", "1e-11")},
    ("digits", "x'31'"): "1.0000000000",
    ("digits", "1e25"): "10000000000000000000000000.0000000000",
    ("double", "'nan'"): "nan", ("double", "9e999"): "inf", ("double", "-9e999"): "-inf", ("double", "x'ff'"): DEAD,
    ("text", "x'00ff'"): DEAD, ("text", "x'636166c3a9'"): "café",
    ("extra", "x'00ff'"): {"base64": "AP8="}, ("extra", "x'636166c3a9'"): "café",
    ("code", "'a    '"): "a    ",
    ("extra", "9223372036854775807"): "9223372036854775807",
}  # fmt: skip
SQLITE_TABLE = "CREATE TABLE unusual (id INTEGER, moment, local, day, digits, double, text, code, extra)"


@pytest.mark.parametrize(
    ("kind", "before", "values"),
    [
        (
            "postgres",
            ["CREATE TYPE pair AS (a int, b text)", "CREATE DOMAIN moment AS timestamptz", POSTGRES_TABLE],
            POSTGRES,
        ),
        ("duckdb", [DUCKDB_TABLE], DUCKDB),
        ("sqlite", [SQLITE_TABLE], SQLITE),
    ],
)
def test_unusual_values_come_exactly_or_are_dead_letters(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, before: list[str], values: dict[tuple[str, str], Any]
) -> None:
    url = request.getfixturevalue("database") if kind == "postgres" else f"{kind}:///{tmp_path}/a.db"
    bank = Bank(tmp_path, url)
    inserts = (
        f"INSERT INTO unusual (id, {column}) VALUES ({number}, {value})"
        for number, (column, value) in enumerate(values)
    )
    bank.execute(*before, *inserts)
    bank.pull(bank.source(Unusual, table="unusual", keys=("id",)))
    declared = list(Unusual.to_schema().columns)
    shown = ", ".join(f"{name}::VARCHAR" for name in declared[1:])
    rows = {row[0]: dict(zip([*declared, "_rescued"], row, strict=True)) for row in bank.rows(f"id, {shown}, _rescued")}
    reasons = {int(json.loads(raw)["id"]): reason for raw, reason in bank.dead("raw, reason")}
    for number, ((column, value), expected) in enumerate(values.items()):
        if expected is DEAD:
            assert number not in rows
            assert reasons[number].startswith(f"cast: {column}: '"), (column, value)
            continue
        assert number not in reasons, (column, value, reasons[number])
        row = rows[number]
        found = row[column] if column in declared else json.loads(row["_rescued"])[column]
        assert found == expected, (column, value)
    bank.con.close()
