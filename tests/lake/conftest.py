"""A lake in a temporary folder, and a table with ten rows over three days."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from pipeline_assets.lake import Lake, Table, query_schema

ROWS = """
    SELECT i AS id, DATE '2020-01-01' + (i % 3)::INTEGER AS day, (i / 7)::DECIMAL(12, 3) AS price, i AS seq,
        'name ' || i AS name
    FROM range(10) AS t(i)
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def con(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    with lake.connect() as connection:
        yield connection


@pytest.fixture
def table(lake: Lake, con: duckdb.DuckDBPyConnection) -> Table:
    found = Table(lake, "silver.things")
    found.create(query_schema(con, ROWS), partition_by=["day"], date_column="day", description="Things.")
    found.append(con, ROWS, batch_id="first")
    return found
