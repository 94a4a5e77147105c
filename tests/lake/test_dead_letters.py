"""Dead letters of a reading replace those of the reading before."""

from pathlib import Path

import duckdb
import pytest

from pipeline_assets.lake import Lake, SchemaMismatchError, Table, query_schema
from pipeline_assets.lake.dead_letters import COLUMNS, WEIGHT, append, dead_letter_table, record, weighed

LETTER = """
    SELECT DATE '2011-01-04' AS _partition_date, '{0}' AS _batch_id, TIMESTAMPTZ '2011-01-05' AS _extracted_at,
        struct_pack(file := '{1}', line := 2) AS _source, 'cast: x' AS reason, 'raw' AS raw, 1 AS records
"""


def test_reading_a_file_again_replaces_its_letters_only(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = dead_letter_table(lake, "bronze.shop__lines")
    assert table.name == "dead_letters.shop__lines"
    for content, file in (("c1", "a.csv"), ("c2", "b.csv"), ("c3", "a.csv")):
        record(con, table, LETTER.format(content, file), where=f"_source.file = '{file}'")
    found = con.execute(f"SELECT _source.file, _batch_id FROM {table.scan()} ORDER BY 1").fetchall()
    assert found == [("a.csv", "c3"), ("b.csv", "c2")]


def test_letters_of_several_queries_are_one_commit(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = dead_letter_table(lake, "bronze.shop__lines")
    record(con, table, LETTER.format("c", "a.csv"), LETTER.format("c", "b.csv"), where="TRUE")
    record(con, table, LETTER.format("c", "a.csv"), LETTER.format("c", "c.csv"), where="TRUE")
    found = con.execute(f"SELECT _source.file FROM {table.scan()} ORDER BY 1").fetchall()
    assert (found, table.open().version()) == ([("a.csv",), ("c.csv",)], 2)
    record(con, table, where="_source.file = 'a.csv'")
    assert con.execute(f"SELECT _source.file FROM {table.scan()}").fetchall() == [("c.csv",)]


def test_no_letters_before_and_after_is_no_commit(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = dead_letter_table(lake, "bronze.shop__lines")
    record(con, table, f"{LETTER.format('c', 'f')} WHERE FALSE", where="TRUE")
    assert table.open().version() == 0


def test_letters_are_appended_once_wherever_the_table_lies(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    table = Table(Lake(str(tmp_path)), "a queue", root=str(tmp_path / "dlq" / "orders"))
    assert append(con, table, LETTER.format("c", "a.csv"), batch_id="one") == 1
    assert append(con, table, LETTER.format("c", "a.csv"), batch_id="one") is None
    assert append(con, table, LETTER.format("c", "b.csv"), batch_id="two") == 2
    assert con.execute(f"SELECT _source.file FROM {table.scan()} ORDER BY 1").fetchall() == [("a.csv",), ("b.csv",)]
    assert (tmp_path / "dlq" / "orders" / "_delta_log").is_dir()


def test_letters_are_not_appended_to_another_table(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "bronze.orders")
    table.create(query_schema(con, "SELECT 1 AS id"))
    with pytest.raises(SchemaMismatchError, match=r"bronze\.orders: column id is missing"):
        append(con, table, LETTER.format("c", "a.csv"), batch_id="one")
    assert [field.name for field in table.open().schema().fields] == ["id"]


@pytest.mark.parametrize("write", ["record", "append"])
def test_letters_of_an_older_release_stand_for_one_record_each(
    con: duckdb.DuckDBPyConnection, lake: Lake, write: str
) -> None:
    table = dead_letter_table(lake, "bronze.shop__lines")
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items() if name != "records")
    table.create(query_schema(con, f"SELECT {columns}"), partition_by=["_partition_date"])
    table.append(con, f"SELECT * EXCLUDE (records) FROM ({LETTER.format('old', 'a.csv')})", batch_id="old")
    total = f"SELECT sum({WEIGHT})::BIGINT FROM {weighed(table)} WHERE _partition_date = DATE '2011-01-04'"
    assert con.execute(total).fetchall() == [(1,)]
    letters = LETTER.format("new", "b.csv").replace("1 AS records", "1000 AS records")
    if write == "record":
        record(con, table, letters, where="FALSE")
    else:
        append(con, table, letters, batch_id="new")
    assert con.execute(total).fetchall() == [(1001,)]
