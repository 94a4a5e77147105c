"""Dead letters of a batch in quantities: in temporary tables that can each be written at once."""

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest

from pipeline_assets.ingest.batch import dead_letter_buffer
from pipeline_assets.ingest.batch.dead_letter_buffer import DeadLetterBuffer


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


def add(buffer: DeadLetterBuffer, size: int) -> None:
    buffer.add(pa.table({"raw": ["x" * size]}), size)


def test_dead_letters_wait_in_tables_that_can_be_written_at_once(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_buffer, "TABLE_BYTES", 100)
    found, other = DeadLetterBuffer(con), DeadLetterBuffer(con)
    for size in (40, 40, 40, 200, 10):
        add(found, size)
    assert [len(con.table(table).fetchall()) for table in found.tables] == [2, 1, 1, 1]
    add(other, 1)
    found.drop()
    found.drop()
    assert not found.tables
    assert [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()] == other.tables


def test_what_an_origin_inserted_can_be_taken_back(con: duckdb.DuckDBPyConnection) -> None:
    buffer = DeadLetterBuffer(con)
    buffer.forget("a.csv")
    for origin in ("a.csv", "b.csv"):
        buffer.insert(
            "SELECT DATE '2026-01-02', 'b', TIMESTAMPTZ '2026-01-02', struct_pack(file := ?, line := 1), 'r', 'x', 1, "
            "NULL",
            [origin],
        )
    buffer.forget("a.csv")
    (table,) = buffer.tables
    assert con.execute(f"SELECT _source.file, reason, records FROM {table}").fetchall() == [("b.csv", "r", 1)]
