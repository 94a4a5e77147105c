"""Dead letters of a batch until it is committed; there may be millions.

`lake.dead_letters` holds the tables that they go to.
"""

from contextlib import suppress
from uuid import uuid4

import duckdb
import pyarrow as pa

from pipeline_assets.lake.dead_letters import REPLAYABLE_COLUMNS

TABLE_BYTES = 16 * 1024 * 1024
"""Bytes of raw records in one temporary table. DuckDB collects 122,880 rows before it writes. With 30 kB each, 60,000
dead letters written at once are too many for a memory limit of 1 GB."""


class DeadLetterBuffer:
    """Dead letters in temporary tables, which DuckDB spills to disk beyond its memory limit.

    Attributes:
        tables: The tables, which no other batch uses. `add` begins another table when one is full, so that each can be
            written at once; `insert` fills a single one.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Begin without a table."""
        self.tables: list[str] = []
        self._con = con
        self._size = 0
        self._own: str | None = None

    def add(self, rows: pa.Table, size: int) -> None:
        """Add rows of about `size` bytes. The caller decides the columns, which are the same in all calls."""
        self._con.register("dead_letter_rows", rows)
        if not self.tables or self._size + size > TABLE_BYTES:
            self._create("AS FROM dead_letter_rows")
            self._size = 0
        else:
            self._con.execute(f"INSERT INTO {self.tables[-1]} FROM dead_letter_rows")
        self._con.unregister("dead_letter_rows")
        self._size += size

    def insert(self, select: str, parameters: list[object] | None = None) -> None:
        """Add the rows of a query, which gives `lake.dead_letters.REPLAYABLE_COLUMNS` in their order."""
        if self._own is None:
            self._own = self._create(f"({', '.join(f'{name} {kind}' for name, kind in REPLAYABLE_COLUMNS.items())})")
        self._con.execute(f"INSERT INTO {self._own} {select}", parameters)

    def forget(self, origin: str) -> None:
        """Remove what was inserted for one origin."""
        if self._own is not None:
            self._con.execute(f"DELETE FROM {self._own} WHERE _source.file = ?", [origin])

    def drop(self) -> None:
        """Drop the tables."""
        # A broken connection takes its tables with it; raise the error that broke it, not this one.
        with suppress(duckdb.Error):
            for table in self.tables:
                self._con.execute(f"DROP TABLE IF EXISTS {table}")
            self.tables.clear()
            self._own = None

    def _create(self, definition: str) -> str:
        self.tables.append(f"dead_letters_{uuid4().hex}")
        self._con.execute(f"CREATE TEMP TABLE {self.tables[-1]} {definition}")
        return self.tables[-1]
