"""Writes by key: who wins, and that partitions without a key that comes are neither read nor written."""

import json
from pathlib import Path

import duckdb
import pytest

from pipeline_assets.lake import Lake, LakeError, PositionMovedError, Table, query_schema

ROWS = """
    SELECT i AS id, 'v{seq}' AS value, {seq}::BIGINT AS seq, DATE '2020-01-01' + {seq} AS day, i // 10 AS _bucket
    FROM range({first}, {last}) AS t(i)
"""
BY_KEY = {"keys": ["_bucket", "id"], "sequence": ["seq"]}


@pytest.fixture
def table(lake: Lake, con: duckdb.DuckDBPyConnection) -> Table:
    """Five buckets of ten rows."""
    found = Table(lake, "silver.buckets")
    rows = ROWS.format(seq=1, first=0, last=50)
    found.create(query_schema(con, rows), partition_by=["_bucket"], date_column="day")
    found.append(con, rows, batch_id="first")
    return found


def lose_files_of(table: Table, *buckets: int) -> None:
    """Makes every read of a bucket an error."""
    for bucket in buckets:
        for file in Path(table.uri).glob(f"_bucket={bucket}/*.parquet"):
            file.write_text("not to be read")


def state(con: duckdb.DuckDBPyConnection, table: Table, bucket: int) -> list[tuple[int, str]]:
    return con.execute(f"SELECT id, value FROM {table.scan()} WHERE _bucket = {bucket} ORDER BY id").fetchall()


def test_a_merge_reads_only_the_partitions_of_its_rows(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    lose_files_of(table, 0, 2, 4)
    table.merge(
        con, ROWS.format(seq=2, first=15, last=16) + " UNION ALL " + ROWS.format(seq=2, first=35, last=36), **BY_KEY
    )
    assert state(con, table, 1)[4:7] == [(14, "v1"), (15, "v2"), (16, "v1")]
    assert state(con, table, 3)[4:7] == [(34, "v1"), (35, "v2"), (36, "v1")]
    commit = table.open().history(1)[0]
    assert (commit["rows_added"], commit["rows_removed"]) == ("2", "2")
    assert json.loads(commit["touched_dates"]) == ["2020-01-02", "2020-01-03"]
    assert json.loads(commit["added_dates"]) == ["2020-01-03"]


def test_rows_of_a_new_partition_are_merged_without_reading(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    lose_files_of(table, 0, 1, 2, 3, 4)
    table.merge(con, ROWS.format(seq=2, first=77, last=79), **BY_KEY)
    assert state(con, table, 7) == [(77, "v2"), (78, "v2")]


def test_many_scattered_partitions_are_merged_right(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "silver.scattered")
    rows = ROWS.replace("i // 10 AS", "i AS")
    table.create(query_schema(con, rows.format(seq=1, first=0, last=1)), partition_by=["_bucket"])
    table.append(con, rows.format(seq=1, first=0, last=60), batch_id="first")
    table.merge(con, f"SELECT * FROM ({rows.format(seq=2, first=0, last=60)}) WHERE id % 3 = 0", **BY_KEY)
    found = con.execute(f"SELECT seq, count(*) FROM {table.scan()} GROUP BY ALL ORDER BY ALL").fetchall()
    assert found == [(1, 40), (2, 20)]


def test_a_row_that_is_as_new_replaces_the_stored_one_only_if_it_says_more(
    con: duckdb.DuckDBPyConnection, table: Table
) -> None:
    version = table.open().version()
    assert table.merge(con, ROWS.format(seq=1, first=3, last=6), **BY_KEY) == version
    completed = f"SELECT * REPLACE (if(id = 4, 'whole', value) AS value) FROM ({ROWS.format(seq=1, first=3, last=6)})"
    assert table.merge(con, completed, **BY_KEY) == version + 1
    assert state(con, table, 0)[3:6] == [(3, "v1"), (4, "whole"), (5, "v1")]
    assert table.open().history(1)[0]["rows_added"] == "1"


def test_a_row_of_unknown_order_is_refused(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    rows = f"SELECT * REPLACE (NULL::BIGINT AS seq) FROM ({ROWS.format(seq=1, first=3, last=6)})"
    with pytest.raises(LakeError, match="a null in seq; their order is unknown"):
        table.merge(con, rows, **BY_KEY)


def test_a_row_without_a_key_is_refused(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    rows = f"SELECT * REPLACE (NULL::BIGINT AS id) FROM ({ROWS.format(seq=2, first=3, last=6)})"
    with pytest.raises(LakeError, match="a null in _bucket, id; each run would add a row without a key once more"):
        table.merge(con, rows, **BY_KEY)


def test_a_merge_planned_on_an_older_position_is_refused(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    rows = ROWS.format(seq=2, first=3, last=6)
    table.merge(con, rows, **BY_KEY, expect={"bronze.x": None}, positions={"bronze.x": 7})
    with pytest.raises(PositionMovedError):
        table.merge(con, ROWS.format(seq=3, first=3, last=6), **BY_KEY, expect={"bronze.x": None})
    assert state(con, table, 0)[3] == (3, "v2")
    assert table.merge(con, rows, **BY_KEY, expect={"bronze.x": 7}, positions={"bronze.x": 8}) == table.open().version()
    assert table.position("bronze.x") == 8  # old news, but the position moved


def test_replacing_keys_reads_only_their_partitions(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    lose_files_of(table, 0, 2, 4)
    con.execute("CREATE TEMP TABLE gone AS SELECT 12::BIGINT AS id, 1::BIGINT AS _bucket")
    con.execute(f"CREATE TEMP TABLE come AS {ROWS.format(seq=2, first=34, last=36)}")
    table.replace_keys(con, "SELECT * FROM come WHERE id <> 35", keys=["id", "_bucket"], also="come")
    assert [row[0] for row in state(con, table, 3)] == [30, 31, 32, 33, 34, 36, 37, 38, 39]
    table.replace_keys(con, "SELECT * FROM come WHERE false", keys=["id", "_bucket"], also="gone", positions={"up": 3})
    assert [row[0] for row in state(con, table, 1)] == [10, 11, 13, 14, 15, 16, 17, 18, 19]
    assert table.position("up") == 3
    with pytest.raises(PositionMovedError):
        table.replace_keys(con, "SELECT * FROM come", keys=["id", "_bucket"], expect={"up": 2})


def test_a_table_partitioned_by_what_is_no_key_is_read_whole(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "silver.by_day")
    rows = ROWS.replace(", i // 10 AS _bucket", "")
    table.create(query_schema(con, rows.format(seq=1, first=0, last=1)), partition_by=["day"], date_column="day")
    table.append(con, rows.format(seq=1, first=0, last=5), batch_id="first")
    table.merge(con, rows.format(seq=2, first=3, last=4), keys=["id"], sequence=["seq"])
    found = con.execute(f"SELECT id, day(day) FROM {table.scan()} ORDER BY id").fetchall()
    assert found == [(0, 2), (1, 2), (2, 2), (3, 3), (4, 2)]
