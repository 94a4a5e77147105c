"""Reads the lake as a database: every table is a DuckDB view. Writes nothing; `lake` knows the table format."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.lake import Lake, Table
from pipeline_assets.sql import quote_name


@dataclass(frozen=True)
class TableFacts:
    """Facts of a table from its log.

    Attributes:
        name: `<layer>.<table>`.
        rows: Number of rows.
        files: Number of live data files.
        size_bytes: Their size.
        version: Newest version.
        committed_at: Time of its commit, UTC.
    """

    name: str
    rows: int
    files: int
    size_bytes: int
    version: int
    committed_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as a dict, for JSON."""
        return asdict(self)


def connect(lake: Lake, memory_limit: str, threads: int | None) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB in which each table of the lake is a view `<layer>.<table>` of its newest version."""
    con = lake.connect(memory_limit=memory_limit, threads=threads)
    for name in lake.table_names():
        layer, table = name.split(".")
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {layer}")
        con.execute(f"CREATE VIEW {layer}.{quote_name(table)} AS SELECT * FROM {Table(lake, name).scan()}")
    return con


def describe(lake: Lake) -> list[TableFacts]:
    """List the tables with the facts from their logs; reads no data."""
    return [_describe(Table(lake, name)) for name in lake.table_names()]


def _describe(table: Table) -> TableFacts:
    opened = table.open()
    files = pa.table(opened.get_add_actions(flatten=True))
    commit = opened.history(1)[0]
    return TableFacts(
        table.name,
        pc.sum(files["num_records"]).as_py() or 0 if "num_records" in files.column_names else 0,
        files.num_rows,
        pc.sum(files["size_bytes"]).as_py() or 0,
        opened.version(),
        datetime.fromtimestamp(commit["timestamp"] / 1000, UTC),
    )
