"""Rows of chosen days: the right rows, from few files."""

import datetime
import re
import shutil
from pathlib import Path

import duckdb
import pytest

from pipeline_assets.lake import Lake, Table, days_predicate, newest_day, query_schema, select_days

DAYS = [datetime.date(2011, 1, 1) + datetime.timedelta(days=number) for number in range(40)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A line per day at noon, landed the day after in a partition of its own; the last brings the first day too."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")), {"provider": "local"})
    table, con = Table(lake, "bronze.days"), lake.connect()
    moment = "timestamp '2011-01-01 12:00' + to_days({day})"
    rows = f"select {moment} as moment, date '2011-01-02' + {{landed}} as _partition_date"
    table.create(
        query_schema(con, rows.format(day=0, landed=0)), partition_by=["_partition_date"], date_column="moment"
    )
    for number in range(len(DAYS)):
        table.append(con, rows.format(day=number, landed=number), batch_id=str(number))
    table.append(con, rows.format(day=0, landed=39), batch_id="late")
    con.close()
    return table


def _found(table: Table, column: str, days: list[datetime.date]) -> tuple[list[datetime.date], int]:
    """Dates found, and the number of files read for them."""
    con = table.lake.connect()
    query = select_days(table, table.open().version(), column, days)
    dates = [row[0] for row in con.execute(f"select {column}::date from ({query}) order by 1").fetchall()]
    con.execute("set delta_scan_explain_files_filtered = false")  # raises in DuckDB 1.5.5 when nothing is left
    plan = con.execute(f"explain analyze select max(moment), max(_partition_date) from ({query})").fetchall()[0][1]
    con.close()
    return dates, sum(map(int, re.findall(r"Total Files Read: (\d+)", plan)))


def test_days_of_a_timestamp_are_read_from_the_partitions_that_hold_them(table: Table) -> None:
    assert _found(table, "moment", [DAYS[0], DAYS[10]]) == ([DAYS[0], DAYS[0], DAYS[10]], 4)


def test_days_of_a_date_column_are_read_range_by_range(table: Table) -> None:
    assert _found(table, "_partition_date", [DAYS[3], DAYS[4], DAYS[30]]) == ([DAYS[3], DAYS[4], DAYS[30]], 3)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_many_days_give_exactly_their_rows(table: Table, step: int) -> None:
    wanted = DAYS[1:39:step]
    assert _found(table, "_partition_date", wanted)[0] == wanted
    assert _found(table, "moment", wanted)[0] == wanted


def test_no_days_are_no_rows(table: Table) -> None:
    assert _found(table, "moment", [])[0] == []
    assert days_predicate("moment", []) == "false"


def test_a_predicate_of_days_holds_for_dates_and_both_timestamps() -> None:
    con = duckdb.connect()
    con.execute("set global TimeZone = 'UTC'")
    for kind in ("date", "timestamp", "timestamptz"):
        for days in ([DAYS[1]], [DAYS[1], DAYS[2]], [DAYS[1], DAYS[5]]):
            rows = f"select (timestamp '2011-01-01' + to_hours(i))::{kind} as moment from range(200) as t(i)"
            query = f"select distinct moment::date from ({rows}) where {days_predicate('moment', days)} order by 1"
            assert [row[0] for row in con.execute(query).fetchall()] == days
    con.close()


@pytest.mark.parametrize(
    ("before", "without", "newest"),
    [
        (None, [], "2011-02-10"),
        (None, ["2011-02-10", "2011-02-09"], "2011-02-08"),
        ("2011-02-10", [], "2011-02-09"),
        ("2026-01-01", [], "2011-02-10"),
        ("2011-01-02", [], None),
        ("2011-01-04", ["2011-01-02", "2011-01-03"], None),
    ],
)
def test_the_newest_day_is_found_over_any_gap(
    table: Table, before: str | None, without: list[str], newest: str | None
) -> None:
    of = datetime.date.fromisoformat
    found = newest_day(table.open(), before=of(before) if before else None, without=set(map(of, without)))
    assert found == (of(newest) if newest else None)


def test_the_newest_day_may_be_one_to_come(table: Table, tmp_path: Path) -> None:
    shutil.copytree(table.lake.uri, tmp_path / "copy")
    table = Table(Lake(str(tmp_path / "copy"), {"provider": "local"}), table.name)
    con = table.lake.connect()
    table.append(con, "select timestamp '2099-01-01' as moment, date '2099-01-02' as _partition_date", batch_id="far")
    con.close()
    assert newest_day(table.open()) == datetime.date(2099, 1, 2)
