"""A bank whose payments are pulled, from a database of any kind into a lake of its own."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
from postgres import execute
from pulled import Payments

from pipeline_assets.contracts.base import Model
from pipeline_assets.ingest.batch.audit import Findings, audit
from pipeline_assets.ingest.batch.counts import Report
from pipeline_assets.ingest.batch.watermark import Watermark
from pipeline_assets.ingest.database import pulls
from pipeline_assets.ingest.database.pulls import DatabaseSource, connect
from pipeline_assets.lake import Lake, Table

TABLE = "CREATE TABLE payments (payment_id INTEGER PRIMARY KEY, amount TEXT, note TEXT, updated_at {time})"


class Bank:
    """Pulls from a database into a lake of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.lake = Lake(str(folder / "lake"))
        self.con = self.lake.connect(threads=2)
        self.bronze = Table(self.lake, "bronze.bank__payments")
        self.letters = Table(self.lake, "dead_letters.bank__payments")

    def source(self, model: Model = Payments, **options: Any) -> DatabaseSource:
        watermark = options.pop("watermark", "updated_at" if options.get("mode", "full") != "full" else None)
        return DatabaseSource(
            "bank__payments", model, options.pop("keys", ("payment_id",)), source_table=options.pop("table", None),
            watermark=Watermark.of(model, watermark) if watermark else None, **options,
        )  # fmt: skip

    def pull(
        self, source: DatabaseSource | None = None, first: str = "2026-01-05", last: str | None = None, **options: Any
    ) -> Report:
        found = source or self.source(**{"table": "payments", **options})
        days = date.fromisoformat(first), date.fromisoformat(last or first)
        return pulls.pull(self.lake, self.con, found, connect(self.url), *days)

    def rows(self, columns: str = "payment_id, amount::VARCHAR, note", where: str = "true") -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM {self.bronze.scan()} WHERE {where} ORDER BY ALL"
        return self.con.execute(query).fetchall()

    def ids(self) -> list[int]:
        return [number for (number,) in self.rows("payment_id")]

    def dead(self, columns: str = "reason") -> list[Any]:
        found = self.con.execute(f"SELECT {columns} FROM {self.letters.scan()} ORDER BY ALL").fetchall()
        return [row[0] if len(row) == 1 else row for row in found]

    def audit(self, model: Model = Payments) -> Findings:
        return audit(self.con, self.bronze, model, failure_budget=1, days=None)

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Runs statements at the source, each a transaction."""
        if self.url.startswith("postgresql"):
            return execute(self.url, *statements)
        path = self.url.partition(":///")[2].partition("?")[0]
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            if self.url.startswith("duckdb"):
                with duckdb.connect(path) as connection:
                    rows = connection.execute(statement).fetchall()
            else:
                with closing(sqlite3.connect(path)) as connection, connection:
                    rows = connection.execute(statement).fetchall()
        return rows


def paid(number: int, updated: str | None = "2026-01-05 10:00:00+00", amount: str = "1.50", note: str = "a") -> str:
    stamp = "NULL" if updated is None else f"'{updated}'"
    return f"INSERT INTO payments VALUES ({number}, '{amount}', '{note}', {stamp})"


@pytest.fixture
def postgres_bank(database: str, tmp_path: Path) -> Iterator[Bank]:
    """A bank in PostgreSQL, its table still empty."""
    found = Bank(tmp_path, database)
    found.execute(TABLE.format(time="timestamptz"))
    yield found
    found.con.close()
