"""What an audit reads of the log: little, and what is new. What it finds is tested with the ways in."""

import os
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pandera.polars as pa
import pytest
from deltalake import DeltaTable

from pipeline_assets.contracts.validation import validate_rows
from pipeline_assets.ingest.batch import audit as audits
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table, audited_in, held_days

DAY = date(2026, 1, 5)


class Event(pa.DataFrameModel):
    """An event."""

    id: int = pa.Field(nullable=False)


class Events:
    """A landing folder and its lake."""

    def __init__(self, folder: Path) -> None:
        self.root, self.lake = folder / "landing", Lake(str(folder / "lake"))
        self.source = LandingSource("t__events", PathPattern.parse("in/{date}/*"), Event)
        self.con = self.lake.connect(threads=1)
        self.bronze = self.source.table(self.lake)

    def land(self, name: str, text: str, day: date = DAY) -> None:
        path = self.root / "in" / day.isoformat() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1.3e9, 1.3e9 + len(text)))
        landing.ingest(self.lake, self.con, self.source, self.root, day, day, settle_seconds=5)

    def audit(self, days: tuple[date, date] | None = (DAY, DAY)) -> audits.Findings:
        return audits.audit(self.con, self.bronze, Event, failure_budget=0, days=days)


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Events]:
    found = Events(tmp_path)
    yield found
    found.con.close()


def test_an_audit_opens_its_table_once_to_read_and_twice_to_judge(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.land("a.csv", "id\n1\nx\n")
    events.audit()
    events.land("b.csv", "id\n2\n")
    opened: Counter[str] = Counter()
    really_open = Table.open

    def counting(table: Table, version: int | None = None) -> DeltaTable:
        opened[table.name] += 1
        return really_open(table, version)

    monkeypatch.setattr(Table, "open", counting)
    found = events.audit()
    assert (set(found.held), found.readings) == ({DAY}, 2)
    assert opened[events.bronze.name] <= 3  # 8 of them took 0.5 s in a log of 20,000 files


def test_the_days_that_it_says_are_withheld_are_those_of_the_table(events: Events) -> None:
    events.land("a.csv", "id\n1\nx\n")
    assert events.audit().held == held_days(events.bronze) == {DAY}
    events.land("a.csv", "id\n1\n22\n")
    assert events.audit().held == held_days(events.bronze) == frozenset()
    assert audited_in(events.bronze.open()) is not None


@pytest.mark.parametrize("days", [(DAY, DAY), None], ids=["its day", "all days"])
@pytest.mark.parametrize(
    "then", [None, ("b.csv", DAY), ("b.csv", date(2026, 1, 6))], ids=["nothing", "day", "next day"]
)
def test_a_day_withheld_for_its_counts_waits_until_they_add_up(
    events: Events, days: tuple[date, date] | None, then: tuple[str, date] | None
) -> None:
    events.land("a.csv", "id\n1\n2\n")
    nothing = f"SELECT * FROM {events.bronze.scan()} WHERE false"
    events.bronze.replace(events.con, nothing, where="id = 2")
    assert set(events.audit().held) == {DAY}
    if then is not None:
        events.land(then[0], "id\n3\n", then[1])
        events.audit((then[1], then[1]))
    again = events.audit(days)
    assert ([found.reading.origin for found in again.mismatches], set(again.held)) == (["in/2026-01-05/a.csv"], {DAY})
    events.land("a.csv", "id\n1\n2\n4\n")
    last = events.audit(days)
    assert (last.mismatches, set(last.held)) == ([], set())


def test_a_file_that_is_corrected_while_an_audit_runs_is_no_mismatch(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.land("a.csv", "id\n1\n2\n")

    def slowly(*args, **kwargs):  # type: ignore[no-untyped-def]
        found = validate_rows(*args, **kwargs)
        events.land("a.csv", "id\n1\n2\n3\n")
        return found

    monkeypatch.setattr(audits, "validate_rows", slowly)
    assert events.audit().mismatches == []


@pytest.mark.parametrize("days", [3, 800])
def test_a_snapshot_is_held_against_the_one_before_whatever_came_earlier(
    events: Events, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    events.land("a.csv", "id\n1\n")  # makes the table
    _append_days(events, days)
    listed: list[int] = []
    really = DeltaTable.partitions

    def counting(table: DeltaTable, **kwargs: Any) -> list[dict[str, str]]:
        found = really(table, **kwargs)
        listed.append(len(found))
        return found

    monkeypatch.setattr(DeltaTable, "partitions", counting)
    monkeypatch.delattr(DeltaTable, "get_add_actions")
    found = audits.audit(events.con, events.bronze, Event, failure_budget=0, days=(DAY, DAY), shrink_budget=0.5)
    assert found.shrunk == {DAY: (1, 10)}
    assert sum(listed) <= 32


def _append_days(events: Events, days: int) -> None:
    """Ten rows on each of the days before."""
    rows = (
        f"SELECT * REPLACE (DATE '{DAY}' - day::INT AS _partition_date) FROM {events.bronze.scan()}, "
        f"range(1, {days + 1}) AS d(day), range(10) AS r(number)"
    )
    events.con.execute(f"CREATE TEMP TABLE earlier AS SELECT * EXCLUDE (day, number) FROM ({rows}) ORDER BY ALL")
    events.bronze.append(events.con, "FROM earlier ORDER BY _partition_date", batch_id="earlier")
