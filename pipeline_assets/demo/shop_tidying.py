"""What the shop's people do on a day on which it is closed: some of everything that can happen to a row.

As `shop_days`, transactions only; who executes them is `shop_db`.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta

from pipeline_assets.demo.shop_days import Transaction

_MEND_EMAILS = """
    UPDATE customers SET email = lower(replace(email, ' ', '')), updated_at = %s WHERE email LIKE '%% %%'"""
_ERASE = """
    DELETE FROM customers WHERE customer_id IN (SELECT customer_id FROM customers ORDER BY customer_id LIMIT 2)"""
_DELIVER = """
    UPDATE orders SET status = 'delivered', updated_at = %s WHERE order_id IN (
        SELECT order_id FROM orders WHERE status IN ('paid', 'shipped') ORDER BY line_count DESC, order_id LIMIT 8)"""
_SELL_OFF = "UPDATE products SET unit_price = 0.01, updated_at = %s"
_CUT_PRICES = "UPDATE products SET unit_price = unit_price * 0.9, updated_at = %s WHERE stock_code LIKE '85123%%'"
_MAKE_WAY = "DELETE FROM products WHERE stock_code = '22423N'"
_RECODE = "UPDATE products SET stock_code = '22423N', updated_at = %s WHERE stock_code = '22423'"
_ADD_COLUMN = "ALTER TABLE customers ADD COLUMN IF NOT EXISTS newsletter boolean"
_REFUND = """
    UPDATE payments SET status = 'refunded', updated_at = %s WHERE payment_id IN (
        SELECT payment_id FROM payments WHERE status = 'captured' ORDER BY amount DESC, payment_id LIMIT 5)"""
_SUBSCRIBE = """
    UPDATE customers SET newsletter = true, updated_at = %s WHERE customer_id IN (
        SELECT customer_id FROM customers WHERE email LIKE '%%@%%' ORDER BY customer_id LIMIT 25)"""


def closed_day(calendar: Sequence[date]) -> date:
    """Return the first Saturday after the last trading day: the shop never sold anything on one."""
    return next(day for n in range(1, 8) if (day := calendar[-1] + timedelta(days=n)).isoweekday() == 6)


def tidying(day: date) -> Iterator[Transaction]:
    """Yield the transactions of the day, some forty changed rows in all.

    Args:
        day: By the shop's calendar.
    """
    now = datetime.combine(day, time(12), UTC)
    yield Transaction(((_MEND_EMAILS, (now,)),))
    yield Transaction(((_ERASE, ()),))
    yield Transaction(((_DELIVER, (now,)),))  # the biggest orders, TOASTed: their lines are not sent again
    yield Transaction(((_SELL_OFF, (now,)),), rolled_back=True)  # a slip, taken back
    yield Transaction(((_CUT_PRICES, (now,)), (_MAKE_WAY, ()), (_RECODE, (now,))))
    yield Transaction(((_REFUND, (now,)),))
    yield Transaction(((_ADD_COLUMN, ()), (_SUBSCRIBE, (now,))))
