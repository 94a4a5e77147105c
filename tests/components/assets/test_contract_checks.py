"""Contract checks of silver and gold: each fails on a bad value; a bad day stays bad until downstream has it."""

from datetime import date

import dagster as dg
import pytest

from pipeline_assets.components.assets.contract_checks import table_contract_check, unaccepted_where
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import column_schema, contract
from pipeline_assets.lake import Lake, Table, position_name, query_schema
from pipeline_assets.settings import Settings

# A row that each contract accepts, and the column and value that spoil it.
ROWS = {
    "silver.invoice_lines": (
        {
            "invoice_no": "'536365'", "stock_code": "'85123A'", "description": "'HEART'", "quantity": "6",
            "invoiced_at": "TIMESTAMP '2011-01-04 08:26:00'", "invoice_date": "DATE '2011-01-04'",
            "unit_price_gbp": "2.55", "customer_id": "17850", "country": "'United Kingdom'", "is_cancelled": "false",
            "is_sale": "true", "line_amount_gbp": "15.3", "_partition_date": "DATE '2011-01-04'",
        },
        ("line_amount_gbp", "15.2"),
    ),
    "gold.daily_sales": (
        {
            "sale_date": "DATE '2011-01-04'", "country": "'France'", "customer_segment": "'VIP'", "total_orders": "2",
            "total_revenue": "30.6", "avg_order_value": "15.3", "unique_customers": "1",
        },
        ("customer_segment", "'Platinum'"),
    ),
    "gold.customer_metrics": (
        {
            "customer_id": "17850", "total_orders": "2", "lifetime_value_gbp": "300", "avg_order_value_gbp": "150",
            "first_order_date": "DATE '2011-01-04'", "last_order_date": "DATE '2011-01-05'",
            "days_since_last_order": "1", "as_of_date": "DATE '2011-01-06'", "customer_segment": "'Silver'",
            "name": "'Ada Lee'", "email": "'ada@example.com'", "phone": "'+447700900123'",
            "paid_gbp": "290", "last_paid_at": "TIMESTAMPTZ '2011-01-05 08:00:00+00'",
            "account_segment": "'reseller'", "account_owner": "'Grace Mensah'",
        },
        ("customer_segment", "'VIP'"),
    ),
    "gold.product_sales": (
        {
            "stock_code": "'85123A'", "is_product": "true", "first_sold_date": "DATE '2011-01-04'",
            "last_sold_date": "DATE '2011-01-05'", "units_sold": "7",
        },
        ("last_sold_date", "DATE '2010-01-01'"),
    ),
    "gold.dim_customers": (
        {
            "customer_key": "md5('17850')", "customer_id": "17850", "name": "'Ada Lee'", "email": "'ada@example.com'",
            "phone": "'+447700900123'", "country": "'EIRE'", "created_at": "TIMESTAMPTZ '2011-01-04 08:00:00+00'",
            "valid_from": "TIMESTAMPTZ '2011-01-04 08:00:00+00'", "valid_to": "NULL", "is_current": "true",
        },
        ("email", "'Ada@Example.com'"),
    ),
    "gold.dim_products": (
        {
            "product_key": "md5('85123A')", "stock_code": "'85123A'", "description": "'HEART'",
            "unit_price_gbp": "2.55", "is_product": "true", "valid_from": "TIMESTAMPTZ '2011-01-04 08:00:00+00'",
            "valid_to": "NULL", "is_current": "true",
        },
        ("is_current", "false"),
    ),
    "gold.fct_orders": (
        {
            "order_id": "'536365'", "customer_id": "17850", "customer_key": "md5('17850')", "status": "'paid'",
            "is_cancelled": "false", "line_count": "1", "units": "6", "total_gbp": "15.3",
            "ordered_at": "TIMESTAMPTZ '2011-01-04 08:26:00+00'", "order_date": "DATE '2011-01-04'",
            "order_month": "DATE '2011-01-01'",
        },
        ("order_date", "DATE '2011-01-05'"),
    ),
    "silver.payments": (
        {
            "payment_id": "1", "order_id": "'536365'", "customer_id": "17850", "amount_gbp": "15.3",
            "method": "'card'", "status": "'captured'", "paid_at": "TIMESTAMPTZ '2011-01-04 08:26:00+00'",
            "updated_at": "TIMESTAMPTZ '2011-01-04 08:26:00+00'", "_deleted": "false",
            "_extracted_at": "TIMESTAMPTZ '2011-01-05 01:00:00+00'", "_changed_date": "DATE '2011-01-05'",
            "_bucket": "0",
        },
        ("status", "'lost'"),
    ),
    "silver.accounts": (
        {
            "account_id": "'AC-1'", "customer_id": "17850", "segment": "'reseller'",
            "account_owner": "'Grace Mensah'", "updated_at": "TIMESTAMPTZ '2011-01-04 08:26:00+00'",
            "_deleted": "false", "_extracted_at": "TIMESTAMPTZ '2011-01-05 01:00:00+00'",
            "_changed_date": "DATE '2011-01-05'", "_bucket": "0",
        },
        ("account_owner", "''"),
    ),
}  # fmt: skip


def select(name: str, **changes: str) -> str:
    values = {**ROWS[name][0], **changes}
    columns = column_schema(contract(name))
    return "SELECT " + ", ".join(f'CAST({values[c.name]} AS {c.dtype}) AS "{c.name}"' for c in columns)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake(settings.lake_uri)


def check(lake: Lake, name: str, readers: list[str]) -> dg.AssetCheckResult:
    definition = table_contract_check(dg.AssetKey(name.split(".")), contract(name), readers)
    return definition(lake=LakeResource(uri=lake.uri))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ROWS)
def test_a_good_row_passes_and_a_bad_value_fails_with_its_case(lake: Lake, name: str) -> None:
    table = Table(lake, name)
    with lake.connect() as con:
        table.create(query_schema(con, select(name)))
        table.append(con, select(name), batch_id="good")
        assert check(lake, name, []).passed
        column, value = ROWS[name][1]
        table.append(con, select(name, **{column: value}), batch_id="bad")
    result = check(lake, name, [])
    assert not result.passed
    assert result.metadata["failing_rows"].value >= 1
    assert result.metadata["failing_cases"].records


def test_a_bad_day_stays_bad_until_downstream_has_it(lake: Lake) -> None:
    silver, gold = Table(lake, "silver.invoice_lines"), Table(lake, "gold.daily_sales")
    later = {"invoiced_at": "TIMESTAMP '2011-01-05 08:00:00'", "invoice_date": "DATE '2011-01-05'"}
    with lake.connect() as con:
        silver.create(query_schema(con, select(silver.name)), partition_by=["invoice_date"], date_column="invoice_date")
        gold.create(query_schema(con, select(gold.name)))
        silver.append(con, select(silver.name, line_amount_gbp="1"), batch_id="bad day")
        silver.append(con, select(silver.name, **later), batch_id="good day")
        gold.commit(con, [], positions={position_name(silver): 0})
        assert not check(lake, silver.name, [gold.name]).passed
        gold.commit(con, [], positions={position_name(silver): silver.open().version()})
    assert check(lake, silver.name, [gold.name]).passed  # what downstream has is looked at no more
    assert str(date(2011, 1, 5)) in unaccepted_where(silver, [gold])
