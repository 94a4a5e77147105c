"""Landed files whose dead letters fit once the contract is mended, and the lake that they land in."""

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl

from pipeline_assets.contracts.base import Model
from pipeline_assets.ingest.batch import replay as replays
from pipeline_assets.ingest.batch.audit import Findings, audit
from pipeline_assets.ingest.batch.replay import Replayed
from pipeline_assets.ingest.dead_letters.select import Selection
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.replay import row_source
from pipeline_assets.lake import Lake, Table
from pipeline_assets.lake.dead_letters import dead_letter_table, waiting

DAY, NEXT = date(2026, 1, 5), date(2026, 1, 6)


class Strict(pa.DataFrameModel):
    """Each record needs a note."""

    id: int = pa.Field()
    note: str = pa.Field()
    amount: Annotated[pl.Decimal, 18, 2] = pa.Field(nullable=True)
    at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)
    day: pl.Date = pa.Field(nullable=True)
    ratio: float = pa.Field(nullable=True)
    tags: pl.List(pl.String) = pa.Field(nullable=True)  # type: ignore[valid-type]
    data: pl.Binary = pa.Field(nullable=True)

    class Config:
        """Not of the registry."""

        name = "test.strict"


class Mended(Strict):
    """It does not."""

    note: str = pa.Field(nullable=True)


class World:
    """A landing folder and its lake; what lies in the folder is older than the settling time."""

    def __init__(self, folder: Path, lake: str = "lake", model: Model = Strict, **options: Any) -> None:
        self.root, self.lake = folder / "landing", Lake(str(folder / lake))
        self.source = LandingSource("t__records", PathPattern.parse("in/{date}/*"), model, **options)
        self.con = self.lake.connect(threads=1)
        self.bronze = Table(self.lake, "bronze.t__records")
        self.letters = dead_letter_table(self.lake, "bronze.t__records")

    def land(self, name: str, content: str | bytes) -> Path:
        path = self.root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(path, (1.3e9, 1.3e9 + len(content)))
        return path

    def ingest(self) -> None:
        landing.ingest(self.lake, self.con, self.source, self.root, DAY, NEXT, settle_seconds=5)

    def under(self, model: Model, **options: Any) -> "World":
        """The same folder and lake under another declaration."""
        return World(self.root.parent, Path(self.lake.uri).name, model, **options)

    def replay(self, selection: Selection | None = None) -> Replayed:
        return replays.replay(self.lake, self.con, row_source(self.source), selection, run_id="r")

    def audit(self, budget: float = 0) -> Findings:
        return audit(self.con, self.bronze, self.source.model, failure_budget=budget, days=(NEXT, NEXT))

    def rows(self, columns: str = "*") -> list[str]:
        found = self.con.execute(f"SELECT {columns} FROM {self.bronze.scan()} ORDER BY _source.file, _source.line")
        return [repr(row) for row in found.fetchall()]

    def waiting(self, columns: str = "_source.line, reason") -> list[Any]:
        return self.con.execute(f"SELECT {columns} FROM {waiting(self.letters)} ORDER BY ALL").fetchall()
