"""Dagster's event log on SQLite, with connections that stay open.

Dagster's own opens and closes a database some six times for each event of an asset. Each close is a checkpoint, which
waits for the disk, and each connection has an SQLAlchemy engine of its own: 17 ms of CPU and up to 50 ms of wall for an
event, 5 ms with the connections kept. A run from bronze to gold stores some 200 events. What is stored, and that each
commit is on disk, is unchanged.
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

# The index of all runs and the runs that are at work. A web server reads many: the longest unused one is closed.
_KEPT_OPEN = 4


class KeptOpenEventLog(SqliteEventLogStorage):
    """Dagster's event log, one database for each run and an index.

    Overrides the private `_connect`, which all of its reads and writes go through; tests/instance/test_event_log.py
    fails if it vanishes.
    """

    def __init__(self, base_dir: str) -> None:
        """Opens the log, and creates it if it is not there.

        Args:
            base_dir: The folder of the databases.
        """
        self._engines: dict[str, Engine] = {}  # the longest unused first
        self._tables: set[str] = set()
        super().__init__(base_dir)

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table; Dagster asks for each check, and what is there stays."""
        if table_name in self._tables:
            return True
        if there := super().has_table(table_name):
            self._tables.add(table_name)
        return there

    def store_event(self, event: EventLogEntry) -> None:
        """Stores an event, and tells those who watch the run.

        They wait for a change of the database's file, and a commit changes only its write-ahead log.
        """
        super().store_event(event)
        os.utime(self.path_for_shard(event.run_id))

    def dispose(self) -> None:
        """Closes all connections; the log may still be used, and opens them again."""
        with self._db_lock:
            while self._engines:
                self._close(next(iter(self._engines)))
        super().dispose()

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        if shard not in self._initialized_dbs:
            with self._db_lock:
                self._close(shard)  # of a database that `wipe` has removed
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
        """Opens what lies below a folder, and creates what is not there.

        Args:
            base_dir: The folder.
            inst_data: How other processes make the same storage.
        """
        super().__init__(base_dir, inst_data)
        self._event_log_storage = KeptOpenEventLog(str(Path(base_dir, "history", "runs")))
