"""Contracts of silver tables that are derived from the contract of the source's row."""

from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pandera.polars as pa
import polars as pl
import pytest

from pipeline_assets.contracts.changes import history, snapshot_state, state
from pipeline_assets.contracts.models import crm
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


def test_a_source_s_column_stands_beside_one_of_the_table_s_own() -> None:
    names = ["id", "op", "ts", "commit_lsn", "tx_seq", "deleted", "unavailable", "bucket", "lasts", "Config", "_id"]
    columns = {f"c{at}": pa.Field(alias=name, nullable=True) for at, name in enumerate(names)}
    types = dict.fromkeys(columns, pl.String)
    model: Any = type("Row", (pa.DataFrameModel,), {"__annotations__": types, **columns})
    for derive, own in ((state, "_commit_lsn"), (history, "valid_from"), (snapshot_state, "_changed_date")):
        found = list(derive(model, "silver.t", ["id"]).to_schema().columns)
        assert found[: len(names)] == names
        assert own in found
