"""Work on a lake in a real object store whose requests fail: what it does, and what must be so when it is done again.

How requests are made to fail is in `object_store`.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from change_records import CUSTOMERS, HEARTBEAT, PRODUCTS, customer, product, unlisted
from deltalake.fs import DeltaStorageHandler
from pulled import Payments, listed
from pyarrow import parquet
from pyarrow.fs import FileSelector, PyFileSystem

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.batch.rows import RowBatch, RowPlan, RowSource
from pipeline_assets.ingest.cdc.files import ingest as change_files
from pipeline_assets.ingest.cdc.files.plan import FileSource
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table, query_schema

DAY = date(2011, 1, 4)
MODEL = contract("shop.InvoiceLines")
LINES = landing.LandingSource("shop__lines", PathPattern.parse("lines/{date}/*"), MODEL)
CHANGES = FileSource("crm", PathPattern.parse("crm/{date}/*"), "debezium", (CUSTOMERS, PRODUCTS))
PAYMENTS = RowSource("bank__payments", Payments, ("payment_id",))
THINGS = "silver.things"
BRONZE = ["bronze.shop__lines", "bronze.bank__payments", "bronze.crm__customers", "bronze.crm__products"]
TABLES = [THINGS, *BRONZE, *(name.replace("bronze", "dead_letters") for name in [*BRONZE, "bronze.crm__unrouted"])]
ROWS = (
    "SELECT i AS id, DATE '2020-01-01' + (i % 2)::INTEGER AS day, {1}::BIGINT AS seq, {1} AS v FROM range({0}) AS t(i)"
)
MANY = {f"p{n}": 1 for n in range(1_000)}  # so that a checkpoint follows the commit
FIELDS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]


@dataclass(frozen=True)
class Work:
    """A piece of work.

    Attributes:
        start: What is done before, without a fault.
        do: What is done with a fault, and again; gives what it reports, as far as that is the same each time.
    """

    start: Callable[[Lake, duckdb.DuckDBPyConnection, Path], object]
    do: Callable[[Lake, duckdb.DuckDBPyConnection, Path], object]


def line(number: int, quantity: object = 6) -> list[str]:
    values = [536000 + number, "85123A", "HEART", quantity, f"{DAY} 08:26:00", 2.55, 17850, "United Kingdom"]
    return list(map(str, values))


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1_600_000_000, 1_600_000_000))


def csv(*lines: list[str], more: int = 0) -> bytes:
    beside = [f"more_{n}" for n in range(more)]
    return "".join(",".join(cells) + "\n" for cells in ([*FIELDS, *beside], *([*x, *beside] for x in lines))).encode()


def land(root: Path) -> None:
    """Lands files of several formats, some with dead letters; one has many columns, one cannot be read."""
    folder = root / f"lines/{DAY}"
    write(folder / "a.csv", csv(line(1), line(2, "many")))
    write(folder / "b.csv", csv(line(3)))
    write(folder / "wide.csv", csv(line(4), line(5, "x"), more=400))
    records = [dict(zip(FIELDS, line(n, q), strict=True)) for n, q in ((6, 6), (7, "few"))]
    write(folder / "c.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
    parquet.write_table(pa.Table.from_pylist([dict(zip(FIELDS, line(8), strict=True))]), root / "made")
    write(folder / "d.parquet", (root / "made").read_bytes())
    write(folder / "e.parquet", b"PAR1 no more")
    write(root / "crm/2026-01-02/a.jsonl", documents(customer(1, 8), product("A", 16), HEARTBEAT, unlisted(32), "{"))
    write(root / "crm/2026-01-03/b.jsonl", documents(product("A", 40, op="d"), product("B", 48, op="x")))


def documents(*records: object) -> bytes:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records).encode()


def ingest(lake: Lake, con: duckdb.DuckDBPyConnection, root: Path) -> object:
    landing.ingest(lake, con, LINES, root, DAY, DAY, settle_seconds=0)
    return None


def correct(lake: Lake, con: duckdb.DuckDBPyConnection, root: Path) -> object:
    """The files again, where one has lost its dead letter and one has moved."""
    folder = root / f"lines/{DAY}"
    write(folder / "a.csv", csv(line(1), line(2)))
    (folder / "b.csv").unlink(missing_ok=True)
    write(folder / "b2.csv", csv(line(3), line(9)))
    return ingest(lake, con, root)


def judged(lake: Lake, con: duckdb.DuckDBPyConnection, _: Path) -> object:
    found = audit(con, LINES.table(lake), MODEL, failure_budget=0.1, days=(DAY, DAY))
    return [found.mismatches, found.over, found.held, found.counts, found.contract.passed]


def pull(lake: Lake, con: duckdb.DuckDBPyConnection, _: Path) -> object:
    at = datetime(2026, 1, 5, 1, tzinfo=UTC)
    before = PAYMENTS.table(lake).position("full")
    plan = RowPlan(
        name="full", start="", end="1", partition_date=at.date(), extracted_at=at, expect={"full": before},
        positions={"full": (before or 0) + 1}, replaces="TRUE",
    )  # fmt: skip
    records = [(n, "x" if n == 3 else "1.50", "a", "2026-01-05 00:00:00+00") for n in range(1, 6)]
    with RowBatch(lake, con, PAYMENTS, plan) as batch:
        batch.add(listed(*records), origin="public.payments", counted=lambda: len(records))
        batch.commit()
    found = audit(con, batch.bronze, Payments, failure_budget=1, days=(at.date(), at.date()))
    return [batch.counts, found.mismatches, found.counts]


def take_changes(lake: Lake, con: duckdb.DuckDBPyConnection, root: Path) -> object:
    days = date(2026, 1, 1), date(2026, 1, 31)
    change_files.ingest(lake, con, CHANGES, root, *days, settle_seconds=0)
    return None


def with_things(lake: Lake, con: duckdb.DuckDBPyConnection, _: Path) -> object:
    table = Table(lake, THINGS)
    table.create(query_schema(con, ROWS.format(1, 1)), partition_by=["day"], date_column="day")
    return table.append(con, ROWS.format(9, 1), batch_id="first")


def on_things(do: Callable[[Table, duckdb.DuckDBPyConnection], object]) -> Work:
    def work(lake: Lake, con: duckdb.DuckDBPyConnection, _: Path) -> object:
        do(Table(lake, THINGS), con)
        return None

    return Work(with_things, work)


def nothing(*_: object) -> object:
    return None


WRITES: dict[str, Work] = {
    "append": on_things(lambda t, con: t.append(con, ROWS.format(9, 2), batch_id="b", positions={"p": 1})),
    "checkpoint": on_things(lambda t, con: t.append(con, ROWS.format(9, 2), batch_id="b", positions=MANY)),
    "merge": on_things(lambda t, con: t.merge(con, ROWS.format(5, 9), keys=["id", "day"], sequence=["seq"])),
    "replace": on_things(lambda t, con: t.replace(con, ROWS.format(5, 9), where="id < 5")),
    "replace keys": on_things(lambda t, con: t.replace_keys(con, ROWS.format(5, 9), keys=["id", "day"])),
    "overwrite": on_things(lambda t, con: t.overwrite(con, f"SELECT *, 'x' AS more FROM ({ROWS.format(5, 9)})")),
    "properties": on_things(lambda t, _: t.set_properties({"a.b": "c"})),
    "create": on_things(lambda t, con: t.create(query_schema(con, f"SELECT *, 1 AS more FROM ({ROWS.format(1, 1)})"))),
}
INGESTS: dict[str, Work] = {
    "ingest": Work(nothing, ingest),
    "correction": Work(ingest, correct),
    "audit": Work(ingest, judged),
    "pull": Work(nothing, pull),
    "changes": Work(nothing, take_changes),
}


@dataclass(frozen=True)
class Found:
    """What is in a lake.

    Attributes:
        rows: Of each table, less what is another in each run.
        gone: Data files that some version names and that are not there.
        unnamed: Data files that are there and that no version names.
    """

    rows: dict[str, list[tuple[object, ...]]]
    gone: set[str]
    unnamed: set[str]


def look(lake: Lake, con: duckdb.DuckDBPyConnection) -> Found:
    found = Found({}, set(), set())
    for table in (Table(lake, name) for name in TABLES):
        store = PyFileSystem(DeltaStorageHandler(table.uri, dict(lake.storage_options)))
        paths = [file.path for file in store.get_file_info(FileSelector("", recursive=True, allow_not_found=True))]
        commits = [path for path in paths if "_delta_log/" in path and path.endswith(".json")]
        named = {unquote(path) for commit in commits for path in added(store.open_input_file(commit).read())}
        there = {path for path in paths if "_delta_log/" not in path and path.endswith(".parquet")}
        found.gone.update(f"{table.name}/{path}" for path in named - there)
        found.unnamed.update(f"{table.name}/{path}" for path in there - named)
        if commits:
            # Of change records the time of the run, and a name that holds the id of their table.
            left_out = " EXCLUDE (_extracted_at, _batch_id)" if "crm__" in table.name else ""
            found.rows[table.name] = con.execute(f"SELECT *{left_out} FROM {table.scan()} ORDER BY ALL").fetchall()
    return found


def added(commit: bytes) -> list[str]:
    actions = map(json.loads, commit.splitlines())
    return [action["add"]["path"] for action in actions if "add" in action]
