"""Positions read at once are those that delta-rs reads one by one, whatever the log is made of."""

from pathlib import Path

import duckdb
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from pipeline_assets.lake import Positions, Table, log
from pipeline_assets.lake.positions import positions_of

HARD_NAMES = ('a "quoted" name', "bronze.x@1", "Größe: привет", "line\nbreak", "content:0-1", "txn")


def set_positions(table: Table, values: dict[str, int], *, checkpoint: bool = False) -> None:
    opened = table.open()
    properties = CommitProperties(app_transactions=[Transaction(name, value) for name, value in values.items()])
    opened.create_write_transaction([], mode="append", schema=opened.schema(), commit_properties=properties)
    if checkpoint:
        table.open().create_checkpoint()


@pytest.fixture
def opened(con: duckdb.DuckDBPyConnection, table: Table) -> DeltaTable:
    """Positions that stand in a checkpoint, behind it, in both, and in two commits."""
    set_positions(table, {"first": 3, **dict.fromkeys(HARD_NAMES, 7)}, checkpoint=True)
    set_positions(table, {"later": 2, "first": 4})
    table.append(con, "SELECT * FROM things WHERE false", batch_id="empty", metadata={"says": '{"txn": {}}'})
    set_positions(table, {"later": 1 << 62})
    return table.open()


@pytest.fixture(autouse=True)
def things(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    con.execute(f"CREATE VIEW things AS SELECT * FROM {table.scan()}")


def same(opened: DeltaTable) -> None:
    positions = Positions(opened)
    for name in (*HARD_NAMES, "first", "later", "empty", "nobody"):
        assert positions.get(name) == opened.transaction_version(name), name


def test_they_are_those_of_checkpoint_and_commits(opened: DeltaTable) -> None:
    same(opened)
    assert Positions(opened).get("first") == 4
    assert Positions(opened).get("later") == 1 << 62
    assert Positions(opened).get('a "quoted" name') == 7
    assert Positions(opened).get("nobody") is None


def test_each_older_version_has_its_own(opened: DeltaTable, table: Table) -> None:
    table.open().create_checkpoint()
    for version in range(opened.version() + 1):
        same(table.open(version))


def test_a_log_without_a_word_on_its_last_checkpoint_is_read(opened: DeltaTable, table: Table) -> None:
    Path(table.uri, "_delta_log/_last_checkpoint").unlink()
    same(table.open())


@pytest.mark.parametrize("damaged", [b"", b"{}", b'{"version":', b"\xff"])
def test_a_damaged_word_on_the_last_checkpoint_is_passed_over(opened: DeltaTable, table: Table, damaged: bytes) -> None:
    Path(table.uri, "_delta_log/_last_checkpoint").write_bytes(damaged)
    same(table.open())


def test_a_log_whose_first_commits_are_cleaned_up_is_read(opened: DeltaTable, table: Table) -> None:
    for version in range(2):
        Path(table.uri, f"_delta_log/{version:020d}.json").unlink()
    same(table.open())


def test_a_checkpoint_of_another_kind_is_left_to_delta_rs(opened: DeltaTable, table: Table) -> None:
    log = Path(table.uri, "_delta_log")
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    checkpoint.rename(log / f"{checkpoint.name[:20]}.checkpoint.0000000001.0000000001.parquet")
    (log / "_last_checkpoint").write_text((log / "_last_checkpoint").read_text().replace("{", '{"parts":1,', 1))
    for version in range(int(checkpoint.name[:20]) + 1):
        (log / f"{version:020d}.json").unlink()
    same(table.open())
    assert Positions(table.open()).get("first") == 4


def test_thousands_of_positions_are_read_in_one_pass(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    set_positions(table, {f"content:{number}": number for number in range(1_000)}, checkpoint=True)
    set_positions(table, {"later": 1})
    opened, names, read = table.open(), [], log.read
    monkeypatch.setattr(log, "read", lambda store, name: names.append(name) or read(store, name))
    positions = Positions(opened)
    assert names == []
    assert [positions.get(f"content:{number}") for number in range(1_000)] == list(range(1_000))
    assert positions.get("later") == 1
    assert names == ["_last_checkpoint", log.commit_file(opened.version())]


def test_a_few_and_many_are_the_same(opened: DeltaTable) -> None:
    many = positions_of(opened, {*HARD_NAMES, "first", "later", "empty", "nobody"})
    assert many == {name: value for key in many for name, value in positions_of(opened, {key}).items()}
    assert (many["first"], many["later"], many["nobody"]) == (4, 1 << 62, None)


def test_those_of_a_prefix_are_read_alone_and_others_are_found_all_the_same(table: Table) -> None:
    set_positions(table, {"landing:2011-01-01": 5, "landing:2011-01-02": 6, "content:0-1": 7}, checkpoint=True)
    set_positions(table, {"landing:2011-01-02": 8})
    positions = Positions(table.open(), "landing:")
    asked = ("landing:2011-01-01", "landing:2011-01-02", "landing:2011-01-03", "content:0-1", "content:0-2")
    assert [positions.get(name) for name in asked] == [5, 8, None, 7, None]
