"""Whatever request to an object store fails, the next run gives the same tables, and no file is lost or left over."""

import logging
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import duckdb
import pytest
from failing_store import INGESTS, ROWS, TABLES, THINGS, WRITES, land, look, with_things
from object_store import WEED, Proxy, object_store, options
from pyarrow.fs import FileSelector

from pipeline_assets.ingest.files.unread import FilesLeftError
from pipeline_assets.lake import Lake, LakeError, Positions, StorageError, Table, leftovers

pytestmark = [pytest.mark.integration, pytest.mark.skipif(WEED is None, reason="SeaweedFS is not installed")]

WORK = {**WRITES, **INGESTS}
# Of a commit that was answered by 5xx nobody knows whether it still comes, nor of one that cannot be asked for.
MAY_LEAVE = ("full", "read refused from there on")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with object_store(tmp_path_factory.mktemp("store")) as port:
        p = Proxy(port)
        yield p
        p.p.terminate()
        p.p.wait()


class Trial:
    """Pieces of work on new lakes, one after another: a connection costs more than most of them."""

    def __init__(self, proxy: Proxy, con: duckdb.DuckDBPyConnection, folder: Path, name: str) -> None:
        self.proxy, self.con, self.folder, self.work = proxy, con, folder, WORK[name]
        lake, root = self.begin()
        self.told = self.work.do(lake, con, root)
        self.work.do(lake, con, root)
        found = look(lake, con)
        assert not found.gone | found.unnamed
        self.rows = found.rows

    def begin(self) -> tuple[Lake, Path]:
        name = uuid.uuid4().hex
        lake, root = Lake(f"s3://lake/{name}", options(self.proxy.port)), self.folder / name
        land(root)
        self.work.start(lake, self.con, root)
        return lake, root

    def fails_at(self, at: int, kind: str) -> bool:
        """Does it with a fault and once more; whether it came to the fault. Whatever it says has to be true."""
        lake, root = self.begin()
        self.proxy.arm(at, kind)
        told, said = self.told, None
        try:
            with lake.errors_explained():
                told = self.work.do(lake, self.con, root)
        except (LakeError, FilesLeftError) as error:
            said = str(error)
        was_hit = self.proxy.ask()
        self.proxy.arm(0, "")
        assert was_hit or said is None
        assert told == self.told, said
        if said is not None:
            assert any(name in said for name in (lake.uri, *TABLES)), said
            assert "run again" in said or "next run" in said, said
        self.work.do(lake, self.con, root)
        found = look(lake, self.con)
        assert found.rows == self.rows, said
        assert not found.gone, said
        assert not found.unnamed or (kind in MAY_LEAVE and "No file was deleted" in str(said)), said
        return was_hit


@pytest.fixture(scope="module")
def con(proxy: Proxy) -> Iterator[duckdb.DuckDBPyConnection]:
    logging.disable(logging.CRITICAL)
    with Lake("s3://lake", options(proxy.port)).connect() as con:
        yield con
    logging.disable(logging.NOTSET)


@pytest.fixture
def trial(proxy: Proxy, con: duckdb.DuckDBPyConnection, tmp_path: Path, work: str) -> Trial:
    return Trial(proxy, con, tmp_path, work)


def faults(trial: Trial, kind: str, first: int = 1, step: int = 1) -> int:
    """Has it fail at every step-th request. Gives the number of faults."""
    for faults, at in enumerate(count(first, step)):
        if not trial.fails_at(at, kind):
            return faults
    raise AssertionError


@pytest.mark.parametrize("kind", ["refused", "answer lost"])
@pytest.mark.parametrize("work", WORK)
def test_any_change_that_fails_costs_nothing(trial: Trial, kind: str) -> None:
    assert faults(trial, kind) >= 1


@pytest.mark.parametrize(
    ("kind", "first", "step"), [("over quota", 1, 2), ("full", 2, 5), ("request cut", 1, 4), ("busy", 1, 6)]
)
@pytest.mark.parametrize("work", INGESTS)
def test_a_store_that_takes_no_more_costs_nothing(trial: Trial, kind: str, first: int, step: int) -> None:
    assert faults(trial, kind, first, step) >= 1


@pytest.mark.parametrize(
    ("kind", "first"),
    [("read refused", 1), ("read refused from there on", 7), ("read cut", 13), ("read error", 19), ("read busy", 25)],
)
@pytest.mark.parametrize("work", INGESTS)
def test_what_cannot_be_read_is_no_missing_row_and_no_fault_of_a_file(trial: Trial, kind: str, first: int) -> None:
    assert faults(trial, kind, first, 59) >= 1


def test_positions_of_a_log_on_an_object_store_are_those_that_it_holds(
    proxy: Proxy, con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    lake = Lake(f"s3://lake/{uuid.uuid4().hex}", options(proxy.port))
    with_things(lake, con, tmp_path)
    table = Table(lake, THINGS)
    table.open().create_checkpoint()
    table.append(con, ROWS.format(1, 1), batch_id="second")
    positions = Positions(table.open())
    assert [positions.get(name) for name in ("first", "second", "third")] == [1, 1, None]
    assert Positions(table.open(1)).get("first") == 1


def test_what_a_failed_write_left_is_looked_for_in_its_own_partitions(
    proxy: Proxy, con: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []

    def select(folder: str, **options: bool) -> FileSelector:
        searched.append(folder)
        return FileSelector(folder, **options)

    monkeypatch.setattr(leftovers, "FileSelector", select)
    lake = Lake(f"s3://lake/{uuid.uuid4().hex}", options(proxy.port))
    with_things(lake, con, tmp_path)
    table = Table(lake, THINGS)
    years = "SELECT i AS id, DATE '2010-01-01' + i::INTEGER AS day, 1::BIGINT AS seq, 1 AS v FROM range(50) AS t(i)"
    table.append(con, years, batch_id="years")
    proxy.arm(2, "refused")  # the second of two files
    with pytest.raises(StorageError):
        table.append(con, ROWS.format(9, 2), batch_id="b")
    assert proxy.ask()
    assert sorted(searched) == ["day=2020-01-01", "day=2020-01-02"]
    assert not look(lake, con).unnamed
