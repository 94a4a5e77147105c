"""Whatever request to an object store fails, the next run gives the same tables, and no file is lost or left over."""

import uuid
from collections.abc import Callable, Iterator

import duckdb
import pytest
from deltalake.fs import DeltaStorageHandler
from object_store import WEED, Proxy, object_store, options
from pyarrow.fs import FileSelector, PyFileSystem

from pipeline_assets.lake import Lake, Positions, Table, query_schema

pytestmark = [pytest.mark.integration, pytest.mark.skipif(WEED is None, reason="SeaweedFS is not installed")]

ROWS = (
    "SELECT i AS id, DATE '2020-01-01' + (i % 2)::INTEGER AS day, {1}::BIGINT AS seq, {1} AS v FROM range({0}) AS t(i)"
)
WORK: dict[str, Callable[[Table, duckdb.DuckDBPyConnection], object]] = {
    "append": lambda t, con: t.append(con, ROWS.format(9, 2), batch_id="b", positions={"p": 1}),
    "merge": lambda t, con: t.merge(con, ROWS.format(5, 9), keys=["id", "day"], sequence=["seq"]),
    "replace": lambda t, con: t.replace(con, ROWS.format(5, 9), where="id < 5"),
    "replace keys": lambda t, con: t.replace_keys(con, ROWS.format(5, 9), keys=["id", "day"]),
    "overwrite": lambda t, con: t.overwrite(con, f"SELECT *, 'x' AS more FROM ({ROWS.format(5, 9)})"),
    "properties": lambda t, _: t.set_properties({"a.b": "c"}),
    "create": lambda t, con: t.create(query_schema(con, f"SELECT *, 1 AS more FROM ({ROWS.format(1, 1)})")),
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with object_store(tmp_path_factory.mktemp("store")) as port:
        p = Proxy(port)
        yield p
        p.p.terminate()


@pytest.fixture
def lake(proxy: Proxy) -> Lake:
    return Lake(f"s3://lake/{uuid.uuid4().hex}", options(proxy.port))


def started(lake: Lake, con: duckdb.DuckDBPyConnection) -> Table:
    table = Table(lake, "silver.things")
    table.create(query_schema(con, ROWS.format(1, 1)), partition_by=["day"], date_column="day")
    table.append(con, ROWS.format(9, 1), batch_id="first")
    return table


def unnamed(table: Table) -> set[str]:
    named = {u.rpartition("/")[2] for v in range(table.open().version() + 1) for u in table.open(v).file_uris()}
    store = PyFileSystem(DeltaStorageHandler(table.uri, dict(table.lake.storage_options)))
    listed = store.get_file_info(FileSelector("", recursive=True))
    found = {file.base_name for file in listed if "_delta_log" not in file.path}
    return {name for name in found if name.endswith(".parquet")} - named


def rows(con: duckdb.DuckDBPyConnection, table: Table) -> list[tuple[object, ...]]:
    for version in range(table.open().version()):
        con.execute(f"SELECT count(COLUMNS(*)) FROM {table.scan(version)}").fetchall()
    return con.execute(f"FROM {table.scan()} ORDER BY ALL").fetchall()


@pytest.mark.parametrize("kind", ["refused", "answer lost"])
@pytest.mark.parametrize("work", WORK)
def test_any_request_that_fails_costs_nothing(proxy: Proxy, work: str, kind: str) -> None:
    at, expected = 0, None
    while at <= 1 or proxy.hit:
        lake = Lake(f"s3://lake/{uuid.uuid4().hex}", options(proxy.port))
        with lake.connect() as con:
            table = started(lake, con)
            proxy.arm(at, kind)
            try:
                WORK[work](table, con)
            except Exception:  # noqa: BLE001 - any failure will do
                assert at
            was_hit = proxy.ask()
            proxy.arm(0, "")
            if at:
                WORK[work](table, con)
            found = rows(con, table)
            expected = expected or found
            assert found == expected, (work, kind, at)
            assert not unnamed(table), (work, kind, at)
            proxy.hit = was_hit
        at += 1
    assert at > 2


def test_positions_of_a_log_on_an_object_store_are_those_that_it_holds(lake: Lake) -> None:
    with lake.connect() as con:
        table = started(lake, con)
        table.open().create_checkpoint()
        table.append(con, ROWS.format(1, 1), batch_id="second")
    positions = Positions(table.open())
    assert [positions.get(name) for name in ("first", "second", "third")] == [1, 1, None]
    assert Positions(table.open(1)).get("first") == 1
