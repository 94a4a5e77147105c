"""Landed change records of a small shop: lines as Debezium writes them, and a lake that takes them."""

import json
import os
import time
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.cdc.files import ingest as files
from pipeline_assets.ingest.cdc.files.accounting import FileAccount, account
from pipeline_assets.ingest.cdc.files.plan import FileSource
from pipeline_assets.ingest.cdc.formats.parse import Format
from pipeline_assets.ingest.cdc.table import replay
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.ingest.dead_letters.select import Selection
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake, Table

CUSTOMERS = ChangeTable("public.customers", "crm__customers", contract("shop_db.Customers"), ("customer_id",))
PRODUCTS = ChangeTable("public.products", "crm__products", contract("shop_db.Products"), ("stock_code",))
AT = "2026-01-02T03:04:05Z"
TS_MS = 1767323045000  # 2026-01-02T03:04:05Z
DAY = date(2026, 1, 2)


def product(code: str, lsn: int, price: object = "1.500", op: str = "c", **changes: Any) -> dict[str, Any]:
    """A change of a product."""
    row = {"stock_code": code, "description": f"d {code}", "unit_price": price, "updated_at": AT}
    return _record("products", op, lsn, row) | changes


def customer(number: int, lsn: int, name: str = "Ann", op: str = "c", **changes: Any) -> dict[str, Any]:
    """A change of a customer."""
    row = {
        "customer_id": number, "name": name, "email": None, "phone": None, "country": "France", "created_at": AT,
        "updated_at": AT,
    }  # fmt: skip
    return _record("customers", op, lsn, row) | changes


def unlisted(lsn: int) -> dict[str, Any]:
    """A change of a table that is not declared."""
    return _record("orders", "c", lsn, {"order_id": "o1"})


def _record(table: str, op: str, lsn: int, row: dict[str, Any]) -> dict[str, Any]:
    source = {
        "connector": "postgresql", "schema": "public", "table": table, "lsn": lsn, "txId": lsn, "ts_ms": TS_MS,
        "sequence": json.dumps([str(lsn - 8), str(lsn)]),
    }  # fmt: skip
    before, after = (row, None) if op == "d" else (None, row)
    return {"op": op, "before": before, "after": after, "source": source}


HEARTBEAT = {"ts_ms": TS_MS}


class Shop:
    """A landing folder, a source and a lake."""

    def __init__(
        self, folder: Path, *tables: ChangeTable, record_format: Format = "debezium", path: str = "crm/{date}/*"
    ) -> None:
        self.root, self.lake = folder / "landing", Lake(str(folder / "lake"))
        self.source = FileSource("crm", PathPattern.parse(path), record_format, tables or (CUSTOMERS, PRODUCTS))

    @cached_property
    def con(self) -> duckdb.DuckDBPyConnection:
        """One connection for all: a new one costs half a second."""
        return self.lake.connect()

    def land(self, name: str, *records: object, age: float = 3600) -> Path:
        """Writes a file: one record a line; bytes and text stay as they are."""
        lines = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in records]
        return self.land_bytes(name, b"".join(line + b"\n" for line in lines), age=age)

    def land_bytes(self, name: str, data: bytes, *, age: float = 3600) -> Path:
        """Writes a file."""
        path = self.root / "crm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    def ingest(self, first: date = date(2026, 1, 1), last: date = date(2026, 1, 31), run_id: str = "") -> files.Report:
        """Runs the ingestion."""
        return files.ingest(self.lake, self.con, self.source, self.root, first, last, settle_seconds=5, run_id=run_id)

    def replay(self, selection: Selection | None = None, run_id: str = "") -> replay.Report:
        """Runs a replay."""
        return replay.replay(
            self.lake, self.con, "crm", self.source.tables, record_format=self.source.format, selection=selection,
            run_id=run_id,
        )  # fmt: skip

    def account(self) -> FileAccount:
        """The account of the last run that read files."""
        return account(self.con, self.lake, self.source)

    def rows(self, name: str = "crm__products", columns: str = "op, key, commit_lsn") -> list[tuple[Any, ...]]:
        """Rows of a bronze table in order."""
        return self._stored(f"bronze.{name}", columns)

    def letters(self, name: str = "crm__unrouted", columns: str = "reason") -> list[tuple[Any, ...]]:
        """Dead letters."""
        return self._stored(f"dead_letters.{name}", columns)

    def _stored(self, name: str, columns: str) -> list[tuple[Any, ...]]:
        table = Table(self.lake, name)
        return (
            self.con.execute(f"SELECT {columns} FROM {table.scan()} ORDER BY ALL").fetchall() if table.exists() else []
        )
