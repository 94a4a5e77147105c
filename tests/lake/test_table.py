"""Writes on real Delta tables: rows, and what the log says."""

import json
import shutil
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable, Schema

from pipeline_assets.lake import (
    CommitConflictError,
    Lake,
    PositionMovedError,
    SchemaMismatchError,
    Table,
    TableNotFoundError,
    TableUnreadableError,
    commit_loop,
    query_schema,
    write_parquet,
)

ROWS = """
    SELECT i AS id, DATE '2020-01-01' + (i % 3)::INTEGER AS day, (i / 7)::DECIMAL(12, 3) AS price, i AS seq,
        'name ' || i AS name
    FROM range({0}) AS t(i)
"""


def ids(con: duckdb.DuckDBPyConnection, table: Table) -> list[int]:
    return [row[0] for row in con.sql(f"SELECT id FROM {table.scan()} ORDER BY id").fetchall()]


def test_a_batch_is_appended_once_however_often_it_comes(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    version = table.open().version()
    assert table.append(con, ROWS.format(10), batch_id="first") is None
    assert table.open().version() == version
    assert ids(con, table) == list(range(10))
    assert table.position("first") == 1


def test_a_commit_says_what_it_did(table: Table) -> None:
    commit = table.open().history(1)[0]
    assert commit["batch_id"] == "first"
    assert (commit["rows_added"], commit["rows_removed"]) == ("10", "0")
    assert json.loads(commit["touched_dates"]) == ["2020-01-01", "2020-01-02", "2020-01-03"]


def test_a_folder_above_the_lake_is_no_column(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    table = Table(Lake(str(tmp_path / "day=1999-01-01" / "lake")), "silver.things")
    table.create(query_schema(con, ROWS.format(1)), date_column="day")
    table.append(con, ROWS.format(10), batch_id="first")
    commit = table.open().history(1)[0]
    assert json.loads(commit["touched_dates"]) == ["2020-01-01", "2020-01-02", "2020-01-03"]
    table.replace(con, ROWS.format(1), where="day = DATE '2020-01-01'")
    assert con.execute(f"SELECT count(*), min(day)::VARCHAR FROM {table.scan()}").fetchone() == (7, "2020-01-01")


def test_replacing_a_range_leaves_other_files_alone(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    before = set(table.open().file_uris())
    table.replace(con, ROWS.format(10) + " WHERE i = 1", where="day = DATE '2020-01-02'")
    after = set(table.open().file_uris())
    assert ids(con, table) == [0, 1, 2, 3, 5, 6, 8, 9]
    assert len(before & after) == 2
    assert all("day=2020-01-02" in uri for uri in before ^ after)
    assert json.loads(table.open().history(1)[0]["touched_dates"]) == ["2020-01-02"]


def test_replacing_by_keys_keeps_the_other_rows_of_the_file(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    con.execute("CREATE TEMP TABLE touched AS SELECT unnest([1, 2, 77]) AS id")
    table.replace(
        con, "SELECT * REPLACE (0::DECIMAL(12, 3) AS price) FROM (" + ROWS.format(2) + ") WHERE id = 1",
        where="id IN (SELECT id FROM touched)",
    )  # fmt: skip
    assert ids(con, table) == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    commit = table.open().history(1)[0]
    assert (commit["rows_added"], commit["rows_removed"]) == ("1", "2")
    assert json.loads(commit["touched_dates"]) == ["2020-01-02", "2020-01-03"]


def test_replacing_by_nothing_removes(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    table.replace(con, ROWS.format(0), where="id = 3")
    assert ids(con, table) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_predicate_that_is_null_for_a_row_keeps_the_row(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "gold.nulls")
    rows = "SELECT unnest([1, 2, NULL])::BIGINT AS id"
    table.create(query_schema(con, rows))
    table.append(con, rows, batch_id="a")
    table.replace(con, f"SELECT * FROM ({rows}) WHERE FALSE", where="id = 1")
    assert con.sql(f"SELECT id FROM {table.scan()} ORDER BY id NULLS FIRST").fetchall() == [(None,), (2,)]


def test_a_merge_never_lets_an_older_row_win(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    changes = (
        "SELECT * REPLACE ({0}::BIGINT AS seq, {1}::DECIMAL(12, 3) AS price) FROM ("
        + ROWS.format(10)
        + ") WHERE id = 4"
    )
    table.merge(con, changes.format(9, 50), keys=["id"], sequence=["seq"])
    version = table.merge(con, changes.format(8, 60), keys=["id"], sequence=["seq"])
    assert con.sql(f"SELECT seq, price::INTEGER FROM {table.scan()} WHERE id = 4").fetchall() == [(9, 50)]
    assert version == table.open().version() == 2  # old news is no commit
    assert ids(con, table) == list(range(10))


def test_a_merge_compares_a_sequence_of_several_columns_in_order(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "silver.seq")
    row = "SELECT 1 AS id, {0}::BIGINT AS lsn, {1}::BIGINT AS tx_seq"
    table.create(query_schema(con, row.format(0, 0)))
    for lsn, tx_seq in [(5, 1), (4, 9), (5, 2), (5, 1)]:
        table.merge(con, row.format(lsn, tx_seq), keys=["id"], sequence=["lsn", "tx_seq"])
    assert con.sql(f"SELECT * FROM {table.scan()}").fetchall() == [(1, 5, 2)]


def test_a_merge_of_several_versions_of_a_key_takes_the_last(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    rows = f"SELECT * REPLACE (4::BIGINT AS id, 100 + id AS seq) FROM ({ROWS.format(3)})"
    table.merge(con, rows, keys=["id"], sequence=["seq"])
    assert con.sql(f"SELECT seq FROM {table.scan()} WHERE id = 4").fetchall() == [(102,)]


def test_overwrite_replaces_all_and_follows_a_changed_schema(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    table.overwrite(con, ROWS.format(2))
    assert ids(con, table) == [0, 1]
    table.overwrite(con, "SELECT 7 AS id, DATE '2021-01-01' AS day, 'x' AS colour", positions={"up": 4})
    assert con.sql(f"SELECT * FROM {table.scan()}").fetchone()[2] == "x"  # type: ignore[index]
    assert table.position("up") == 4
    assert table.open(version=1).version() == 1  # history stays


def test_positions_are_committed_with_the_rows(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    version = table.replace(con, ROWS.format(1), where="id = 0", positions={"bronze.x": 12})
    assert table.position("bronze.x") == 12
    again = table.commit(con, [], positions={"bronze.x": 12})
    assert again == version  # nothing moved: no commit


def test_a_commit_planned_on_an_older_position_is_refused(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    files = write_parquet(con, ROWS.format(1), table.uri, partition_by=["day"])
    with pytest.raises(PositionMovedError, match="plan the batch again"):
        table.commit(con, files, expect={"first": None}, positions={"first": 1})
    assert ids(con, table) == list(range(10))


def test_a_lost_race_is_planned_anew_on_the_newer_version(
    con: duckdb.DuckDBPyConnection, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer commits between our reading and our commit: its row must be replaced too, and only once."""
    real_open = Table.open
    opened = []

    def open_and_be_overtaken(self: Table, version: int | None = None) -> DeltaTable:
        found = real_open(self, version)
        opened.append(found.version())
        if len(opened) == 2:  # the first is _write's, the second is the attempt's
            with self.lake.connect() as other:
                monkeypatch.setattr(Table, "open", real_open)
                self.append(other, ROWS.format(4) + " WHERE i = 1", batch_id="overtakes")
        return found

    monkeypatch.setattr(Table, "open", open_and_be_overtaken)
    table.replace(con, ROWS.format(10) + " WHERE i = 1", where="id = 1")
    assert ids(con, table) == list(range(10))
    assert table.position("overtakes") == 1


def test_endless_conflicts_end_in_an_error(
    con: duckdb.DuckDBPyConnection, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = table.open()
    table.append(con, ROWS.format(1), batch_id="newer")
    monkeypatch.setattr(Table, "open", lambda self, version=None: stale)
    monkeypatch.setattr(commit_loop, "ATTEMPTS", 3)
    with pytest.raises(CommitConflictError, match="run again"):
        table.append(con, ROWS.format(1), batch_id="loser")


def test_a_table_that_cannot_be_opened_is_an_error_and_stays_as_it_is(
    con: duckdb.DuckDBPyConnection, table: Table
) -> None:
    log = Path(table.uri, "_delta_log")
    shutil.copytree(log, log.parent / "kept")
    (log / "00000000000000000000.json").write_text("garbage")
    for write in (
        lambda: table.create(Schema([])),
        lambda: table.append(con, ROWS.format(1), batch_id="x"),
        lambda: table.replace(con, ROWS.format(1), where="TRUE"),
        lambda: table.overwrite(con, ROWS.format(1)),
    ):
        with pytest.raises(TableUnreadableError, match="could not be opened"):
            write()
    shutil.rmtree(log)
    (log.parent / "kept").rename(log)
    assert ids(con, table) == list(range(10))


def test_storage_that_does_not_answer_is_not_an_absent_table() -> None:
    options = {
        "endpoint": "http://127.0.0.1:9", "allow_http": "true", "access_key_id": "k", "secret_access_key": "s",
        "region": "us-east-1", "max_retries": "0",
    }  # fmt: skip
    table = Table(Lake("s3://nowhere/lake", options), "bronze.x")
    with pytest.raises(TableUnreadableError):
        table.exists()
    with pytest.raises(TableUnreadableError):
        table.open()


def test_an_absent_table_is_said_to_be_absent(lake: Lake, con: duckdb.DuckDBPyConnection) -> None:
    table = Table(lake, "gold.none")
    assert not table.exists()
    assert table.position("x") is None
    with pytest.raises(TableNotFoundError, match="materialize"):
        table.append(con, ROWS.format(1), batch_id="x") or table.open()


def test_rows_of_another_shape_are_refused_by_name(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    with pytest.raises(SchemaMismatchError) as caught:
        table.replace(con, "SELECT 1::INTEGER AS id, DATE '2020-01-01' AS day, 'x' AS other", where="TRUE")
    text = str(caught.value)
    assert "column id is integer, the table has long" in text
    assert "column price is missing" in text
    assert "column other is new (string)" in text


def test_create_adds_new_columns_and_keeps_the_rows(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    wider = query_schema(con, f"SELECT *, 1.5::DOUBLE AS weight FROM ({ROWS.format(1)})")
    table.create(wider)
    table.create(wider)
    assert con.sql(f"SELECT count(*), count(weight) FROM {table.scan()}").fetchone() == (10, 0)


def test_properties_are_set_after_the_version_they_follow_from_or_not_at_all(
    con: duckdb.DuckDBPyConnection, table: Table
) -> None:
    planned = table.open().version()
    table.set_properties({"test.a": "1"}, metadata={"why": "test"})
    assert table.open().history(1)[0]["why"] == "test"
    table.append(con, ROWS.format(1), batch_id="overtakes")
    with pytest.raises(CommitConflictError):
        table.set_properties({"test.a": "2"}, version=planned)
    table.set_properties({"test.b": "3"})
    assert {"test.a": "1", "test.b": "3"}.items() <= table.open().metadata().configuration.items()


def test_partition_values_of_any_text_are_found_again(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    table = Table(lake, "silver.places")
    rows = "SELECT i AS id, ['United Kingdom', 'a/b=c %', 'é', NULL][1 + i % 4] AS place FROM range(8) AS t(i)"
    table.create(query_schema(con, rows), partition_by=["place"])
    table.append(con, rows, batch_id="a")
    table.replace(con, f"SELECT * FROM ({rows}) WHERE FALSE", where="place IN ('é', 'a/b=c %')")
    table.replace(con, f"SELECT * FROM ({rows}) WHERE FALSE", where="id = 3")
    assert con.sql(f"SELECT id, place FROM {table.scan()} ORDER BY id").fetchall() == [
        (0, "United Kingdom"),
        (4, "United Kingdom"),
        (7, None),
    ]
