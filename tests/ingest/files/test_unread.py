"""The environment's faults are never blamed on a file: it stays unread, the others land, and the run says so."""

import errno
import gzip
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import BinaryIO

import duckdb
import pytest
from nobody import as_nobody

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.content import _chunks, _HashingReader, read_content
from pipeline_assets.ingest.files.formats.open_records import open_records
from pipeline_assets.ingest.files.ingest import LandingSource, Report
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.unread import FilesLeftError
from pipeline_assets.lake import Lake, StorageError, Table, write_parquet

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
LINE = "536000,85123A,{},6,2011-01-01 08:26:00,2.55,17850,UK\n"


class Shop:
    """Three days of files; a lake with a memory limit."""

    def __init__(self, folder: Path, memory_limit: str = "1GB") -> None:
        self.root, self.lake = folder / "landing", Lake(str(folder / "lake"))
        self.source = LandingSource("shop__lines", PathPattern.parse("lines/{date}/*"), contract("shop.InvoiceLines"))
        self.con = self.lake.connect(memory_limit=memory_limit)
        self.bronze = Table(self.lake, "bronze.shop__lines")
        self.letters = Table(self.lake, "dead_letters.shop__lines")
        for day in (1, 2, 3):
            self.land(f"2011-01-0{day}/a.csv", (HEADER + LINE.format("HEART") * day).encode())

    def land(self, name: str, data: bytes) -> Path:
        path = self.root / "lines" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def ingest(self) -> Report:
        days = date(2011, 1, 1), date(2011, 1, 3)
        return landing.ingest(self.lake, self.con, self.source, self.root, *days, settle_seconds=0)

    def days(self) -> dict[str, int]:
        rows = self.con.execute(f"SELECT _partition_date::VARCHAR, count(*) FROM {self.bronze.scan()} GROUP BY ALL")
        return dict(sorted(rows.fetchall()))

    def reasons(self) -> list[str]:
        if not self.letters.exists():
            return []
        return [reason for (reason,) in self.con.execute(f"SELECT reason FROM {self.letters.scan()}").fetchall()]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    found = Shop(tmp_path)
    yield found
    found.con.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that nobody can reach; those of pytest are root's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """A disk that takes no more: the kernel refuses what would make a file larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(lines: int) -> bytes:
    return (HEADER + "".join(LINE.format(os.urandom(16).hex()) for _ in range(lines))).encode()


def test_a_full_lake_leaves_the_file_unread_and_the_next_run_reads_it(shop: Shop) -> None:
    shop.land("2011-01-02/big.csv", noise(5_000))
    with files_no_larger_than(50_000), pytest.raises(FilesLeftError) as left:
        shop.ingest()
    assert list(left.value.left) == ["lines/2011-01-02/big.csv"]
    assert str(shop.bronze.uri) in str(left.value)
    assert "free space" in str(left.value)
    assert left.value.is_transient
    assert shop.days() == {"2011-01-01": 1, "2011-01-02": 2, "2011-01-03": 3}
    assert not shop.reasons()
    assert shop.ingest().total.rows == 5_000
    assert shop.days()["2011-01-02"] == 5_002
    assert shop.ingest().unchanged == 4


def test_a_file_that_leaves_a_full_lake_leaves_nothing_in_it(shop: Shop) -> None:
    shop.land("2011-01-02/big.csv", noise(5_000))
    with files_no_larger_than(50_000), pytest.raises(FilesLeftError):
        shop.ingest()
    assert len(list(Path(shop.bronze.uri).rglob("*.parquet"))) == 3


def test_a_corrected_file_that_cannot_be_read_keeps_its_former_rows(shop: Shop) -> None:
    shop.ingest()
    shop.land("2011-01-02/a.csv", noise(5_000))
    with files_no_larger_than(50_000), pytest.raises(FilesLeftError):
        shop.ingest()
    assert shop.days()["2011-01-02"] == 2
    assert shop.ingest().total.rows == 5_000
    assert shop.days()["2011-01-02"] == 5_000


def test_a_damaged_file_is_a_dead_letter_though_the_lake_is_full(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    good = tmp_path / "good.parquet"
    shop.con.execute(f"COPY (SELECT repeat('x', 40) || range AS InvoiceNo FROM range(50_000)) TO '{good}'")
    shop.land("2011-01-02/bad.parquet", good.read_bytes()[:-200])
    with files_no_larger_than(50_000):
        shop.ingest()
    (reason,) = shop.reasons()
    assert reason.startswith("file: No magic bytes")


@pytest.mark.parametrize(
    ("closed", "mode"),
    [("2011-01-02/a.csv", 0), ("2011-01-02", 0), ("2011-01-02", 0o444)],
    ids=["file", "folder", "folder of which only names may be read"],
)
def test_what_may_not_be_read_stops_no_other_file_and_is_named(open_folder: Path, closed: str, mode: int) -> None:
    shop = Shop(open_folder)
    path = shop.root / "lines" / closed
    with as_nobody(open_folder):
        path.chmod(mode)
        try:
            with pytest.raises(FilesLeftError, match=r"Permission denied.*mend permissions") as left:
                shop.ingest()
        finally:
            path.chmod(0o755)
        assert list(left.value.left) == [f"lines/{closed}"]
        assert shop.days() == {"2011-01-01": 1, "2011-01-03": 3}
        assert not shop.reasons()
        assert shop.ingest().total.rows == 2


def test_a_lake_that_may_not_be_written_is_named_with_the_remedy(open_folder: Path) -> None:
    shop = Shop(open_folder)
    shop.ingest()
    shop.land("2011-01-02/b.csv", noise(10))
    folder = Path(shop.bronze.uri) / "_partition_date=2011-01-02"
    with as_nobody(open_folder):
        folder.chmod(0o555)
        try:
            with pytest.raises(FilesLeftError, match=r"could not be written.*mend the storage"):
                shop.ingest()
        finally:
            folder.chmod(0o755)
        assert shop.ingest().total.rows == 10
    assert not shop.reasons()


def test_a_read_error_of_the_disk_is_raised() -> None:
    with pytest.raises(OSError, match="Input/output error"):
        read_content(Path("/proc/self/mem"))


class _FailingDisk:
    """A file whose disk fails after some bytes."""

    def __init__(self, file: BinaryIO, good: int) -> None:
        self._file, self._good = file, good

    def read(self, size: int = -1) -> bytes:
        if self._file.tell() >= self._good:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._file.read(min(size, self._good))


@pytest.mark.parametrize(("name", "data"), [("a.jsonl", b'{"id": 1}\n'), ("a.json", b'[{"id": 1}]')])
def test_a_file_that_the_system_does_not_open_is_not_called_unreadable(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    content, before = read_content(path), resource.getrlimit(resource.RLIMIT_NOFILE)
    with Lake(str(tmp_path / "lake")).connect() as con:
        next_file = os.dup(0)
        os.close(next_file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_file, before[1]))
        try:
            with pytest.raises(duckdb.IOException, match="Too many open files"):
                open_records(con, path, content, temp_dir=tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_read_error_in_the_midst_of_a_gzip_is_known_as_the_disks(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(os.urandom(1_000_000)))
    with path.open("rb") as file:
        reader = _HashingReader(_FailingDisk(file, 100_000))  # type: ignore[arg-type]
        with pytest.raises(OSError, match="Input/output error"):
            list(_chunks(reader, "gzip"))
    assert reader.error is not None
    assert reader.error.errno == errno.EIO


def test_a_file_that_needs_too_much_memory_stops_no_other_and_the_limit_is_named(tmp_path: Path) -> None:
    shop = Shop(tmp_path, memory_limit="60MB")
    with gzip.open(shop.root / "lines/2011-01-02/b.csv", "wb", 1) as file:
        file.write((HEADER + '536000,85123A,"HEART').encode())
        for _ in range(50):
            file.write(b"y" * (1 << 20))
    with pytest.raises(FilesLeftError, match=r"memory limit.*PIPELINE_DUCKDB_MEMORY_LIMIT") as left:
        shop.ingest()
    assert not left.value.is_transient
    assert shop.days() == {"2011-01-01": 1, "2011-01-02": 2, "2011-01-03": 3}
    assert not shop.reasons()


def test_storage_that_fails_for_all_files_is_not_asked_for_each(shop: Shop) -> None:
    for number in range(10):
        shop.land(f"2011-01-02/big{number:02}.csv", noise(3_000))
    with files_no_larger_than(50_000), pytest.raises(FilesLeftError, match="not tried") as left:
        shop.ingest()
    assert {path.rpartition("/")[2] for path in left.value.left} >= {f"big{number:02}.csv" for number in range(10)}
    shop.ingest()
    assert shop.days() == {"2011-01-01": 1, "2011-01-02": 30_002, "2011-01-03": 3}


def test_writing_names_the_table_whose_storage_refuses(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with lake.connect() as con, files_no_larger_than(1_000), pytest.raises(StorageError, match=r"lake/silver/t.*large"):
        write_parquet(con, "SELECT hash(range) AS v FROM range(10_000)", lake.table_uri("silver.t"))
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_wide_file_lands_in_the_memory_that_its_rows_need(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.source = replace(shop.source, schema_evolution=True)
    names = [f"extra_{number}" for number in range(1_500)]
    values = [f"a value of column {number}" for number in range(1_500)]
    lines = [",".join((line, *values)) for line in (HEADER.strip(), *[LINE.format("HEART").strip()] * 300)]
    lines[0] = ",".join((HEADER.strip(), *names))
    shop.land("2011-01-02/wide.csv", "\n".join(lines).encode())
    assert shop.ingest().total.rows == 306
    count = f"SELECT count(extra_1499), count(*) FROM {shop.bronze.scan()} WHERE invoice_no = '536000'"
    assert shop.con.execute(count).fetchone() == (300, 306)
    assert shop.ingest().unchanged == 4


def test_a_file_that_unpacks_to_more_than_is_declared_is_a_dead_letter_with_the_limit_named(shop: Shop) -> None:
    shop.source = replace(shop.source, max_unpacked_mb=1)
    path = shop.land("2011-01-02/bomb.csv.gz", gzip.compress(HEADER.encode() + b"y" * 20_000_000))
    report = shop.ingest()
    (reason,) = shop.reasons()
    assert reason.startswith("limit: the gzip stream holds more than max_unpacked_mb = 1: raise it")
    assert report.total.dead_letters > 1  # it weighs more than one record
    assert shop.days() == {"2011-01-01": 1, "2011-01-02": 2, "2011-01-03": 3}
    assert shop.ingest().unchanged == 4
    path.write_bytes(gzip.compress(HEADER.encode() + LINE.format("HEART").encode() * 30_000))
    shop.source = replace(shop.source, max_unpacked_mb=10)
    assert shop.ingest().total.rows == 30_000
    assert not shop.reasons()


def test_a_file_that_could_not_be_read_is_tried_again_when_its_bytes_land_again(shop: Shop) -> None:
    shop.source = replace(shop.source, max_unpacked_mb=1)
    path = shop.land("2011-01-02/big.csv.gz", gzip.compress(HEADER.encode() + LINE.format("HEART").encode() * 30_000))
    shop.ingest()
    assert len(shop.reasons()) == 1
    shop.source = replace(shop.source, max_unpacked_mb=10)
    assert shop.ingest().unchanged == 4
    os.utime(path, (1_300_000_000, 1_300_000_000))
    assert shop.ingest().total.rows == 30_000
    assert not shop.reasons()
    assert shop.days()["2011-01-02"] == 30_002


def test_a_damaged_file_that_lands_again_is_read_again_and_keeps_one_dead_letter(shop: Shop, tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    shop.con.execute(f"COPY (SELECT range::VARCHAR AS InvoiceNo FROM range(1_000)) TO '{good}'")
    path = shop.land("2011-01-02/bad.parquet", good.read_bytes()[:-200])
    shop.ingest()
    os.utime(path, (1_300_000_000, 1_300_000_000))
    report = shop.ingest()
    assert [file.outcome for file in report.files] == ["corrected"]
    assert len(shop.reasons()) == 1
    assert shop.ingest().unchanged == 4
