"""Contracts of the shop: invoice lines from bronze to gold.

Holds one model per table. The dbt model of the same table must produce these columns with these types; a test compares
the two. Money is GBP with three decimals, as in the source. Times are the shop's own clock (UK), without zone.

A *sale* is a line that has a customer, is not cancelled and has a price above zero: the rule for all revenue.
"""

from typing import Annotated, ClassVar

import pandera.polars as pa
import polars as pl

Timestamp = Annotated[pl.Datetime, "us", None]
Price = Annotated[pl.Decimal, 12, 3]
Amount = Annotated[pl.Decimal, 18, 3]

INVOICE_NO = r"^[AC]?\d{6}$"
"""Six digits; C in front is a cancellation, A an adjustment of bad debt."""

PRODUCT_CODE = r"^([0-9]{5}[A-Za-z]{0,2}|DCGS[0-9A-Z]+)$"
"""Codes of goods: five digits and up to two letters of a variant, or the gift range DCGS.

Any other code (POST, DOT, M, BANK CHARGES, gift_0001_20 ...) books postage, fees, vouchers or corrections.
"""

SEGMENTS = ("VIP", "Gold", "Silver", "Bronze")
"""By lifetime value in GBP: above 10,000, above 1,000, above 100, the rest."""

_ADDRESS_PART = r'[^\sA-Z@<>(),;"'
EMAIL = rf"^{_ADDRESS_PART}]+@{_ADDRESS_PART}.]+(\.{_ADDRESS_PART}.]+)+$"
"""A cleaned e-mail address: lower case, no blanks, no character that separates addresses, a domain with a dot."""

PHONE = r"^\+?[0-9]{7,15}$"
"""A cleaned telephone number: digits only, with a + in front of an international one; E.164 allows fifteen digits."""

_FIRST_CUSTOMER, _LAST_CUSTOMER = 10_000, 99_999


def _price_follows(revenue: str, orders: str, average: str) -> pl.Expr:
    """Compare the average with the revenue divided by the orders, rounded to the third decimal."""
    exact = pl.col(revenue).cast(pl.Float64) / pl.col(orders)
    return (pl.col(average).cast(pl.Float64) - exact).abs() <= 0.00051  # half of the last decimal, plus float noise


class InvoiceLines(pa.DataFrameModel):
    """One line of an invoice as the shop exported it, duplicates included. The table adds technical columns."""

    invoice_no: pl.String = pa.Field(
        str_matches=INVOICE_NO, description="Invoice number; C in front is a cancellation, A an adjustment."
    )
    stock_code: pl.String = pa.Field(str_length={"min_value": 1}, description="Code of the product or of the charge.")
    description: pl.String = pa.Field(nullable=True, description="Name of the product as printed on the invoice.")
    quantity: pl.Int64 = pa.Field(description="Units; negative on cancellations and stock corrections.")
    invoice_date: Timestamp = pa.Field(description="When the line was booked, shop time without zone.")
    unit_price: Price = pa.Field(description="Price of one unit, GBP; negative on bad debt.")
    customer_id: pl.Int64 = pa.Field(
        nullable=True, in_range={"min_value": _FIRST_CUSTOMER, "max_value": _LAST_CUSTOMER}, description="Customer."
    )
    country: pl.String = pa.Field(str_length={"min_value": 1}, description="Country of the customer.")

    class Config:
        """Technical columns are allowed beside the contract's."""

        name = "bronze.shop__invoice_lines"
        metadata: ClassVar = {"event_time": "invoice_date"}
        strict = False


class SilverInvoiceLines(pa.DataFrameModel):
    """One distinct invoice line: exact duplicates are one row. Partitioned by `invoice_date`."""

    invoice_no: pl.String = pa.Field(
        str_matches=INVOICE_NO, description="Invoice number; C in front is a cancellation, A an adjustment."
    )
    stock_code: pl.String = pa.Field(str_length={"min_value": 1}, description="Code of the product or of the charge.")
    description: pl.String = pa.Field(nullable=True, description="Name of the product as printed on the invoice.")
    quantity: pl.Int64 = pa.Field(description="Units; negative on cancellations and stock corrections.")
    invoiced_at: Timestamp = pa.Field(description="When the line was booked, shop time without zone.")
    invoice_date: pl.Date = pa.Field(description="Day of `invoiced_at`; the partition.")
    unit_price_gbp: Price = pa.Field(description="Price of one unit, GBP.")
    customer_id: pl.Int64 = pa.Field(
        nullable=True, in_range={"min_value": _FIRST_CUSTOMER, "max_value": _LAST_CUSTOMER}, description="Customer."
    )
    country: pl.String = pa.Field(str_length={"min_value": 1}, description="Country of the customer.")
    is_cancelled: pl.Boolean = pa.Field(description="The invoice is a cancellation (its number starts with C).")
    is_sale: pl.Boolean = pa.Field(
        description="Counts as revenue: has a customer, is not cancelled and has a price above zero."
    )
    line_amount_gbp: Amount = pa.Field(description="Quantity times unit price, GBP.")
    partition_date: pl.Date = pa.Field(
        alias="_partition_date", description="Earliest landing date on which this line arrived."
    )

    @pa.dataframe_check(error="invoice_date is the day of invoiced_at")
    @classmethod
    def date_is_of_time(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that the partition agrees with the time."""
        return data.lazyframe.select(pl.col("invoiced_at").dt.date() == pl.col("invoice_date"))

    @pa.dataframe_check(error="is_cancelled follows invoice_no")
    @classmethod
    def cancelled_follows_number(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that the number of the invoice marks cancellations."""
        return data.lazyframe.select(pl.col("invoice_no").str.starts_with("C") == pl.col("is_cancelled"))

    @pa.dataframe_check(error="is_sale follows its rule")
    @classmethod
    def sale_follows_rule(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check the rule for revenue."""
        rule = pl.col("customer_id").is_not_null() & ~pl.col("is_cancelled") & (pl.col("unit_price_gbp") > 0)
        return data.lazyframe.select(rule == pl.col("is_sale"))

    @pa.dataframe_check(error="line_amount_gbp = quantity * unit_price_gbp")
    @classmethod
    def amount_follows(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check the amount exactly: in thousandths both sides are whole numbers."""
        price = (pl.col("unit_price_gbp") * 1000).cast(pl.Int64)
        amount = (pl.col("line_amount_gbp") * 1000).cast(pl.Int64)
        return data.lazyframe.select(price * pl.col("quantity") == amount)

    class Config:
        """Exactly these columns."""

        name = "silver.invoice_lines"
        metadata: ClassVar = {"event_time": "invoiced_at"}
        strict = True


class DailySales(pa.DataFrameModel):
    """Sales of one day to one country and customer segment. Days without sales have no row."""

    sale_date: pl.Date = pa.Field(description="Day of the sales; the partition.")
    country: pl.String = pa.Field(str_length={"min_value": 1}, description="Country of the customers.")
    customer_segment: pl.String = pa.Field(isin=SEGMENTS, description="Segment of the customers by lifetime value.")
    total_orders: pl.Int64 = pa.Field(ge=1, description="Number of invoices.")
    total_revenue: Amount = pa.Field(gt=0, description="Revenue, GBP.")
    avg_order_value: Amount = pa.Field(gt=0, description="Revenue divided by number of invoices, GBP.")
    unique_customers: pl.Int64 = pa.Field(ge=1, description="Number of customers who bought.")

    @pa.dataframe_check(error="avg_order_value = total_revenue / total_orders")
    @classmethod
    def average_follows(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that the average agrees with its parts."""
        return data.lazyframe.select(_price_follows("total_revenue", "total_orders", "avg_order_value"))

    @pa.dataframe_check(error="unique_customers <= total_orders")
    @classmethod
    def customers_ordered(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that each customer has at least one order."""
        return data.lazyframe.select(pl.col("unique_customers") <= pl.col("total_orders"))

    class Config:
        """Exactly these columns, one row per day, country and segment."""

        name = "gold.daily_sales"
        metadata: ClassVar = {"event_time": "sale_date"}
        strict = True
        unique: ClassVar = ["sale_date", "country", "customer_segment"]


class CustomerMetrics(pa.DataFrameModel):
    """One customer with at least one sale, as of a date."""

    customer_id: pl.Int64 = pa.Field(
        unique=True, in_range={"min_value": _FIRST_CUSTOMER, "max_value": _LAST_CUSTOMER}, description="Customer."
    )
    total_orders: pl.Int64 = pa.Field(ge=1, description="Number of invoices with sales.")
    lifetime_value_gbp: Amount = pa.Field(gt=0, description="Revenue of all sales, GBP.")
    avg_order_value_gbp: Amount = pa.Field(gt=0, description="Lifetime value divided by number of invoices, GBP.")
    first_order_date: pl.Date = pa.Field(description="Day of the first sale.")
    last_order_date: pl.Date = pa.Field(description="Day of the last sale.")
    days_since_last_order: pl.Int64 = pa.Field(ge=0, description="Days from the last sale to `as_of_date`.")
    as_of_date: pl.Date = pa.Field(description="Last day of sales known when the row was computed.")
    customer_segment: pl.String = pa.Field(
        isin=SEGMENTS,
        description="By lifetime value, GBP: VIP above 10,000, Gold above 1,000, Silver above 100, else Bronze.",
    )
    name: pl.String = pa.Field(
        nullable=True, str_length={"min_value": 1}, description="Name; null when the shop's database has none."
    )
    email: pl.String = pa.Field(
        nullable=True, str_matches=EMAIL, description="E-mail address, lower case; null when unknown."
    )
    phone: pl.String = pa.Field(nullable=True, str_matches=PHONE, description="Telephone number; null when unknown.")
    paid_gbp: Amount = pa.Field(
        nullable=True, description="Sum of the customer's payments that were not refunded, GBP; null without payments."
    )
    last_paid_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        nullable=True, description="When the last of these payments was captured."
    )
    account_segment: pl.String = pa.Field(
        nullable=True, str_length={"min_value": 1}, description="Segment in the CRM; null when it has none."
    )
    account_owner: pl.String = pa.Field(
        nullable=True, str_length={"min_value": 1}, description="Person who looks after the customer; null if unknown."
    )

    @pa.dataframe_check(error="paid_gbp and last_paid_at go together")
    @classmethod
    def payments_are_whole(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that a sum of payments comes with the time of the last one."""
        return data.lazyframe.select(pl.col("paid_gbp").is_null() == pl.col("last_paid_at").is_null())

    @pa.dataframe_check(error="avg_order_value_gbp = lifetime_value_gbp / total_orders")
    @classmethod
    def average_follows(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that the average agrees with its parts."""
        return data.lazyframe.select(_price_follows("lifetime_value_gbp", "total_orders", "avg_order_value_gbp"))

    @pa.dataframe_check(error="first_order_date <= last_order_date <= as_of_date")
    @classmethod
    def dates_in_order(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that the dates come in order and that the days between them agree."""
        first, last, as_of = pl.col("first_order_date"), pl.col("last_order_date"), pl.col("as_of_date")
        days = (as_of - last).dt.total_days() == pl.col("days_since_last_order")
        return data.lazyframe.select((first <= last) & (last <= as_of) & days)

    @pa.dataframe_check(error="customer_segment follows lifetime_value_gbp")
    @classmethod
    def segment_follows(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check the thresholds of `SEGMENTS`."""
        value = pl.col("lifetime_value_gbp")
        segment = pl.when(value > 10_000).then(pl.lit("VIP")).when(value > 1_000).then(pl.lit("Gold"))
        expected = segment.when(value > 100).then(pl.lit("Silver")).otherwise(pl.lit("Bronze"))
        return data.lazyframe.select(expected == pl.col("customer_segment"))

    class Config:
        """Exactly these columns, one row per customer."""

        name = "gold.customer_metrics"
        metadata: ClassVar = {"event_time": "last_order_date"}
        strict = True


class ProductSales(pa.DataFrameModel):
    """Sales of one stock code; every code of an invoice line has a row, charges included."""

    stock_code: pl.String = pa.Field(
        unique=True, str_length={"min_value": 1}, description="Code of the product or of the charge."
    )
    is_product: pl.Boolean = pa.Field(description="False for postage, fees, vouchers and manual bookings.")
    first_sold_date: pl.Date = pa.Field(nullable=True, description="Day of the first sale; null if never sold.")
    last_sold_date: pl.Date = pa.Field(nullable=True, description="Day of the last sale; null if never sold.")
    units_sold: pl.Int64 = pa.Field(ge=0, description="Units of all sales.")

    @pa.dataframe_check(error="first_sold_date <= last_sold_date, both exist if units were sold")
    @classmethod
    def dates_in_order(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that the dates come in order, and exist exactly where units were sold."""
        first, last, sold = pl.col("first_sold_date"), pl.col("last_sold_date"), pl.col("units_sold") > 0
        in_order = pl.when(sold).then(first <= last).otherwise(first.is_null() & last.is_null())
        return data.lazyframe.select(in_order.fill_null(value=False))

    @pa.dataframe_check(error="is_product follows stock_code")
    @classmethod
    def product_follows_code(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Check that `PRODUCT_CODE` tells products from charges."""
        return data.lazyframe.select(pl.col("stock_code").str.contains(PRODUCT_CODE) == pl.col("is_product"))

    class Config:
        """Exactly these columns, one row per stock code."""

        name = "gold.product_sales"
        metadata: ClassVar = {"event_time": "last_sold_date"}
        strict = True
