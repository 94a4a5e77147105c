"""Statistics in the log must let readers skip files and never make them skip a wrong one."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pipeline_assets.lake import Lake, LakeError, Table, query_schema, write_parquet


def stats_of(con: duckdb.DuckDBPyConnection, lake: Lake, select: str) -> dict[str, dict[str, object]]:
    schema = query_schema(con, select)
    (file,) = write_parquet(con, select, lake.table_uri("silver.t"))
    found = json.loads(file.add_action(schema).stats)
    assert found["numRecords"] == file.rows
    return found


@pytest.mark.parametrize(
    ("sql_type", "low", "high", "shown"),
    [
        ("BIGINT", "-5", "9223372036854775807", [-5, 9223372036854775807]),
        ("DECIMAL(12,3)", "-1.005", "123456789.123", [-1.005, 123456789.123]),
        ("DATE", "2010-12-01", "2011-12-09", ["2010-12-01", "2011-12-09"]),
        ("TIMESTAMP", "2010-12-01 08:26:00", "2011-12-09 12:50:00.000001",
         ["2010-12-01T08:26:00", "2011-12-09T12:50:00.000001"]),
        ("TIMESTAMPTZ", "2010-12-01 08:26:00+00", "2011-12-09 12:50:00+00",
         ["2010-12-01T08:26:00Z", "2011-12-09T12:50:00Z"]),
        ("VARCHAR", "10002", "gift", ["10002", "gift"]),
    ],
)  # fmt: skip
def test_bounds_of_each_type_reach_the_log(
    con: duckdb.DuckDBPyConnection, lake: Lake, sql_type: str, low: str, high: str, shown: list[object]
) -> None:
    stats = stats_of(con, lake, f"SELECT unnest(['{low}', NULL, '{high}'])::{sql_type} AS v")
    assert [stats["minValues"]["v"], stats["maxValues"]["v"]] == shown
    assert stats["nullCount"] == {"v": 1}


@pytest.mark.parametrize(
    ("sql_type", "low", "high"),
    [
        ("DECIMAL(38,10)", "0.1234567891", "12345678901234567.1234567891"),  # a double would round past it
        ("VARCHAR", "a", "é"),  # engines order text beyond ASCII differently
        ("VARCHAR", "a", "z" * 1000),
        ("DATE", "0044-03-15 (BC)", "2020-01-01"),
        ("DATE", "2020-01-01", "infinity"),
        ("DOUBLE", "1", "nan"),
        ("BOOLEAN", "false", "true"),
    ],
)
def test_bounds_that_could_mislead_are_left_out(
    con: duckdb.DuckDBPyConnection, lake: Lake, sql_type: str, low: str, high: str
) -> None:
    stats = stats_of(con, lake, f"SELECT unnest(['{low}', '{high}'])::{sql_type} AS v")
    assert stats["minValues"] == stats["maxValues"] == {}


def test_readers_find_every_row_through_the_statistics(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "silver.t")
    day = """SELECT i AS id, (i * 1.001)::DECIMAL(12,3) AS price,
        TIMESTAMP '2020-01-01' + to_days(i::INTEGER) AS happened,
        TIMESTAMPTZ '2020-01-01' + to_days(i::INTEGER) AS happened_utc, 'k' || i AS name, i % 2 = 0 AS even
        FROM range({0}, {0} + 10) AS t(i)"""
    table.create(query_schema(con, day.format(0)))
    for start in range(0, 100, 10):
        table.append(con, day.format(start), batch_id=str(start))
    for where in (
        "id = 37",
        "price = 37.037",
        "happened = TIMESTAMP '2020-02-07'",
        "happened_utc = TIMESTAMPTZ '2020-02-07'",
        "name = 'k37'",
        "happened >= TIMESTAMP '2020-02-07' AND happened < TIMESTAMP '2020-02-08'",
    ):
        assert con.sql(f"SELECT id FROM {table.scan()} WHERE {where}").fetchall() == [(37,)], where
    plan = con.sql(f"EXPLAIN ANALYZE SELECT id FROM {table.scan()} WHERE happened = TIMESTAMP '2020-02-07'").fetchall()[
        0
    ][1]
    assert "Total Files Read: 1" in " ".join(plan.split())


def test_an_empty_result_leaves_no_file(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    assert write_parquet(con, "SELECT 1 AS id WHERE FALSE", lake.table_uri("silver.t")) == []
    assert (
        write_parquet(con, "SELECT 1 AS id, 2 AS p WHERE FALSE", lake.table_uri("silver.t"), partition_by=["p"]) == []
    )


def test_column_names_of_any_kind_keep_their_statistics(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    stats = stats_of(con, lake, """SELECT 1 AS "a.b", 2 AS "q""uote", {'x': 3} AS nested""")
    assert stats["minValues"] == {"a.b": 1, 'q"uote': 2}


def test_a_type_that_delta_cannot_hold_is_named(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(LakeError, match="cannot store"):
        query_schema(con, "SELECT INTERVAL 1 DAY AS gap")
    assert isinstance(con.sql("SELECT 1").to_arrow_table(), pa.Table)


def test_a_wide_file_is_written_by_batches_and_read_as_any_other(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "silver.wide")
    select = (
        "SELECT range AS id, nullif(range % 2, 0) AS odd, struct_pack(a := range) AS s, [range] AS l FROM range(5000)"
    )
    table.create(query_schema(con, select))
    files = write_parquet(con, select, table.uri, is_wide=True)
    assert [(file.rows, file.null_count("odd")) for file in files] == [(5_000, 2_500)]
    table.commit(con, files)
    assert con.execute(f"SELECT count(*), sum(s.a), sum(l[1]) FROM {table.scan()}").fetchone() == (
        5_000, 12_497_500, 12_497_500,
    )  # fmt: skip
    assert write_parquet(con, f"{select} WHERE false", table.uri, is_wide=True) == []


@pytest.mark.parametrize("fault", ["error('damaged')", "CAST('x' || i AS BIGINT)"])
def test_a_query_that_fails_behind_its_first_rows_is_not_the_fault_of_the_lake(
    con: duckdb.DuckDBPyConnection, lake: Lake, fault: str
) -> None:
    select = f"SELECT CASE WHEN i < 900_000 THEN i ELSE {fault} END AS v FROM range(1_000_000) AS t(i)"
    with pytest.raises(duckdb.Error):
        write_parquet(con, select, lake.table_uri("silver.wide"), is_wide=True)
    assert not list(Path(lake.table_uri("silver.wide")).rglob("*.parquet"))


def test_wide_files_that_are_written_at_once_leave_the_number_of_threads(
    con: duckdb.DuckDBPyConnection, lake: Lake
) -> None:
    con.execute("SET threads = 3")

    def write(cursor: duckdb.DuckDBPyConnection) -> None:
        write_parquet(cursor, "SELECT range AS id FROM range(100_000)", lake.table_uri("silver.wide"), is_wide=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [con.cursor() for _ in range(8)]))
    assert con.execute("SELECT current_setting('threads')").fetchone() == (3,)
