"""What a killed process leaves in a table's folder: nobody sees it, and a full vacuum takes that away and no more."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import duckdb
from killing import worker

from pipeline_assets.lake import Lake, Table

WORKER = """
import sys
from deltalake import DeltaTable
from killing import fork_for_each_line, kill_between
from pipeline_assets.lake import Lake, Table


def run(rows, kill_at):
    kill_between(kill_at, (DeltaTable, "create_write_transaction"))
    lake = Lake(sys.argv[1])
    with lake.connect(threads=1) as con:
        Table(lake, "silver.things").append(con, rows, batch_id="second")


fork_for_each_line(run)
"""


def files(table: Table) -> set[Path]:
    return {path for path in Path(table.uri).rglob("*.parquet") if "_delta_log" not in path.parts}


def rows(con: duckdb.DuckDBPyConnection, table: Table) -> list[tuple[object, ...]]:
    return con.execute(f"FROM {table.scan()} ORDER BY ALL").fetchall()


def test_a_full_vacuum_takes_what_a_kill_left_and_is_old_and_nothing_else(
    lake: Lake, con: duckdb.DuckDBPyConnection, table: Table
) -> None:
    before, named, again = rows(con, table), files(table), f"SELECT * FROM {table.scan(1)}"
    with worker(WORKER, lake.uri) as run:
        assert run(again, 0) == -signal.SIGKILL
        killed = files(table) - named
        assert len(killed) == 3
        assert rows(con, table) == before
        month_ago = time.time() - timedelta(days=30).total_seconds()
        for path in killed | named:
            os.utime(path, (month_ago, month_ago))
        assert run(again, 0) == -signal.SIGKILL
    young = files(table) - killed - named
    assert len(young) == 3  # as those of a run that has not committed yet
    table.open().create_checkpoint()
    assert table.open().vacuum(dry_run=False) == []
    table.open().vacuum(full=True, dry_run=False)
    assert files(table) == named | young
    assert rows(con, table) == before
    table.append(con, again, batch_id="second")
    assert len(rows(con, table)) == 2 * len(before)
