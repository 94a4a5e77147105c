"""Touched dates since a version: exactly what changed, and "everything" whenever that is not known."""

from datetime import date

import duckdb
from deltalake import write_deltalake

from pipeline_assets.lake import Table, changes_since, position_name


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


def test_a_table_made_anew_has_another_position(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    import shutil

    before, schema = position_name(table), table.open().schema()
    shutil.rmtree(table.uri)
    table.create(schema)
    assert position_name(table) != before
