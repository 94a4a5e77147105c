"""Columns that silver tables made of pulls have beside the source's: one row per key, as it was last read.

The rows themselves are described in the models of the sources (`models.shop_db`, `models.crm`).
"""

from typing import Annotated

import pandera.polars as pa
import polars as pl


class LastRead(pa.DataFrameModel):
    """Base class to inherit before the source's columns, so that these come first."""

    deleted: pl.Boolean = pa.Field(
        alias="_deleted", description="The key is gone from the source; the other columns hold its last row."
    )
    extracted_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        alias="_extracted_at", description="When the row was read; a row that was read later replaces it."
    )
    changed_date: pl.Date = pa.Field(alias="_changed_date", description="Partition of bronze that the row came from.")
    bucket: pl.Int64 = pa.Field(alias="_bucket", description="Partition: a function of the key.")
