"""Records of 1,500 fields, or nested 2,000 levels deep, land within the memory limit of 1 GB."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pandera.polars as pa
import polars as pl
import pyarrow
import pytest
from pyarrow import parquet

from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource, Report
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake

DAY = date(2026, 1, 5)


class Events(pa.DataFrameModel):
    """An event."""

    id: pl.Int64
    what: pl.String = pa.Field(nullable=True)


class World:
    """A landing folder and its lake."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lake = folder / "landing" / "events" / DAY.isoformat(), Lake(str(folder / "lake"))
        self.folder.mkdir(parents=True)
        self.source = LandingSource("shop__events", PathPattern.parse("events/{date}/*"), Events)
        self.con = self.lake.connect(memory_limit="1GB")

    def ingest(self) -> Report:
        root = self.folder.parents[1]
        return landing.ingest(self.lake, self.con, self.source, root, DAY, DAY, settle_seconds=0)

    def rescued(self) -> list[dict[str, object]]:
        rows = self.con.execute(f"SELECT _rescued FROM {self.source.table(self.lake).scan()} ORDER BY id").fetchall()
        return [json.loads(text) if text else {} for (text,) in rows]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.con.close()


def test_parquet_of_1598_columns_lands(world: World) -> None:
    columns = {"id": list(range(300))} | {f"extra_{n}": [f"value {n}"] * 300 for n in range(1_597)}
    parquet.write_table(pyarrow.table(columns), world.folder / "wide.parquet")
    assert world.ingest().total.rows == 300
    assert len(world.rescued()[-1]) == 1_597


def test_json_lines_of_1500_keys_land(world: World) -> None:
    records = [{"id": row} | {f"extra_{n}": f"value {n}" for n in range(1_500)} for row in range(100)]
    (world.folder / "wide.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert world.ingest().total.rows == 100
    assert len(world.rescued()[-1]) == 1_500


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_record_of_2000_levels_costs_itself_at_most(world: World, name: str) -> None:
    deep = '{"id": 2, "what": ' + '{"a":' * 2_000 + "1" + "}" * 2_000 + "}"
    (world.folder / name).write_text(f'{{"id": 1}}\n{deep}\n{{"id": 3}}\n')
    total = world.ingest().total
    assert (total.rows + total.dead_letters, total.rows >= 2) == (3, True)
