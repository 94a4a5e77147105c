"""The dead letter table beside each bronze table: records that did not fit, where they came from and why.

Dead letters replace those of an earlier reading, or are appended. A dead letter waits until it is replayed or
discarded. A replayed one becomes a row and goes. A discarded one stays, with the time, so that the records of its batch
still add up. `ingest` splits a batch into rows and dead letters, and replays them.
"""

from collections.abc import Mapping
from datetime import datetime

import duckdb
from deltalake import DeltaTable

from pipeline_assets.lake import commit_loop
from pipeline_assets.lake.files import DataFile, query_schema
from pipeline_assets.lake.removal import plan_removal
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
"""The columns that every source gives. `records` is the number of source records that a dead letter stands for.

The one dead letter of a file that cannot be read stands for all its records.
"""

REPLAYABLE_COLUMNS = {**COLUMNS, "raw_types": "VARCHAR"}
"""The columns of dead letters that can be replayed: `raw_types` says how `raw` is read (`conform.raw_records`)."""

WEIGHT = "coalesce(records, 1)"
"""SQL for the number of records that a dead letter of `weighed` stands for."""

_FURTHER = {"raw_types": "VARCHAR", "discarded_at": "TIMESTAMPTZ"}
_STORED = {**COLUMNS, **_FURTHER}
COLUMN_DESCRIPTIONS = {
    "_partition_date": (_STORED["_partition_date"], "The partition that the row would lie in."),
    "_batch_id": (_STORED["_batch_id"], "The batch that the record came with."),
    "_extracted_at": (_STORED["_extracted_at"], "When it was read or delivered, UTC."),
    "_source": (_STORED["_source"], "Where it comes from: file or table, and its line or number there, if known."),
    "reason": (_STORED["reason"], "What does not fit."),
    "raw": (_STORED["raw"], "The record: its own text, or a JSON object of its fields."),
    "records": (_STORED["records"], "How many records it stands for; of a file that cannot be read all of them."),
    "raw_types": (
        _STORED["raw_types"],
        "How raw is read by a replay: JSON, or the types of the fields; null for neither.",
    ),
    "discarded_at": (_STORED["discarded_at"], "When it was discarded; null while it waits."),
}
"""Type and meaning of all columns, as people read them."""
_OF_ALL_RELEASES = COLUMNS.keys() - {"records"}
_SELECT = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in _STORED.items())
_LACKING = ", ".join(f"NULL::{kind} AS {name}" for name, kind in {"records": "BIGINT", **_FURTHER}.items())


def dead_letter_table(lake: Lake, bronze_name: str) -> Table:
    """Return the dead letter table of a bronze table: `bronze.x` -> `dead_letters.x`."""
    return Table(lake, bronze_name.replace("bronze.", "dead_letters.", 1))


def weighed(dead_letters: Table, version: int | None = None) -> str:
    """Give the relation of a table's dead letters with all columns, some of which older releases did not write."""
    return _completed(dead_letters.scan(version))


def waiting(dead_letters: Table, version: int | None = None) -> str:
    """Give the relation of the dead letters that nobody has discarded, with all columns."""
    return f"(FROM {weighed(dead_letters, version)} WHERE discarded_at IS NULL)"


def discard(
    con: duckdb.DuckDBPyConnection,
    dead_letters: Table,
    where: str,
    *,
    at: datetime,
    metadata: Mapping[str, str] | None = None,
    positions: Mapping[str, int] | None = None,
) -> None:
    """Discard waiting dead letters: they stay, with the time. One commit, planned on the version that it follows.

    Args:
        con: A connection of the lake.
        dead_letters: A table of `dead_letter_table`.
        where: Predicate on the dead letters; of those it selects the waiting ones are discarded.
        at: The time.
        metadata: Kept in the commit.
        positions: Positions to set in the log.
    """
    create(con, dead_letters)  # its columns, before a predicate names them
    selected = f"({where}) AND discarded_at IS NULL"
    moment = f"TIMESTAMPTZ '{at.isoformat(sep=' ')}'"

    def plan(opened: DeltaTable) -> commit_loop.Plan:
        scan, options = dead_letters.scan(opened.version()), dead_letters.lake.storage_options
        rows = f"(SELECT *, filename FROM {scan})"
        removal = plan_removal(con, opened, dead_letters.uri, rows, selected, "_partition_date", options)
        query = f"SELECT * REPLACE ({moment} AS discarded_at) FROM {scan} WHERE {selected}"
        try:
            files = dead_letters.write(con, query, partition_by=["_partition_date"])
        except BaseException:
            dead_letters.delete_uncommitted(removal.survivors)
            raise
        return commit_loop.Plan(files, removal, own_files=True)

    commit_loop.commit(con, dead_letters, plan, expect=None, positions=positions, metadata=metadata)


def _completed(relation: str) -> str:
    return f"(FROM {relation} UNION ALL BY NAME SELECT {_LACKING} WHERE false)"


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
    create(con, table)
    files: list[DataFile] = []
    try:
        for query in dead_letters:
            select = f"SELECT {_SELECT} FROM {_completed(f'({query})')}"
            files += table.write(con, select, partition_by=["_partition_date"])
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
        create(con, table)
    return table.append(con, f"SELECT {_SELECT} FROM {_completed(f'({dead_letters})')}", batch_id=batch_id)


def _is_of_older_release(table: Table) -> bool:
    return _OF_ALL_RELEASES <= {column.name for column in table.open().schema().fields} < _STORED.keys()


def create(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Create a table of dead letters unless it exists; add the columns that older releases did not write."""
    table.create(
        query_schema(con, f"SELECT {', '.join(f'CAST(NULL AS {kind}) AS {name}' for name, kind in _STORED.items())}"),
        partition_by=["_partition_date"],
        date_column="_partition_date",
        description="Records that did not fit the contract, with the reason and the raw text.",
    )
