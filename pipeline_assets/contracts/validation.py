"""Validates the rows of a query against a contract, in bounded memory. The models are in `contracts.models`."""

from collections.abc import Iterator

import duckdb
import polars as pl

from pipeline_assets.contracts.base import Model, Violations, validate

_ROWS_PER_CHUNK = 250_000


def validate_rows(con: duckdb.DuckDBPyConnection, select: str, model: Model) -> Violations:
    """Stream a query's rows through a contract.

    Args:
        con: A connection of the lake.
        select: The query.
        model: The contract.
    """

    def frames() -> Iterator[pl.DataFrame]:
        for batch in con.execute(select).to_arrow_reader(_ROWS_PER_CHUNK):
            frame = pl.from_arrow(batch)
            if isinstance(frame, pl.DataFrame):
                yield frame

    return validate(model, frames())
