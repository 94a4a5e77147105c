"""Touched dates since a version: exactly what changed, and "everything" whenever that is not known."""

from datetime import date

import duckdb
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline_assets.lake import (
    Batch,
    Lake,
    Table,
    batches_since,
    changes_since,
    position_name,
    query_schema,
    select_batches,
)


def test_nothing_applied_yet_means_everything(table: Table) -> None:
    assert changes_since(table, None).dates is None


def test_up_to_date_means_nothing(table: Table) -> None:
    found = changes_since(table, table.open().version())
    assert found.dates == frozenset()


def test_dates_of_rows_that_came_and_of_rows_that_went(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    known = table.open().version()
    row = "SELECT {0}::BIGINT AS id, DATE '{1}' AS day, 1::DECIMAL(12, 3) AS price, 1::BIGINT AS seq, 'n' AS name"
    table.append(con, row.format(50, "2021-05-05"), batch_id="b")
    table.replace(con, row.format(51, "2021-05-06"), where="id = 1")
    found = changes_since(table, known)
    assert found.version == known + 2
    assert found.dates == {date(2021, 5, 5), date(2021, 5, 6), date(2020, 1, 2)}


@pytest.mark.parametrize("other", ["2021-05-06", None])
def test_a_row_without_a_date_that_comes_or_goes_means_everything(
    con: duckdb.DuckDBPyConnection, table: Table, other: str | None
) -> None:
    row = "SELECT {0}::BIGINT AS id, {1}::DATE AS day, 1::DECIMAL(12, 3) AS price, 1::BIGINT AS seq, 'n' AS name"
    rows = row.format(50, "NULL") + (f" UNION ALL {row.format(51, repr(other))}" if other else "")
    known = table.open().version()
    table.append(con, rows, batch_id="b")
    assert (changes_since(table, known).dates, changes_since(table, known).added) == (None, None)
    known = table.open().version()
    table.replace(con, row.format(52, "'2021-05-07'"), where="id = 50")
    assert changes_since(table, known).dates is None


def test_a_commit_that_replaces_all_rows_does_not_tell_by_those_that_came(
    con: duckdb.DuckDBPyConnection, table: Table
) -> None:
    known = table.open().version()
    rows = f"SELECT * FROM {table.scan(known)} WHERE id > 3"
    table.replace(con, rows, where="id <= 3")
    assert changes_since(table, known).added == {date(2020, 1, 1), date(2020, 1, 2), date(2020, 1, 3)}
    table.replace(con, rows, where="TRUE")
    assert changes_since(table, known).added is None
    assert changes_since(table, known).dates == {date(2020, 1, 1), date(2020, 1, 2), date(2020, 1, 3)}


def test_maintenance_touches_nothing(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    table.append(con, f"SELECT * FROM {table.scan()}", batch_id="again")
    known = table.open().version()
    table.open().optimize.compact()
    table.open().vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert table.open().version() > known
    assert changes_since(table, known).dates == frozenset()


def test_another_writer_that_lists_no_dates_means_everything(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    known = table.open().version()
    write_deltalake(table.uri, con.sql(f"SELECT * FROM {table.scan()}").to_arrow_table(), mode="append")
    assert changes_since(table, known).dates is None


def test_a_version_from_the_future_means_everything(table: Table) -> None:
    assert changes_since(table, 99).dates is None


def test_a_commit_made_while_the_log_is_read_hides_no_older_one(
    con: duckdb.DuckDBPyConnection, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = table.open().version()
    row = "SELECT 1::BIGINT AS id, DATE '{0}' AS day, 1::DECIMAL(12, 3) AS price, 1::BIGINT AS seq, '' AS name"
    table.append(con, row.format("2021-05-05"), batch_id="b")
    real = DeltaTable.history

    def overtaken(opened: DeltaTable, limit: int | None = None) -> list[dict[str, object]]:
        monkeypatch.setattr(DeltaTable, "history", real)
        table.append(con, row.format("2021-05-06"), batch_id="c")
        return real(opened, limit)

    monkeypatch.setattr(DeltaTable, "history", overtaken)
    assert changes_since(table, known).dates == {date(2021, 5, 5), date(2021, 5, 6)}


def test_a_table_made_anew_has_another_position(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    import shutil

    before, schema = position_name(table), table.open().schema()
    shutil.rmtree(table.uri)
    table.create(schema)
    assert position_name(table) != before


EVENT = """
    SELECT DATE '{day}' AS _partition_date, {lsn}::BIGINT AS commit_lsn, '{batch}' AS _batch_id, 'x' AS op
    FROM range({rows})
"""


def land(con: duckdb.DuckDBPyConnection, table: Table, batch: str, day: str, lsn: int, rows: int = 2) -> None:
    table.append(
        con,
        EVENT.format(day=day, lsn=lsn, batch=batch, rows=rows),
        batch_id=batch,
        metadata={"commit_lsn_min": str(lsn), "commit_lsn_max": str(lsn)},
    )


@pytest.fixture
def events(lake: Lake, con: duckdb.DuckDBPyConnection) -> Table:
    found = Table(lake, "bronze.events")
    schema = query_schema(con, EVENT.format(day="2026-01-01", lsn=1, batch="a", rows=1))
    found.create(schema, partition_by=["_partition_date"], date_column="_partition_date")
    land(con, found, "a", "2026-01-01", 10)
    return found


def test_batches_are_what_was_appended_up_to_the_version_read(con: duckdb.DuckDBPyConnection, events: Table) -> None:
    known = events.open().version()
    land(con, events, "b", "2026-01-01", 20)
    events.commit(con, [], positions={"slot": 9})  # a run that found nothing
    land(con, events, "c", "2025-01-01", 5)
    until = events.open().version()
    land(con, events, "d", "2026-01-01", 30)
    found = batches_since(events, known, until)
    assert found == [
        Batch("c", frozenset({date(2025, 1, 1)}), 5, 5),
        Batch("b", frozenset({date(2026, 1, 1)}), 20, 20),
    ]
    query = select_batches(events, until, found)
    assert con.execute(f"SELECT DISTINCT _batch_id FROM ({query}) ORDER BY 1").fetchall() == [("b",), ("c",)]
    assert con.execute(f"SELECT count(*) FROM ({query})").fetchone() == (4,)
    assert query.count("UNION ALL") == 1
    assert batches_since(events, until, until) == []
    assert con.execute(f"SELECT count(*) FROM ({select_batches(events, until, [])})").fetchone() == (0,)


def test_a_batch_without_rows_is_a_batch_of_no_days(con: duckdb.DuckDBPyConnection, events: Table) -> None:
    known = events.open().version()
    land(con, events, "b", "2026-01-01", 20, rows=0)
    found = batches_since(events, known, events.open().version())
    assert found == [Batch("b", frozenset(), 20, 20)]
    assert con.execute(f"SELECT count(*) FROM ({select_batches(events, known, found)})").fetchone() == (0,)


def test_batches_cannot_be_told_when_rows_went_or_the_log_is_gone(
    con: duckdb.DuckDBPyConnection, events: Table
) -> None:
    known = events.open().version()
    assert batches_since(events, None, known) is None
    assert batches_since(events, known + 1, known) is None
    events.replace(con, EVENT.format(day="2026-01-01", lsn=1, batch="x", rows=1), where="commit_lsn = 10")
    assert batches_since(events, known, events.open().version()) is None
