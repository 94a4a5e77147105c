"""Plans what a replace removes from one version of a table: whole files, and rows of files that are rewritten.

Nothing is committed here; `table` does that, together with the new rows.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import RemoveAction

from pipeline_assets.lake.files import DataFile, write_parquet
from pipeline_assets.sql import quote_name, quote_text


@dataclass(frozen=True)
class Removal:
    """Rows to remove.

    Attributes:
        actions: Files that leave the table.
        survivors: New files with the rows of those files that stay.
        rows: Number of rows removed.
        dates: Their dates in the table's date column; None for a row without a date.
    """

    actions: Sequence[RemoveAction] = ()
    survivors: Sequence[DataFile] = ()
    rows: int = 0
    dates: frozenset[date | None] = frozenset()


def plan_removal(
    con: duckdb.DuckDBPyConnection,
    table: DeltaTable,
    uri: str,
    rows: str,
    where: str,
    date_column: str | None,
    storage_options: Mapping[str, str],
) -> Removal:
    """Find the files that hold the selected rows, and rewrite the remaining rows of files that are hit in part.

    Files that partitions or statistics rule out are not opened; files that lose all rows are not read.

    Args:
        con: A connection of the lake.
        table: The version to remove from.
        uri: The table's root.
        rows: Relation with the table's columns and `filename`: all rows of the version, or of whole files of it.
        where: Predicate on the rows to remove.
        date_column: The table's date column, if it has one.
        storage_options: How an object store is reached.
    """
    day = f"CAST({quote_name(date_column)} AS DATE)" if date_column else "NULL::DATE"
    found = con.execute(f"SELECT filename, {day}, count(*) FROM {rows} WHERE {where} GROUP BY ALL").fetchall()
    if not found:
        return Removal()
    hits: Counter[str] = Counter()
    for name, _, count in found:
        hits[name.removeprefix(uri).lstrip("/")] += count
    actions, known = _actions(table, hits.keys())
    partly = [f"{uri}/{path}" for path, count in hits.items() if known[path] != count]
    survivors: list[DataFile] = []
    if partly:
        columns = ", ".join(quote_name(column.name) for column in table.schema().fields)
        names = ", ".join(map(quote_text, partly))
        survivors = write_parquet(
            con,
            f"SELECT {columns} FROM {rows} WHERE filename IN ({names}) AND ({where}) IS NOT TRUE",
            uri,
            partition_by=table.metadata().partition_columns,
            storage_options=storage_options,
        )
    dates = frozenset(day for _, day, _ in found) if date_column else frozenset()
    return Removal(actions, survivors, hits.total(), dates)


def _actions(table: DeltaTable, paths: Collection[str]) -> tuple[list[RemoveAction], dict[str, int | None]]:
    """Return the actions that remove some files, and the number of rows of each file if the log knows it."""
    listing = pa.table(table.get_add_actions(flatten=True))
    # The listing gives paths as the log encodes them; an action needs them as they are on disk.
    on_disk = [unquote(path) for path in listing["path"].to_pylist()]
    rows = listing.take([at for at, path in enumerate(on_disk) if path in paths]).to_pylist()
    partitions, now = table.metadata().partition_columns, int(time.time() * 1000)
    actions = [
        RemoveAction(
            path=unquote(row["path"]),
            size=row["size_bytes"],
            partition_values={name: _partition_text(row[f"partition.{name}"]) for name in partitions},
            deletion_timestamp=now,
            data_change=True,
        )
        for row in rows
    ]
    return actions, {unquote(row["path"]): row.get("num_records") for row in rows}


def _partition_text(value: object) -> str | None:
    return None if value is None else value.isoformat() if isinstance(value, date) else str(value)
