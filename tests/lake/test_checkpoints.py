"""A commit that names thousands of files has a checkpoint at once: else each opening parses it, till the hundredth."""

import logging
from pathlib import Path

import duckdb
import pytest

from pipeline_assets.lake import Table

MANY = {f"content:{number:032x}-25": number for number in range(2_000)}


def checkpoints(table: Table) -> list[int]:
    return [int(path.name[:20]) for path in Path(table.uri, "_delta_log").glob("*.checkpoint.parquet")]


def test_a_commit_of_thousands_of_positions_has_a_checkpoint(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    version = table.commit(con, [], positions=MANY)
    assert checkpoints(table) == [version]
    assert table.position(f"content:{1_999:032x}-25") == 1_999
    assert con.execute(f"SELECT count(*) FROM {table.scan()}").fetchone() == (10,)


def test_a_small_commit_has_none(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    table.commit(con, [], positions={"a": 1, "b": 2})
    table.commit(con, [], positions={**MANY, "a": 2} | {"b": 3}, expect={"a": 1})
    table.commit(con, [], positions={**MANY, "a": 3})  # only one of them is another than before
    assert len(checkpoints(table)) == 1


def test_a_checkpoint_that_fails_is_no_failure_of_the_write(
    con: duckdb.DuckDBPyConnection, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    before = table.open().version()
    Path(table.uri, "_delta_log", f"{before + 1:020d}.checkpoint.parquet").mkdir()
    with caplog.at_level(logging.WARNING):
        assert table.commit(con, [], positions=MANY) == before + 1
    assert "silver.things: no checkpoint was made, a later commit makes one" in caplog.text
    assert (table.open().version(), table.position(f"content:{7:032x}-25")) == (before + 1, 7)
