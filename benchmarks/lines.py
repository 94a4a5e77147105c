"""Made-up invoice lines in the contract's types: the shop's shape (10 lines an invoice, 4,000 articles) at any size."""

from datetime import date

COLUMNS = "invoice_no, stock_code, description, quantity, invoice_date, unit_price, customer_id, country"


def lines(rows: int, day: date, *, first: int = 0, customers: int = 50_000) -> str:
    """Gives a query of the lines of one day; one line in a hundred repeats the one before, as in the real data.

    Args:
        rows: Number of lines.
        day: Day of the invoices.
        first: Number of the first line; other numbers are other invoices.
        customers: How many different customers buy.
    """
    return f"""
        SELECT
            lpad((100000 + i // 10 % 900000)::VARCHAR, 6, '0') AS invoice_no,
            (20000 + hash(i) % 4000)::VARCHAR AS stock_code,
            'PRODUCT DESCRIPTION ' || (hash(i) % 4000)::VARCHAR AS description,
            (1 + hash(i * 3) % 24)::BIGINT AS quantity,
            TIMESTAMP '{day} 08:00:00' + to_seconds(i // 10 % 36000) AS invoice_date,
            ((1 + hash(i * 7) % 2000) / 100)::DECIMAL(12, 3) AS unit_price,
            (12000 + hash(i // 10) % {customers})::BIGINT AS customer_id,
            ['United Kingdom', 'France', 'Germany', 'EIRE'][1 + (hash(i // 10) % 4)::INT] AS country
        FROM (SELECT n - (n % 100 = 99)::INT AS i FROM range({first}, {first + rows}) AS numbers(n))
    """
