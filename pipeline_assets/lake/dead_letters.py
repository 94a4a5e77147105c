"""The dead letter table beside each bronze table: what did not fit, where it came from and why. Replaces by file.

Splitting a batch into rows and dead letters is `ingest`'s work.
"""

from collections.abc import Sequence

import duckdb

from pipeline_assets.lake.files import query_schema
from pipeline_assets.lake.storage import Lake
from pipeline_assets.lake.table import Table

COLUMNS = {
    "_partition_date": "DATE",
    "_batch_id": "VARCHAR",
    "_extracted_at": "TIMESTAMPTZ",
    "_source": "STRUCT(file VARCHAR, line BIGINT)",
    "reason": "VARCHAR",
    "raw": "VARCHAR",
}


def dead_letter_table(lake: Lake, bronze_name: str) -> Table:
    """Gives the dead letter table of a bronze table: `bronze.x` -> `dead_letters.x`."""
    return Table(lake, bronze_name.replace("bronze.", "dead_letters.", 1))


def record(
    con: duckdb.DuckDBPyConnection, table: Table, letters: str, *, where: str, metadata: dict[str, str] | None = None
) -> int:
    """Replaces the dead letters of what is being (re-)read by those of this reading; none of either is no commit.

    Args:
        con: Connection that the query's tables live in.
        table: A table of `dead_letter_table`.
        letters: A query that gives `COLUMNS`.
        where: Predicate on the letters that the reading makes obsolete.
        metadata: Kept in the commit.

    Returns:
        The number of letters written.
    """
    select = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in COLUMNS.items())
    table.create(
        query_schema(con, f"SELECT {', '.join(f'CAST(NULL AS {kind}) AS {name}' for name, kind in COLUMNS.items())}"),
        partition_by=["_partition_date"],
        date_column="_partition_date",
        description="Records that did not fit the contract, with the reason and the raw text.",
    )
    count: Sequence[int] = con.execute(f"SELECT count(*) FROM ({letters})").fetchone() or (0,)
    table.replace(con, f"SELECT {select} FROM ({letters})", where=where, metadata=metadata)
    return int(count[0])
