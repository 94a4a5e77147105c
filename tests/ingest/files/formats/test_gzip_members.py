"""Gzip files with something behind their members: the rows land, what follows is a dead letter; damage stays damage."""

import gzip
import io
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.batch.counts import Counts
from pipeline_assets.ingest.files import content
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.content import read_content
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table

DAY = date(2011, 1, 4)
MODEL = contract("shop.InvoiceLines")
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
LINE = "53600{},85123A,HEART,{},2011-01-04 08:26:00,2.55,17850,United Kingdom\n"
CSV = gzip.compress((HEADER + LINE.format(1, 6)).encode()) + gzip.compress((LINE.format(2, 7) * 5_000).encode())
REASON = "file: what follows the end of the gzip stream is not gzip"
TAILS = {"text": b"not gzip", "zeros": b"\0" * 512, "one byte": b"\x1f", "a line end": b"\n"}


class Landing:
    """A source of its own with a lake."""

    def __init__(self, folder: Path) -> None:
        self.root, self.lake = folder / "landing", Lake(str(folder / "lake"))
        self.source = LandingSource("shop__lines", PathPattern.parse("lines/{date}/*"), MODEL)
        self.con = self.lake.connect()

    def land(self, name: str, data: bytes, at: int = 1_600_000_000) -> None:
        path = self.root / "lines" / str(DAY) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (at, at))

    def ingest(self) -> landing.Report:
        report = landing.ingest(self.lake, self.con, self.source, self.root, DAY, DAY, settle_seconds=0)
        found = audit(self.con, self.source.table(self.lake), MODEL, failure_budget=1, days=(DAY, DAY))
        assert found.mismatches == []
        return report

    def dead(self) -> list[tuple[object, ...]]:
        table = Table(self.lake, "dead_letters.shop__lines")
        return self.con.execute(f"SELECT _source.line, reason, raw, records FROM {table.scan()} ORDER BY 1").fetchall()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Landing]:
    found = Landing(tmp_path)
    yield found
    found.con.close()


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_rows_land_and_what_follows_the_stream_is_one_dead_letter(shop: Landing, tail: bytes) -> None:
    shop.land("a.csv.gz", CSV + tail)
    letters = max(len(tail) // 100, 1)
    assert shop.ingest().total == Counts(5_001 + letters, 5_001, letters)
    assert shop.dead() == [(5_003, REASON, tail.decode(), letters)]
    shop.land("a.csv.gz", CSV + tail, at=1_600_000_100)
    shop.land("b.csv.gz", CSV + tail)
    report = shop.ingest()
    assert (report.unchanged, [file.outcome for file in report.files]) == (1, ["copy"]), "each content is there once"
    shop.land("a.csv.gz", CSV)
    (shop.root / f"lines/{DAY}/b.csv.gz").unlink()
    assert shop.ingest().total == Counts(5_001, 5_001, 0)
    assert shop.dead() == []


def test_dead_letters_of_the_rows_come_beside_it(shop: Landing) -> None:
    shop.land("a.csv.gz", gzip.compress((HEADER + LINE.format(1, "x") + LINE.format(2, 1)).encode()) + b"not gzip")
    assert shop.ingest().total == Counts(3, 1, 2)
    assert [(line, reason) for line, reason, *_ in shop.dead()] == [
        (2, "cast: quantity: 'x' is not BIGINT"),
        (4, REASON),
    ]


def test_binary_files_are_read_too(shop: Landing) -> None:
    file = io.BytesIO()
    names = HEADER.strip().split(",")
    pl.DataFrame([LINE.format(1, 6).strip().split(",")], schema=names, orient="row").write_parquet(file)
    shop.land("a.parquet.gz", gzip.compress(file.getvalue()) + b"not gzip")
    assert shop.ingest().total == Counts(2, 1, 1)


def test_a_stream_without_a_byte_is_empty(shop: Landing) -> None:
    shop.land("a.csv.gz", gzip.compress(b"") + b"not gzip")
    assert shop.ingest().total.rows == 0
    assert {reason for _, reason, *_ in shop.dead()} == {"file: empty", REASON}


@pytest.mark.parametrize(
    "data",
    [CSV + b"\x1f\x8b and no more", CSV[:-9] + b"not gzip", CSV[:-9], b"\x1f\x8bnot gzip", CSV + CSV[:-4]],
    ids=["another that is corrupt", "cut", "truncated", "none", "another that is cut"],
)
def test_a_damaged_member_is_no_end(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    found = read_content(tmp_path / "f")
    assert found.whole_bytes is None
    assert str(found.failure).startswith(("file: corrupt gzip stream", "file: truncated gzip stream"))


@pytest.mark.parametrize("size", [1, 2, 7, len(CSV) - 1, len(CSV), len(CSV) + 1])
def test_the_end_is_found_wherever_the_reads_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(content, "_BYTES_OF_MEMBERS", size)
    (tmp_path / "f").write_bytes(CSV + b"not gzip")
    assert read_content(tmp_path / "f").whole_bytes == len(CSV)
