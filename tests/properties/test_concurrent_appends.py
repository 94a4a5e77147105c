"""Processes append to one table at once: every batch is there, none twice."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_assets.lake import Lake, Table, query_schema

WRITER = """
import sys
from pipeline_assets.lake import Lake, Table
lake, writer = Lake(sys.argv[1]), int(sys.argv[2])
table = Table(lake, "bronze.load__test")
with lake.connect(threads=1) as con:
    for batch in range({batches}):
        rows = f"SELECT {{writer}}::BIGINT AS writer, {{batch}}::BIGINT AS batch, i AS row FROM range(100) AS t(i)"
        assert table.append(con, rows, batch_id=f"{{writer}}-{{batch}}") is not None
        assert table.append(con, rows, batch_id=f"{{writer}}-{{batch}}") is None
"""


@pytest.mark.parametrize(
    ("processes", "batches"), [(4, 10), pytest.param(8, 25, marks=pytest.mark.integration)], ids=["40", "200"]
)
def test_concurrent_appends_lose_and_double_nothing(tmp_path: Path, processes: int, batches: int) -> None:
    lake = Lake(str(tmp_path))
    table = Table(lake, "bronze.load__test")
    with lake.connect() as con:
        table.create(query_schema(con, "SELECT 1::BIGINT AS writer, 1::BIGINT AS batch, 1::BIGINT AS row"))
        program = WRITER.format(batches=batches)
        writers = [subprocess.Popen([sys.executable, "-c", program, lake.uri, str(n)]) for n in range(processes)]
        assert [writer.wait(timeout=300) for writer in writers] == [0] * processes
        found = con.sql(f"SELECT count(*), count(DISTINCT (writer, batch, row)) FROM {table.scan()}").fetchone()
    assert found == (processes * batches * 100, processes * batches * 100)
    commits = [commit for commit in table.open().history() if "batch_id" in commit]
    assert len(commits) == processes * batches
    assert table.open().version() == processes * batches


def test_writers_of_the_same_batch_agree_on_one(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    table = Table(lake, "bronze.load__test")
    with lake.connect() as con:
        table.create(query_schema(con, "SELECT 1::BIGINT AS writer, 1::BIGINT AS batch, 1::BIGINT AS row"))
        program = WRITER.replace("is not None", "is not ...").format(batches=5)
        writers = [subprocess.Popen([sys.executable, "-c", program, lake.uri, "0"]) for _ in range(4)]
        assert [writer.wait(timeout=300) for writer in writers] == [0] * 4
        assert con.sql(f"SELECT count(*) FROM {table.scan()}").fetchone() == (5 * 100,)
