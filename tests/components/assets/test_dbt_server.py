"""dbt as a process that stays: what one call leaves to the next, and what ends the process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from warm_dbt import warm_dbt

from pipeline_assets.components.assets import dbt_server
from pipeline_assets.components.assets.dbt_server import DbtCall, start_ahead, stop_idle
from pipeline_assets.components.assets.lean_dbt import LEAN_DBT
from pipeline_assets.settings import Settings, project_root

PROJECT = project_root() / "dbt_project"
LEAVES_A_TABLE = "{% do run_query('create table left_over as select 1') %} select 1 as n"
COUNTS_IT = "select count(*) as n, '{{ env_var('SAID') }}' as said from duckdb_tables() where table_name = 'left_over'"


@pytest.fixture(autouse=True)
def no_process_waits() -> Iterator[None]:
    stop_idle()
    yield
    stop_idle()


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parsed")
    warm_dbt(folder)
    return folder / "target" / "partial_parse.msgpack"


@pytest.fixture
def call(settings: Settings, parsed: Path, tmp_path: Path) -> Callable[..., DbtCall]:
    def made(*arguments: str, **variables: str) -> DbtCall:
        environment = {
            **os.environ, **LEAN_DBT, **variables, "DBT_LOG_FORMAT": "json", "DBT_WRITE_JSON": "false",
            "DBT_TARGET_PATH": str(tmp_path), "DBT_LOG_PATH": str(tmp_path), "DBT_PROFILES_DIR": str(PROJECT),
            "PIPELINE_LAKE_URI": settings.lake_uri,
        }  # fmt: skip
        return DbtCall(parsed, PROJECT, arguments, environment)

    return made


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z"


@pytest.mark.slow
def test_a_process_that_stays_answers_each_call_as_a_new_one_would(call: Callable[..., DbtCall], parsed: Path) -> None:
    start_ahead(parsed, PROJECT)
    (waiting,) = dbt_server._idle[PROJECT]
    first = call("show", "--inline", LEAVES_A_TABLE, SAID="once")
    assert [json.loads(line)["info"]["level"] for line in first.stdout]
    assert first.wait() == 0
    second = call("show", "--inline", COUNTS_IT, "--output", "json", SAID="twice")
    shown = [json.loads(line)["data"].get("preview") for line in second.stdout]
    assert [json.loads(preview) for preview in shown if preview] == [[{"n": 0, "said": "twice"}]]
    wrong = call("build", "--no-such-option")
    assert "No such option" in b"".join(wrong.stdout).decode()
    failed = call("show", "--inline", "select nothing from nowhere")
    assert "nowhere" in b"".join(failed.stdout).decode()
    assert [made.returncode for made in (first, second, wrong, failed)] == [0, 0, 2, 2]
    assert dbt_server._idle[PROJECT] == [waiting]


def test_a_killed_call_has_killed_its_process(call: Callable[..., DbtCall]) -> None:
    killed = call("ls")
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not dbt_server._idle.get(PROJECT)


def test_a_process_that_died_ends_its_call_with_its_own_exit_code(call: Callable[..., DbtCall]) -> None:
    died = call("ls")
    died._server.process.kill()
    assert list(died.stdout) == []
    assert died.returncode == -signal.SIGKILL


def test_two_calls_at_once_have_a_process_each_and_one_that_is_left_ends(
    call: Callable[..., DbtCall], parsed: Path
) -> None:
    start_ahead(parsed, PROJECT)
    (waiting,) = dbt_server._idle[PROJECT]
    one, other = call("ls"), call("ls")
    assert one._server is waiting
    assert other._server is not waiting
    for made in (one, other):
        with made.stdout:
            pass
        assert made.stdout.closed
    assert not dbt_server._idle.get(PROJECT)
    wait_for(lambda: one._server.process.poll() is not None and other._server.process.poll() is not None)


def test_a_process_ends_with_its_owner(parsed: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom pipeline_assets.components.assets import dbt_server\n"
        "dbt_server.start_ahead(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(dbt_server._idle[Path(sys.argv[2])][0].process.pid, flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(parsed), str(PROJECT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        server = int(owner.stdout.readline())
        assert is_alive(server)
        owner.kill()
    wait_for(lambda: not is_alive(server))
