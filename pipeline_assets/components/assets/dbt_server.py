"""The owner's side of `dbt_plugin.server`: dbt processes that stay, and calls that look like processes to dagster-dbt.

A run builds silver, checks it, and builds gold: two calls. When each call had a dbt process of its own, the start of
the process cost more than its work. Now the first call's process does both, and it starts when the run starts, beside
the run's first steps. Two calls at once have a process each. A call can be killed like a process, because killing it
kills its process.
"""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import orjson

_EXIT_CODE = b'{"exit_code": '
_END_SECONDS = 10

_lock = Lock()
_idle: dict[Path, list["_Server"]] = {}


class DbtCall:
    """One dbt command as the part of `subprocess.Popen` that dagster-dbt uses: it reads all lines, and then waits."""

    def __init__(self, parsed: Path, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command.

        Args:
            parsed: The file in which `dbt parse` has left the project.
            folder: The project's folder.
            arguments: Arguments of dbt.
            environment: All variables; those of this process are not inherited.
        """
        self.args = ["dbt", *arguments]
        self.returncode: int | None = None
        self._server = _taken(parsed, folder)
        self._server.ask({"arguments": list(arguments), "environment": dict(environment)})
        self.stdout = _Lines(self)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code.

        A caller that waits before it has read the last line waits for the process, which is ended.
        """
        if self.returncode is None:
            self._server.let_go()
            self.returncode = self._server.process.wait(timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the process a signal, unless the command has ended."""
        if self.returncode is None:
            self._server.process.send_signal(number)

    def terminate(self) -> None:
        """End the command and its process, if it has not ended."""
        if self.returncode is None:
            self._server.process.terminate()

    def kill(self) -> None:
        """Kill the command and its process, if it has not ended."""
        if self.returncode is None:
            self._server.process.kill()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that dbt prints; after the last line the exit code is known."""
        for line in self._server.lines():
            if line.startswith(_EXIT_CODE):
                self.returncode = int(orjson.loads(line)["exit_code"])
                _give_back(self._server)
                return
            if line.strip():
                yield line
        self.wait()  # the process died

    def abandon(self) -> None:
        """Let a command go if nobody reads its lines any more."""
        if self.returncode is None:
            self._server.let_go()


class _Lines:
    """The lines of a call, in place of the pipe that a process would have."""

    def __init__(self, call: DbtCall) -> None:
        self.closed = False
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        return self._call.lines()

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        self._call.abandon()


class _Server:
    """A dbt process, with the pipes to it."""

    def __init__(self, parsed: Path, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(  # noqa: S603  # no shell, no input of others
            # -P: modules are not imported from the project's folder, whose names (tests, macros) may hide real ones.
            [sys.executable, "-P", "-m", "pipeline_assets.dbt_plugin.server", str(parsed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip

    def ask(self, call: dict[str, Any]) -> None:
        """Send a call to the process; if the process is dead, its lines say why."""
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(call).encode() + b"\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def lines(self) -> Iterator[bytes]:
        """Yield lines until the process ends."""
        # Not `yield from` the pipe: a caller that leaves early would close the pipe with it.
        yield from iter(self.process.stdout.readline, b"")  # type: ignore[union-attr]

    def let_go(self) -> None:
        """Close the pipes: the process ends with its call, or when it next prints."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


def start_ahead(parsed: Path, folder: Path) -> None:
    """Start a process for a call that will come, unless one is waiting already.

    Args:
        parsed: As for `DbtCall`.
        folder: As for `DbtCall`.
    """
    with _lock:
        if not _idle.get(folder):
            _idle[folder] = [_Server(parsed, folder)]


def stop_idle() -> None:
    """End the processes that wait for calls."""
    with _lock:
        servers = [server for waiting in _idle.values() for server in waiting]
        _idle.clear()
    for server in servers:
        server.let_go()
    for server in servers:
        try:
            server.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def _taken(parsed: Path, folder: Path) -> _Server:
    with _lock:
        waiting = _idle.get(folder, [])
        while waiting:
            server = waiting.pop()
            if server.process.poll() is None:
                return server
            server.let_go()
    return _Server(parsed, folder)


def _give_back(server: _Server) -> None:
    with _lock:
        _idle.setdefault(server.folder, []).append(server)


def _forget() -> None:
    """Forget the parent's processes after a fork: the child must not use them."""
    _idle.clear()


atexit.register(stop_idle)
os.register_at_fork(after_in_child=_forget)
