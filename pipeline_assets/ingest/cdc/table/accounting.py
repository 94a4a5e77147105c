"""The dead letters of change tables that wait to be replayed. `ingest.batch.audit` compares what runs counted."""

from collections.abc import Sequence

import duckdb

from pipeline_assets.lake import Table
from pipeline_assets.lake.dead_letters import WEIGHT, dead_letter_table, waiting


def dead_letters(con: duckdb.DuckDBPyConnection, bronze: Table) -> Sequence[tuple[str, int]]:
    """Count the dead letters that wait to be replayed, by reason, the most frequent first."""
    table = dead_letter_table(bronze.lake, bronze.name)
    if not table.exists():
        return []
    return con.execute(
        f"SELECT reason, sum({WEIGHT})::BIGINT AS n FROM {waiting(table)} GROUP BY reason ORDER BY n DESC, reason"
    ).fetchall()
