"""The dead letter table beside each bronze table: records that did not fit, where they came from and why.

Dead letters replace those of an earlier reading, or are appended. `ingest` splits a batch into rows and dead letters.
"""

from collections.abc import Mapping

import duckdb

from pipeline_assets.lake.files import DataFile, query_schema
from pipeline_assets.lake.storage import Lake
from pipeline_assets.lake.table import Table

COLUMNS = {
    "_partition_date": "DATE",
    "_batch_id": "VARCHAR",
    "_extracted_at": "TIMESTAMPTZ",
    "_source": "STRUCT(file VARCHAR, line BIGINT)",
    "reason": "VARCHAR",
    "raw": "VARCHAR",
    "records": "BIGINT",
}
"""`records` is the number of source records that a dead letter stands for.

The one dead letter of a file that cannot be read stands for all its records.
"""

WEIGHT = "coalesce(records, 1)"
"""SQL for the number of records that a dead letter of `weighed` stands for."""

_SELECT = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in COLUMNS.items())


def dead_letter_table(lake: Lake, bronze_name: str) -> Table:
    """Return the dead letter table of a bronze table: `bronze.x` -> `dead_letters.x`."""
    return Table(lake, bronze_name.replace("bronze.", "dead_letters.", 1))


def weighed(dead_letters: Table, version: int | None = None) -> str:
    """Build a relation of a table's dead letters with their `records`, a column that tables of older releases lack."""
    return f"(FROM {dead_letters.scan(version)} UNION ALL BY NAME SELECT NULL::BIGINT AS records WHERE false)"


def record(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    *dead_letters: str,
    where: str,
    metadata: Mapping[str, str] | None = None,
    expect: Mapping[str, int | None] | None = None,
    positions: Mapping[str, int] | None = None,
) -> None:
    """Replace the dead letters of what is being read (again) by those of this reading.

    Makes no commit if there are no old or new dead letters and no position to set.

    Args:
        con: Connection that the query's tables live in.
        table: A table of `dead_letter_table`.
        dead_letters: Queries that give `COLUMNS`. The result of each is written at once: 60,000 dead letters of 30 kB
            are too many for a memory limit of 1 GB, because DuckDB collects 122,880 rows before it writes.
        where: Predicate on the dead letters that the reading makes obsolete.
        metadata: Kept in the commit.
        expect: Positions in the log of the dead letters as they were when the reading began.
        positions: Positions to set there.

    Raises:
        PositionMovedError: Another run has replaced dead letters meanwhile; nothing was committed.
    """
    _create(con, table)
    files: list[DataFile] = []
    try:
        for query in dead_letters:
            files += table.write(con, f"SELECT {_SELECT} FROM ({query})", partition_by=["_partition_date"])
    except BaseException:
        table.delete_uncommitted(files)
        raise
    table.commit(con, files, where=where, metadata=metadata, expect=expect, positions=positions)


def append(con: duckdb.DuckDBPyConnection, table: Table, dead_letters: str, *, batch_id: str) -> int | None:
    """Append dead letters once: the same `batch_id` again changes nothing.

    Args:
        con: Connection that the query's tables live in.
        table: Any table; it is created if it does not exist.
        dead_letters: Query that gives `COLUMNS`.
        batch_id: Deterministic name of the dead letters, kept in the log.

    Returns:
        The version committed, or None when they were there already.

    Raises:
        SchemaMismatchError: The table does not hold dead letters.
    """
    if not table.exists() or _is_of_older_release(table):
        _create(con, table)
    return table.append(con, f"SELECT {_SELECT} FROM ({dead_letters})", batch_id=batch_id)


def _is_of_older_release(table: Table) -> bool:
    return {column.name for column in table.open().schema().fields} == COLUMNS.keys() - {"records"}


def _create(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    table.create(
        query_schema(con, f"SELECT {', '.join(f'CAST(NULL AS {kind}) AS {name}' for name, kind in COLUMNS.items())}"),
        partition_by=["_partition_date"],
        date_column="_partition_date",
        description="Records that did not fit the contract, with the reason and the raw text.",
    )
