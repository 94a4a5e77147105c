"""What a poll does beside polling: nothing. dlt would send telemetry, look for settings and keep folders below HOME."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from crm_api import Api

IMPORTS = "import pipeline_assets.ingest.rest.source, pipeline_assets.components, sys; sys.exit('dlt' in sys.modules)"

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
def test_a_declaration_does_not_import_dlt() -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORTS], check=False).returncode == 0


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
