"""Payments and accounts, pulled from a real database and carried by dbt: each row as last read, and in its customer."""

import datetime
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline_assets.contracts.base import contract, validate
from pipeline_assets.ingest.batch.watermark import Watermark
from pipeline_assets.ingest.database import alchemy, pulls
from pipeline_assets.ingest.database.compare_keys import compare_keys
from pipeline_assets.ingest.database.pulls import DatabaseSource
from pipeline_assets.lake import Table

pytestmark = pytest.mark.slow

METRICS, PAYMENTS, ACCOUNTS = "gold.customer_metrics", "silver.payments", "silver.accounts"
MODELS = ("invoice_lines", "payments", "accounts", "customer_metrics")
DAY = datetime.date(2026, 1, 1)


def _source(name: str, model: str, table: str, key: str) -> DatabaseSource:
    rows = contract(model)
    return DatabaseSource(
        name, rows, (key,), source_table=table, mode="incremental", watermark=Watermark.of(rows, "updated_at")
    )


SOURCES = {
    "payments": _source("shop_db__payments", "shop_db.Payments", "payments", "payment_id"),
    "accounts": _source("crm__accounts", "crm.Accounts", "accounts", "account_id"),
}


class Clock(datetime.datetime):
    """What the reader takes for now."""

    minutes = 0

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime(2026, 1, 1, 1, tzinfo=tz) + datetime.timedelta(minutes=cls.minutes)


class Office:
    """A database with payments and accounts, pulls of it, and dbt."""

    def __init__(self, shop: Any, file: Path) -> None:
        self.shop, self._url = shop, f"sqlite:///{file}"
        self.days = 9
        self.db = sqlite3.connect(file, isolation_level=None)
        self.db.execute(
            "CREATE TABLE payments (payment_id INTEGER PRIMARY KEY, order_id, customer_id, amount TEXT, method, status,"
            " paid_at, updated_at)"
        )
        self.db.execute(
            "CREATE TABLE accounts (account_id TEXT PRIMARY KEY, customer_id, segment, account_owner, updated_at)"
        )

    @property
    def now(self) -> str:
        return Clock.now(datetime.UTC).isoformat(" ")

    def pay(self, number: int, customer: int | None, amount: str = "10", status: str = "captured") -> None:
        row = (number, f"o{number}", customer, amount, "card", status, f"2026-01-01 00:{number % 60:02}:00Z", self.now)
        self.db.execute("INSERT OR REPLACE INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def know(self, account: str, customer: int | None, segment: str = "private", owner: str | None = "Ann") -> None:
        row = (account, customer, segment, owner, self.now)
        self.db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?)", row)

    def pull(self, *tables: str) -> None:
        Clock.minutes += 10
        for table in tables or SOURCES:
            pulls.pull(self.shop.lake, self.shop.con, SOURCES[table], pulls.connect(self._url), DAY, DAY)

    def compare(self) -> None:
        Clock.minutes += 10
        for source in SOURCES.values():
            compare_keys(self.shop.lake, self.shop.con, source, pulls.connect(self._url))

    def run(self, *selected: str) -> None:
        self.shop.dbt("run", "--select", *(selected or MODELS))

    def rows(self, name: str, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
        select = f"select {columns} from {Table(self.shop.lake, name).scan()} where {where} order by all"
        return self.shop.con.execute(select).fetchall()  # type: ignore[no-any-return]

    def paid(self) -> list[tuple[Any, ...]]:
        return self.rows(METRICS, "customer_id, paid_gbp, account_segment, account_owner")


@pytest.fixture
def office(shop: Any, line: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """Customers 1 to 3 have bought; nobody has paid, and no account is known."""
    monkeypatch.setattr(alchemy, "datetime", Clock)
    monkeypatch.setattr(Clock, "minutes", 0)
    shop.land(9, *(line(str(number), "09", number) for number in (1, 2, 3)))
    opened = Office(shop, tmp_path / "office.db")
    with closing(opened.db):
        yield opened


def test_a_lake_without_these_sources_is_whole_without_them(office: Office) -> None:
    office.run()
    assert office.paid() == [(customer, None, None, None) for customer in (1, 2, 3)]


def test_payments_and_accounts_reach_their_customers_and_nobody_else_is_written(office: Office) -> None:
    office.run()
    office.pay(1, 1, "10.125")
    office.pay(2, 1, "2.5")
    office.pay(3, None)
    office.know("AC-1", 1, " reseller ", "")
    office.pull()
    office.run()
    assert office.paid() == [(1, Decimal("12.625"), "reseller", None), (2, None, None, None), (3, None, None, None)]
    office.pay(4, 3, "4")
    office.pull("payments")
    office.run("payments+")
    assert office.paid()[2] == (3, Decimal("4.000"), None, None)
    assert office.shop.commit(METRICS)["rows_added"] == "1"
    for name in (PAYMENTS, ACCOUNTS, METRICS):
        rows = f"from {Table(office.shop.lake, name).scan()} select * replace (customer_id + 20000 as customer_id)"
        frame = office.shop.con.execute(rows).pl()
        assert validate(contract(name), [frame]).passed, name


def test_a_payment_that_moves_to_another_customer_leaves_the_first(office: Office) -> None:
    office.pay(1, 1)
    office.pay(2, 1)
    office.know("AC-1", 1)
    office.pull()
    office.run()
    office.pay(2, 2)
    office.know("AC-1", 3)
    office.pull()
    office.run()
    assert office.paid() == [(1, 10, None, None), (2, 10, None, None), (3, None, "private", "Ann")]


def test_rows_that_are_gone_leave_a_tombstone_and_their_customer(office: Office) -> None:
    office.pay(1, 1)
    office.pay(2, 2)
    office.pull("payments")
    office.run()
    office.db.execute("DELETE FROM payments WHERE payment_id = 1")
    office.pull("payments")
    office.run()
    assert office.paid()[0][1] == 10  # a pull sees no deletes
    office.pull("accounts")
    office.compare()
    office.run()
    assert office.rows(PAYMENTS, "payment_id, _deleted, customer_id") == [(1, True, 1), (2, False, 2)]
    assert [paid for _, paid, *_ in office.paid()] == [None, 10, None]


def test_what_was_applied_before_may_be_vacuumed(office: Office) -> None:
    office.pay(1, 1)
    office.pay(2, 2)
    office.pull()
    office.run()
    office.pay(1, 3)
    office.pull()
    office.run("payments")
    log = Table(office.shop.lake, PAYMENTS).open()
    assert log.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    office.pay(2, 2, "11")
    office.pull()
    office.run()
    assert [paid for _, paid, *_ in office.paid()] == [None, 11, 10]


def test_a_run_without_news_writes_no_row(office: Office) -> None:
    office.pay(1, 1)
    office.pull()
    office.run()
    before = {name: office.shop.version(name) for name in (PAYMENTS, ACCOUNTS, METRICS)}
    office.run()
    assert {name: office.shop.version(name) for name in before} == before
    office.pull()
    office.run()
    for name in before:
        assert office.shop.commit(name).get("rows_added", "0") == "0", name


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.integration) for seed in range(2, 7))])
def test_any_history_of_pulls_and_runs_ends_as_the_source_is(
    office: Office, line: Callable[..., Any], seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        Clock.minutes += chance.choice((1, 5, 60, 24 * 60))
        match chance.randrange(8):
            case 0 | 1:
                status = chance.choice(("captured", "captured", "refunded"))
                office.pay(
                    chance.choice((1, 2, 3, 150_000)), chance.choice((1, 2, 3, 9, None)),
                    str(chance.randrange(100)), status,
                )  # fmt: skip
            case 2:
                owner, segment = chance.choice(("Ann", "Bo", None, "")), chance.choice(("private", "reseller"))
                office.know(f"AC-{chance.randrange(4)}", chance.choice((1, 2, 3, None)), segment, owner)
            case 3:
                office.db.execute("DELETE FROM payments WHERE payment_id = ?", (chance.randrange(4),))
            case 4:
                office.pull(*chance.choice(((), ("payments",), ("accounts",))))
            case 5:
                office.pull()
                office.compare()
            case 6:
                office.run(*chance.choice(((), ("payments",), ("accounts+",), ("payments+",))))
            case 7:  # as_of_date moves
                office.days += 1
                office.shop.land(office.days, line(f"n{office.days}", f"{office.days:02}", chance.choice((1, 2))))
    office.pull()
    office.compare()
    office.run()
    stored = office.rows(PAYMENTS, "payment_id, customer_id, amount_gbp::double, status", "not _deleted")
    source = office.db.execute("SELECT payment_id, customer_id, CAST(amount AS REAL), status FROM payments ORDER BY 1")
    assert stored == source.fetchall()
    sums = office.db.execute(
        "SELECT customer_id, sum(CAST(amount AS REAL)) FROM payments WHERE status = 'captured' GROUP BY 1"
    )
    paid = dict(sums.fetchall())
    assert {customer: money for customer, money, *_ in office.paid()} == {key: paid.get(key) for key in (1, 2, 3)}
    incremental = {name: office.rows(name, "*") for name in (PAYMENTS, ACCOUNTS, METRICS)}
    office.shop.dbt("run", "--full-refresh", "--select", *MODELS)
    assert {name: office.rows(name, "*") for name in incremental} == incremental
