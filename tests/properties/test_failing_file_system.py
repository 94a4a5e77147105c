"""Whatever call of the file system fails, the next run gives the same tables, and no file is lost or left over.

Real calls of delta-rs (Rust), DuckDB (C++) and Python, refused or cut short below them, in their libc.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SUPPORT = Path(__file__).parents[1] / "support"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="the calls are replaced by a library made with gcc"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("library") / "failing_calls.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", made, _SUPPORT / "failing_calls.c", "-ldl", "-lpthread"]
    subprocess.run(list(map(str, command)), check=True)
    return made


def faults(library: Path, folder: Path, first: int, step: int, *kinds: str) -> int:
    """Runs the sweep; gives the number of faults, after which all was as it has to be."""
    done = subprocess.run(
        [sys.executable, _SUPPORT / "failing_calls.py", folder, str(first), str(step), *kinds],
        env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *wrong, last = map(json.loads, done.stdout.splitlines())
    assert not wrong, json.dumps(wrong[0], indent=1)
    return int(last["faults"])


def test_a_call_that_fails_here_and_there_costs_nothing(library: Path, tmp_path: Path) -> None:
    assert faults(library, tmp_path, 5, 13, "full", "answer lost") >= 14


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["full", "full for a moment", "input/output error", "short write", "answer lost"])
def test_any_call_that_fails_costs_nothing(library: Path, tmp_path: Path, kind: str) -> None:
    assert faults(library, tmp_path, 1, 1, kind) > 100
