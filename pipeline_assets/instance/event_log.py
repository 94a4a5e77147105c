"""Dagster's event log on SQLite, with connections that stay open.

Dagster's own event log opens and closes a database about six times for each event of an asset. Each close is a
checkpoint, which waits for the disk, and each connection has its own SQLAlchemy engine: 17 ms of CPU and up to 50 ms of
wall time for an event, 5 ms with the connections kept open. A run from bronze to gold stores about 200 events. What is
stored stays the same, and each commit is still on disk.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import EventLogEntry
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import QueuePool

# The index of all runs, and the runs in progress. A web server reads many: the connection unused for longest is closed.
_KEPT_OPEN = 4


class KeptOpenEventLog(SqliteEventLogStorage):
    """Dagster's event log: one database for each run, and an index.

    It overrides the private `_connect`, through which all of its reads and writes go; tests/instance/test_event_log.py
    fails if that method vanishes.
    """

    def __init__(self, base_dir: str) -> None:
        """Open the log, and create it if it does not exist.

        Args:
            base_dir: The folder of the databases.
        """
        self._engines: dict[str, Engine] = {}  # the one unused for longest comes first
        self._tables: set[str] = set()
        super().__init__(base_dir)

    def has_table(self, table_name: str) -> bool:
        """Tell whether the index has a table. Dagster asks for each check, and a table that exists stays."""
        if table_name in self._tables:
            return True
        if there := super().has_table(table_name):
            self._tables.add(table_name)
        return there

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event, and notify the processes that watch the run.

        They wait for a change of the database's file, but a commit changes only its write-ahead log.
        """
        super().store_event(event)
        os.utime(self.path_for_shard(event.run_id))

    def dispose(self) -> None:
        """Close all connections. The log may still be used, and then opens them again."""
        with self._db_lock:
            while self._engines:
                self._close(next(iter(self._engines)))
        super().dispose()

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        if shard not in self._initialized_dbs:
            with self._db_lock:
                self._close(shard)  # its database was removed by `wipe`
            with super()._connect(shard) as con:
                yield con
            return
        with self._db_lock, self._engine(shard).begin() as con:
            yield con

    def _engine(self, shard: str) -> Engine:
        engine = self._engines.pop(shard, None) or create_engine(
            self.conn_string_for_shard(shard),
            poolclass=QueuePool,
            pool_size=1,
            connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS},
        )
        self._engines[shard] = engine
        if len(self._engines) > _KEPT_OPEN:
            self._close(next(iter(self._engines)))
        return engine

    def _close(self, shard: str) -> None:
        if engine := self._engines.pop(shard, None):
            engine.dispose()


class SqliteStorage(DagsterSqliteStorage):
    """Dagster's runs, events and schedules on SQLite, with `KeptOpenEventLog`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        """Open the storages below a folder, and create those that do not exist.

        Args:
            base_dir: The folder.
            inst_data: How other processes create the same storage.
        """
        super().__init__(base_dir, inst_data)
        self._event_log_storage = KeptOpenEventLog(str(Path(base_dir, "history", "runs")))
