"""Made-up invoice lines in the contract's types: the shop's shape (10 lines an invoice, 4,000 articles) at any size."""

from datetime import date

ALL_CUSTOMERS = "12000 + hash(i // 10) % 50000"


def lines(
    rows: int, day: date, *, first: int = 0, rows_per_day: int | None = None, customer: str = ALL_CUSTOMERS
) -> str:
    """Gives a query of invoice lines; one line in a hundred repeats the one before, as in the real data.

    Args:
        rows: Number of lines.
        day: Day of line 0.
        first: Number of the first line; other numbers are other invoices.
        rows_per_day: Lines of a day; None when all are of one day.
        customer: Number of the customer, as SQL over the line's number `i`.
    """
    days = f"to_days((i // {rows_per_day})::INT)" if rows_per_day else "to_days(0)"
    return f"""
        SELECT
            (100000 + i // 10 % 900000)::VARCHAR AS invoice_no,
            (20000 + hash(i) % 4000)::VARCHAR AS stock_code,
            'PRODUCT DESCRIPTION ' || (hash(i) % 4000)::VARCHAR AS description,
            (1 + hash(i * 3) % 24)::BIGINT AS quantity,
            TIMESTAMP '{day} 08:00:00' + {days} + to_seconds(i // 10 % 36000) AS invoice_date,
            ((1 + hash(i * 7) % 2000) / 100)::DECIMAL(12, 3) AS unit_price,
            ({customer})::BIGINT AS customer_id,
            ['United Kingdom', 'France', 'Germany', 'EIRE'][1 + (hash(i // 10) % 4)::INT] AS country
        FROM (SELECT n - (n % 100 = 99)::INT AS i FROM range({first}, {first + rows}) AS numbers(n))
    """
