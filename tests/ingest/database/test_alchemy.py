"""The exact text of values as drivers give them; bounds as SQLite compares them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import duckdb
import pyarrow as pa
import pytest

from pipeline_assets.ingest.database import alchemy
from pipeline_assets.ingest.database.alchemy import _sqlite_text, _to_bytes, to_text
from pipeline_assets.ingest.database.protocol import Relation, Selection, Stream
from pipeline_assets.ingest.database.pulls import connect

MOMENT = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\0'", "a\0'"), (True, "true"), (False, "false"), (-7, "-7"), (0.1 + 0.2, "0.30000000000000004"),
        (1e300, "1e+300"), (float("nan"), "nan"), (Decimal("1E+3"), "1000"), (Decimal("1.50"), "1.50"),
        (Decimal("NaN"), "NaN"), (date(2026, 1, 5), "2026-01-05"), (time(1, 2, 3), "01:02:03"),
        (MOMENT, "2026-01-05 10:00:00+00:00"), (MOMENT.replace(tzinfo=None), "2026-01-05 10:00:00"),
        (timedelta(hours=-12, seconds=-1), "-12:00:01"), (timedelta(hours=838, microseconds=5), "838:00:00.000005"),
        (b"\xff", "/w=="), (bytearray(b"\xff"), "/w=="), (memoryview(b"\xff"), "/w=="),
        ({"a": [1, "é"]}, '{"a": [1, "é"]}'), ([None], "[null]"), (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)  # fmt: skip
def test_a_value_becomes_its_exact_text(value: object, text: str) -> None:
    assert to_text(value) == text


def test_bytes_stay_bytes_and_texts_become_some() -> None:
    assert [_to_bytes(value) for value in (b"\xff", memoryview(b"a"), "é", 1)] == [b"\xff", b"a", "é".encode(), b"1"]


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (MOMENT, "2026-01-05 10:00"), (MOMENT.replace(hour=0), "2026-01-05"), (date(2026, 1, 5), "2026-01-05"),
        (MOMENT.replace(microsecond=500_000), "2026-01-05 10:00:00.5"),
        (MOMENT.replace(second=7), "2026-01-05 10:00:07"),
        (MOMENT.replace(minute=10, tzinfo=None), "2026-01-05 10:10"), (7, 7),
    ],
)  # fmt: skip
def test_a_bound_of_sqlite_comes_before_all_texts_of_its_time(bound: datetime, text: object) -> None:
    assert _sqlite_text(bound) == text


def test_rows_come_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(alchemy, "Stream", lambda batches, schema: Stream(counted(batches), schema))
    with closing(sqlite3.connect(tmp_path / "a.db")) as source, source:
        source.execute("CREATE TABLE t (a)")
        source.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(12_000)])
    with (
        duckdb.connect() as con,
        connect(f"sqlite:///{tmp_path}/a.db").snapshot(Relation("t")) as snapshot,
        snapshot.read(con, Selection()) as reading,
    ):
        assert len(con.execute(reading.sql).fetchall()) == reading.counted() == 12_000
    assert sizes == [5_000, 5_000, 2_000]
