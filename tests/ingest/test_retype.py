"""A contract whose types change: the table follows where no value can be lost, else a command is named that helps."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest

from pipeline_assets.contracts.base import Model
from pipeline_assets.ingest import landing, retype
from pipeline_assets.ingest.landing import LandingSource
from pipeline_assets.ingest.path_pattern import PathPattern
from pipeline_assets.lake import Lake, SchemaMismatchError

DAYS = date(2026, 1, 5), date(2026, 1, 6)


def model(**columns: Any) -> Model:
    """A contract of `id` and further nullable columns."""
    fields = {name: pa.Field(nullable=name != "id") for name in ("id", *columns)}
    return type("Things", (pa.DataFrameModel,), {"__annotations__": {"id": pl.Int64, **columns}, **fields})


def ingest(lake: Lake, folder: Path, contract: Model, *, evolve: bool = False) -> LandingSource:
    source = LandingSource("t__things", PathPattern.parse("in/{date}/*"), contract, schema_evolution=evolve)
    with lake.connect() as con:
        landing.ingest(lake, con, source, folder, *DAYS, settle_seconds=0)
    return source


def land(folder: Path, day: date, text: str) -> None:
    path = folder / f"in/{day}/a.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.mark.parametrize(
    ("stored", "wanted", "first", "second", "values"),
    [
        (pl.Int32, pl.Int64, "7", "5000000000", [7, 5000000000]),
        (pl.Int8, pl.Int32, "7", "70000", [7, 70000]),
        (pl.Decimal(10, 2), pl.Decimal(18, 2), "7.25", "9999999999.25", [Decimal("7.25"), Decimal("9999999999.25")]),
        (pl.Float32, pl.Float64, "0.5", "0.1", [0.5, 0.1]),
        (pl.Date, pl.Datetime("us"), "2026-01-05", "2026-01-06 01:02", ["2026-01-05 00:00:00", "2026-01-06 01:02:00"]),
    ],
    ids=["integers", "small integers", "decimals", "floats", "dates"],
)  # fmt: skip
def test_a_wider_type_of_the_contract_is_the_tables_type_at_the_next_run(
    lake: Lake, tmp_path: Path, stored: Any, wanted: Any, first: str, second: str, values: list[Any]
) -> None:
    land(tmp_path, DAYS[0], f"id,n\n1,{first}\n")
    ingest(lake, tmp_path, model(n=stored))
    land(tmp_path, DAYS[1], f"id,n\n2,{second}\n")
    source = ingest(lake, tmp_path, model(n=wanted))
    with lake.connect() as con:
        rows = con.execute(f"SELECT n FROM {source.table(lake).scan()} ORDER BY id").fetchall()
        letters = Path(lake.uri, "dead_letters").exists() and list(Path(lake.uri, "dead_letters").rglob("*.parquet"))
    assert [str(value) for (value,) in rows] == list(map(str, values))
    assert not letters
    version = source.table(lake).open().version()
    ingest(lake, tmp_path, model(n=wanted))
    assert source.table(lake).open().version() == version


@pytest.mark.parametrize("wanted", [pl.Int64, pl.Date], ids=["whole numbers", "dates"])
def test_a_contract_takes_over_a_column_that_evolution_added(lake: Lake, tmp_path: Path, wanted: Any) -> None:
    land(tmp_path, DAYS[0], "id,n\n1,7\n2,2026-01-05\n3,\n")
    source = ingest(lake, tmp_path, model(), evolve=True)
    land(tmp_path, DAYS[1], "id,n\n4,8\n5,2026-01-06\n6,\n")
    with pytest.raises(SchemaMismatchError, match=r"pipeline tables retype bronze\.t__things n=(BIGINT|DATE)"):
        ingest(lake, tmp_path, model(n=wanted), evolve=True)
    with lake.connect() as con:
        (column,) = retype.plan(con, source.table(lake), {"n": "BIGINT" if wanted is pl.Int64 else "DATE"})
        assert (column.fits, column.misfits) == (1, 1)
        retype.carry_out(con, source.table(lake), [column])
    ingest(lake, tmp_path, model(n=wanted), evolve=True)
    with lake.connect() as con:
        rows = con.execute(f"SELECT id, n::VARCHAR, _rescued FROM {source.table(lake).scan()} ORDER BY id").fetchall()
        stored = {(key, value) for key, value, _ in rows if value}
    good = {(1, "7"), (4, "8")} if wanted is pl.Int64 else {(2, "2026-01-05"), (5, "2026-01-06")}
    assert stored == good
    assert '"n":"' in str(rows[0 if wanted is pl.Date else 1][2])


def test_a_narrower_type_names_the_command(lake: Lake, tmp_path: Path) -> None:
    land(tmp_path, DAYS[0], "id,n,m\n1,7,x\n")
    source = ingest(lake, tmp_path, model(n=pl.Int64, m=str))
    with pytest.raises(SchemaMismatchError, match="column n is INTEGER in the contract, BIGINT in the table"):
        ingest(lake, tmp_path, model(n=pl.Int32, m=str))
    assert source.table(lake).open().version() == 1
