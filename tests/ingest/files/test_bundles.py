"""Many small files: read together they become what each becomes alone, in few Parquet files."""

import gzip
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest

from pipeline_assets.contracts.base import Model
from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.files import bundles, read_file
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.formats.open_records import open_records
from pipeline_assets.ingest.files.ingest import LandingSource, Report
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table

DAY = date(2026, 1, 5)


class Event(pa.DataFrameModel):
    """An event."""

    id: int = pa.Field(nullable=False)
    v: str = pa.Field(nullable=True)


class Events:
    """A landing folder and its lake."""

    def __init__(self, folder: Path, root: Path, *, model: Model = Event, **options: Any) -> None:
        self.root, self.lake = root, Lake(str(folder))
        self.source = LandingSource("t__events", PathPattern.parse("in/{date}/*"), model, **options)
        self.con = self.lake.connect(threads=1)
        self.bronze = Table(self.lake, "bronze.t__events")
        self.letters = Table(self.lake, "dead_letters.t__events")

    def ingest(self) -> Report:
        return landing.ingest(self.lake, self.con, self.source, self.root, DAY, DAY, settle_seconds=5)

    def all_rows(self) -> list[tuple[Any, ...]]:
        rows = self.con.execute(f"SELECT * EXCLUDE (_rescued), _rescued FROM {self.bronze.scan()}").fetchall()
        return sorted(((*row[:-1], row[-1] and sorted(json.loads(row[-1]).items())) for row in rows), key=repr)

    def all_letters(self) -> list[tuple[Any, ...]]:
        if not self.letters.exists():
            return []
        return sorted(self.con.execute(f"SELECT * FROM {self.letters.scan()}").fetchall(), key=repr)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., Events]]:
    made: list[Events] = []

    def make(name: str = "lake", **options: Any) -> Events:
        made.append(Events(tmp_path / name, tmp_path / "landing", **options))
        return made[-1]

    yield make
    for events in made:
        events.con.close()


def land(root: Path, files: dict[str, bytes]) -> None:
    folder = root / "in" / DAY.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (time.time() - 3600,) * 2)


CSV = {
    "good1.csv": b"id,v\n1,a\n2,b\n",
    "good2.csv": b"id,v\n3,c\n",
    "windows.csv": b"id,v\r\n4,d\r\n5,e\r\n",
    "windows2.csv": b"id,v\r\n6,d\r\n",
    "open_end.csv": b"id,v\n7,f",
    "header_only.csv": b"id,v\n",
    "header_without_end.csv": b"id,v",
    "quoted.csv": b'id,v\n8,"two\nlines"\n9,"a ""word"""\n',
    "never_closed.csv": b'id,v\n10,"never closed\n',
    "closes_the_other.csv": b'id,v\n11,closed"\n',
    "open_at_end.csv": b'id,v\n12,"',
    "inches.csv": b'id,v\n13,6" plate\n',
    "blank_lines.csv": b"id,v\n\n14,g\n\n\n15,h\n\n",
    "misfit.csv": b"id,v\nx,a\n16,b\n",
    "too_many.csv": b"id,v\n17,b,c\n18,d\n",
    "too_few.csv": b"id,v\n19\n20,d\n",
    "other_header.csv": b"v,id\na,21\n",
    "unknown_column.csv": b"id,v,more\n22,a,b\n",
    "no_header.csv": b"23,a\n24,b\n",
    "not_utf8.csv": b"id,v\n25,\xff\n26,b\n",
    "nul.csv": b"id,v\n27,a\0b\n28,c\n",
    "bom.csv": b"\xef\xbb\xbfid,v\n29,a\n",
    "mixed_ends.csv": b"id,v\n30,a\r\n31,b\n",
    "mac.csv": b"id,v\r32,a\r33,b\r",
    "packed.csv.gz": gzip.compress(b"id,v\n34,a\n", mtime=0),
    "cut.csv.gz": gzip.compress(b"id,v\n35,a\n", mtime=0)[:-6],
    "empty.csv": b"",
}
JSON_LINES = {
    "good1.jsonl": b'{"id": 1, "v": "a"}\n{"id": 2}\n',
    "good2.jsonl": b'{"id": 3, "v": "c"}',
    "blank.jsonl": b'\n{"id": 4}\n\n{"id": 5}\n',
    "windows.jsonl": b'{"id": 6}\r\n{"id": 7}\r\n',
    "malformed.jsonl": b'{"id": 8\n}\n{"id": 9}\n',
    "array.jsonl": b'[1]\n{"id": 10}\n',
    "unknown.jsonl": b'{"id": 11, "more": {"a": 1.10}}\n',
    "spelling.jsonl": b'{"ID": 12}\n',
    "twice.jsonl": b'{"id": 13, "ID": 14}\n{"id": 15, "id": 16}\n',
    "not_utf8.jsonl": b'{"id": 17, "v": "\xff"}\n{"id": 18}\n',
    "control.jsonl": b'{"id": 19, "v": "\x1f"}\n{"id": 20}\n',
    "blank_only.jsonl": b"\n \n",
    "digits.jsonl": b'{"id": 21, "v": 1.000000000000000000001}\n',
}
JSON_DOCUMENTS = {
    "object1.json": b'{"id": 1, "v": "a"}',
    "object2.json": b'{\n "id": 2,\n "v": null\n}\n',
    "array1.json": b'[{"id": 3}, {"id": 4}]',
    "array2.json": b' [\n{"id": 5}\n]\n',
    "array_of_others.json": b'[7, {"id": 6}]',
    "empty_array.json": b"[]",
    "cut.json": b'{"id": 7, "v": ',
    "rest.json": b'"b"}',
    "two.json": b'{"id": 8}{"id": 9}',
    "nan.json": b'{"id": 10, "v": NaN}',
    "number.json": b"5",
    "surrogate.json": b'{"id": 11, "v": "\\ud800"}',
    "misfit.json": b'{"id": "x"}',
    "bom.json": b'\xef\xbb\xbf{"id": 12}',
    "deep.json": b"[" * 3000 + b"]" * 3000,
}


def mutated(data: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    out = bytearray(data)
    for _ in range(chance.randint(1, 2)):
        at = chance.randrange(len(out) + 1)
        out[at : at + chance.randint(0, 1)] = chance.choice(
            [b'"', b"\n", b",", b"\r\n", b"", b"{", b"]", b'""', b"\xe9"]
        )
    return bytes(out)


MUTATED = {
    f"{seed}.{kind}": mutated(b"%s" % (good.replace(b"SEED", b"%d" % seed)), seed)
    for kind, good in {
        "csv": b'id,v\nSEED,a\n1,"b\nc"\n',
        "jsonl": b'{"id": SEED}\n{"id": 2, "v": "x"}\n',
        "json": b'{"id": SEED, "v": "x"}',
    }.items()
    for seed in range(15)
}


@pytest.mark.parametrize("files", [CSV, JSON_LINES, JSON_DOCUMENTS, MUTATED], ids=["csv", "jsonl", "json", "mutated"])
@pytest.mark.parametrize("evolution", [False, True])
def test_files_become_together_what_they_become_alone(
    world: Callable[..., Events], monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], evolution: bool
) -> None:
    together, alone = world("together", schema_evolution=evolution), world("alone", schema_evolution=evolution)
    land(together.root, files)
    reported = together.ingest()
    monkeypatch.setattr(bundles, "_BUNDLE_FILES", 1)
    expected = alone.ingest()
    assert reported.files == expected.files
    assert together.all_rows() == alone.all_rows()
    assert together.all_letters() == alone.all_letters()
    assert len(together.all_rows()) > 5


class Texts(pa.DataFrameModel):
    """A row of two texts."""

    id: str = pa.Field(nullable=True)
    v: str = pa.Field(nullable=True)


def test_a_value_that_may_be_records_is_not_judged_by_those_of_other_files(
    world: Callable[..., Events], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = world("together", model=Texts), world("alone", model=Texts)
    addresses = (b"".join(b'C%d,"Main St %d\nBerlin, DE"\n' % (n, n) for n in range(20)) for _ in range(5))
    files = {f"{at}.csv": b"id,v\n" + text for at, text in enumerate(addresses)}
    records = [b"C%04d,a%d" % (n, n) for n in range(40)]
    records[10], records[12] = records[10].replace(b",", b',"'), records[12] + b'"'
    land(together.root, {**files, "stray.csv": b"id,v\n" + b"\n".join(records) + b"\n"})
    reported = together.ingest()
    monkeypatch.setattr(bundles, "_BUNDLE_FILES", 1)
    assert reported.files == alone.ingest().files
    assert together.all_rows() == alone.all_rows()
    assert together.all_letters() == alone.all_letters()
    assert "C0011" in {row[0] for row in together.all_rows()}


def test_files_that_need_more_memory_together_have_each_dead_letter_once(
    world: Callable[..., Events], monkeypatch: pytest.MonkeyPatch
) -> None:
    events, write = world(), Table.write

    def write_few(table: Table, con: Any, select: str, **options: Any) -> Any:
        (files,) = con.execute(f"SELECT count(DISTINCT _source.file) FROM ({select})").fetchone()
        if files > 2 and table.name.startswith("bronze."):
            con.execute("SET memory_limit = '1MB'")
        try:
            return write(table, con, select, **options)
        finally:
            con.execute("SET memory_limit = '1GB'")

    monkeypatch.setattr(Table, "write", write_few)
    land(events.root, {f"{number}.csv": b"id,v\nx,a\n%d,b\n" % number for number in range(4)})
    report = events.ingest()
    assert report.total == Counts(records_in=8, rows=4, dead_letters=4)
    assert len(events.all_letters()) == 4
    assert audit(events.con, events.bronze, Event, failure_budget=1, days=(DAY, DAY)).mismatches == []


class Tagged(pa.DataFrameModel):
    """A row with a list that it must have."""

    id: int = pa.Field(nullable=False)
    tags: pl.List(pl.String) = pa.Field(nullable=False)  # type: ignore[valid-type]


def test_a_required_list_is_read_from_files_together_and_alone(
    world: Callable[..., Events], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = world("together", model=Tagged), world("alone", model=Tagged)
    wide = json.dumps({"id": 4, "tags": ["c"], **{f"f{n}": n for n in range(450)}}).encode()
    files = {"a.jsonl": b'{"id": 1, "tags": ["a"]}', "b.jsonl": b'{"id": 2}\n{"id": 3, "tags": []}\n', "c.jsonl": wide}
    land(together.root, files)
    assert together.ingest().total == Counts(records_in=4, rows=3, dead_letters=1)
    monkeypatch.setattr(bundles, "_BUNDLE_FILES", 1)
    alone.ingest()
    assert together.all_rows() == alone.all_rows()


def test_a_thousand_small_files_are_one_parquet_file_and_each_row_knows_its_file(world: Callable[..., Events]) -> None:
    events = world()
    land(events.root, {f"{number:04d}.csv": b"id,v\n%d,a\n" % number for number in range(1000)})
    report = events.ingest()
    assert report.total == Counts(records_in=1000, rows=1000)
    assert len(events.bronze.open().file_uris()) == 1
    place = f"{{'file': printf('in/{DAY}/%04d.csv', id), 'line': 2}}"
    wrong = events.con.execute(f"SELECT count(*) FROM {events.bronze.scan()} WHERE _source <> {place}").fetchone()
    assert wrong == (0,)
    findings = audit(events.con, events.bronze, Event, failure_budget=0, days=(DAY, DAY))
    assert (findings.readings, findings.mismatches) == (1000, [])


def test_many_small_files_are_opened_once(world: Callable[..., Events], monkeypatch: pytest.MonkeyPatch) -> None:
    events, opened = world(), []
    land(events.root, {f"{number}.csv": b"id,v\n%d,a\n" % number for number in range(400)})
    for module in (bundles, read_file):
        monkeypatch.setattr(module, "open_records", lambda *a, **k: opened.append(a) or open_records(*a, **k))
    assert events.ingest().total.rows == 400
    assert len(opened) == 1


def test_one_file_of_many_is_corrected_alone(world: Callable[..., Events]) -> None:
    events = world()
    land(events.root, {f"{number}.csv": b"id,v\n%d,a\n" % number for number in range(5)})
    events.ingest()
    time.sleep(0.01)
    land(events.root, {"3.csv": b"id,v\n33,b\n"})
    assert [(file.file, file.outcome) for file in events.ingest().files] == [(f"in/{DAY}/3.csv", "corrected")]
    assert [row[0] for row in events.all_rows()] == [0, 1, 2, 33, 4]


def test_small_files_that_cannot_be_read_together_are_one_parquet_file_too(world: Callable[..., Events]) -> None:
    events = world()
    for number in range(20):
        land(events.root, {f"{number}.parquet": b""})
        path = events.root / "in" / DAY.isoformat() / f"{number}.parquet"
        events.con.execute(f"COPY (SELECT {number} AS id, 'a' AS v) TO '{path}' (FORMAT parquet)")
        os.utime(path, (time.time() - 3600,) * 2)
    assert events.ingest().total == Counts(records_in=20, rows=20)
    assert len(events.bronze.open().file_uris()) == 1
    assert {Path(uri).name for uri in events.bronze.open().file_uris()} == {
        path.name for path in Path(events.bronze.uri).rglob("*.parquet") if "_delta_log" not in path.parts
    }
