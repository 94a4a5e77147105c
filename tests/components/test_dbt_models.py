"""The dbt models through Dagster, on two real days of the shop: rows, lineage, late days, withheld days."""

import gzip
import os
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from pipeline_assets.components.assets.lean_dbt import is_stale
from pipeline_assets.definitions import defs
from pipeline_assets.demo import shop
from pipeline_assets.lake import Lake, Table
from pipeline_assets.partitions import range_tags
from pipeline_assets.settings import Settings

BROKEN = ("invoice_lines_broken.csv", "invoice_lines_cut.csv.gz")
DAYS = shop.trading_days(shop.DEMO_PARQUET)[:4]


class Location:
    """The code location's way from files to gold, with a lake and an instance of its own."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.lake = Lake(settings.lake_uri)
        self.job = defs().get_repository_def().get_job("shop__invoice_lines__to_gold")

    def run(self, first: date, last: date) -> dg.ExecuteInProcessResult:
        return self.job.execute_in_process(instance=self.instance, tags=range_tags(first, last), raise_on_error=False)

    def one(self, sql: str) -> object:
        with self.lake.connect() as con:
            for name in self.lake.table_names():
                sql = sql.replace(name, Table(self.lake, name).scan())
            row = con.execute(sql).fetchone()
        return row[0] if row else None


@pytest.fixture
def location(settings: Settings, instance: dg.DagsterInstance) -> Location:
    return Location(settings, instance)


@pytest.mark.slow
def test_silver_and_gold_follow_bronze_with_their_facts(location: Location) -> None:
    root = Path(location.settings.landing_uri)
    shop.land_days(shop.DEMO_PARQUET, root, days=DAYS)
    assert location.run(DAYS[0], DAYS[-1]).success
    revenue = location.one("SELECT sum(line_amount_gbp) FROM silver.invoice_lines WHERE is_sale")
    assert location.one("SELECT sum(total_revenue) FROM gold.daily_sales") == revenue

    # a correction of the last day that also brings late lines of two trading days before
    shop.land_correction(shop.DEMO_PARQUET, root, DAYS[-1])
    result = location.run(DAYS[-1], DAYS[-1])
    assert result.success
    silver = next(
        event.step_materialization_data.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(["silver", "invoice_lines"])
    )
    assert silver["touched_dates"].value == [DAYS[1].isoformat(), DAYS[-1].isoformat()]
    lineage = silver["dagster/column_lineage"].value.deps_by_column
    bronze = dg.AssetKey(["bronze", "shop__invoice_lines"])
    assert {(dep.asset_key, dep.column_name) for dep in lineage["line_amount_gbp"]} == {
        (bronze, "quantity"),
        (bronze, "unit_price"),
    }
    late = f"SELECT count(*) FROM silver.invoice_lines WHERE invoice_no = '{shop.LATE_INVOICE}'"
    assert location.one(f"{late} AND invoice_date = DATE '{DAYS[1]}'") == shop.CORRECTION_LATE_LINES
    gold = "SELECT sum(total_revenue) FROM gold.daily_sales"
    assert location.one(gold) == location.one("SELECT sum(line_amount_gbp) FROM silver.invoice_lines WHERE is_sale")


@pytest.mark.slow
def test_a_day_that_failed_stays_out_of_silver_in_later_runs_too(location: Location) -> None:
    root = Path(location.settings.landing_uri)
    bad = DAYS[-1] + timedelta(days=30)
    shop.land_broken_file(shop.DEMO_PARQUET, root, bad)
    failed = location.run(bad, bad)
    assert not failed.success
    assert not [e for e in failed.get_asset_materialization_events() if e.asset_key and e.asset_key.path[0] == "silver"]
    shop.land_days(shop.DEMO_PARQUET, root, days=DAYS[:1])
    assert location.run(DAYS[0], DAYS[0]).success
    broken = f"SELECT count(*) FROM silver.invoice_lines WHERE invoice_no = '{shop.BROKEN_INVOICE}'"
    assert location.one(broken) == 0
    broken_csv, cut = (root / shop.FOLDER / bad.isoformat() / name for name in BROKEN)
    lines = broken_csv.read_bytes().splitlines(keepends=True)
    broken_csv.write_bytes(b"".join(lines[:2]))  # both are delivered again: one good line, and no line at all
    cut.write_bytes(gzip.compress(lines[0]))
    for path in (broken_csv, cut):
        os.utime(path, (1.31e9, 1.31e9))
    assert location.run(bad, bad).success
    assert location.one(broken) == 1


def test_the_dbt_project_is_parsed_again_when_a_file_came_changed_or_went(tmp_path: Path) -> None:
    project, manifest = tmp_path / "project", tmp_path / "project" / "target" / "manifest.json"
    model = project / "models" / "gold" / "sales.sql"
    model.parent.mkdir(parents=True)
    model.write_text("select 1")
    (project / "dbt_project.yml").touch()

    def becomes_stale() -> bool:
        """Whether it is, as of the last call of this."""
        found = is_stale(manifest, project)
        for path in (project, *project.rglob("*")):
            os.utime(path, (1000, 1000))
        manifest.parent.mkdir(exist_ok=True)
        manifest.touch()
        os.utime(manifest, (1001, 1001))
        return found

    assert becomes_stale()
    (project / "target" / "run_results.json").touch()
    assert not becomes_stale()
    model.write_text("select 2")
    assert becomes_stale()
    (model.parent / "orders.yml").touch()
    assert becomes_stale()
    model.unlink()
    assert becomes_stale()
    (project / "dbt_project.yml").write_text("name: other")
    assert becomes_stale()
    assert not becomes_stale()
