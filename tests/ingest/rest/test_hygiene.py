"""What a poll does beside polling: nothing. It loads little, calls nobody else, and writes to no place but the lake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from crm_api import Api

IMPORTS = """
import sys

import pipeline_assets.alerts, pipeline_assets.ingest.database.pulls, pipeline_assets.ingest.rest.source

before = set(sys.modules)
import pipeline_assets.ingest.rest.poll

print(*{name.split(".")[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names)
"""

POLL = """
import os, sys
from pathlib import Path

seen = set()


def watch(event, args):
    if event == "socket.connect":
        seen.add(f"{args[1][0]}:{args[1][1]}" if isinstance(args[1], tuple) else str(args[1]))
    elif event in ("os.mkdir", "os.rename") or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        if isinstance(args[0], str) and not args[0].startswith(("/dev/", sys.argv[2])):
            seen.add(args[0])


sys.addaudithook(watch)
from polled import Crm
from pipeline_assets.lake import Lake


class At:
    url, paging = sys.argv[1], "cursor"


folder = Path(sys.argv[2])
with Lake(str(folder / "lake")).connect() as con:
    Crm(folder, con, []).poll(At())
print("\\n".join(seen))
"""


@pytest.mark.slow
def test_a_run_that_polls_loads_no_more_packages_than_other_runs_but_one() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"pipeline_assets", "jsonpath_ng"}


@pytest.mark.slow
def test_a_poll_speaks_to_its_api_alone_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home, lake = tmp_path / "home", tmp_path / "state"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "CRM_TOKEN": "t", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"TMPDIR": str(lake), "PYTHONDONTWRITEBYTECODE": "1"}
    lake.mkdir()
    with Api() as api:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", POLL, api.url, str(lake)],
            env=environment, cwd=home, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert set(done.stdout.split()) == {api.url.removeprefix("http://")}
    assert list(home.iterdir()) == []
