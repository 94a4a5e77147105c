"""Dimensions, facts and customer metrics, run by dbt on changes of the shop's database: what each kind does to them."""

import datetime
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from batches import event_batch

from pipeline_assets.contracts.base import contract, validate
from pipeline_assets.contracts.models.shop_db import Customers, Orders, Products
from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Table

pytestmark = pytest.mark.slow

DIM_CUSTOMERS, DIM_PRODUCTS, FCT_ORDERS = "gold.dim_customers", "gold.dim_products", "gold.fct_orders"
METRICS = "gold.customer_metrics"
GOLD = (DIM_CUSTOMERS, DIM_PRODUCTS, FCT_ORDERS, METRICS)
MODELS = (  # every model that one of these reads, but what is pulled and polled
    "invoice_lines", "customers", "customers_history", "products_history", "orders",
    *(name.split(".")[1] for name in GOLD),
)  # fmt: skip
_TABLES = {
    "customers": (Customers, "customer_id"),
    "products": (Products, "stock_code"),
    "orders": (Orders, "order_id"),
}


def moment(when: str) -> datetime.datetime:
    """`03` or `03 10:00` of January 2011."""
    text = f"2011-01-{when}" if " " in when else f"2011-01-{when} 12:00"
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


@dataclass
class Change:
    """A change of a row, at a place in the database's log: places may arrive in any order."""

    table: str
    op: str
    key: Any
    when: datetime.datetime
    row: dict[str, Any] = field(default_factory=dict)


def customer(key: int, when: str, *, op: str = "c", **row: Any) -> Change:
    given = {"name": "Ada", "email": None, "phone": None, "country": "EIRE", "created_at": moment("01").isoformat()}
    return Change("customers", op, key, moment(when), given | row)


def product(key: str, when: str, price: str = "1", *, op: str = "c", text: str | None = "MUG") -> Change:
    return Change("products", op, key, moment(when), {"description": text, "unit_price": price})


def order(key: str, when: str, of: int | None, *, op: str = "c", status: str = "placed", quantity: int = 2) -> Change:
    lines = [{"stock_code": "10001", "quantity": quantity, "unit_price": 10}, {"stock_code": "POST", "quantity": 1}]
    row = {"customer_id": of, "status": status, "lines": json.dumps(lines), "line_count": 2, "total": "25.5"}
    return Change("orders", op, key, moment(when), row | {"ordered_at": moment(when).isoformat()})


def deleted(table: str, key: Any, when: str) -> Change:
    return Change(table, "d", key, moment(when))


class Database:
    """Changes of the shop's database in bronze, and dbt."""

    def __init__(self, shop: Any) -> None:
        self.shop, self.lake, self.con = shop, shop.lake, shop.con
        self._batches = 0

    def land(self, *changes: Change, at: int | None = None) -> None:
        """Appends a batch to each table concerned, as the transaction at a place in the log: the next, by default."""
        self._batches += 1
        place = self._batches * 100 if at is None else at
        for table in dict.fromkeys(change.table for change in changes):
            model, key = _TABLES[table]
            declared = ChangeTable(f"public.{table}", f"shop_db__{table}", model, (key,))
            batch = f"batch-{self._batches}"
            staging = event_batch(self.con, self.lake, declared, "shop_db", batch, moment("01"))
            staging.add([
                _event(change, key, place, number) for number, change in enumerate(changes, 1) if change.table == table
            ])  # fmt: skip
            assert staging.counts.dead_letters == 0
            staging.commit()

    def run(self, *selected: str) -> None:
        self.shop.dbt("run", "--select", *(selected or MODELS))

    def rows(self, name: str, columns: str = "*", where: str = "true") -> list[tuple[Any, ...]]:
        select = f"select {columns} from {Table(self.lake, name).scan()} where {where} order by all"
        return self.con.execute(select).fetchall()  # type: ignore[no-any-return]

    def state(self) -> dict[str, list[tuple[Any, ...]]]:
        return {name: self.rows(name) for name in GOLD}

    def written(self, name: str) -> tuple[str | None, str | None]:
        """Rows that the newest commit added and removed."""
        commit = self.shop.commit(name)
        return commit.get("rows_added"), commit.get("rows_removed")

    def versions(self) -> dict[str, int]:
        return {name: self.shop.version(name) for name in GOLD}

    def key_of(self, customer_id: int, when: str) -> str:
        ((key,),) = self.rows(
            DIM_CUSTOMERS, "customer_key", f"customer_id = {customer_id} and valid_from = '{moment(when)}'"
        )
        return str(key)

    def keys_of_orders(self) -> dict[str, str | None]:
        return dict(self.rows(FCT_ORDERS, "order_id, customer_key"))


def _event(change: Change, key: str, place: int, number: int) -> ChangeEvent:
    row = {key: change.key, **change.row, "updated_at": change.when.isoformat()}
    after = None if change.op == "d" else json.dumps(row)
    return ChangeEvent(
        f"public.{change.table}", change.op, json.dumps({key: change.key}), None, after, (), place, number,
        place + number, place, int(change.when.timestamp() * 1_000_000), "test", number,
    )  # fmt: skip


@pytest.fixture
def database(shop: Any, line: Callable[..., Any]) -> Database:
    """A shop with lines of customers 1 to 3 on landed files, and a database that is yet empty."""
    shop.land(9, *(line(str(number), "09", number) for number in (1, 2, 3)))
    return Database(shop)


def test_a_lake_of_files_alone_has_metrics_without_contacts_and_empty_dimensions(database: Database) -> None:
    database.run()
    assert database.rows(METRICS, "customer_id, name, email, phone") == [(key, None, None, None) for key in (1, 2, 3)]
    assert [database.rows(name) for name in (DIM_CUSTOMERS, DIM_PRODUCTS, FCT_ORDERS)] == [[], [], []]
    before = database.versions()
    database.run()
    assert database.versions() == before
    database.land(customer(1, "01", email=" ADA@example.com"), order("1", "02", 1), product("10001", "01"))
    database.run()
    assert database.rows(METRICS, "customer_id, name, email", "name is not null") == [(1, "Ada", "ada@example.com")]
    assert database.keys_of_orders() == {"1": database.key_of(1, "01")}
    assert len(database.rows(DIM_PRODUCTS)) == 1


def test_a_lake_of_the_database_alone_has_no_metrics_until_files_land(database: Database) -> None:
    downstream = ("customers+", "customers_history+", "products_history+", "orders+")  # as the job of the change stream
    for when in ("01", "02"):
        database.land(customer(1, when, email="ada@example.com"), order(when, when, 1), product("POST", when))
        database.run(*downstream)
        assert database.rows(METRICS) == []
        assert database.rows("gold.daily_sales") == []
    assert len(database.keys_of_orders()) == 2
    database.run(*MODELS, "daily_sales")
    assert database.rows(METRICS, "customer_id, email, total_orders") == [
        (1, "ada@example.com", 1),
        (2, None, 1),
        (3, None, 1),
    ]
    assert database.rows("gold.daily_sales", "unique_customers") == [(3,)]


def test_upstream_tables_may_come_one_after_the_other(database: Database) -> None:
    database.land(customer(1, "01"))
    database.run("customers_history", "fct_orders")  # silver.orders is yet to be built
    database.land(order("a", "02", 1))
    database.run()
    database.land(product("POST", "01"), customer(1, "03", op="u", name="Bo"))
    database.run()
    assert database.keys_of_orders() == {"a": database.key_of(1, "01")}
    assert len(database.rows(DIM_PRODUCTS)) == 1


def test_an_order_has_its_numbers_and_the_version_of_its_time(database: Database) -> None:
    database.land(customer(1, "02"), order("a", "01", 1), order("b", "02", 1), order("c", "05 23:59", 1))
    database.land(customer(1, "05", op="u", name="Bo"), order("d", "06", None), order("e", "06", 9, quantity=-3))
    database.run()
    first, second = database.key_of(1, "02"), database.key_of(1, "05")
    assert database.keys_of_orders() == {"a": first, "b": first, "c": second, "d": None, "e": None}
    assert database.rows(FCT_ORDERS, "order_id, units, total_gbp, line_count, order_date", "order_id >= 'c'") == [
        ("c", 3, Decimal("25.500"), 2, datetime.date(2011, 1, 5)),
        ("d", 3, Decimal("25.500"), 2, datetime.date(2011, 1, 6)),
        ("e", -2, Decimal("25.500"), 2, datetime.date(2011, 1, 6)),
    ]
    for name in GOLD[:3]:
        assert validate(contract(name), [database.con.execute(f"from {Table(database.lake, name).scan()}").pl()]).passed


def test_a_late_version_moves_the_orders_of_its_time_and_no_others(database: Database) -> None:
    database.land(customer(1, "01"), customer(2, "01"), at=100)
    database.land(*(order(f"{of} on {day}", f"{day:02}", of) for of in (1, 2) for day in (2, 4, 6)), at=200)
    database.land(customer(1, "05", op="u", name="Bo"), at=300)
    database.run()
    before = database.keys_of_orders()
    database.land(customer(1, "03", op="u", name="Cy"), at=250)
    database.run()
    assert database.keys_of_orders() == before | {"1 on 4": database.key_of(1, "03")}
    assert database.written(FCT_ORDERS) == ("1", "1")
    assert database.shop.commit(FCT_ORDERS)["touched_dates"] == '["2011-01-04"]'
    assert database.written(DIM_CUSTOMERS) == ("3", "2")


def test_a_new_version_leaves_the_orders_before_it_alone(database: Database) -> None:
    database.land(customer(1, "01"), order("a", "02", 1))
    database.run()
    database.land(customer(1, "05", op="u", name="Bo"))
    database.run()
    assert database.written(FCT_ORDERS) == ("0", "0")
    database.land(order("b", "06", 1))
    database.run()
    assert database.written(FCT_ORDERS) == ("1", "0")
    assert database.keys_of_orders() == {"a": database.key_of(1, "01"), "b": database.key_of(1, "05")}


def test_a_run_recomputes_what_changed_and_nothing_else(database: Database) -> None:
    database.land(*(customer(key, "01") for key in (1, 2, 3)), *(product(f"1000{n}", "01") for n in range(5)))
    database.land(*(order(str(n), "02", 1) for n in range(5)))
    database.run()
    before = database.versions()
    database.run()
    assert database.versions() == before
    database.land(order("3", "02", 1, op="u", status="paid"), product("10002", "03", "2.5", op="u"))
    database.land(customer(2, "03", op="u", phone="0044 7700 900123"))
    database.run()
    assert database.written(FCT_ORDERS) == ("1", "1")
    assert database.written(DIM_PRODUCTS) == ("2", "1")
    assert database.written(DIM_CUSTOMERS) == ("2", "1")
    assert database.written(METRICS) == ("1", "1")
    assert database.rows(METRICS, "customer_id, phone", "phone is not null") == [(2, "+447700900123")]
    assert database.rows(FCT_ORDERS, "order_id, is_cancelled, status", "status <> 'placed'") == [("3", False, "paid")]


def test_what_is_deleted_leaves_the_fact_and_the_metrics_and_closes_its_version(database: Database) -> None:
    database.land(customer(1, "01"), customer(2, "01"), product("POST", "01"), order("a", "02", 1), order("b", "02", 2))
    database.run()
    database.land(deleted("customers", 1, "05"), deleted("products", "POST", "05"), deleted("orders", "b", "05"))
    database.run()
    closed = (moment("01"), moment("05"), False)
    assert database.rows(DIM_CUSTOMERS, "valid_from, valid_to, is_current", "customer_id = 1") == [closed]
    assert database.rows(DIM_PRODUCTS, "valid_from, valid_to, is_current") == [closed]
    assert database.rows(METRICS, "customer_id, name") == [(1, None), (2, "Ada"), (3, None)]
    assert database.keys_of_orders() == {"a": database.key_of(1, "01")}
    assert database.written(FCT_ORDERS) == ("0", "1")
    database.land(customer(1, "07"), order("while deleted", "06", 1), order("c", "08", 1))
    database.run()
    assert database.keys_of_orders() == {
        "a": database.key_of(1, "01"),
        "while deleted": database.key_of(1, "01"),
        "c": database.key_of(1, "07"),
    }
    assert database.rows(METRICS, "name", "customer_id = 1") == [("Ada",)]


def test_orders_that_change_together_with_their_customers_history(database: Database) -> None:
    database.land(customer(1, "01"), at=100)
    database.land(*(order(key, "04", 1) for key in "abc"), at=200)
    database.land(customer(1, "05", op="u", name="Bo"), at=300)
    database.run()
    database.land(customer(1, "03", op="u", name="Cy"), at=250)
    database.land(order("a", "04", 1, op="u", status="paid"), deleted("orders", "b", "06"), at=400)
    database.run()
    key = database.key_of(1, "03")
    assert database.rows(FCT_ORDERS, "order_id, status, customer_key") == [("a", "paid", key), ("c", "placed", key)]


def test_an_order_that_moves_to_another_day_and_customer_is_one_row(database: Database) -> None:
    database.land(customer(1, "01"), customer(2, "01"), order("a", "02", 1), order("b", "02", 1))
    database.run()
    database.land(order("a", "04", 2, op="u"))
    database.run()
    assert database.rows(FCT_ORDERS, "order_id, customer_id, order_date") == [
        ("a", 2, datetime.date(2011, 1, 4)),
        ("b", 1, datetime.date(2011, 1, 2)),
    ]
    assert database.written(FCT_ORDERS) == ("1", "1")


def test_metrics_take_contacts_along_when_other_customers_buy(database: Database, line: Callable[..., Any]) -> None:
    database.land(customer(1, "01", email="ada@example.com"), customer(2, "01", name="  Bo "))
    database.run()
    database.shop.land(10, line("4", "10", 3))  # a new last day of sales: every customer is written again
    database.run()
    contacts = [(1, "Ada", "ada@example.com", 1), (2, "Bo", None, 1), (3, None, None, 0)]
    assert database.rows(METRICS, "customer_id, name, email, days_since_last_order") == contacts
    database.land(customer(3, "01"), customer(1, "02", op="u", email="none"))
    database.shop.land(11, line("5", "10", 3))
    database.run()
    assert database.written(METRICS) == ("2", "2")
    assert database.rows(METRICS, "customer_id, name, email, total_orders") == [
        (1, "Ada", None, 1),
        (2, "Bo", None, 1),
        (3, "Ada", None, 3),
    ]


_PARTS = ("customers customers_history", "orders fct_orders", "dim_customers", "fct_orders", "customer_metrics")


def _history(chance: random.Random) -> list[tuple[int, Change]]:
    """Changes of two customers and four orders, with their places in the log."""
    there: set[tuple[str, Any]] = set()
    history = []
    for place in range(1, 15):
        table, key = row = chance.choice(
            [*(("customers", n) for n in (1, 2)), *(("orders", f"o{n}") for n in range(4))]
        )
        op, when = "u" if row in there else "c", f"{place:02}"
        if op == "u" and chance.random() < 0.25:
            there.remove(row)
            change = deleted(table, key, when)
        elif table == "customers":
            there.add(row)
            change = customer(key, when, op=op, name=chance.choice("ABC"))
        else:
            there.add(row)
            change = order(key, f"{chance.randint(1, 14):02}", chance.choice([1, 2, None]), op=op)
        history.append((place, change))
    return history


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.integration) for seed in range(1, 6))])
def test_any_history_of_arrivals_and_runs_ends_in_the_same_rows(
    fresh_shop: Callable[[], Any], line: Callable[..., Any], seed: int
) -> None:
    chance = random.Random(seed)
    history = _history(chance)
    ends = []
    for arrivals in (history, chance.sample(history, len(history))):
        database = Database(fresh_shop())
        database.shop.land(9, *(line(str(number), "09", number) for number in (1, 2, 3)))
        database.run("invoice_lines")
        for place, change in arrivals:
            database.land(change, at=place)
            if arrivals is not history and chance.random() < 0.5:  # a run that is killed between two models
                database.run(*chance.choice(_PARTS).split())
        database.run()
        ends.append(database.state())
    database.shop.dbt("run", "--full-refresh", "--select", *MODELS)
    assert ends[0][FCT_ORDERS]
    assert ends == [database.state(), database.state()]
