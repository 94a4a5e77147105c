"""Events in chunks: bounded in number and in bytes, and no key change in two parts."""

from collections.abc import Iterable
from itertools import pairwise

import pytest

from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.table import chunks
from pipeline_assets.ingest.cdc.table.chunks import in_chunks


def event(place: int, op: str = "c", table: str = "t", after: str = "") -> ChangeEvent:
    return ChangeEvent(table, op, None, None, after, (), 8, place, 8, None, 0, "slot", place)


def reject(place: int, raw: str = "", table: str | None = None) -> Reject:
    return Reject("json: no", raw, "file", place, table)


def cut(items: Iterable[ChangeEvent | Reject]) -> list[tuple[str | None, list[int]]]:
    """Chunks as table and places; a chunk is looked at at once, because it is empty when the next one comes."""
    return [(chunk.table, [item.place for item in (*chunk.events, *chunk.rejects)]) for chunk in in_chunks(items)]


def test_a_chunk_is_of_one_table_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "RECORDS", 2)
    items = [event(1), event(2, table="u"), event(3), reject(4), event(5), reject(6, table="t")]
    assert cut(items) == [("t", [1, 3]), ("t", [5, 6]), ("u", [2]), (None, [4])]
    assert cut([]) == []


def test_when_there_are_too_many_bytes_all_tables_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BYTES", 10_000)
    long = "x" * 6_000
    found = cut([event(1), event(2, after=long, table="u"), reject(3, raw=long), event(4), event(5)])
    assert found == [("t", [1]), ("u", [2]), (None, [3]), ("t", [4, 5])]


def test_a_table_with_too_many_bytes_for_a_file_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "FILE_BYTES", 100)
    items = [event(1, table="u"), *(event(place, after="x" * 60) for place in range(2, 5)), event(5, table="u")]
    assert cut(items) == [("t", [2, 3]), ("u", [1, 5]), ("t", [4])]


def test_short_events_have_their_weight_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BYTES", 10_000)
    assert 1 < len(cut(event(place) for place in range(100))) < 100


def test_a_chunk_is_given_back_empty() -> None:
    [first] = in_chunks([event(1)])
    assert (first.events, first.rejects) == ([], [])


def test_a_key_change_is_never_cut_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [event(place, op) for place, op in enumerate("cdcddcccdcdcdc")]
    halves = [(a.place, b.place) for a, b in pairwise(items) if (a.op, b.op) == ("d", "c")]
    for limit in range(1, 8):
        monkeypatch.setattr(chunks, "RECORDS", limit)
        found = [places for _, places in cut(items)]
        assert [place for places in found for place in places] == list(range(len(items)))
        assert all(any(a in places and b in places for places in found) for a, b in halves)
    assert cut([event(1, "d")]) == [("t", [1])]


def test_a_long_delete_that_waits_does_not_cut_the_others_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BYTES", 10_000)
    assert cut([event(1, "d", after="x" * 20_000), *(event(place, table="u") for place in (2, 3))]) == [
        ("t", [1]),
        ("u", [2, 3]),
    ]
