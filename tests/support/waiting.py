"""A source of each kind that has left dead letters in a lake, and what replays and discards them there.

`KINDS` has them by name. Only `Kind.read` needs the source itself.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandera.polars as pa
import polars as pl
import pytest
from bank import TABLE, Bank, paid
from change_records import PRODUCTS, Shop, product, unlisted
from crm_api import Api, account
from polled import UPDATED, Accounts, Crm
from pulled import Strict
from records import Mended, World
from shop_stream import Shop as Stream
from shop_stream import insert

from pipeline_assets.contracts.base import Model, contract
from pipeline_assets.ingest.batch import replay as of_rows
from pipeline_assets.ingest.batch.audit import audit, compare_last_run
from pipeline_assets.ingest.batch.replay import ReplaySource
from pipeline_assets.ingest.batch.replay_pulls import row_source
from pipeline_assets.ingest.batch.rows import RowSource
from pipeline_assets.ingest.cdc.files import accounting
from pipeline_assets.ingest.cdc.files.plan import FileSource
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import ChangeSource
from pipeline_assets.ingest.cdc.table import replay as of_changes
from pipeline_assets.ingest.cdc.table.change_table import UNROUTED, ChangeTable
from pipeline_assets.ingest.dead_letters.discard import discard
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.replay import row_source as landed
from pipeline_assets.ingest.rest.poll import poll
from pipeline_assets.lake import Lake, Table
from pipeline_assets.lake.dead_letters import dead_letter_table

Connection = duckdb.DuckDBPyConnection
_CLOCK = "EXCLUDE (_extracted_at)"


class Noted(Strict):
    """A payment of an order that needs a note."""

    note: str = pa.Field()


class Named(Accounts):
    """An account of the CRM that needs a name."""

    name: str = pa.Field()


class PriceAsText(pa.DataFrameModel):
    """A product at any price."""

    stock_code: pl.String
    description: pl.String = pa.Field(nullable=True)
    unit_price: pl.String

    class Config:
        """As the contract of the shop's database."""

        name = "test.price_as_text"
        strict = False


ORDER = {
    "order_id": "o1", "customer_id": 1, "status": "placed", "ordered_at": "2026-01-02T03:04:05Z", "lines": "[]",
    "line_count": 0, "total": "0.000", "updated_at": "2026-01-02T03:04:05Z",
}  # fmt: skip
ANY_PRICE = ChangeTable("public.products", "crm__products", PriceAsText, ("stock_code",))
ORDERS = ChangeTable("public.orders", "crm__orders", contract("shop_db.Orders"), ("order_id",))


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        read: Reads it into the lake below a folder, under a contract that some records do not fit. The last argument
            asks pytest for what this takes.
        tables: Names of its tables, in which dead letters may wait.
        replay: Tries the dead letters of a lake again, under a mended contract that some of them fit.
        account: What the tables hold other than was counted, `[]` if it adds up.
        finish: What the source's job does before it discards.
    """

    read: Callable[[Path, pytest.FixtureRequest], None]
    tables: tuple[str, ...]
    replay: Callable[[Lake, Connection], object]
    account: Callable[[Lake, Connection], list[Any]]
    finish: Callable[[Lake, Connection], None] = lambda lake, con: None

    def discard(self, lake: Lake, con: Connection) -> None:
        """Discards all dead letters, as the job of the source does."""
        self.finish(lake, con)
        for name in self.tables:
            discard(con, Table(lake, f"bronze.{name}"))

    def content(self, lake: Lake, con: Connection) -> dict[str, list[tuple[Any, ...]]]:
        """The tables, but for the clock."""
        found = {}
        for name in self.tables:
            letters, rows = dead_letter_table(lake, f"bronze.{name}"), Table(lake, f"bronze.{name}")
            if rows.exists():
                found[rows.name] = con.execute(f"SELECT * {_CLOCK} FROM {rows.scan()} ORDER BY ALL").fetchall()
            if letters.exists():
                marked = f"{_CLOCK} REPLACE (discarded_at IS NOT NULL AS discarded_at)"
                found[letters.name] = con.execute(f"SELECT * {marked} FROM {letters.scan()} ORDER BY ALL").fetchall()
        return found

    def places(self, lake: Lake, con: Connection, layer: str) -> list[tuple[str, int]]:
        """Where the rows of a layer come from: file and line, in order."""
        tables = [table for name in self.tables if (table := Table(lake, f"{layer}.{name}")).exists()]
        union = " UNION ALL ".join(f"SELECT _source.file, _source.line FROM {table.scan()}" for table in tables)
        return con.execute(f"FROM ({union}) ORDER BY ALL").fetchall() if tables else []


def _of_rows(read: Callable[[Path, pytest.FixtureRequest], None], mended: ReplaySource) -> Kind:
    def replay(lake: Lake, con: Connection) -> object:
        return of_rows.replay(lake, con, mended)

    def account(lake: Lake, con: Connection) -> list[Any]:
        bronze = Table(lake, f"bronze.{mended.name}")
        return audit(con, bronze, mended.model, failure_budget=1, days=None).mismatches

    return Kind(read, (mended.name,), replay, account)


def _of_changes(
    read: Callable[[Path, pytest.FixtureRequest], None], source: str, *mended: ChangeTable,
    also: Callable[[Lake, Connection], list[Any]] = lambda lake, con: [],
) -> Kind:  # fmt: skip
    def replay(lake: Lake, con: Connection) -> object:
        return of_changes.replay(lake, con, source, mended)

    def finish(lake: Lake, con: Connection) -> None:
        of_changes.finish(lake, con, source, mended)

    def account(lake: Lake, con: Connection) -> list[Any]:
        wrong = [found for table in mended for found in compare_last_run(con, table.bronze(lake))[1]]
        return [*wrong, *also(lake, con)]

    return Kind(read, (*(table.name for table in mended), f"{source}__{UNROUTED}"), replay, account, finish)


def _read_files(folder: Path, request: pytest.FixtureRequest) -> None:
    world = World(folder)
    with closing(world.con):
        world.land("2026-01-05/a.csv", "id,note\n1,a\n2,\nx,\n4,\n")
        world.land("2026-01-06/b.jsonl", '{"id": 5, "new": 1}\n{"id": 6, "note": "b"}\n{"id": "x"}\n{')
        world.ingest()
        world.audit()


def _read_database(mode: str, folder: Path, request: pytest.FixtureRequest) -> None:
    bank = Bank(folder, f"duckdb:///{folder / 'bank.duckdb'}")
    bank.execute(TABLE.format(time="TIMESTAMPTZ"), paid(1), paid(2).replace("'a'", "NULL"))
    options = {} if mode == "full" else {"mode": mode}
    with closing(bank.con):
        bank.pull(model=Noted, **options)
        bank.execute(paid(3).replace("'a'", "NULL"), paid(4, amount="x"))
        bank.pull(model=Noted, **options)
        bank.audit(Noted)


def _read_api(folder: Path, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("monkeypatch").setenv("CRM_TOKEN", "t")
    records = [account(1), account(2, name=None), account(3).replace("3", '"x"', 1), account(4, name=None)]
    with Lake(str(folder / "lake")).connect() as con, Api(records=records) as api:
        crm = Crm(folder, con, [])
        poll(crm.lake, con, replace(crm.source(api, incremental=UPDATED), model=Named))
        audit(con, crm.bronze, Named, failure_budget=0, days=None)


def _read_changes(folder: Path, request: pytest.FixtureRequest) -> None:
    shop = Shop(folder, PRODUCTS)
    with closing(shop.con):
        order = unlisted(24) | {"after": ORDER}
        shop.land("2026-01-02/a.jsonl", product("A", 8, price="x"), order, "{")
        shop.land("2026-01-03/b.jsonl", product("B", 40), product("C", 48, price="y"))
        shop.ingest()


def _read_slot(folder: Path, request: pytest.FixtureRequest) -> None:
    stream = Stream(request.getfixturevalue("database"), folder)
    source = ChangeSource("crm", (PRODUCTS,), 1024**3)
    with stream.lake.connect() as con:
        Drain(stream.lake, con, source, stream.postgres, "r1").run()
        stream.sql(
            insert("A", "B"),
            insert("C", price="'NaN'"),
            "UPDATE products SET stock_code = 'D', unit_price = 'NaN' WHERE stock_code = 'A'",
            "INSERT INTO orders (order_id, status, lines) VALUES ('o1', 'placed', '[]')",
        )
        Drain(stream.lake, con, source, stream.postgres, "r2").run()


def _pulled(name: str, model: Model, key: str) -> ReplaySource:
    return row_source(RowSource(name, model, (key,)))


def _landed_changes(lake: Lake, con: Connection) -> list[Any]:
    found = accounting.account(con, lake, FileSource("crm", PathPattern.parse("crm/{date}/*"), "debezium", (PRODUCTS,)))
    return [] if found.adds_up and found.records_in else [found]


_LANDED = LandingSource("t__records", PathPattern.parse("in/{date}/*"), Mended, schema_evolution=True)
KINDS = {
    "files": _of_rows(_read_files, landed(_LANDED)),
    **{
        f"pull {mode}": _of_rows(partial(_read_database, mode), _pulled("bank__payments", Strict, "payment_id"))
        for mode in ("full", "incremental", "window")
    },
    "poll": _of_rows(_read_api, _pulled("crm__accounts", Accounts, "account_id")),
    "change files": _of_changes(_read_changes, "crm", ANY_PRICE, ORDERS, also=_landed_changes),
    "slot": _of_changes(_read_slot, "crm", ANY_PRICE, ORDERS),
}
