"""Contracts of dimensions and facts: rows that keep the promises pass, each broken promise is found."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from pipeline_assets.contracts.base import column_schema, contract, event_time, validate

CUSTOMERS, PRODUCTS, ORDERS = "gold.dim_customers", "gold.dim_products", "gold.fct_orders"
KEY = "0123456789abcdef0123456789abcdef"


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2011, 1, day, hour, tzinfo=UTC)


VERSION = {"valid_from": at(2), "valid_to": None, "is_current": True}
GOOD: dict[str, dict[str, Any]] = {
    CUSTOMERS: {
        "customer_key": KEY,
        "customer_id": 17850,
        "name": "Ada Lee",
        "email": "ada@example.com",
        "phone": "+447700900123",
        "country": "United Kingdom",
        "created_at": at(1),
        **VERSION,
    },
    PRODUCTS: {
        "product_key": KEY,
        "stock_code": "85123A",
        "description": "HOLDER",
        "unit_price_gbp": Decimal("2.550"),
        "is_product": True,
        **VERSION,
    },
    ORDERS: {
        "order_id": "536365",
        "customer_id": 17850,
        "customer_key": KEY,
        "status": "paid",
        "is_cancelled": False,
        "line_count": 7,
        "units": 40,
        "total_gbp": Decimal("139.120"),
        "ordered_at": at(2, 8),
        "order_date": date(2011, 1, 2),
        "order_month": date(2011, 1, 1),
    },
}
ENDED = {"valid_to": at(3), "is_current": False}


def frame(table: str, *changes: dict[str, Any]) -> pl.DataFrame:
    schema = {name: column.dtype.type for name, column in contract(table).to_schema().columns.items()}
    rows = [{**GOOD[table], **_own_key(table, at), **change} for at, change in enumerate(changes)]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _own_key(table: str, at: int) -> dict[str, str]:
    key = next(iter(GOOD[table]))
    return {key: f"{GOOD[table][key][:-1]}{at}"}


@pytest.mark.parametrize("table", GOOD)
def test_every_column_is_described_and_every_table_has_an_event_time(table):
    columns = column_schema(contract(table))
    assert all(column.description.endswith((".", ")")) for column in columns)
    assert event_time(contract(table)) in {column.name for column in columns}


@pytest.mark.parametrize("table", GOOD)
def test_a_good_row_passes_and_further_columns_are_found(table):
    good = frame(table, {})
    assert validate(contract(table), [good]).cases == ()
    assert not validate(contract(table), [good.with_columns(_bucket=pl.lit(1))]).passed


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        (CUSTOMERS, [{"name": None, "email": None, "phone": None}]),
        (CUSTOMERS, [{"email": "zoë.o'brien+shop@exämple.co.uk", "phone": "07700900123"}]),
        (CUSTOMERS, [{"valid_from": at(3)}, ENDED]),  # the next version begins where this one ends
        (CUSTOMERS, [ENDED, {"valid_from": at(5)}]),  # deleted for two days
        (CUSTOMERS, [{}, {"customer_id": 17851}]),
        (PRODUCTS, [{"description": None, "unit_price_gbp": Decimal("-11062.06")}]),
        (PRODUCTS, [{"stock_code": "POST", "is_product": False}]),
        (ORDERS, [{"customer_id": None, "customer_key": None}]),
        (ORDERS, [{"customer_key": None, "units": None}]),
        (ORDERS, [{"status": "cancelled", "is_cancelled": True, "units": -3, "total_gbp": Decimal(-3)}]),
        (ORDERS, [{"ordered_at": datetime(2011, 1, 2, 23, 59, 59, 999_999, UTC)}]),
    ],
)
def test_unusual_but_right_rows_pass(table, changes):
    assert validate(contract(table), [frame(table, *changes)]).cases == ()


@pytest.mark.parametrize(
    ("table", "change"),
    [
        (CUSTOMERS, {"customer_key": "17850|2011-01-02"}),
        (CUSTOMERS, {"customer_key": None}),
        (CUSTOMERS, {"customer_id": 0}),
        (CUSTOMERS, {"name": ""}),
        (CUSTOMERS, {"email": "Ada@example.com"}),
        (CUSTOMERS, {"email": " ada@example.com"}),
        (CUSTOMERS, {"email": "ada.example.com"}),
        (CUSTOMERS, {"email": "ada@example"}),
        (CUSTOMERS, {"email": ""}),
        (CUSTOMERS, {"phone": "+44 7700 900123"}),
        (CUSTOMERS, {"phone": "123456"}),
        (CUSTOMERS, {"phone": "1234567890123456"}),
        (CUSTOMERS, {"country": ""}),
        (CUSTOMERS, {"created_at": None}),
        (CUSTOMERS, {"valid_from": None}),
        (CUSTOMERS, {"is_current": False}),
        (CUSTOMERS, {"valid_to": at(3)}),
        (CUSTOMERS, {"valid_to": at(2), "is_current": False}),
        (PRODUCTS, {"product_key": None}),
        (PRODUCTS, {"stock_code": "", "is_product": False}),
        (PRODUCTS, {"description": ""}),
        (PRODUCTS, {"unit_price_gbp": None}),
        (PRODUCTS, {"is_product": False}),
        (PRODUCTS, {"is_current": False}),
        (PRODUCTS, {"valid_to": at(1), "is_current": False}),
        (ORDERS, {"order_id": ""}),
        (ORDERS, {"customer_id": None}),
        (ORDERS, {"customer_key": "x"}),
        (ORDERS, {"status": "lost"}),
        (ORDERS, {"status": "cancelled"}),
        (ORDERS, {"is_cancelled": True}),
        (ORDERS, {"line_count": -1}),
        (ORDERS, {"total_gbp": None}),
        (ORDERS, {"order_date": date(2011, 1, 3)}),
        (ORDERS, {"order_month": date(2011, 1, 2)}),
    ],
)
def test_a_broken_promise_is_found(table, change):
    key = list(GOOD[table])[1]
    other = {key: GOOD[table][key] + (1 if key == "customer_id" else "B")}
    found = validate(contract(table), [frame(table, other, change)])
    assert found.failing_rows == 1
    assert {case.row for case in found.cases} == {1}


@pytest.mark.parametrize("table", GOOD)
def test_two_rows_of_one_key_are_found(table):
    key = next(iter(GOOD[table]))
    found = validate(contract(table), [frame(table, {key: GOOD[table][key]}, {key: GOOD[table][key]})])
    assert found.by_check.get(f"{key}: field_uniqueness") == 2


@pytest.mark.parametrize("table", [CUSTOMERS, PRODUCTS])
@pytest.mark.parametrize(
    "second",
    [{"valid_from": at(2, 23)}, {"valid_from": at(2, 12), "valid_to": at(2, 13), "is_current": False}],
    ids=["begins too early", "within the other"],
)
def test_versions_that_overlap_are_found(table, second):
    found = validate(contract(table), [frame(table, second, ENDED)])
    (case,) = found.cases
    assert "do not overlap" in case.check
    assert case.row == 1


@pytest.mark.parametrize("table", [CUSTOMERS, PRODUCTS])
def test_two_current_versions_are_found(table):
    assert not validate(contract(table), [frame(table, {}, {"valid_from": at(3)})]).passed
