"""The whole way from files to gold, killed with SIGKILL before and after each of its commits in turn."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest
from killing import worker

from pipeline_assets.demo import shop
from pipeline_assets.lake import Lake, Table
from pipeline_assets.settings import Settings

KILLS = 16  # dead letters twice, bronze, its audit, silver, three of gold: before and after each

WORKER = """
import os, sys
from datetime import date
from pathlib import Path
from deltalake import DeltaTable
from deltalake.table import TableAlterer
from killing import fork_for_each_line, kill_between
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.batch.audit import audit
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake import Lake
from pipeline_assets.settings import load_settings
from warm_dbt import warm_dbt

dbt = warm_dbt(Path(sys.argv[1]))
source = landing.LandingSource(
    "shop__invoice_lines", PathPattern.parse("shop/invoice_lines/{date}/*"), contract("shop.InvoiceLines")
)
first, last = date(2010, 12, 1), date(2010, 12, 20)


def run(kill_at, lake_uri):
    os.environ["PIPELINE_LAKE_URI"] = lake_uri
    load_settings.cache_clear()
    kill_between(kill_at, (DeltaTable, "create_write_transaction"), (TableAlterer, "set_table_properties"))
    lake = Lake(lake_uri)
    with lake.connect() as con:
        landing.ingest(lake, con, source, Path(load_settings().landing_uri), first, last, settle_seconds=0)
        audit(con, source.table(lake), source.model, failure_budget=0.01, days=(first, last))
    ran = dbt("run", "--select", "invoice_lines+")
    assert ran.success, ran.exception


fork_for_each_line(run)
"""


def content_of(lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    with lake.connect() as con:
        return {
            name: con.execute(f"SELECT * FROM {Table(lake, name).scan()} ORDER BY ALL").fetchall()
            for name in lake.table_names()
        }


@pytest.mark.slow
def test_a_pipeline_killed_at_every_commit_ends_like_one_that_never_was(settings: Settings, tmp_path: Path) -> None:
    landing_root, fresh = Path(settings.landing_uri), f"{settings.state_dir}/fresh"
    days = shop.trading_days(shop.DEMO_PARQUET)[:KILLS]
    killed = 0
    with worker(WORKER, tmp_path / "dbt") as run:
        for kill_at, day in enumerate(days):
            shop.land_days(shop.DEMO_PARQUET, landing_root, days=[day])
            if kill_at == KILLS // 2:
                shop.land_correction(shop.DEMO_PARQUET, landing_root, days[3])
                shop.land_broken_file(shop.DEMO_PARQUET, landing_root, days[-1] + timedelta(days=3))
            killed += run(kill_at, settings.lake_uri) == -signal.SIGKILL
        assert killed >= KILLS - 4  # the last commits of a run that has little to do may not be reached
        assert [run(99, settings.lake_uri), run(99, fresh)] == [0, 0]
    found, expected = content_of(Lake(settings.lake_uri)), content_of(Lake(fresh))
    assert found.keys() == expected.keys()
    assert found["gold.daily_sales"]
    assert len(found) >= 6
    for name in expected:
        assert found[name] == expected[name], name
