"""Commits whose answer is lost, refused or unknown: who has the version decides, and no file that it names is lost."""

import json
import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.table import TableAlterer

from pipeline_assets.lake import (
    CommitUnknownError,
    Lake,
    StorageError,
    Table,
    WriteRefusedError,
    held_days,
    publish_or_withhold,
    query_schema,
    sending,
)
from pipeline_assets.lake.dead_letters import dead_letter_table, record

ROWS = "SELECT i AS id, DATE '2020-01-01' AS day, i AS seq, {1} AS v FROM range({0}) AS t(i)"
WRITES: dict[str, tuple[Callable[[Table, duckdb.DuckDBPyConnection], object], tuple[int, int]]] = {
    "append": (lambda t, con: t.append(con, ROWS.format(10, 2), batch_id="b"), (20, 30)),
    "append with a position": (
        lambda t, con: t.append(con, ROWS.format(10, 2), batch_id="b", expect={"p": None}, positions={"p": 1}),
        (20, 30),
    ),
    "replace all": (lambda t, con: t.replace(con, ROWS.format(10, 5), where="TRUE"), (10, 50)),
    "replace in part": (lambda t, con: t.replace(con, ROWS.format(5, 5), where="id < 5"), (10, 30)),
    "replace keys": (lambda t, con: t.replace_keys(con, ROWS.format(5, 5), keys=["id"]), (10, 30)),
    "merge": (
        lambda t, con: t.merge(
            con, ROWS.format(5, 5).replace("i AS seq", "99::BIGINT AS seq"), keys=["id"], sequence=["seq"]
        ),
        (10, 30),
    ),
    "overwrite": (lambda t, con: t.overwrite(con, ROWS.format(10, 5)), (10, 50)),
    "overwrite with other columns": (
        lambda t, con: t.overwrite(con, f"SELECT *, 'x' AS more FROM ({ROWS.format(10, 5)})"),
        (10, 50),
    ),
    "delete": (lambda t, con: t.commit(con, [], where="id < 5"), (5, 5)),
    "commit": (lambda t, con: t.commit(con, t.write(con, ROWS.format(10, 2))), (20, 30)),
}


@pytest.fixture
def things(lake: Lake, con: duckdb.DuckDBPyConnection) -> Table:
    table = Table(lake, "bronze.things")
    table.create(query_schema(con, ROWS.format(1, 1)), date_column="day")
    table.append(con, ROWS.format(10, 1), batch_id="first")
    return table


@pytest.fixture(params=WRITES)
def write(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def total(con: duckdb.DuckDBPyConnection, table: Table) -> tuple[int, int]:
    found = con.execute(f"SELECT count(*), sum(v) FROM {table.scan()}").fetchone()
    assert found is not None
    return int(found[0]), int(found[1])


def unnamed(table: Table) -> set[str]:
    """Data files that no version names."""
    named = {
        uri.rpartition("/")[2]
        for version in range(table.open().version() + 1)
        for uri in table.open(version).file_uris()
    }
    return {
        path.name
        for path in Path(table.uri).rglob("*.parquet")
        if path.name not in named and "_delta_log" not in path.parts
    }


def losing(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: BaseException, *, after: bool = True
) -> None:
    """The next call fails: after it was done, or instead."""
    real, left = getattr(owner, name), [error]

    def call(*args: object, **options: object) -> object:
        answer = None if left and not after else real(*args, **options)
        if left:
            raise left.pop()
        return answer

    monkeypatch.setattr(owner, name, staticmethod(call) if owner is DeltaTable and name == "create" else call)


@contextmanager
def full_disk() -> Iterator[None]:
    """Nobody in this process can write a byte into a file: what a full disk is to it, and it needs no root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "error",
    [CommitFailedError("link was sent twice"), OSError("the answer was lost"), RuntimeError("no class of ours")],
)
def test_a_commit_whose_answer_is_lost_is_a_success(
    con: duckdb.DuckDBPyConnection, things: Table, write: str, error: Exception, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    act, expected = WRITES[write]
    losing(monkeypatch, DeltaTable, "create_write_transaction", error)
    assert act(things, con) == 2
    assert things.open().version() == 2
    assert total(con, things) == expected
    assert not unnamed(things)
    assert f"table bronze.things: version 2 is committed, although storage reported: {error}" in caplog.text


def test_an_interruption_after_the_commit_leaves_the_table_whole(
    con: duckdb.DuckDBPyConnection, things: Table, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, expected = WRITES[write]
    losing(monkeypatch, DeltaTable, "create_write_transaction", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        act(things, con)
    assert total(con, things) == expected
    assert not unnamed(things)


def test_an_interruption_before_the_commit_leaves_no_file(
    con: duckdb.DuckDBPyConnection, things: Table, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch, DeltaTable, "create_write_transaction", KeyboardInterrupt(), after=False)
    with pytest.raises(KeyboardInterrupt):
        WRITES[write][0](things, con)
    assert total(con, things) == (10, 10)
    assert not unnamed(things)


def test_a_lost_answer_and_another_writer_meanwhile_are_both_kept(
    con: duckdb.DuckDBPyConnection, things: Table, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, (rows, value) = WRITES[write]
    real = DeltaTable.create_write_transaction

    def commit_twice_and_fail(self: DeltaTable, *args: object, **options: object) -> None:
        monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
        real(self, *args, **options)
        with things.lake.connect() as other:
            things.append(other, f"FROM (SELECT * REPLACE (0 AS v) FROM {things.scan()}) LIMIT 3", batch_id="other")
        raise CommitFailedError("the answer was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit_twice_and_fail)
    assert act(things, con) == 2
    assert total(con, things) == (rows + 3, value)
    assert not unnamed(things)


def test_a_refused_commit_leaves_no_file_and_names_table_and_remedy(
    con: duckdb.DuckDBPyConnection, things: Table, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch, DeltaTable, "create_write_transaction", OSError("No space left on device"), after=False)
    with pytest.raises(StorageError, match=r"table bronze.things: .*No space left on device.*free space"):
        WRITES[write][0](things, con)
    assert total(con, things) == (10, 10)
    assert not unnamed(things)
    WRITES[write][0](things, con)
    assert total(con, things) == WRITES[write][1]


def test_files_are_kept_while_nobody_can_tell_whether_a_version_names_them(
    con: duckdb.DuckDBPyConnection, things: Table, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch, DeltaTable, "create_write_transaction", OSError("connection reset"))
    monkeypatch.setattr(sending.time, "sleep", lambda _: None)
    with monkeypatch.context() as storage:
        storage.setattr(sending, "log", SimpleNamespace(store_of=away))
        with pytest.raises(CommitUnknownError, match=r"bronze\.things.*No file was deleted"):
            WRITES[write][0](things, con)
    assert total(con, things) == WRITES[write][1]
    assert not unnamed(things)


def away(table: DeltaTable) -> None:
    raise OSError("no route to host")


def test_a_full_disk_leaves_no_file_and_names_the_place(
    con: duckdb.DuckDBPyConnection, things: Table, write: str
) -> None:
    with full_disk(), pytest.raises(StorageError, match=r"bronze[./]things.*File too large.*free space"):
        WRITES[write][0](things, con)
    assert total(con, things) == (10, 10)
    assert not unnamed(things)
    WRITES[write][0](things, con)
    assert total(con, things) == WRITES[write][1]


def test_a_full_disk_is_named_by_all_that_makes_or_changes_tables(
    con: duckdb.DuckDBPyConnection, things: Table
) -> None:
    schema = query_schema(con, f"SELECT *, 1 AS more FROM ({ROWS.format(1, 1)})")
    for act in (
        lambda: Table(things.lake, "bronze.new").create(schema),
        lambda: things.create(schema),
        lambda: things.set_properties({"a.b": "c"}),
    ):
        with full_disk(), pytest.raises(StorageError, match=r"table bronze.(new|things): .*File too large.*free space"):
            act()
        act()


def test_tables_columns_and_properties_whose_answer_is_lost_are_there(
    con: duckdb.DuckDBPyConnection, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(lake, "bronze.late")
    losing(monkeypatch, DeltaTable, "create", OSError("the answer was lost"))
    table.create(query_schema(con, "SELECT 1 AS id, DATE '2020-01-01' AS _partition_date"))
    losing(monkeypatch, TableAlterer, "add_columns", OSError("the answer was lost"))
    table.create(query_schema(con, "SELECT 1 AS id, 2 AS more"))
    losing(monkeypatch, TableAlterer, "set_table_properties", OSError("the answer was lost"))
    assert table.set_properties({"a.b": "c"}) == 2
    assert [column.name for column in table.open().schema().fields] == ["id", "_partition_date", "more"]
    assert table.open().metadata().configuration["a.b"] == "c"


def test_a_day_is_withheld_and_published_though_the_answer_is_lost(
    con: duckdb.DuckDBPyConnection, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(lake, "bronze.days")
    rows = "SELECT 1 AS id, DATE '2020-01-01' AS _partition_date"
    table.create(query_schema(con, rows), partition_by=["_partition_date"], date_column="_partition_date")
    version = table.append(con, rows, batch_id="a")
    assert version is not None
    (day,) = con.execute("SELECT DATE '2020-01-01'").fetchone() or (None,)
    losing(monkeypatch, TableAlterer, "set_table_properties", OSError("the answer was lost"))
    publish_or_withhold(con, table, version=version, good=(), bad=(day,))
    assert held_days(table, table.position("audited")) == {day}


def test_dead_letters_of_which_one_cannot_be_read_leave_no_file(con: duckdb.DuckDBPyConnection, things: Table) -> None:
    letters = dead_letter_table(things.lake, things.name)
    facts = "DATE '2020-01-01' AS _partition_date, 'b' AS _batch_id, now() AS _extracted_at"
    facts += ", {'file': 'f', 'line': 1} AS _source"
    good = f"SELECT {facts}, 'why' AS reason, 'x' AS raw"
    with pytest.raises(duckdb.Error):
        record(con, letters, good, f"SELECT {facts}, 'why' AS reason, error('no') AS raw", where="TRUE")
    assert not unnamed(letters)


def test_a_query_that_fails_half_way_leaves_no_file_in_any_partition(
    con: duckdb.DuckDBPyConnection, lake: Lake
) -> None:
    table = Table(lake, "bronze.parts")
    half = "SELECT i, i % 3 AS a, i % 2 AS b, if(i = 400000, error('no'), i) AS v FROM range(500000) AS t(i)"
    with pytest.raises(duckdb.Error):
        table.write(con, half, partition_by=["a", "b"])
    assert not list(Path(table.uri).rglob("*.parquet"))


def test_a_commit_counts_though_its_checkpoint_fails(
    con: duckdb.DuckDBPyConnection, things: Table, caplog: pytest.LogCaptureFixture
) -> None:
    while things.open().version() < 98:
        things.commit(con, [], positions={"p": things.open().version()})
    Path(things.uri, f"_delta_log/{99:020d}.checkpoint.parquet/in the way").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert things.append(con, ROWS.format(10, 2), batch_id="b") == 99
    assert "bronze.things: version 99 is committed, although storage reported" in caplog.text
    assert "checkpoint" in caplog.text
    assert total(con, things) == (20, 30)


@pytest.mark.parametrize("write", sorted(WRITES.keys() - {"append", "append with a position", "commit"}))
def test_an_append_only_table_refuses_what_removes_rows_and_nobody_is_told_to_free_space(
    con: duckdb.DuckDBPyConnection, things: Table, write: str
) -> None:
    things.set_properties({"delta.appendOnly": "true"})
    with pytest.raises(WriteRefusedError, match=r"table bronze\.things: .*append-only.*delta\.appendOnly") as refused:
        WRITES[write][0](things, con)
    assert "free space" not in str(refused.value)
    assert total(con, things) == (10, 10)
    assert not unnamed(things)
    assert things.append(con, ROWS.format(10, 2), batch_id="b") == 3


def test_a_table_whose_features_we_do_not_write_is_not_called_a_fault_of_the_storage(
    con: duckdb.DuckDBPyConnection, things: Table
) -> None:
    protocol = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["rowTracking"]}
    newest = things.open().version() + 1
    Path(things.uri, f"_delta_log/{newest:020d}.json").write_text(json.dumps({"protocol": protocol}))
    for act in (
        lambda: things.append(con, ROWS.format(10, 2), batch_id="b"),
        lambda: things.set_properties({"a.b": "c"}),
        lambda: things.create(query_schema(con, f"SELECT *, 1 AS more FROM ({ROWS.format(1, 1)})")),
    ):
        with pytest.raises(WriteRefusedError, match=r"table bronze\.things: .*RowTracking.*features of its protocol"):
            act()
    assert not unnamed(things)


def test_no_time_is_waited_behind_the_last_attempt(things: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(sending.time, "sleep", waits.append)
    sent: list[object] = []

    def refused(properties: object) -> None:
        sent.append(properties)
        raise OSError("no route to host")

    opened = things.open()
    away_for_good = SimpleNamespace(version=opened.version, table_uri="s3://lake/bronze/things", _table=opened._table)
    with pytest.raises(CommitUnknownError):
        sending.send(things.name, away_for_good, refused)  # type: ignore[arg-type]
    assert (len(sent), waits) == (3, [0.2, 0.8])
    waits.clear()
    monkeypatch.setattr(sending, "log", SimpleNamespace(store_of=away))
    with pytest.raises(CommitUnknownError):
        sending.send(things.name, opened, refused)
    assert (len(sent), waits) == (4, [0.2, 0.8])
