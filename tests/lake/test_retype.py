"""Types that change: what cannot lose a value happens in one commit, and everything around it stays."""

from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable

from pipeline_assets.lake import (
    Lake,
    StorageError,
    Table,
    TypesMovedError,
    changes_since,
    commit_loop,
    query_schema,
    schemas,
)

ROWS = """
    SELECT i AS id, DATE '2020-01-01' + (i % 3)::INTEGER AS day, i::INTEGER AS n, (i / 8)::DECIMAL(10, 2) AS price,
        (i / 8)::FLOAT AS share, DATE '1969-12-31' AS since, [{'a': i}] AS parts
    FROM range(10) AS t(i)
"""
WIDER = {"n": "BIGINT", "price": "DECIMAL(18,2)", "share": "DOUBLE", "since": "TIMESTAMP"}


@pytest.fixture
def old(lake: Lake, con: duckdb.DuckDBPyConnection) -> Table:
    found = Table(lake, "bronze.old")
    found.create(query_schema(con, ROWS), partition_by=["day"], date_column="day", description="Old.")
    found.append(con, ROWS, batch_id="first", positions={"watermark": 5})
    found.set_properties({"a.b": "c"})
    return found


def wider(con: duckdb.DuckDBPyConnection) -> tuple[str, "schemas.Schema"]:
    casts = ", ".join(f"{name}::{kind} AS {name}" for name, kind in WIDER.items())
    select = f"SELECT * REPLACE ({casts}) FROM ({ROWS})"
    return select, query_schema(con, select)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_columns_are_widened_in_one_commit_and_all_else_stays(
    con: duckdb.DuckDBPyConnection, old: Table, checkpoint: bool
) -> None:
    before = con.execute(f"FROM {old.scan()} ORDER BY id").fetchall()
    select, schema = wider(con)
    assert list(map(str, old.widen(con, schema))) == [
        "n: INTEGER -> BIGINT",
        "price: DECIMAL(10,2) -> DECIMAL(18,2)",
        "share: FLOAT -> DOUBLE",
        "since: DATE -> TIMESTAMP",
    ]
    if checkpoint:
        old.open().create_checkpoint()
    opened = old.open()
    assert opened.version() == 4, "one commit for the feature that times without a zone need, one for the rows"
    assert schemas.types(opened.schema()) == schemas.types(schema)
    assert (
        con.execute(f"FROM {old.scan()} ORDER BY id").fetchall()
        == con.execute(f"FROM ({select}) ORDER BY id").fetchall()
    )
    assert con.execute(f"FROM {old.scan(2)} ORDER BY id").fetchall() == before, "history is readable"
    assert (old.position("first"), old.position("watermark")) == (1, 5)
    metadata = opened.metadata()
    assert (metadata.description, metadata.partition_columns, metadata.configuration["a.b"]) == ("Old.", ["day"], "c")
    assert not old.widen(con, schema), "nothing is left to do"
    old.append(con, select, batch_id="second")
    assert con.execute(f"SELECT count(*) FROM {old.scan()} WHERE n = 7").fetchone() == (2,)
    old.replace(con, select, where="n < 5")
    assert con.execute(f"SELECT count(*) FROM {old.scan()}").fetchone() == (20,)


def test_downstream_learns_that_anything_may_have_changed(con: duckdb.DuckDBPyConnection, old: Table) -> None:
    version = old.open().version()
    old.widen(con, wider(con)[1])
    assert changes_since(old, version).dates is None


def test_another_writer_between_reading_and_commit_loses_no_row(
    con: duckdb.DuckDBPyConnection, old: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DeltaTable.create_write_transaction

    def overtaken(self: DeltaTable, *args: object, **options: object) -> None:
        monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
        with old.lake.connect() as other:
            old.append(other, ROWS, batch_id="other")
        real(self, *args, **options)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", overtaken)
    old.widen(con, wider(con)[1])
    assert con.execute(f"SELECT count(*), sum(n) FROM {old.scan()}").fetchone() == (20, 90)


@pytest.mark.parametrize("write", ["append", "replace", "replace_keys"])
def test_rows_written_before_a_table_was_widened_are_not_committed_after_it(
    con: duckdb.DuckDBPyConnection, old: Table, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    real = commit_loop.commit

    def overtaken(*args: Any, **options: Any) -> int:
        monkeypatch.setattr(commit_loop, "commit", real)
        with old.lake.connect() as other:
            old.widen(other, wider(other)[1])
        return real(*args, **options)

    options = {"append": {"batch_id": "second"}, "replace": {"where": "TRUE"}, "replace_keys": {"keys": ["id"]}}[write]
    monkeypatch.setattr(commit_loop, "commit", overtaken)
    with pytest.raises(TypesMovedError, match=r"bronze\.old: its types changed .*column n was integer"):
        getattr(old, write)(con, ROWS, **options)
    assert con.execute(f"SELECT count(*), sum(n) FROM {old.scan()}").fetchone() == (10, 45)
    assert old.position("second") is None


def test_a_lost_file_of_the_table_is_not_told_as_a_fault_of_writing(con: duckdb.DuckDBPyConnection, old: Table) -> None:
    for path in Path(old.uri).rglob("*.parquet"):
        path.unlink()
    with pytest.raises(StorageError, match=r"could not be read or written at .*bronze/old: .*No such file"):
        old.widen(con, wider(con)[1])


def test_who_has_a_table_rewritten_reads_in_the_log_why_and_how_much(
    con: duckdb.DuckDBPyConnection, old: Table, caplog: pytest.LogCaptureFixture
) -> None:
    old.widen(con, wider(con)[1])
    assert "table bronze.old: " in caplog.text
    assert "n: INTEGER -> BIGINT" in caplog.text
    assert "all 10 rows are rewritten" in caplog.text
    caplog.clear()
    old.widen(con, wider(con)[1])
    assert not caplog.text


def test_a_table_without_rows_is_widened(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "bronze.empty")
    table.create(query_schema(con, "SELECT 1::INTEGER AS n"))
    assert table.widen(con, query_schema(con, "SELECT 1::BIGINT AS n"))
    assert con.execute(f"SELECT typeof(n) FROM (SELECT any_value(n) AS n FROM {table.scan()})").fetchone() == (
        "BIGINT",
    )


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("TINYINT", "SMALLINT"), ("SMALLINT", "BIGINT"), ("INTEGER", "DOUBLE"), ("SMALLINT", "FLOAT"),
        ("INTEGER", "DECIMAL(10,0)"), ("BIGINT", "DECIMAL(38,10)"), ("DECIMAL(10,2)", "DECIMAL(12,4)"),
        ("FLOAT", "DOUBLE"), ("DATE", "TIMESTAMP"), ("DATE", "TIMESTAMPTZ"),
    ],
)  # fmt: skip
def test_what_keeps_each_value_is_a_widening(con: duckdb.DuckDBPyConnection, stored: str, wanted: str) -> None:
    assert len(_widenings(con, stored, wanted)) == 1


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("BIGINT", "INTEGER"), ("BIGINT", "DOUBLE"), ("INTEGER", "FLOAT"), ("BIGINT", "DECIMAL(18,0)"),
        ("DECIMAL(10,2)", "DECIMAL(10,4)"), ("DECIMAL(10,2)", "DOUBLE"), ("DOUBLE", "DECIMAL(38,10)"),
        ("TIMESTAMP", "DATE"), ("TIMESTAMP", "TIMESTAMPTZ"), ("VARCHAR", "BIGINT"), ("BIGINT", "VARCHAR"),
        ("BOOLEAN", "INTEGER"), ("DECIMAL(5,0)", "BIGINT"), ("BIGINT", "BIGINT"),
    ],
)  # fmt: skip
def test_what_could_lose_or_change_a_value_is_none(con: duckdb.DuckDBPyConnection, stored: str, wanted: str) -> None:
    assert not _widenings(con, stored, wanted)


def _widenings(con: duckdb.DuckDBPyConnection, stored: str, wanted: str) -> list[schemas.Widening]:
    a, b = (schemas.types(query_schema(con, f"SELECT NULL::{kind} AS x")) for kind in (stored, wanted))
    return schemas.widenings(a, b)


def test_dates_are_the_same_days_after_widening(con: duckdb.DuckDBPyConnection, old: Table) -> None:
    old.widen(con, wider(con)[1])
    assert con.execute(f"SELECT DISTINCT since::DATE FROM {old.scan()}").fetchall() == [(date(1969, 12, 31),)]
