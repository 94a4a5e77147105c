"""Two million payments in PostgreSQL, for the benchmark `pull` and its contenders: the table, and its contract."""

from typing import Annotated

import pandera.polars as pa
import polars as pl
import psycopg

ROWS = 2_000_000

_TABLE = f"""
    CREATE TABLE payments AS
    SELECT i::bigint AS payment_id, 'ORD-' || (i / 3) AS order_id, (i::bigint * 7919 % 500000) AS customer_id,
        (i % 100000 / 100.0)::numeric(12, 2) AS amount, (ARRAY['GBP', 'EUR', 'USD'])[1 + i % 3] AS currency,
        (ARRAY['card', 'transfer', 'invoice', 'voucher'])[1 + i % 4] AS method, i % 50 = 0 AS is_refund,
        md5(i::text)::uuid::text AS reference, CASE WHEN i % 10 = 0 THEN 'said "thanks", twice' END AS note,
        '2026-01-01'::timestamptz + i * interval '7 seconds' AS paid_at,
        '2026-01-01'::timestamptz + i * interval '7.25 seconds' AS updated_at
    FROM generate_series(1, {ROWS}) i"""


class Payments(pa.DataFrameModel):
    """A payment."""

    payment_id: pl.Int64
    order_id: pl.String
    customer_id: pl.Int64
    amount: Annotated[pl.Decimal, 12, 2]
    currency: pl.String
    method: pl.String
    is_refund: pl.Boolean
    reference: pl.String
    note: pl.String = pa.Field(nullable=True)
    paid_at: Annotated[pl.Datetime, "us", "UTC"]
    updated_at: Annotated[pl.Datetime, "us", "UTC"]


def create(url: str) -> None:
    """Makes the table, with a primary key and statistics."""
    with psycopg.connect(url, autocommit=True) as con:
        con.execute(_TABLE.encode())
        con.execute("ALTER TABLE payments ADD PRIMARY KEY (payment_id)")
        con.execute("VACUUM ANALYZE payments")
