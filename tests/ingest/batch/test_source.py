"""A way in of one's own on the spine: a folder of `.ini` files, each section a record. What a new kind of source needs.

The spine brings the rest: the table of a contract, dead letters, counts, one commit with the positions, another plan
when a position moved, and the audit.
"""

import configparser
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pandera.polars as pa
import pyarrow as arrow
import pytest

from pipeline_assets.ingest.batch import batch as batches
from pipeline_assets.ingest.batch.audit import Findings, audit
from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.batch.counts import Counts, Report
from pipeline_assets.ingest.batch.rows import RowBatch, RowPlan, RowSource
from pipeline_assets.ingest.batch.source import ATTEMPTS, ingest
from pipeline_assets.ingest.conform import json_records
from pipeline_assets.lake import CommitConflictError, Lake, PositionMovedError, Positions

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAY = date(2026, 1, 5)


class Hosts(pa.DataFrameModel):
    """A host of an inventory."""

    host: str = pa.Field()
    port: int = pa.Field()
    note: str = pa.Field(nullable=True)


SOURCE = RowSource("inventory__hosts", Hosts, ("host",))


class IniFolder:
    """One run's way through a folder of `.ini` files: each content once, its position is its hash."""

    def __init__(self, lake: Lake, con: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self.name = "bronze.inventory__hosts"
        self._lake, self._con, self._folder = lake, con, folder

    def plan(self, stack: ExitStack) -> Sequence[Batch]:
        bronze = SOURCE.table(self._lake)
        log = Positions(bronze.open()) if bronze.exists() else None
        contents = {path: path.read_bytes() for path in sorted(self._folder.glob("*.ini"))}
        ids = {path: f"content:{hashlib.sha256(content).hexdigest()}" for path, content in contents.items()}
        self._new = {path: contents[path] for path, name in ids.items() if log is None or log.get(name) is None}
        if not self._new:
            return []
        names = [ids[path] for path in self._new]
        plan = RowPlan(
            name="ini", start=names[0], end=str(len(names)), partition_date=DAY, extracted_at=NOW,
            expect=dict.fromkeys(names), positions=dict.fromkeys(names, 1),
        )  # fmt: skip
        self._batch = RowBatch(self._lake, self._con, SOURCE, plan)
        return [self._batch]

    def read(self, batches: Sequence[Batch]) -> None:
        for path, content in self._new.items():
            texts = list(records_of(content))
            self._con.register("ini_records", arrow.table({"_text": arrow.array(texts, arrow.string())}))
            found = json_records.record_set(self._con, "ini_records")
            self._batch.add(found, origin=path.name, counted=lambda texts=texts: len(texts))  # type: ignore[misc]


def records_of(content: bytes) -> Iterator[str]:
    """Each section as a JSON object; a file that is none is one record that does not fit."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(content.decode())
    except (configparser.Error, UnicodeDecodeError):
        yield content.decode("utf-8", "backslashreplace")
        return
    for section in parser.sections():
        yield json.dumps({"host": section, **parser[section]})


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "inventory"
        self.folder.mkdir()
        self.lake = Lake(str(folder / "lake"))
        self.con = self.lake.connect()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def ingest(self) -> Report:
        report = Report()
        for batch in ingest(IniFolder(self.lake, self.con, self.folder)):
            report.add(batch)
        return report

    def rows(self) -> list[tuple[object, ...]]:
        query = f"SELECT host, port, _source.file FROM {SOURCE.table(self.lake).scan()} ORDER BY ALL"
        return self.con.execute(query).fetchall()

    def audit(self) -> Findings:
        return audit(self.con, SOURCE.table(self.lake), Hosts, failure_budget=1, days=None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.con.close()


def test_each_section_is_a_row_and_what_does_not_fit_a_dead_letter(world: World) -> None:
    world.write("a.ini", "[web]\nport = 80\nnote = front\n[db]\nport = many\n")
    world.write("b.ini", "no section\n")
    world.write("c.ini", "[mail]\nport = 25\n")
    assert world.ingest().total == Counts(records_in=4, rows=2, dead_letters=2)
    assert world.rows() == [("mail", 25, "c.ini"), ("web", 80, "a.ini")]
    assert world.audit().mismatches == []


def test_a_content_comes_once_whatever_its_name(world: World) -> None:
    world.write("a.ini", "[web]\nport = 80\n")
    world.ingest()
    world.write("copy.ini", "[web]\nport = 80\n")
    assert world.ingest().total == Counts()
    assert world.rows() == [("web", 80, "a.ini")]


def test_a_run_that_was_overtaken_plans_anew_and_one_that_always_is_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("a.ini", "[web]\nport = 80\n")
    real, calls = batches.Batch.commit, 0

    def overtaken(self: Batch) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            world.ingest()
        return real(self)

    monkeypatch.setattr(RowBatch, "commit", overtaken)
    assert world.ingest().total == Counts()
    assert world.rows() == [("web", 80, "a.ini")]

    def moved(self: Batch) -> int:
        nonlocal calls
        calls += 1
        raise PositionMovedError("bronze.inventory__hosts", {})

    monkeypatch.setattr(RowBatch, "commit", moved)
    world.write("b.ini", "[db]\nport = 5432\n")
    calls = 0
    with pytest.raises(CommitConflictError):
        world.ingest()
    assert calls == ATTEMPTS
