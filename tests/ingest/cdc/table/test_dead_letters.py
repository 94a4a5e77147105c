"""Dead letters of change tables are read again in order, in however many parts."""

import random
from collections.abc import Iterator

import duckdb
import pytest

from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.table import dead_letters as letters
from pipeline_assets.ingest.cdc.table.change_table import envelope
from pipeline_assets.ingest.cdc.table.dead_letters import read


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


def _half(op: str, line: int, origin: str = "slot s") -> tuple[str, int, str]:
    event = ChangeEvent("public.t", op, f'{{"id":{line}}}', None, None, (), 9, line, line, 1, 5, origin, line)
    return origin, line, envelope(event)


@pytest.mark.parametrize("size", [1, 1_000, 10_000, 10_000_000])
def test_letters_are_read_once_and_in_order_in_however_many_parts(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(letters, "BYTES", size)
    pairs = [_half(op, line) for line in range(1, 40) for op in ("d", "c")]
    others = [("a/b c.jsonl", line, "{" * line) for line in (9, 10, 100)] + [("a/b c.jsonl", 0, "no file")]
    stored = [*pairs, *others, others[0]]
    random.Random(7).shuffle(stored)
    con.execute("CREATE TABLE t (_source STRUCT(file VARCHAR, line BIGINT), raw VARCHAR, records BIGINT)")
    con.executemany("INSERT INTO t VALUES (struct_pack(file := ?, line := ?), ?, NULL)", stored)
    found = list(read(con, "t"))
    assert {weight for *_, weight in found} == {1}
    assert [tuple(letter) for *letter, _ in found if letter[0] == "slot s"] == pairs
    assert [line for file, line, *_ in found if file != "slot s"] == [0, 9, 9, 10, 100]


def test_no_letters_are_none(con: duckdb.DuckDBPyConnection) -> None:
    assert list(read(con, "(SELECT {'file': 'f', 'line': 1} AS _source, 'x' AS raw WHERE false)")) == []
