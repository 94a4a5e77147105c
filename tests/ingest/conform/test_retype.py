"""A contract whose types change: the table follows where no value can be lost, else a command is named that helps."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from pulled import at, listed

from pipeline_assets.contracts.base import Model, raw_shape
from pipeline_assets.ingest.batch.bronze_table import schema_of
from pipeline_assets.ingest.batch.rows import RowBatch, RowPlan, RowSource
from pipeline_assets.ingest.conform import retype
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import (
    DataFile,
    Lake,
    LakeError,
    SchemaMismatchError,
    Table,
    TypesMovedError,
    query_schema,
)

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


def in_between(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Does something once, after the files of the next run are written and before they are committed."""
    real = landing.compact

    def compact(*arguments: Any) -> list[DataFile]:
        monkeypatch.setattr(landing, "compact", real)
        act()
        return real(*arguments)

    monkeypatch.setattr(landing, "compact", compact)


def test_files_written_for_the_old_types_are_read_again_for_the_new_ones(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(tmp_path, DAYS[0], "id,n\n1,7\n")
    table = ingest(lake, tmp_path, model(), evolve=True).table(lake)
    land(tmp_path, DAYS[1], "id,n\n2,8\n3,x\n")

    def retyped() -> None:
        with lake.connect() as con:
            retype.carry_out(con, table, retype.plan(con, table, {"n": "BIGINT"}))

    in_between(monkeypatch, retyped)
    ingest(lake, tmp_path, model(), evolve=True)
    with lake.connect() as con:
        rows = con.execute(f"SELECT id, n, _rescued FROM {table.scan()} ORDER BY id").fetchall()
    assert rows == [(1, 7, None), (2, 8, None), (3, None, '{"n":"x"}')]
    written = {str(path) for path in Path(table.uri).rglob("_partition_date=2026-01-06/*.parquet")}
    assert written <= set(table.open().file_uris()), "what was written for the old types is gone"


def test_two_runs_that_add_a_column_with_different_types_agree_on_one(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(tmp_path, DAYS[0], "id\n1\n")
    table = ingest(lake, tmp_path, model(), evolve=True).table(lake)
    (tmp_path / f"in/{DAYS[1]}").mkdir()
    pl.DataFrame({"id": [2], "n": [8]}).write_parquet(tmp_path / f"in/{DAYS[1]}/a.parquet")
    with lake.connect() as con:
        in_between(monkeypatch, lambda: table.create(query_schema(con, "SELECT 'x' AS n")))
        ingest(lake, tmp_path, model(), evolve=True)
        rows = con.execute(f"SELECT id, n FROM {table.scan()} ORDER BY id").fetchall()
    assert rows == [(1, None), (2, "8")]
    (written,) = (tmp_path / "lake/bronze").rglob("_partition_date=2026-01-06/*.parquet")
    assert pl.read_parquet_schema(written)["n"] == pl.String, "Spark would not read another type than the table's"


def test_a_run_of_the_former_contract_adds_nothing_to_a_table_that_was_widened(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(tmp_path, DAYS[0], "id,n\n1,7\n")
    table = ingest(lake, tmp_path, model(n=pl.Int32)).table(lake)
    land(tmp_path, DAYS[1], "id,n\n2,8\n")
    with lake.connect() as con:
        in_between(monkeypatch, lambda: table.widen(con, schema_of(con, raw_shape(model(n=pl.Int64)).columns)))
        with pytest.raises(SchemaMismatchError, match="column n is INTEGER in the contract, BIGINT in the table"):
            ingest(lake, tmp_path, model(n=pl.Int32))
        assert con.execute(f"SELECT n FROM {table.scan()}").fetchall() == [(7,)]
    ingest(lake, tmp_path, model(n=pl.Int64))
    with lake.connect() as con:
        assert con.execute(f"SELECT n FROM {table.scan()} ORDER BY n").fetchall() == [(7,), (8,)]


def test_a_pull_written_for_the_old_types_is_not_committed(lake: Lake) -> None:
    plan = RowPlan(
        name="full", start="1", end="2", partition_date=DAYS[0], extracted_at=at("2026-01-05T12:00:00"),
        expect={"x": None}, positions={"x": 1},
    )  # fmt: skip
    source = RowSource("t__pulled", model(n=pl.Int32), ("id",))
    with lake.connect() as con, RowBatch(lake, con, source, plan) as pull:
        pull.add(listed((1, 7), names="id n"), origin="public.t", counted=lambda: 1)
        pull.bronze.widen(con, schema_of(con, raw_shape(model(n=pl.Int64)).columns))
        with pytest.raises(TypesMovedError, match="column n was integer, the table has long"):
            pull.commit()
        assert pull.bronze.position("x") is None


@pytest.mark.parametrize("evolve", [True, False])
def test_a_value_that_came_after_the_plan_and_does_not_fit_is_kept_or_nothing_is_done(lake: Lake, evolve: bool) -> None:
    kept = ", NULL::VARCHAR AS _rescued" if evolve else ""
    table = Table(lake, "bronze.t__things")
    with lake.connect() as con:
        table.create(query_schema(con, f"SELECT 1 AS id, 'x' AS n{kept}"))
        table.append(con, f"SELECT 1 AS id, '7' AS n{kept}", batch_id="a")
        planned = retype.plan(con, table, {"n": "BIGINT"})
        table.append(con, f"SELECT 2 AS id, 'many' AS n{kept}", batch_id="b")
        if evolve:
            retype.carry_out(con, table, planned)
            rows = con.execute(f"FROM {table.scan()} ORDER BY id").fetchall()
            assert rows == [(1, 7, None), (2, None, '{"n":"many"}')]
        else:
            with pytest.raises(LakeError, match=r"bronze\.t__things: 'many' in n does not fit, .* nothing was done"):
                retype.carry_out(con, table, planned)
            assert con.execute(f"SELECT n FROM {table.scan()} ORDER BY id").fetchall() == [("7",), ("many",)]
            files = {path.name for path in Path(table.uri).glob("*.parquet")}
            assert files == {Path(uri).name for uri in table.open().file_uris()}
