"""Contracts of silver tables that are derived from the contract of the source's row."""

from datetime import UTC, date, datetime

import duckdb
import polars as pl
import pytest

from pipeline_assets.contracts import crm
from pipeline_assets.contracts.changes import snapshot_state
from pipeline_assets.contracts.validation import validate_rows

MODEL = snapshot_state(crm.Accounts, "silver.accounts", keys=["account_id"])


@pytest.mark.parametrize(
    ("updated_at", "deleted", "fits"),
    [(datetime(2026, 1, 1, tzinfo=UTC), False, True), (None, True, True), (None, False, False)],
    ids=["a row", "a tombstone", "a row without what the source requires"],
)
def test_a_live_row_of_snapshots_has_what_the_source_requires(
    updated_at: datetime | None, deleted: bool, fits: bool
) -> None:
    types = {name: column.dtype.type for name, column in MODEL.to_schema().columns.items()}
    row = dict.fromkeys(types) | {"account_id": "A", "updated_at": updated_at}
    frame = pl.DataFrame([row | {"_deleted": deleted, "_changed_date": date(2026, 1, 1)}], schema=types)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("rows_", frame.to_arrow())
        assert validate_rows(con, "SELECT * FROM rows_", MODEL).passed == fits
