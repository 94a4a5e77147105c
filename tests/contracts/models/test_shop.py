# ruff: noqa: DTZ001, E501  the shop's times have no zone; a case is a line of its table
"""The shop's contracts: rows that keep the promises pass, each broken promise is found."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from pipeline_assets.contracts.base import column_schema, contract, event_time, raw_shape, validate
from pipeline_assets.contracts.models import shop

TABLES = (
    "bronze.shop__invoice_lines",
    "silver.invoice_lines",
    "gold.daily_sales",
    "gold.customer_metrics",
    "gold.product_sales",
)
DAY = date(2011, 1, 2)
GOOD: dict[str, dict[str, Any]] = {
    "bronze.shop__invoice_lines": {
        "invoice_no": "536365",
        "stock_code": "85123A",
        "description": None,
        "quantity": 6,
        "invoice_date": datetime(2011, 1, 2, 8, 26),
        "unit_price": Decimal("2.550"),
        "customer_id": 17850,
        "country": "United Kingdom",
    },
    "silver.invoice_lines": {
        "invoice_no": "536365",
        "stock_code": "85123A",
        "description": "HOLDER",
        "quantity": 6,
        "invoiced_at": datetime(2011, 1, 2, 8, 26),
        "invoice_date": DAY,
        "unit_price_gbp": Decimal("2.550"),
        "customer_id": 17850,
        "country": "United Kingdom",
        "is_cancelled": False,
        "is_sale": True,
        "line_amount_gbp": Decimal("15.300"),
        "_partition_date": DAY,
    },
    "gold.daily_sales": {
        "sale_date": DAY,
        "country": "France",
        "customer_segment": "Gold",
        "total_orders": 3,
        "total_revenue": Decimal("10.000"),
        "avg_order_value": Decimal("3.333"),
        "unique_customers": 2,
    },
    "gold.customer_metrics": {
        "customer_id": 17850,
        "total_orders": 2,
        "lifetime_value_gbp": Decimal("1000.001"),
        "avg_order_value_gbp": Decimal("500.001"),
        "first_order_date": date(2011, 1, 1),
        "last_order_date": DAY,
        "days_since_last_order": 1,
        "as_of_date": date(2011, 1, 3),
        "customer_segment": "Gold",
        "name": "Ada Lee",
        "email": "ada@example.com",
        "phone": "+447700900123",
        "paid_gbp": Decimal("900.000"),
        "last_paid_at": datetime(2011, 1, 2, 8, 26, tzinfo=UTC),
        "account_segment": "reseller",
        "account_owner": "Grace Mensah",
    },
    "gold.product_sales": {
        "stock_code": "85123A",
        "is_product": True,
        "first_sold_date": DAY,
        "last_sold_date": DAY,
        "units_sold": 6,
    },
}


def frame(table: str, *changes: dict[str, Any]) -> pl.DataFrame:
    schema = {name: column.dtype.type for name, column in contract(table).to_schema().columns.items()}
    return pl.DataFrame([{**GOOD[table], **change} for change in changes], schema=schema, orient="row")


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_described_and_every_table_has_an_event_time(table):
    columns = column_schema(contract(table))
    assert all(column.description.endswith((".", ")")) for column in columns)
    assert event_time(contract(table)) in {column.name for column in columns}


def test_the_raw_shape_of_invoice_lines():
    assert [(c.name, c.dtype, c.required) for c in raw_shape(shop.InvoiceLines).columns] == [
        ("invoice_no", "VARCHAR", True),
        ("stock_code", "VARCHAR", True),
        ("description", "VARCHAR", False),
        ("quantity", "BIGINT", True),
        ("invoice_date", "TIMESTAMP", True),
        ("unit_price", "DECIMAL(12,3)", True),
        ("customer_id", "BIGINT", False),
        ("country", "VARCHAR", True),
    ]


@pytest.mark.parametrize("table", TABLES)
def test_a_good_row_passes(table):
    assert validate(contract(table), [frame(table, {})]).cases == ()


def test_technical_columns_are_allowed_in_bronze_only():
    for table in TABLES:
        found = validate(contract(table), [frame(table, {}).with_columns(_batch_id=pl.lit("x"))])
        assert found.passed == table.startswith("bronze")


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("bronze.shop__invoice_lines", {"invoice_no": "C536365", "quantity": -6}),
        ("bronze.shop__invoice_lines", {"invoice_no": "A563186", "unit_price": Decimal("-11062.060"), "customer_id": None}),
        ("silver.invoice_lines", {"customer_id": None, "is_sale": False}),
        (
            "silver.invoice_lines",
            {"invoice_no": "C536365", "is_cancelled": True, "is_sale": False, "quantity": -6, "line_amount_gbp": Decimal("-15.3")},
        ),
        ("silver.invoice_lines", {"unit_price_gbp": Decimal(0), "is_sale": False, "line_amount_gbp": Decimal(0)}),
        ("silver.invoice_lines", {"quantity": 80_995, "unit_price_gbp": Decimal("13541.33"), "line_amount_gbp": Decimal("1096780023.35")}),
        ("gold.daily_sales", {"total_orders": 1, "unique_customers": 1, "avg_order_value": Decimal(10)}),
        ("gold.customer_metrics", {"lifetime_value_gbp": Decimal(1000), "avg_order_value_gbp": Decimal(500), "customer_segment": "Silver"}),
        ("gold.customer_metrics", {"lifetime_value_gbp": Decimal(100), "avg_order_value_gbp": Decimal(50), "customer_segment": "Bronze"}),
        ("gold.customer_metrics", {"lifetime_value_gbp": Decimal(10_001), "avg_order_value_gbp": Decimal("5000.5"), "customer_segment": "VIP"}),
        ("gold.customer_metrics", {"name": None, "email": None, "phone": None}),
        ("gold.customer_metrics", {"paid_gbp": None, "last_paid_at": None, "account_segment": None, "account_owner": None}),
        (
            "gold.product_sales",
            {"units_sold": 0, "first_sold_date": None, "last_sold_date": None},
        ),
        *(("gold.product_sales", {"stock_code": code, "is_product": False}) for code in
          ("POST", "DOT", "M", "m", "BANK CHARGES", "C2", "D", "S", "AMAZONFEE", "CRUK", "B", "PADS", "gift_0001_20")),
        *(("gold.product_sales", {"stock_code": code}) for code in ("85123A", "15056bl", "22423", "DCGS0076", "DCGSSGIRL")),
    ],
)  # fmt: skip
def test_unusual_but_right_rows_pass(table, change):
    assert validate(contract(table), [frame(table, change)]).cases == ()


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("bronze.shop__invoice_lines", {"invoice_no": "X1"}),
        ("bronze.shop__invoice_lines", {"customer_id": 5}),
        ("bronze.shop__invoice_lines", {"country": ""}),
        ("bronze.shop__invoice_lines", {"quantity": None}),
        ("silver.invoice_lines", {"invoice_date": date(2011, 1, 3)}),
        ("silver.invoice_lines", {"is_cancelled": True}),
        ("silver.invoice_lines", {"customer_id": None}),
        ("silver.invoice_lines", {"unit_price_gbp": Decimal(0), "line_amount_gbp": Decimal(0)}),
        ("silver.invoice_lines", {"line_amount_gbp": Decimal("15.301")}),
        ("silver.invoice_lines", {"is_sale": None}),
        ("gold.daily_sales", {"customer_segment": "Platinum"}),
        ("gold.daily_sales", {"avg_order_value": Decimal("3.335")}),
        ("gold.daily_sales", {"unique_customers": 4}),
        ("gold.daily_sales", {"total_orders": 0}),
        ("gold.customer_metrics", {"customer_segment": "VIP"}),
        ("gold.customer_metrics", {"first_order_date": date(2011, 1, 3)}),
        ("gold.customer_metrics", {"days_since_last_order": 2}),
        ("gold.customer_metrics", {"avg_order_value_gbp": Decimal(1)}),
        ("gold.customer_metrics", {"name": ""}),
        ("gold.customer_metrics", {"paid_gbp": None}),
        ("gold.customer_metrics", {"account_owner": ""}),
        ("gold.customer_metrics", {"email": "ada@example"}),
        ("gold.customer_metrics", {"phone": "07700 900123"}),
        ("gold.product_sales", {"is_product": False}),
        ("gold.product_sales", {"stock_code": "POST"}),
        ("gold.product_sales", {"last_sold_date": date(2010, 1, 1)}),
        ("gold.product_sales", {"units_sold": 0}),
        ("gold.product_sales", {"first_sold_date": None}),
    ],
)
def test_a_broken_promise_is_found(table, change):
    found = validate(contract(table), [frame(table, {}), frame(table, change)])
    assert found.failing_rows == 1
    assert {case.row for case in found.cases} == {1}


@pytest.mark.parametrize("table", ["gold.daily_sales", "gold.customer_metrics", "gold.product_sales"])
def test_two_rows_of_one_key_are_found(table):
    assert validate(contract(table), [frame(table, {}, {})]).failing_rows == 2
