"""The whole way from files to gold, killed with SIGKILL before and after each of its commits in turn."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline_assets.demo import shop
from pipeline_assets.lake import Lake, Table
from pipeline_assets.settings import Settings

SUPPORT = str(Path(__file__).parent.parent / "support")
KILLS = 16  # dead letters twice, bronze, its audit, silver, three of gold: before and after each

WORKER = """
import sys
from datetime import date
from pathlib import Path
from dbt.cli.main import dbtRunner
from deltalake import DeltaTable
from deltalake.table import TableAlterer
from killing import kill_between
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest import landing
from pipeline_assets.ingest.audit import audit
from pipeline_assets.ingest.path_pattern import PathPattern
from pipeline_assets.lake import Lake
from pipeline_assets.settings import load_settings, project_root

kill_at, target = int(sys.argv[1]), sys.argv[2]
kill_between(kill_at, (DeltaTable, "create_write_transaction"), (TableAlterer, "set_table_properties"))
settings = load_settings()
source = landing.LandingSource(
    "shop__invoice_lines", PathPattern.parse("shop/invoice_lines/{date}/*"), contract("shop.InvoiceLines")
)
lake = Lake(settings.lake_uri)
first, last = date(2010, 12, 1), date(2010, 12, 20)
with lake.connect() as con:
    landing.ingest(lake, con, source, Path(settings.landing_uri), first, last, settle_seconds=0)
    audit(con, source.table(lake), source.model, failure_budget=0.01, days=(first, last))
folder = str(project_root() / "dbt_project")
ran = dbtRunner().invoke(
    ["--quiet", "run", "--project-dir", folder, "--profiles-dir", folder, "--target-path", target]
)
sys.exit(0 if ran.success else 1)
"""


def run(kill_at: int, target: Path, lake_uri: str) -> int:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKER, str(kill_at), str(target)],
        env={**os.environ, "PYTHONPATH": SUPPORT, "PIPELINE_LAKE_URI": lake_uri},
        check=False,
    ).returncode


def content_of(lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    with lake.connect() as con:
        return {
            name: con.execute(f"SELECT * FROM {Table(lake, name).scan()} ORDER BY ALL").fetchall()
            for name in lake.table_names()
        }


@pytest.mark.slow
def test_a_pipeline_killed_at_every_commit_ends_like_one_that_never_was(settings: Settings, tmp_path: Path) -> None:
    landing_root, target = Path(settings.landing_uri), tmp_path / "target"
    days = shop.trading_days(shop.DEMO_PARQUET)[:KILLS]
    killed = 0
    for kill_at, day in enumerate(days):
        shop.land_days(shop.DEMO_PARQUET, landing_root, days=[day])
        if kill_at == KILLS // 2:
            shop.land_correction(shop.DEMO_PARQUET, landing_root, days[3])
            shop.land_broken_file(shop.DEMO_PARQUET, landing_root, days[-1] + timedelta(days=3))
        killed += run(kill_at, target, settings.lake_uri) == -signal.SIGKILL
    assert killed >= KILLS - 4  # the last commits of a run that has little to do may not be reached
    assert run(99, target, settings.lake_uri) == 0
    assert run(99, target, f"{settings.state_dir}/fresh") == 0
    found, expected = content_of(Lake(settings.lake_uri)), content_of(Lake(f"{settings.state_dir}/fresh"))
    assert found.keys() == expected.keys()
    assert found["gold.daily_sales"]
    assert len(found) >= 6
    for name in expected:
        assert found[name] == expected[name], name
