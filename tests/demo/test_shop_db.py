"""The shop's database: real days against the data they come from, killed, repeated, one after the other."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import duckdb
import psycopg
import pytest

from pipeline_assets.demo import shop_db
from pipeline_assets.demo.postgres_server import PostgresServer
from pipeline_assets.demo.shop import DEMO_PARQUET, ShopError, trading_days
from pipeline_assets.demo.shop_db import TABLES, create_tables, is_watched, open_shop, replay, tidy_up, trade
from pipeline_assets.demo.shop_tidying import closed_day

DAYS = trading_days(DEMO_PARQUET)

# Replays until its n-th transaction, of which it commits half.
KILLED = """
import os, signal, sys
from datetime import date
from pathlib import Path
from pipeline_assets.demo import shop_db
execute, left = shop_db._execute, int(sys.argv[2])
def dying(con, transaction, note):
    global left
    left -= 1
    if left == 0:
        con.execute("BEGIN")
        con.execute(*transaction.statements[0])
        con.pgconn.pipeline_sync()
        con.pgconn.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    execute(con, transaction, note)
shop_db._execute = dying
shop_db.replay(sys.argv[1], Path(sys.argv[3]), [date.fromisoformat(day) for day in sys.argv[4:]])
"""


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as con:
        return con.execute(query).fetchall()  # type: ignore[call-overload]


def content(url: str) -> list[object]:
    """A fingerprint of each table; but for the numbers of payments, of which a rollback leaves out some."""
    payments = "(SELECT order_id, customer_id, amount, method, status, paid_at, updated_at FROM payments)"
    return [
        ask(url, f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} AS t")
        for table in (*TABLES, payments)
    ]


@pytest.fixture
def url(database: str) -> str:
    create_tables(database)
    return database


@pytest.fixture(scope="module")
def thirty_days(postgres_server: PostgresServer) -> Iterator[str]:
    """The shop with all days of the sample. To be read only."""
    url = open_shop(postgres_server.url())
    assert replay(url, DEMO_PARQUET) > 2500
    yield url
    with psycopg.connect(postgres_server.url(), autocommit=True) as con:
        con.execute("DROP DATABASE shop WITH (FORCE)")


@pytest.fixture(scope="module")
def lines() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        con.execute(f"CREATE VIEW lines AS FROM read_parquet('{DEMO_PARQUET}')")
        yield con


def test_every_invoice_is_an_order_or_has_cancelled_one(thirty_days: str, lines: duckdb.DuckDBPyConnection) -> None:
    invoices = {
        row[0]: row[1:]
        for row in lines.execute(
            "SELECT InvoiceNo, count(*), sum(Quantity * UnitPrice), min(CustomerID) FROM lines GROUP BY 1"
        ).fetchall()
    }
    orders = {
        row[0]: row[1:] for row in ask(thirty_days, "SELECT order_id, line_count, total, customer_id FROM orders")
    }
    assert orders == {number: invoices[number] for number in orders}
    cancelling = invoices.keys() - orders.keys()
    assert cancelling
    assert all(number.startswith("C") for number in cancelling)
    cancelled = ask(
        thirty_days, "SELECT total, customer_id FROM orders WHERE status = 'cancelled' AND order_id NOT LIKE 'C%'"
    )
    assert sorted(cancelled) == sorted((-invoices[number][1], invoices[number][2]) for number in cancelling)
    assert sum(row[0] for row in invoices.values()) == 58_345


def test_each_order_that_was_paid_has_one_payment_and_a_cancelled_one_is_refunded(thirty_days: str) -> None:
    matched = ask(
        thirty_days,
        "SELECT o.status::text, p.status, count(*), bool_and(o.total = p.amount AND o.customer_id IS NOT DISTINCT FROM "
        "p.customer_id) FROM orders o FULL JOIN payments p USING (order_id) GROUP BY 1, 2",
    )
    found = {(order, payment): count for order, payment, count, _ in matched}
    assert {key for key in found if key[0] in ("paid", "shipped", "delivered")} == {
        (status, "captured") for status in ("paid", "shipped", "delivered")
    }
    assert found.keys() - {("placed", None), ("cancelled", None), ("cancelled", "refunded")} == {
        (status, "captured") for status in ("paid", "shipped", "delivered")
    }
    assert found["cancelled", "refunded"] == 5
    assert all(agrees for _, payment, _, agrees in matched if payment)


def test_the_lines_of_an_order_are_those_of_the_invoice(thirty_days: str, lines: duckdb.DuckDBPyConnection) -> None:
    parsed = ask(
        thirty_days,
        "SELECT l ->> 'stock_code', sum((l ->> 'quantity')::bigint), sum((l ->> 'unit_price')::numeric(12, 3)) "
        "FROM orders, jsonb_array_elements(lines) AS l WHERE order_id NOT LIKE 'C%' GROUP BY 1",
    )
    expected = lines.execute(
        "SELECT StockCode, sum(Quantity), sum(UnitPrice) FROM lines WHERE InvoiceNo NOT LIKE 'C%' GROUP BY 1"
    ).fetchall()
    assert sorted(parsed) == sorted(expected)


def test_customers_are_those_of_the_data_but_for_the_erased(thirty_days: str, lines: duckdb.DuckDBPyConnection) -> None:
    country = dict(
        lines.execute(
            "SELECT CustomerID, max_by(Country, (InvoiceDate, InvoiceNo)) FROM lines WHERE CustomerID > 0 GROUP BY 1"
        ).fetchall()
    )
    there = dict(ask(thirty_days, "SELECT customer_id, country FROM customers"))
    assert there == {number: country[number] for number in there}
    assert 10 < len(country) - len(there) < 40


def test_products_cost_what_known_customers_paid_last(thirty_days: str, lines: duckdb.DuckDBPyConnection) -> None:
    """For products whose last sales were all to known customers, at one price."""
    paid = lines.execute(
        "SELECT StockCode, any_value(UnitPrice) FROM ("
        "  FROM lines QUALIFY rank() OVER (PARTITION BY StockCode ORDER BY InvoiceDate::DATE DESC) = 1"
        ") GROUP BY 1 HAVING count(DISTINCT UnitPrice) = 1 AND min(UnitPrice) > 0"
        " AND bool_and(CustomerID IS NOT NULL AND InvoiceNo NOT LIKE 'C%')"
    ).fetchall()
    price = dict(ask(thirty_days, "SELECT stock_code, unit_price FROM products"))
    known = {code: value for code, value in paid if code in price}
    assert len(known) > 1000
    assert {code: price[code] for code in known} == known


def test_products_are_those_of_the_data_but_for_the_delisted(
    thirty_days: str, lines: duckdb.DuckDBPyConnection
) -> None:
    sold = dict(lines.execute("SELECT StockCode, max(InvoiceDate::DATE) FROM lines GROUP BY 1").fetchall())
    there = {code for (code,) in ask(thirty_days, "SELECT stock_code FROM products")}
    assert there <= sold.keys()
    delisted = sold.keys() - there
    assert len(delisted) > 50
    assert all(sold[code] <= DAYS[-16] for code in delisted)


def test_orders_go_their_way(thirty_days: str) -> None:
    status = dict(ask(thirty_days, "SELECT status::text, count(*) FROM orders GROUP BY 1"))
    assert status.keys() == {"placed", "paid", "shipped", "delivered", "cancelled"}
    assert status["delivered"] > 1500
    placed = "SELECT min(ordered_at) >= timestamptz '2011-01-14 00:00Z' FROM orders WHERE status = 'placed'"
    assert ask(thirty_days, placed) == [(True,)]


def test_replaying_again_does_nothing(thirty_days: str) -> None:
    before = content(thirty_days)
    assert replay(thirty_days, DEMO_PARQUET) == 0
    assert content(thirty_days) == before


def test_the_publication_holds_the_tables_and_nothing_else(url: str) -> None:
    create_tables(url)  # twice is once
    published = ask(url, "SELECT tablename FROM pg_publication_tables WHERE pubname = 'pipeline_assets'")
    assert sorted(name for (name,) in published) == sorted(TABLES)
    assert ask(url, "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []
    identity = dict(
        ask(url, "SELECT relname, relreplident::text FROM pg_class WHERE relname IN ('customers', 'orders')")
    )
    assert identity == {"customers": "f", "orders": "d"}


def test_changes_of_status_do_not_carry_toasted_lines(url: str) -> None:
    assert not is_watched(url)
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("SELECT pg_create_logical_replication_slot('watch', 'test_decoding')")
    assert is_watched(url)
    replay(url, DEMO_PARQUET, DAYS[:3])
    events = "pg_logical_slot_get_changes('watch', NULL, NULL) WHERE data LIKE 'table public.orders: UPDATE%'"
    whole, toasted = ask(
        url,
        "SELECT count(*) FILTER (WHERE data NOT LIKE '%lines[jsonb]:unchanged-toast-datum%'), "
        f"count(*) FILTER (WHERE data LIKE '%lines[jsonb]:unchanged-toast-datum%') FROM {events}",
    )[0]
    assert toasted > 50
    assert whole > 50


def test_days_in_portions_are_the_days_at_once(url: str, postgres_server: PostgresServer) -> None:
    replay(url, DEMO_PARQUET, DAYS[:6])
    at_once = content(url)
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("TRUNCATE customers, products, orders, payments, shop_replay")
    for day in DAYS[:6]:
        assert replay(url, DEMO_PARQUET, [day]) > 10
    assert content(url) == at_once


def test_a_replay_that_is_killed_again_and_again_ends_the_same(url: str) -> None:
    replay(url, DEMO_PARQUET, DAYS[:3])
    undisturbed = content(url), ask(url, "SELECT * FROM shop_replay ORDER BY day")
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("TRUNCATE customers, products, orders, payments, shop_replay")
    command = [sys.executable, "-c", KILLED, url]
    days = [str(DEMO_PARQUET), *map(str, DAYS[:3])]
    for transactions in (3, 60, 141, 1):
        assert subprocess.run([*command, str(transactions), *days], check=False).returncode == -9
    assert 0 < replay(url, DEMO_PARQUET, DAYS[:3]) < 400
    assert (content(url), ask(url, "SELECT * FROM shop_replay ORDER BY day")) == undisturbed


def test_a_day_without_trade_is_refused(url: str) -> None:
    with pytest.raises(ShopError, match="sold nothing on 2010-12-04"):
        replay(url, DEMO_PARQUET, [date(2010, 12, 4)])


def test_trade_goes_on_beyond_the_data_until_it_is_stopped(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as con:  # as if all days but the last had been
        for day in DAYS[:-1]:
            con.execute("INSERT INTO shop_replay VALUES (%s, 1, true)", (day,))
    stop = Event()
    trader = Thread(target=trade, args=(url, DEMO_PARQUET, stop), kwargs={"transactions_per_second": 2000})
    trader.start()
    deadline = monotonic() + 30
    while ask(url, "SELECT count(*) FROM orders WHERE order_id LIKE '636%'") == [(0,)] and monotonic() < deadline:
        sleep(0.05)
    stop.set()
    trader.join(timeout=10)
    assert not trader.is_alive()
    traded = ask(url, "SELECT day, finished FROM shop_replay WHERE day >= '2011-01-14' ORDER BY day")
    assert traded[:2] == [(date(2011, 1, 14), True), (date(2011, 12, 28), traded[1][1])]
    assert replay(url, DEMO_PARQUET) == 0


def test_only_one_trades_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop_db, "_LOCK_SECONDS", 0.1)
    with shop_db._trading(url), pytest.raises(ShopError, match="somebody else is trading"):
        replay(url, DEMO_PARQUET, DAYS[:1])


def test_the_shop_tidies_up_once(url: str) -> None:
    replay(url, DEMO_PARQUET, DAYS[:4])
    (customers,), (delivered,) = ask(url, "SELECT count(*) FROM customers"), ask(url, _DELIVERED)
    saturday = closed_day(DAYS[:4])
    assert saturday.isoweekday() == 6
    assert tidy_up(url, saturday) == 7
    assert ask(url, "SELECT count(*) FROM payments WHERE status = 'refunded' AND updated_at >= '2010-12-05'") == [(5,)]
    assert ask(url, "SELECT count(*) FROM customers") == [(customers[0] - 2,)]
    assert ask(url, _DELIVERED) == [(delivered[0] + 8,)]
    assert ask(url, "SELECT count(newsletter) FROM customers") == [(25,)]
    assert ask(url, "SELECT count(*) FROM products WHERE stock_code LIKE '22423%'") == [(1,)]
    assert ask(url, "SELECT min(unit_price) > 0.01 FROM products WHERE stock_code LIKE '85123%'") == [(True,)]
    after = content(url)
    assert tidy_up(url, saturday) == 0
    assert content(url) == after
    assert ask(url, "SELECT sum(total) FROM orders")[0][0] > Decimal(0)


_DELIVERED = "SELECT count(*) FROM orders WHERE status = 'delivered'"
