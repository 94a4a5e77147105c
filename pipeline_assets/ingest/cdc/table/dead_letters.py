"""Dead letters in quantities: of a batch until it is committed, and as they are read again. There may be millions."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from uuid import uuid4

import duckdb
import pyarrow as pa

from pipeline_assets.ingest.cdc.events import Reject
from pipeline_assets.ingest.cdc.table.chunks import BYTES, FILE_BYTES
from pipeline_assets.lake.dead_letters import WEIGHT
from pipeline_assets.sql import quote_text

_COLUMNS = pa.schema(
    [
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("origin", pa.string()),
        ("place", pa.int64()),
        ("ts_us", pa.int64()),
        ("records", pa.int64()),
    ]
)

# Where a dead letter stands: of dead letters of one place, the delete of a key change comes before its insert.
_DELETE = quote_text('"op": "d", "source": ')
_STAND = (
    "concat_ws(' ', _source.file, lpad(CAST(_source.line AS VARCHAR), 19, '0'), "
    f"NOT contains(raw, {_DELETE}), hash(raw))"
)


class DeadLetters:
    """Dead letters that wait in temporary tables, which DuckDB spills beyond its memory limit.

    Attributes:
        tables: The tables, of no other batch; each small enough to be written at once.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Creates nothing yet."""
        self.tables: list[str] = []
        self._con = con
        self._size = 0

    def add(self, rejects: Sequence[Reject], ts_us: Iterable[int]) -> None:
        """Takes dead letters, of about as many bytes as a chunk, with the time of each."""
        columns = {
            "reason": [reject.reason for reject in rejects],
            "raw": [reject.raw for reject in rejects],
            "origin": [reject.origin for reject in rejects],
            "place": [reject.place for reject in rejects],
            "ts_us": list(ts_us),
            "records": [reject.records for reject in rejects],
        }
        self._con.register("cdc_rejects", pa.table(columns, schema=_COLUMNS))
        size = sum(len(reject.raw) for reject in rejects)
        if not self.tables or self._size + size > FILE_BYTES:
            self.tables.append(f"cdc_letters_{uuid4().hex}")
            self._con.execute(f"CREATE TEMP TABLE {self.tables[-1]} AS FROM cdc_rejects")
            self._size = 0
        else:
            self._con.execute(f"INSERT INTO {self.tables[-1]} FROM cdc_rejects")
        self._con.unregister("cdc_rejects")
        self._size += size

    def drop(self) -> None:
        """Drops the tables."""
        with suppress(duckdb.Error):  # of a broken connection, with which they go: what broke it is the error to see
            for table in self.tables:
                self._con.execute(f"DROP TABLE IF EXISTS {table}")
            self.tables.clear()


def read(con: duckdb.DuckDBPyConnection, dead_letters: str) -> Iterator[tuple[str, int | None, str, int]]:
    """Yields file, line, raw record and weight of dead letters, in order; of a key change first the delete.

    They are sorted in parts, and read once for each: DuckDB does not spill a sort of long texts.

    Args:
        con: A connection that nobody else uses meanwhile.
        dead_letters: The relation, of `dead_letters.weighed`.
    """
    parts = con.execute(
        f"""SELECT min(stand), max(stand) FROM (
            SELECT stand, sum(size) OVER (ORDER BY stand) // {BYTES} AS part
            FROM (SELECT {_STAND} AS stand, strlen(raw) AS size FROM {dead_letters})
        ) GROUP BY part ORDER BY part"""
    ).fetchall()
    for part in parts:
        found = con.execute(
            f"SELECT file, line, raw, records FROM (SELECT _source.file, _source.line, raw, {WEIGHT} AS records, "
            f"{_STAND} AS stand FROM {dead_letters}) "
            "WHERE stand BETWEEN ? AND ? ORDER BY stand",
            part,
        )
        while dead_letter := found.fetchone():
            yield dead_letter
