"""A lake that polls the CRM of `crm_api`, and the declarations for it."""

from pathlib import Path
from typing import Annotated, Any

import duckdb
import pandera.polars as pa
import polars as pl
from crm_api import Api

from pipeline_assets.ingest.rest.poll import Report, poll
from pipeline_assets.ingest.rest.source import (
    Bearer,
    Cursor,
    Incremental,
    LinkHeader,
    NextUrl,
    Offset,
    PageNumber,
    Pagination,
    RestSource,
)
from pipeline_assets.lake import Lake, Table

PAGING: dict[str, Pagination | None] = {
    "single": None,
    "page": PageNumber(type="page"),
    "offset": Offset(type="offset"),
    "cursor": Cursor(type="cursor", path="meta.next"),
    "next_url": NextUrl(type="next_url", path="meta.next"),
    "link_header": LinkHeader(type="link_header"),
}
UPDATED = Incremental(param="updated_since", field="updated_at")
TOKEN = "bearer-0123456789"


class Accounts(pa.DataFrameModel):
    """An account of the CRM."""

    account_id: int = pa.Field()
    name: str = pa.Field(nullable=True)
    revenue: Annotated[pl.Decimal, 38, 10] = pa.Field(nullable=True)
    updated_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)


class Crm:
    """The lake, and polls into it."""

    def __init__(self, folder: Path, con: duckdb.DuckDBPyConnection, waits: list[float]) -> None:
        self.lake = Lake(str(folder / "lake"))
        self.con = con
        self.bronze = Table(self.lake, "bronze.crm__accounts")
        self.letters = Table(self.lake, "dead_letters.crm__accounts")
        self.waits = waits

    def source(self, api: Api, **options: Any) -> RestSource:
        given: dict[str, Any] = {
            "base_url": api.url, "path": "accounts", "pagination": PAGING[api.paging], "records": "data.items",
            "auth": Bearer(type="bearer", token_env="CRM_TOKEN"), "requests_per_second": 1e6, "timeout_seconds": 5.0,
            **options,
        }  # fmt: skip
        return RestSource(name="crm__accounts", model=Accounts, keys=("account_id",), **given)

    def poll(self, api: Api, *, whole: bool = False, **options: Any) -> Report:
        return poll(self.lake, self.con, self.source(api, **options), whole=whole)

    def rows(self, columns: str = "account_id") -> list[Any]:
        if not self.bronze.exists():
            return []
        found = self.con.execute(f"SELECT {columns} FROM {self.bronze.scan()} ORDER BY ALL").fetchall()
        return [row[0] for row in found] if "," not in columns else found

    def batches(self) -> list[str]:
        return sorted(set(self.rows("_batch_id")))

    def dead(self, columns: str = "_source.line, reason, raw") -> list[Any]:
        return self.con.execute(f"SELECT {columns} FROM {self.letters.scan()} ORDER BY ALL").fetchall()
