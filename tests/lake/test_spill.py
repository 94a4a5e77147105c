"""Spill folders are private, with names that cannot be foreseen; what killed processes left is swept, and only that."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline_assets.lake import Lake, spill
from pipeline_assets.lake.spill import spill_folder, sweep

_SPILLS = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from pipeline_assets.lake.spill import spill_folder
(spill_folder() / "rows").write_text("secret")
print(spill_folder(), flush=True)
sys.stdin.read()
"""


def process(folder: Path) -> tuple["subprocess.Popen[str]", Path]:
    found = subprocess.Popen(
        [sys.executable, "-c", _SPILLS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert found.stdout is not None
    return found, Path(found.stdout.readline().strip())


def test_a_connection_spills_into_a_private_folder_with_a_random_name(lake: Lake) -> None:
    with lake.connect() as con, lake.connect() as other:
        places = [Path(c.sql("SELECT current_setting('temp_directory')").fetchall()[0][0]) for c in (con, other)]
    assert places[0] != places[1]
    assert {place.parent for place in places} == {spill_folder()}
    assert stat.S_IMODE(spill_folder().stat().st_mode) == 0o700
    assert str(os.getpid()) not in spill_folder().name


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    (killed, left), (living, kept) = process(tmp_path), process(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (left / "rows").exists()
    sweep(tmp_path)
    assert not left.exists()
    assert (kept / "rows").exists()
    living.communicate("")
    assert not kept.exists()  # who ends well sweeps its own


@pytest.mark.parametrize("kind", ["link", "file", "fresh folder", "other name"])
def test_what_is_no_folder_of_a_dead_process_stays(tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "rows").write_text("mine")
    place = tmp_path / "pipeline_assets-x"
    if kind == "link":
        place.symlink_to(precious)
    elif kind == "file":
        place.write_text("mine")
    elif kind == "fresh folder":
        place.mkdir()
    else:
        place = precious
    sweep(tmp_path)
    assert place.exists()
    assert (precious / "rows").exists()


def test_an_old_folder_without_a_lock_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline_assets-4711"
    folder.mkdir()
    os.utime(folder, (time.time() - 100_000,) * 2)
    sweep(tmp_path)
    assert not folder.exists()


def test_a_folder_is_not_swept_while_it_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = fcntl.flock

    def late(file: int, how: int) -> None:
        if how == fcntl.LOCK_EX:  # another process sweeps just before the owner has its lock
            sweep(tmp_path)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    folder = spill._folder_of.__wrapped__(os.getpid(), os.geteuid())
    assert folder.exists()
    sweep(tmp_path)
    assert folder.exists()
