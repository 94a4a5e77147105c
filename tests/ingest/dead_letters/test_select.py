"""Groups of dead letters by what is wrong, not by the values; and which are meant."""

from datetime import date
from pathlib import Path

import duckdb
import pytest

from pipeline_assets.ingest.dead_letters.select import Group, Selection, groups
from pipeline_assets.lake import Lake
from pipeline_assets.lake.dead_letters import dead_letter_table, record

DAY = date(2026, 1, 5)


def _letters(*reasons: str, day: date = DAY, batch: str = "b") -> str:
    rows = ", ".join(f"($${reason}$$, {line})" for line, reason in enumerate(reasons, 1))
    return (
        f"SELECT DATE '{day}' AS _partition_date, '{batch}' AS _batch_id, TIMESTAMPTZ '2026-01-06' AS _extracted_at, "
        "struct_pack(file := 'a.csv', line := line) AS _source, reason, 'raw ' || line AS raw, 1 AS records "
        f"FROM (VALUES {rows}) AS t(reason, line)"
    )


@pytest.mark.parametrize(
    ("reasons", "masked"),
    [
        (
            ["cast: amount: 'a secret' is not DECIMAL(12,2)", "cast: amount: 'it''s; is not\n' is not DECIMAL(12,2)"],
            "cast: amount: '...' is not DECIMAL(12,2)",
        ),
        (
            ["cast: a: 'x' is not INT; cast: b2: 'y' is not DATE", "cast: a: '' is not INT; cast: b2: '' is not DATE"],
            "cast: a: '...' is not INT; cast: b2: '...' is not DATE",
        ),
        (["csv: missing columns: expected 8, found 7", "csv: missing columns: expected 8, found 6"],
         "csv: missing columns: expected N, found N"),
        (["required: note is missing", "required: note is missing"], "required: note is missing"),
    ],
)  # fmt: skip
def test_values_are_masked_so_that_groups_form(
    con: duckdb.DuckDBPyConnection, lake: Lake, reasons: list[str], masked: str
) -> None:
    table = dead_letter_table(lake, "bronze.t__x")
    record(con, table, _letters(*reasons), where="TRUE")
    assert groups(con, table) == [Group(masked, 2, 2, DAY, DAY, "a.csv", 1, "raw 1", False)]
    assert groups(con, table, Selection(reason=masked)) == groups(con, table)


def test_what_is_given_must_all_fit(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = dead_letter_table(lake, "bronze.t__x")
    assert groups(con, table) == []
    other = date(2026, 1, 6)
    parts = [_letters("json: no", "cast: a"), _letters("json: no", batch="c"), _letters("json: no", day=other)]
    record(con, table, *parts, where="TRUE")

    def count(**given: object) -> int:
        return sum(group.dead_letters for group in groups(con, table, Selection(**given)))  # type: ignore[arg-type]

    assert (count(), count(reason="json"), count(batch="b"), count(day=DAY)) == (4, 3, 3, 3)
    assert (count(reason="json", batch="b"), count(reason="json", batch="b", day=other), count(limit=2)) == (2, 1, 2)
    assert count(reason="'; DROP TABLE x; --") == 0


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def con(lake: Lake) -> duckdb.DuckDBPyConnection:
    return lake.connect(threads=1)
