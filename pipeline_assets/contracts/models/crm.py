"""Contracts of the CRM: its accounts as polled, and each account as it was last read."""

from typing import Annotated, ClassVar

import pandera.polars as pa
import polars as pl

from pipeline_assets.contracts.pulled import LastRead

Instant = Annotated[pl.Datetime, "us", "UTC"]


class Accounts(pa.DataFrameModel):
    """An account of the CRM as a poll found it."""

    account_id: pl.String = pa.Field(str_length={"min_value": 1}, description="The CRM's number of the account.")
    customer_id: pl.Int64 = pa.Field(nullable=True, description="The shop's number of the customer, once known.")
    segment: pl.String = pa.Field(nullable=True, description="Segment that the sales team gives the customer.")
    account_owner: pl.String = pa.Field(nullable=True, description="Sales person who looks after the account.")
    updated_at: Instant = pa.Field(description="When the account was last changed, by the CRM's clock.")

    class Config:
        """Technical columns are allowed beside the contract's."""

        name = "bronze.crm__accounts"
        strict = False


class SilverAccounts(LastRead, Accounts):
    """One row per account, as it was last polled."""

    segment: pl.String = pa.Field(
        nullable=True, str_length={"min_value": 1}, description="Segment that the sales team gives the customer."
    )
    account_owner: pl.String = pa.Field(
        nullable=True, str_length={"min_value": 1}, description="Sales person who looks after the account."
    )

    class Config:
        """Exactly these columns, one row per account."""

        name = "silver.accounts"
        strict = True
        unique: ClassVar = ["account_id"]
