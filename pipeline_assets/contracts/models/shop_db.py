"""Contracts of the shop's database: rows as captured or pulled, their current state and history in silver.

Holds the row of each captured table; the contracts of silver are derived from it (`contracts.changes`). Columns that
the source adds later are allowed beside the contract's, as text, until they are named here. Payments are pulled, not
captured. The contracts of gold's dimensions and facts are in `shop_gold`.
"""

from typing import Annotated, ClassVar

import pandera.polars as pa
import polars as pl

from pipeline_assets.contracts.changes import history, state
from pipeline_assets.contracts.pulled import LastRead

Instant = Annotated[pl.Datetime, "us", "UTC"]
Price = Annotated[pl.Decimal, 12, 3]
Amount = Annotated[pl.Decimal, 18, 3]

ORDER_STATUSES = ("placed", "paid", "shipped", "delivered", "cancelled")
PAYMENT_METHODS = ("card", "invoice", "transfer")
PAYMENT_STATUSES = ("captured", "refunded")


class Customers(pa.DataFrameModel):
    """A row of the shop's table customers."""

    customer_id: pl.Int64 = pa.Field(description="Number of the customer; the key.")
    name: pl.String = pa.Field(description="Name as entered.")
    email: pl.String = pa.Field(nullable=True, description="E-mail address as entered; not always a valid one.")
    phone: pl.String = pa.Field(nullable=True, description="Telephone number as entered.")
    country: pl.String = pa.Field(description="Country of the customer.")
    created_at: Instant = pa.Field(description="When the customer was first seen, by the shop's clock.")
    updated_at: Instant = pa.Field(description="When the row was last changed, by the shop's clock.")

    class Config:
        """Columns that the source adds are allowed."""

        name = "bronze.shop_db__customers"
        strict = False


class Products(pa.DataFrameModel):
    """A row of the shop's table products."""

    stock_code: pl.String = pa.Field(description="Code of the product or of the charge; the key.")
    description: pl.String = pa.Field(nullable=True, description="Name of the product.")
    unit_price: Price = pa.Field(description="Price of one unit, GBP.")
    updated_at: Instant = pa.Field(description="When the row was last changed, by the shop's clock.")

    class Config:
        """Columns that the source adds are allowed."""

        name = "bronze.shop_db__products"
        strict = False


class Orders(pa.DataFrameModel):
    """A row of the shop's table orders."""

    order_id: pl.String = pa.Field(description="Number of the invoice; the key.")
    customer_id: pl.Int64 = pa.Field(nullable=True, description="Customer; null when unknown.")
    status: pl.String = pa.Field(isin=ORDER_STATUSES, description="placed, paid, shipped, delivered or cancelled.")
    ordered_at: Instant = pa.Field(description="When the order was placed, by the shop's clock.")
    lines: pl.String = pa.Field(description="JSON array of stock_code, quantity and unit_price.")
    line_count: pl.Int32 = pa.Field(description="Number of lines.")
    total: Amount = pa.Field(description="Sum of quantity times unit price, GBP.")
    updated_at: Instant = pa.Field(description="When the row was last changed, by the shop's clock.")

    class Config:
        """Columns that the source adds are allowed."""

        name = "bronze.shop_db__orders"
        strict = False


class Payments(pa.DataFrameModel):
    """A row of the shop's table payments as a pull found it."""

    payment_id: pl.Int64 = pa.Field(description="Number of the payment; the key.")
    order_id: pl.String = pa.Field(str_length={"min_value": 1}, description="Number of the order that was paid.")
    customer_id: pl.Int64 = pa.Field(nullable=True, description="Customer; null when unknown.")
    amount: Amount = pa.Field(description="Amount, GBP; negative when the shop paid.")
    method: pl.String = pa.Field(isin=PAYMENT_METHODS, description="card, invoice or transfer.")
    status: pl.String = pa.Field(isin=PAYMENT_STATUSES, description="captured, or refunded since.")
    paid_at: Instant = pa.Field(description="When it was captured, by the shop's clock.")
    updated_at: Instant = pa.Field(description="When the row was last changed, by the shop's clock.")

    class Config:
        """Technical columns are allowed beside the contract's."""

        name = "bronze.shop_db__payments"
        strict = False


class SilverPayments(LastRead):
    """One row per payment, as it was last read."""

    payment_id: pl.Int64 = pa.Field(description="Number of the payment; the key.")
    order_id: pl.String = pa.Field(str_length={"min_value": 1}, description="Number of the order that was paid.")
    customer_id: pl.Int64 = pa.Field(nullable=True, description="Customer; null when unknown.")
    amount_gbp: Amount = pa.Field(description="Amount, GBP; negative when the shop paid.")
    method: pl.String = pa.Field(isin=PAYMENT_METHODS, description="card, invoice or transfer.")
    status: pl.String = pa.Field(isin=PAYMENT_STATUSES, description="captured, or refunded since.")
    paid_at: Instant = pa.Field(description="When it was captured, by the shop's clock.")
    updated_at: Instant = pa.Field(description="When the row was last changed, by the shop's clock.")

    class Config:
        """Exactly these columns, one row per payment."""

        name = "silver.payments"
        strict = True
        unique: ClassVar = ["payment_id"]


SilverCustomers = state(Customers, "silver.customers", keys=["customer_id"])
SilverProducts = state(Products, "silver.products", keys=["stock_code"])
SilverOrders = state(Orders, "silver.orders", keys=["order_id"])
CustomersHistory = history(Customers, "silver.customers_history", keys=["customer_id"])
ProductsHistory = history(Products, "silver.products_history", keys=["stock_code"])
