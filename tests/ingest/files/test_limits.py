"""A poisoned file costs itself only: seconds of reading and dead letters of one file are bounded, counts stay exact."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random

import duckdb
import pandera.polars as pa
import polars as pl
import pytest

from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.files import content, limits
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.content import read_content
from pipeline_assets.ingest.files.formats.csv_damage import DamageFinder, find_damage
from pipeline_assets.ingest.files.formats.csv_fields import TEXT
from pipeline_assets.ingest.files.formats.csv_quiet import find_all_damage
from pipeline_assets.ingest.files.formats.csv_removed import Removed
from pipeline_assets.ingest.files.ingest import LandingSource, Report
from pipeline_assets.ingest.files.limits import FileTimeLimitError, check_time, time_limit
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.unread import FilesLeftError
from pipeline_assets.lake import Lake, Table

KEPT = 20
DAYS = date(2026, 1, 5), date(2026, 1, 6)


class Events(pa.DataFrameModel):
    """An event."""

    id: pl.Int64
    what: pl.String = pa.Field(nullable=True)


class World:
    """A landing folder and its lake; of one file 20 dead letters are kept."""

    def __init__(self, folder: Path) -> None:
        self.root, self.lake = folder / "landing", Lake(str(folder / "lake"))
        self.source = LandingSource("shop__events", PathPattern.parse("events/{date}/*"), Events)
        self.con = self.lake.connect()
        self.bronze = Table(self.lake, "bronze.shop__events")
        self.letters = Table(self.lake, "dead_letters.shop__events")

    def land(self, name: str, data: bytes) -> None:
        path = self.root / "events" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def ingest(self) -> Report:
        return landing.ingest(self.lake, self.con, self.source, self.root, *DAYS, settle_seconds=0)

    def rows(self) -> list[tuple[int, int]]:
        """Line and id of each row."""
        return self.con.execute(f"SELECT _source.line, id FROM {self.bronze.scan()} ORDER BY ALL").fetchall()

    def dead(self) -> list[tuple[str, int]]:
        """Reason and weight of each dead letter, those that stand for most last."""
        return self.con.execute(
            f"SELECT reason, records FROM {self.letters.scan()} ORDER BY records, reason"
        ).fetchall()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(limits, "MAX_DEAD_LETTERS", KEPT)
    found = World(tmp_path)
    yield found
    found.con.close()


def mixed(good: bytes, bad: bytes, *, every: int = 4, count: int = 200) -> bytes:
    """Lines of which each fourth is good; its id is the number of its line, the header's included."""
    return b"".join(good % (at + 2) if at % every == 0 else bad for at in range(count))


@pytest.mark.parametrize(
    "bad",
    [b"7\n", b"7,a,b\n", b'7,"a\n', b'7,"a"b\n', b'"7"\n', b"7,\xff\n", b"x,a\n", b",a\n", b'7,a\n8,"x\n'],
    ids=["few", "many", "open", "after", "quoted few", "encoding", "cast", "required", "mixed"],
)
def test_a_flood_of_broken_csv_lines_is_a_bounded_number_of_dead_letters(world: World, bad: bytes) -> None:
    world.land("2026-01-05/a.csv", b"id,what\n" + mixed(b"%d,good\n", bad, count=200))
    total = world.ingest().total
    good = total.rows - 150 * bad.startswith(b"7,a\n")
    assert good == 50
    assert (total.dead_letters, total.records_in) == (150, 150 + total.rows)
    found = world.dead()
    assert len(found) == KEPT + 1
    assert sum(records for _, records in found) == 150
    assert found[-1] == (f"limit: {150 - KEPT} more records cannot be read; of one file 20 dead letters are kept", 130)
    if b"\n" not in bad.rstrip(b"\n"):
        assert all(line == number for line, number in world.rows())
    findings = audit(world.con, world.bronze, Events, failure_budget=1, days=DAYS)
    assert findings.mismatches == []


def test_a_flood_of_broken_json_lines_is_a_bounded_number_of_dead_letters(world: World) -> None:
    world.land("2026-01-05/a.jsonl", mixed(b'{"id": %d}\n', b"{\n") + b'{"id": "x"}\n' * 100)
    total = world.ingest().total
    assert (total.rows, total.dead_letters) == (50, 250)
    found = world.dead()
    assert len(found) == KEPT + 1
    assert found[-1][1] == 250 - KEPT
    assert all(line == number - 1 for line, number in world.rows())
    assert audit(world.con, world.bronze, Events, failure_budget=1, days=DAYS).mismatches == []


def test_lines_in_quotes_and_blank_lines_of_a_large_file_are_none_that_are_broken(world: World) -> None:
    world.land("2026-01-05/a.csv", b"id,what\n" + b'1,"two\nlines"\n\n2,b\n' * 50 + b"3\n")
    total = world.ingest().total
    assert (total.rows, total.dead_letters) == (100, 1)
    assert world.dead() == [("csv: missing columns: expected 2, found 1", 1)]
    assert world.rows()[:3] == [(2, 1), (5, 2), (6, 1)]


def test_a_query_that_takes_too_long_is_interrupted_and_its_connection_lives(world: World) -> None:
    with (
        pytest.raises(FileTimeLimitError, match=r"longer than max_seconds_per_file = 0.2: raise it"),
        time_limit(0.2, world.con),
    ):
        # No equality: a hash join would be done before the limit on a fast machine.
        world.con.execute("SELECT count(*) FROM range(1_000_000) a, range(1_000_000) b WHERE hash(a) < hash(b)")
    assert world.con.execute("SELECT 1").fetchone() == (1,)


def test_a_loop_that_takes_too_long_ends(world: World) -> None:
    def loop() -> None:
        with time_limit(0.05, world.con):
            while True:
                check_time()

    with pytest.raises(FileTimeLimitError, match=r"max_seconds_per_file = 0.05"):
        loop()
    check_time()


def test_an_interrupt_of_somebody_else_stays_one(world: World) -> None:
    with pytest.raises(duckdb.InterruptException), time_limit(60, world.con):
        raise duckdb.InterruptException


def test_a_file_that_takes_too_long_is_left_and_the_others_land(world: World) -> None:
    world.land("2026-01-05/slow.csv", b"id,what\n" + b'1,"a\n' * 200_000)
    world.land("2026-01-05/b.csv", b"id,what\n1,a\n")
    world.land("2026-01-06/c.csv", b"id,what\n2,b\n")
    world.source = replace(world.source, max_seconds_per_file=2)
    with pytest.raises(FilesLeftError, match=r"slow\.csv: limit: .* max_seconds_per_file = 2") as left:
        world.ingest()
    assert list(left.value.left) == ["events/2026-01-05/slow.csv"]
    assert not left.value.is_transient
    assert world.rows() == [(2, 1), (2, 2)]
    assert not world.letters.exists() or not world.dead()


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("quote_at", [None, 0, 300], ids=["no quote", "in the header", "late"])
def test_damage_in_bulk_is_the_damage_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bytes, quote_at: int | None
) -> None:
    monkeypatch.setattr(limits, "MAX_DEAD_LETTERS", KEPT)
    monkeypatch.setattr(content, "CHUNK_BYTES", 100)
    random = Random(7)
    texts = [b"1,a", b"2,b", b"3", b"4,a,b", b"5,a,", b"6,a,,,", b"", b" ", "7,é".encode(), b"8,a,b,,", b","]
    lines = [b"id,what", *random.choices(texts, k=400)]
    if quote_at is not None:
        lines[quote_at] = b'"id","what"' if quote_at == 0 else b'9,"x'
    path = tmp_path / "a.csv"
    path.write_bytes(ends.join([b"", *lines, b"3,last,one"]))
    known = read_content(path)
    finder = DamageFinder(b",", [TEXT, TEXT], is_strict=True)
    slow = list(find_damage(path, known, finder, 2))
    fast, expected = Removed(find_all_damage(path, known, b",", finder, 2)), Removed(slow)
    assert (fast.number, fast.kept) == (len(slow), slow[:KEPT])
    assert list(fast.ranges()) == list(expected.ranges())
    places = pl.Series(range(1, 400), dtype=pl.Int64)
    assert fast.lines_in_file(places).to_list() == expected.lines_in_file(places).to_list()


def test_a_flood_of_broken_lines_takes_little_memory(tmp_path: Path) -> None:
    """Miniature of the benchmark `memory`, in a process of its own; DuckDB's table of rejects alone took 400 MB."""
    day = tmp_path / "landing" / "orders" / "2026-01-05"
    day.mkdir(parents=True)
    (day / "a.csv").write_bytes(b"order_id,customer,amount,ordered_at,note\n" + b"7,a\n" * 500_000)
    facts = tmp_path / "facts.json"
    subprocess.run([sys.executable, "-m", "benchmarks.memory", tmp_path, facts], check=True, timeout=300)
    found = json.loads(facts.read_text())
    assert (found["rows"], found["dead_letters"]) == (0, 500_000)
    assert found["peak_mb"] - found["before_mb"] < 300
