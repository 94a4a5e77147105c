"""Reads the dead letters of change tables again, in order. There may be millions."""

from collections.abc import Iterator

import duckdb

from pipeline_assets.ingest.cdc.table.chunks import BYTES
from pipeline_assets.lake.dead_letters import WEIGHT
from pipeline_assets.sql import quote_text

# Orders dead letters of one place: the delete of a key change comes before its insert.
_DELETE = quote_text('"op": "d", "source": ')
_STAND = (
    "concat_ws(' ', _source.file, lpad(CAST(_source.line AS VARCHAR), 19, '0'), "
    f"NOT contains(raw, {_DELETE}), hash(raw))"
)


def read(con: duckdb.DuckDBPyConnection, dead_letters: str) -> Iterator[tuple[str, int | None, str, int]]:
    """Yield file, line, raw record and weight of dead letters, in order; of a key change, the delete first.

    They are sorted in parts, and read once for each part: DuckDB does not spill a sort of long texts.

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
