"""Dead letters of a batch until it is committed: there may be millions. The tables that they go to are in `lake`."""

from contextlib import suppress
from uuid import uuid4

import duckdb
import pyarrow as pa

from pipeline_assets.lake.dead_letters import REPLAYABLE_COLUMNS

TABLE_BYTES = 16 * 1024 * 1024
"""Of raw records in one temporary table. DuckDB collects 122,880 rows before it writes: 60,000 dead letters of 30 kB,
written at once, are too many for a memory limit of 1 GB."""


class DeadLetterBuffer:
    """Dead letters in temporary tables, which DuckDB spills beyond its memory limit.

    Attributes:
        tables: The tables, of no other batch. `add` begins another one when one is full, so that each can be written at
            once; `insert` fills a single one.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Create nothing yet."""
        self.tables: list[str] = []
        self._con = con
        self._size = 0
        self._own: str | None = None

    def add(self, rows: pa.Table, size: int) -> None:
        """Take rows of about `size` bytes; all calls have the same columns, which are the caller's."""
        self._con.register("dead_letter_rows", rows)
        if not self.tables or self._size + size > TABLE_BYTES:
            self._create("AS FROM dead_letter_rows")
            self._size = 0
        else:
            self._con.execute(f"INSERT INTO {self.tables[-1]} FROM dead_letter_rows")
        self._con.unregister("dead_letter_rows")
        self._size += size

    def insert(self, select: str, parameters: list[object] | None = None) -> None:
        """Take the rows of a query, which gives `lake.dead_letters.REPLAYABLE_COLUMNS` in their order."""
        if self._own is None:
            self._own = self._create(f"({', '.join(f'{name} {kind}' for name, kind in REPLAYABLE_COLUMNS.items())})")
        self._con.execute(f"INSERT INTO {self._own} {select}", parameters)

    def forget(self, origin: str) -> None:
        """Take back what was inserted of one origin."""
        if self._own is not None:
            self._con.execute(f"DELETE FROM {self._own} WHERE _source.file = ?", [origin])

    def drop(self) -> None:
        """Drop the tables."""
        with suppress(duckdb.Error):  # of a broken connection, with which they go: what broke it is the error to see
            for table in self.tables:
                self._con.execute(f"DROP TABLE IF EXISTS {table}")
            self.tables.clear()
            self._own = None

    def _create(self, definition: str) -> str:
        self.tables.append(f"dead_letters_{uuid4().hex}")
        self._con.execute(f"CREATE TEMP TABLE {self.tables[-1]} {definition}")
        return self.tables[-1]
