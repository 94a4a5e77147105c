"""What the shop does on a day, as transactions: a pure function of the real data, known before any database is.

Holds: `ShopDays`. Does not hold: the tables and who executes the transactions (`shop_db`).

A day depends on the data up to it, never on what comes later: the first thirty days of the whole data set are those of
the thirty days shipped. After the last day the data begins again, `LAP` later, with other order numbers: lap 1, 2, ...

A day is, in this order: the catalogue of the morning (codes corrected, products new or changed), the orders of former
days a step further, an order after the other, and in the evening customers erased and products delisted.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from pipeline_assets.demo.shop import open_lines, trading_days_of
from pipeline_assets.demo.shop_people import asks_to_be_erased, changes_contact, contact

LAP = timedelta(weeks=56)
"""Longer than the whole data set (2010-12-01 to 2011-12-09), and weekdays stay what they are."""

LAP_INVOICES = 100_000
"""Invoice numbers go from 536365 to 581587: a lap adds this much."""

ERASED_AFTER = 8
"""Trading days without an order after which a customer may ask to be erased."""

DELISTED_AFTER = 15
"""Trading days without a sale after which one product in four is delisted, until it is sold again."""

MISTYPED_EVERY = 5
"""Trading days: on each fifth a new product is entered under a wrong code, which is corrected the next morning."""

DECLINED_EVERY = 25
"""Of so many orders one is declined at first: the same transaction, rolled back."""

Row = dict[str, Any]
Statement = tuple[str, Sequence[object]]


class Transaction(NamedTuple):
    """SQL statements with their parameters (psycopg's `%s`), to be committed or rolled back as one."""

    statements: tuple[Statement, ...]
    rolled_back: bool = False


_NEW_CUSTOMER = """
    INSERT INTO customers (customer_id, name, email, phone, country, created_at, updated_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (customer_id) DO UPDATE SET
        name = excluded.name, email = excluded.email, phone = excluded.phone, country = excluded.country,
        updated_at = excluded.updated_at"""
_CONTACT = "UPDATE customers SET email = %s, phone = %s, updated_at = %s WHERE customer_id = %s"
_COUNTRY = "UPDATE customers SET country = %s, updated_at = %s WHERE customer_id = %s"
_ERASE = "DELETE FROM customers WHERE customer_id = ANY(%s)"
_LIST_PRODUCTS = """
    INSERT INTO products (stock_code, description, unit_price, updated_at)
    SELECT stock_code, description, unit_price, %s
    FROM jsonb_to_recordset(%s::jsonb) AS t(stock_code text, description text, unit_price numeric)
    ON CONFLICT (stock_code) DO UPDATE SET
        description = excluded.description, unit_price = excluded.unit_price, updated_at = excluded.updated_at"""
_DELIST = "DELETE FROM products WHERE stock_code = ANY(%s)"
_RECODE = "UPDATE products SET stock_code = %s, updated_at = %s WHERE stock_code = %s"
_ORDER = """
    INSERT INTO orders (order_id, customer_id, status, ordered_at, lines, line_count, total, updated_at)
    VALUES (%s, %s, %s::order_status, %s, %s::jsonb, %s, %s, %s)"""
_CANCEL = "UPDATE orders SET status = 'cancelled', updated_at = %s WHERE order_id = %s"
_PAY = """
    INSERT INTO payments (order_id, customer_id, amount, method, status, paid_at, updated_at)
    SELECT order_id, customer_id, total,
        CASE mod(ascii(right(order_id, 1)), 3) WHEN 0 THEN 'card' WHEN 1 THEN 'invoice' ELSE 'transfer' END,
        'captured', %s, %s
    FROM orders WHERE status = 'placed' AND updated_at < %s ORDER BY order_id"""
_REFUND = "UPDATE payments SET status = 'refunded', updated_at = %s WHERE order_id = %s"
_STEP = (
    "UPDATE orders SET status = %s::order_status, updated_at = %s WHERE status = %s::order_status AND updated_at < %s"
)

_DAYS = "CREATE TABLE days AS SELECT day, row_number() OVER (ORDER BY day) - 1 AS day_no FROM unnest(?) AS t(day)"
# One customer and one country per invoice: the data has it so. Two invoices go over two minutes: the first counts.
_INVOICES = """
    CREATE TABLE invoices AS
    SELECT
        InvoiceNo AS order_id, min(CustomerID) AS customer_id, min(InvoiceDate) AS ordered_at,
        first(Country ORDER BY rowid) AS country, count(*) AS line_count, sum(Quantity * UnitPrice) AS total,
        to_json(list(
            {stock_code: StockCode, quantity: Quantity, unit_price: UnitPrice} ORDER BY rowid
        ))::VARCHAR AS lines,
        list(StockCode || ':' || abs(Quantity) ORDER BY StockCode, abs(Quantity)) AS content
    FROM lines GROUP BY InvoiceNo"""
# An invoice C... with the very content of an earlier invoice of that customer cancels it, the latest if there are two.
_ORDERS = """
    CREATE TABLE orders AS
    WITH matching AS (
        SELECT c.order_id, max_by(o.order_id, (o.ordered_at, o.order_id)) AS cancels
        FROM invoices AS c
        JOIN invoices AS o ON o.customer_id = c.customer_id AND o.content = c.content AND o.ordered_at < c.ordered_at
        WHERE c.order_id LIKE 'C%' AND o.order_id NOT LIKE 'C%'
        GROUP BY c.order_id
    ), cancellations AS (
        SELECT min(order_id) AS order_id, cancels FROM matching GROUP BY cancels
    )
    SELECT
        invoices.* EXCLUDE (content), cancels, day_no, row_number() OVER customer AS visit,
        lag(day_no) OVER customer AS last_day_no, lead(day_no) OVER customer AS next_day_no,
        lag(country) OVER customer AS last_country
    FROM invoices JOIN days ON day = ordered_at::DATE LEFT JOIN cancellations USING (order_id)
    WINDOW customer AS (PARTITION BY customer_id ORDER BY ordered_at, order_id)
    ORDER BY day_no"""  # a day is read from one place
# A product's description and price of a day are those of most lines, the last of equals. The list price is what known
# customers pay: sales without an account (VAT included), returns and adjustments count only where a product is new.
_CATALOGUE = """
    CREATE TABLE catalogue AS
    WITH said AS (
        SELECT
            day_no, StockCode AS stock_code, Description AS description, UnitPrice AS unit_price,
            CASE WHEN UnitPrice <= 0 OR InvoiceNo LIKE 'C%' THEN 0 WHEN CustomerID IS NULL THEN 1 ELSE 2 END AS trust,
            count(*) AS times, max(lines.rowid) AS last_line
        FROM lines JOIN days ON day = InvoiceDate::DATE GROUP BY ALL
    ), listed AS (
        SELECT
            day_no, stock_code, max(trust) AS trust, max_by(description, (trust, times, last_line)) AS description,
            max_by(unit_price, (trust, times, last_line)) AS unit_price
        FROM said GROUP BY ALL
    ), sold AS (
        SELECT *, lag(day_no) OVER product AS last_day_no, lead(day_no) OVER product AS next_day_no
        FROM listed WINDOW product AS (PARTITION BY stock_code ORDER BY day_no)
    ), appearing AS (
        SELECT
            *, last_day_no IS NULL AS is_new,
            coalesce({delistable} AND day_no - last_day_no > {after}, false) AS is_back
        FROM sold
    ), known AS (
        SELECT
            day_no, stock_code,
            lag(description) OVER product AS last_description, lag(unit_price) OVER product AS last_price
        FROM appearing WHERE is_new OR is_back OR trust = 2
        WINDOW product AS (PARTITION BY stock_code ORDER BY day_no)
    )
    SELECT appearing.*, is_new OR is_back OR (trust = 2 AND (
        description IS DISTINCT FROM last_description OR unit_price <> last_price)) AS is_listed
    FROM appearing LEFT JOIN known USING (day_no, stock_code)
    ORDER BY day_no"""
_DELISTABLE = "md5(stock_code) < '4'"  # a quarter of all


class ShopDays:
    """The days of a shop, without end.

    Attributes:
        calendar: The trading days of the data, in order.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Take a connection with the table `lines`, see `open_days`."""
        self._con = con
        self.calendar = trading_days_of(con)
        con.execute(_DAYS, [self.calendar])
        con.execute(_INVOICES)
        con.execute(_ORDERS)
        con.execute(_CATALOGUE.format(delistable=_DELISTABLE, after=DELISTED_AFTER))

    def day(self, number: int) -> date:
        """Return the shop's date of its day `number`, 0 being the first."""
        lap, day_no = divmod(number, len(self.calendar))
        return self.calendar[day_no] + lap * LAP

    def transactions(self, number: int) -> Iterator[Transaction]:
        """Yield what the shop does on its day `number`, in order."""
        lap, day_no = divmod(number, len(self.calendar))
        morning = datetime.combine(self.day(number), time(5), UTC)
        yield from self._catalogue(day_no, morning)
        yield from _steps(morning + timedelta(minutes=30))
        for order in self._rows("FROM orders", day_no, "ordered_at, order_id"):
            yield from _order(order, lap)
        yield from self._evening(day_no)

    def _catalogue(self, day_no: int, morning: datetime) -> Iterator[Transaction]:
        if wrong := self._mistyped(day_no - 1):
            # In a later lap the right code is there already: it makes way.
            yield Transaction(((_DELIST, ([wrong[0]],)), (_RECODE, (wrong[0], morning, wrong[1]))))
        mistyped = self._mistyped(day_no)
        listed = self._rows("FROM catalogue", day_no, "stock_code", "is_listed")
        new: list[Row] = []
        changed: list[Row] = []
        for row in listed:
            code = mistyped[1] if mistyped and row["stock_code"] == mistyped[0] else row["stock_code"]
            product = {"stock_code": code, "description": row["description"], "unit_price": str(row["unit_price"])}
            (new if row["is_new"] else changed).append(product)
        for products in (new, changed):
            if products:
                yield Transaction(((_LIST_PRODUCTS, (morning, json.dumps(products))),))

    def _mistyped(self, day_no: int) -> tuple[str, str] | None:
        """Give the right and the wrong code of the day's mistyped product."""
        if day_no < 0 or day_no % MISTYPED_EVERY != MISTYPED_EVERY // 2:
            return None
        new = self._rows("FROM catalogue", day_no, "stock_code", "is_new AND stock_code LIKE '%0%'")
        return (new[0]["stock_code"], new[0]["stock_code"].replace("0", "O")) if new else None

    def _evening(self, day_no: int) -> Iterator[Transaction]:
        quiet = self._rows("FROM orders", day_no - ERASED_AFTER, "customer_id", _gone(ERASED_AFTER))
        if erased := [
            row["customer_id"] for row in quiet if row["customer_id"] and asks_to_be_erased(row["customer_id"])
        ]:
            yield Transaction(((_ERASE, (erased,)),))
        unsold = self._rows("FROM catalogue", day_no - DELISTED_AFTER, "stock_code", _gone(DELISTED_AFTER), _DELISTABLE)
        if unsold:
            yield Transaction(((_DELIST, ([row["stock_code"] for row in unsold],)),))

    def _rows(self, select: str, day_no: int, order: str, *conditions: str) -> list[Row]:
        where = " AND ".join(("day_no = ?", *conditions))
        result = self._con.execute(f"{select} WHERE {where} ORDER BY {order}", [day_no])
        names = [name for name, *_ in result.description or []]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


@contextmanager
def open_days(source_parquet: Path) -> Iterator[ShopDays]:
    """Read the data.

    Args:
        source_parquet: `shop.DEMO_PARQUET`, or the whole data set with the same columns.
    """
    with open_lines(source_parquet) as con:
        yield ShopDays(con)


def _gone(after: int) -> str:
    """Not seen again for so many trading days, as one knows on the evening of the last of them."""
    return f"(next_day_no IS NULL OR next_day_no > day_no + {after})"


def _steps(now: datetime) -> Iterator[Transaction]:
    """Move orders of former days a step further, those that wait longest first, so that no order takes two steps."""
    yield Transaction(((_STEP, ("delivered", now, "shipped", now - timedelta(days=2))),))
    yield Transaction(((_STEP, ("shipped", now, "paid", now)),))
    yield Transaction(((_PAY, (now, now, now)), (_STEP, ("paid", now, "placed", now))))


def _order(order: Row, lap: int) -> Iterator[Transaction]:
    now = order["ordered_at"].replace(tzinfo=UTC) + lap * LAP
    statements = (*_customer(order, now), *_order_itself(order, lap, now))
    if int(order["order_id"][-3:]) % DECLINED_EVERY == 0:
        yield Transaction(statements, rolled_back=True)
    yield Transaction(statements)


def _customer(order: Row, now: datetime) -> Iterator[Statement]:
    """Give what the order tells about its customer."""
    customer_id, visit = order["customer_id"], order["visit"]
    if customer_id is None:
        return
    typed = contact(customer_id, visit)
    erased = visit > 1 and asks_to_be_erased(customer_id) and order["day_no"] - order["last_day_no"] > ERASED_AFTER
    if visit == 1 or erased:
        yield _NEW_CUSTOMER, (customer_id, *typed, order["country"], now, now)
        return
    if changes_contact(customer_id, visit):
        yield _CONTACT, (typed.email, typed.phone, now, customer_id)
    if order["country"] != order["last_country"]:
        yield _COUNTRY, (order["country"], now, customer_id)


def _order_itself(order: Row, lap: int, now: datetime) -> Iterator[Statement]:
    if order["cancels"]:
        cancelled = _in_lap(order["cancels"], lap)
        yield _CANCEL, (now, cancelled)
        yield _REFUND, (now, cancelled)
        return
    order_id = _in_lap(order["order_id"], lap)
    status = "cancelled" if order_id.startswith("C") else "placed"
    values = order_id, order["customer_id"], status, now, order["lines"], order["line_count"], order["total"], now
    yield _ORDER, values


def _in_lap(order_id: str, lap: int) -> str:
    number = order_id.lstrip("AC")
    return order_id.removesuffix(number) + str(int(number) + lap * LAP_INVOICES)
