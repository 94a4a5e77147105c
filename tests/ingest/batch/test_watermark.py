"""Watermarks as positions, and back."""

from datetime import UTC, date, datetime

import duckdb
import pytest
from pulled import at as moment

from pipeline_assets.ingest.batch.watermark import Watermark, at, position


@pytest.mark.parametrize(
    ("dtype", "value", "number"),
    [
        ("BIGINT", 7, 7),
        ("BIGINT", -(2**63), -(2**63)),
        ("DATE", date(1970, 1, 2), 86_400_000_000),
        ("TIMESTAMP WITH TIME ZONE", moment("2026-01-05 10:00:00.000001"), 1_767_607_200_000_001),
        ("TIMESTAMP", moment("1969-12-31 23:59:59.999999").replace(tzinfo=None), -1),
    ],
)
def test_a_value_is_a_position_and_back(dtype: str, value: object, number: int) -> None:
    mark = Watermark("a", dtype)
    assert mark.value(number) == value
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.execute(f"CREATE TABLE t AS SELECT $1::{dtype} AS a UNION ALL SELECT NULL", [value])
        assert con.execute(f"SELECT {mark.greatest_sql} FROM t").fetchone() == (number,)
        assert con.execute(f"SELECT count(*) FROM t WHERE {mark.from_on(number)}").fetchone() == (2,)
        if number < 2**62 and number > -(2**62):
            further = number + (86_400_000_000 if dtype == "DATE" else 1)
            assert con.execute(f"SELECT a FROM t WHERE {mark.from_on(further)}").fetchall() == [(None,)]


def test_positions_beyond_what_a_type_holds_are_its_ends() -> None:
    assert at(-(2**63)) == datetime(1, 1, 1, tzinfo=UTC)
    assert at(2**63 - 1) == datetime(9999, 12, 31, tzinfo=UTC)
    assert Watermark("a", "BIGINT").value(-(2**70)) == -(2**63)
    assert Watermark("a", "BIGINT").first == -(2**63)
    assert Watermark("a", "DATE").first == date(1, 1, 1)


def test_moments_are_positions() -> None:
    assert position(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == 1_000_005
    assert at(position(moment("2026-01-05 10:00:00.123456"))) == moment("2026-01-05 10:00:00.123456")
