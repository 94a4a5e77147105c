"""Polls that are killed with SIGKILL before and after each request and each commit: in the end nothing differs."""

import signal
from pathlib import Path

import duckdb
import pytest
from crm_api import Api, account
from killing import worker
from polled import UPDATED, Crm

from pipeline_assets.lake import Lake, Table

WORKER = """
import sys
from pathlib import Path
from deltalake import DeltaTable
from killing import fork_for_each_line, kill_between
from polled import UPDATED, Crm
from pipeline_assets.ingest.rest.session import ApiSession
from pipeline_assets.lake import Lake

mode = sys.argv[1]


class At:
    url, paging = sys.argv[2], "cursor"


def poll(kill_at, lake):
    kill_between(kill_at, (ApiSession, "send"), (DeltaTable, "create"), (DeltaTable, "create_write_transaction"))
    with Lake(f"{lake}/lake").connect() as con:
        Crm(Path(lake), con, []).poll(At(), incremental=UPDATED if mode == "incremental" else None)


fork_for_each_line(poll)
"""


def content_of(con: duckdb.DuckDBPyConnection, lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    """The tables, but for the clock."""
    tables = {name: Table(lake, name).scan() for name in lake.table_names()}
    when = "EXCLUDE (_batch_id, _extracted_at, _partition_date)"
    return {name: con.execute(f"SELECT * {when} FROM {scan} ORDER BY ALL").fetchall() for name, scan in tables.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_a_poll_killed_at_every_step_ends_like_one_that_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("CRM_TOKEN", "t")
    records = [*(account(n) for n in range(1, 8)), '{"account_id": "x"}', account(1, day=2)]
    with Api(records=records) as api:
        killed = 0
        with worker(WORKER, mode, api.url) as run:
            while (code := run(killed, str(tmp_path / str(killed)))) == -signal.SIGKILL:
                killed += 1
        assert code == 0
        lakes = [tmp_path / str(kill_at) for kill_at in range(killed + 1)]
        with Lake(str(tmp_path)).connect() as con:
            for lake in lakes:
                Crm(lake, con, []).poll(api, incremental=UPDATED if mode == "incremental" else None)
            found = [content_of(con, Lake(str(lake / "lake"))) for lake in lakes]
    assert killed == 2 * (3 + 2 + 2), "three pages, two tables made, two commits: before and after each"
    expected = {"bronze.crm__accounts": 7, "dead_letters.crm__accounts": 1}
    assert {name: len(rows) for name, rows in found[-1].items()} == expected
    assert [content for content in found if content != found[-1]] == []
