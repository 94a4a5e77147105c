"""Contracts of dimensions and facts made from the shop's database: versions of customers and products, orders.

Metrics made of invoice lines are in `shop`. Money is GBP, times are the shop's clock.
"""

from typing import Annotated, ClassVar

import pandera.polars as pa
import polars as pl

from pipeline_assets.contracts.models.shop import EMAIL, PHONE, PRODUCT_CODE
from pipeline_assets.contracts.models.shop_db import ORDER_STATUSES

Instant = Annotated[pl.Datetime, "us", "UTC"]
Price = Annotated[pl.Decimal, 12, 3]
Amount = Annotated[pl.Decimal, 18, 3]

VERSION_KEY = r"^[0-9a-f]{32}$"
"""Hash of the key and the start of the version: the same in every rebuild."""


def _lasts() -> pl.Expr:
    """Check that a version lasts some time, and that exactly the current version has no end."""
    end = pl.col("valid_to")
    return (pl.col("valid_from") < end).fill_null(value=True) & (end.is_null() == pl.col("is_current"))


def _do_not_overlap(key: str) -> pl.Expr:
    """Check that a version ends no later than the next one begins; only the last version has no end."""
    following = pl.col("valid_from").shift(-1).over(key, order_by="valid_from")
    return (pl.col("valid_to") <= following).fill_null(following.is_null())


class DimCustomers(pa.DataFrameModel):
    """A version of a customer from `silver.customers_history`. The time after a delete has no row."""

    customer_key: pl.String = pa.Field(
        unique=True, str_matches=VERSION_KEY, description="Key of the version, of customer_id and valid_from."
    )
    customer_id: pl.Int64 = pa.Field(gt=0, description="Number of the customer.")
    name: pl.String = pa.Field(nullable=True, str_length={"min_value": 1}, description="Name; null when blank.")
    email: pl.String = pa.Field(
        nullable=True, str_matches=EMAIL, description="E-mail address; null when the entry is not an address."
    )
    phone: pl.String = pa.Field(
        nullable=True, str_matches=PHONE, description="Telephone number; null when the entry is not a number."
    )
    country: pl.String = pa.Field(str_length={"min_value": 1}, description="Country of the customer.")
    created_at: Instant = pa.Field(description="When the customer was first seen.")
    valid_from: Instant = pa.Field(description="Start of the version, included.")
    valid_to: Instant = pa.Field(nullable=True, description="End of the version, excluded; null for the current one.")
    is_current: pl.Boolean = pa.Field(description="The current version; a deleted customer has no such version.")

    @pa.dataframe_check(error="valid_from < valid_to, and only the current version has no end")
    @classmethod
    def versions_last(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check each version by itself."""
        return data.lazyframe.select(_lasts())

    @pa.dataframe_check(error="versions of a customer do not overlap")
    @classmethod
    def versions_do_not_overlap(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check each version beside the next one."""
        return data.lazyframe.select(_do_not_overlap("customer_id"))

    class Config:
        """Exactly these columns, one row per version."""

        name = "gold.dim_customers"
        metadata: ClassVar = {"event_time": "valid_from"}
        strict = True


class DimProducts(pa.DataFrameModel):
    """A version of a product from `silver.products_history`. The time after a delete has no row."""

    product_key: pl.String = pa.Field(
        unique=True, str_matches=VERSION_KEY, description="Key of the version, of stock_code and valid_from."
    )
    stock_code: pl.String = pa.Field(str_length={"min_value": 1}, description="Code of the product or of the charge.")
    description: pl.String = pa.Field(nullable=True, str_length={"min_value": 1}, description="Name; null when blank.")
    unit_price_gbp: Price = pa.Field(description="Price of one unit, GBP; negative on corrections.")
    is_product: pl.Boolean = pa.Field(description="False for postage, fees, vouchers and manual bookings.")
    valid_from: Instant = pa.Field(description="Start of the version, included.")
    valid_to: Instant = pa.Field(nullable=True, description="End of the version, excluded; null for the current one.")
    is_current: pl.Boolean = pa.Field(description="The current version; a delisted product has no such version.")

    @pa.dataframe_check(error="is_product follows stock_code")
    @classmethod
    def product_follows_code(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that `PRODUCT_CODE` tells products from charges."""
        return data.lazyframe.select(pl.col("stock_code").str.contains(PRODUCT_CODE) == pl.col("is_product"))

    @pa.dataframe_check(error="valid_from < valid_to, and only the current version has no end")
    @classmethod
    def versions_last(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check each version by itself."""
        return data.lazyframe.select(_lasts())

    @pa.dataframe_check(error="versions of a product do not overlap")
    @classmethod
    def versions_do_not_overlap(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check each version beside the next one."""
        return data.lazyframe.select(_do_not_overlap("stock_code"))

    class Config:
        """Exactly these columns, one row per version."""

        name = "gold.dim_products"
        metadata: ClassVar = {"event_time": "valid_from"}
        strict = True


class FctOrders(pa.DataFrameModel):
    """An order as it stands now. Deleted orders are left out."""

    order_id: pl.String = pa.Field(unique=True, str_length={"min_value": 1}, description="Number of the order.")
    customer_id: pl.Int64 = pa.Field(nullable=True, description="Number of the customer; null when unknown.")
    customer_key: pl.String = pa.Field(
        nullable=True, str_matches=VERSION_KEY, description="Version of the customer at ordered_at, else the nearest."
    )
    status: pl.String = pa.Field(isin=ORDER_STATUSES, description="Status of the order.")
    is_cancelled: pl.Boolean = pa.Field(description="Whether the status is cancelled.")
    line_count: pl.Int32 = pa.Field(ge=0, description="Number of lines.")
    units: pl.Int64 = pa.Field(
        nullable=True, description="Sum of the lines' quantities, negative on returns; null when not known."
    )
    total_gbp: Amount = pa.Field(description="Sum of quantity times unit price, GBP; negative on returns.")
    ordered_at: Instant = pa.Field(description="When the order was placed.")
    order_date: pl.Date = pa.Field(description="Day of `ordered_at` (UTC).")
    order_month: pl.Date = pa.Field(description="First day of the month of `ordered_at` (UTC); the partition.")

    @pa.dataframe_check(error="is_cancelled follows status")
    @classmethod
    def cancelled_follows_status(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that status and flag of a cancelled order agree."""
        return data.lazyframe.select((pl.col("status") == "cancelled") == pl.col("is_cancelled"))

    @pa.dataframe_check(error="order_date and order_month follow ordered_at")
    @classmethod
    def dates_follow_time(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that day and month belong to the time."""
        day = pl.col("ordered_at").dt.date()
        return data.lazyframe.select((day == pl.col("order_date")) & (day.dt.month_start() == pl.col("order_month")))

    @pa.dataframe_check(error="customer_key needs a customer_id")
    @classmethod
    def key_needs_customer(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that an order without a customer has no version of one."""
        return data.lazyframe.select(pl.col("customer_id").is_not_null() | pl.col("customer_key").is_null())

    class Config:
        """Exactly these columns, one row per order."""

        name = "gold.fct_orders"
        metadata: ClassVar = {"event_time": "ordered_at"}
        strict = True
