"""The shop's whole year through one real Dagster backfill run, against the figures that others have published.

Needs the full data set (UCI Online Retail, 541,909 lines): PIPELINE_TEST_FULL_YEAR, or ../shared/data beside the
checkout. The product itself does not need it.
"""

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline_assets.demo import shop
from pipeline_assets.settings import Settings, project_root

FULL_YEAR = Path(
    os.environ.get("PIPELINE_TEST_FULL_YEAR", project_root().parent / "shared" / "data" / "online_retail.parquet")
)


def query(sql: str) -> dict[str, str]:
    command = [str(Path(sys.executable).parent / "pipeline"), "query", "--json", sql]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)
    return {name: str(value) for name, value in row.items()}


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(not FULL_YEAR.exists(), reason=f"the full data set is not at {FULL_YEAR}")
def test_a_backfill_of_the_year_is_one_run_and_gives_the_published_figures(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.land_days(FULL_YEAR, Path(settings.landing_uri))
    monkeypatch.setenv("DAGSTER_HOME", str(project_root()))
    dagster = [sys.executable, "-W", "ignore", "-m", "dagster"]
    backfill = ["asset", "materialize", "-m", "pipeline_assets.definitions", "--select", "*"]
    done = subprocess.run(
        [*dagster, *backfill, "--partition-range", "2010-12-01...2011-12-09"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    bronze = query("SELECT count(*) AS lines, sum(quantity * unit_price) AS amount FROM bronze.shop__invoice_lines")
    assert bronze == {"lines": "541909", "amount": "9747747.934"}
    columns = "invoice_no, stock_code, description, quantity, invoice_date, unit_price, customer_id, country"
    published = query(
        f"SELECT count(*) AS lines, sum(quantity * unit_price) AS amount FROM (SELECT DISTINCT {columns} "
        "FROM bronze.shop__invoice_lines WHERE customer_id IS NOT NULL AND invoice_no NOT LIKE 'C%' AND unit_price > 0)"
    )
    assert published == {"lines": "392692", "amount": "8887208.894"}
    silver = query("SELECT count(*) AS lines, sum(line_amount_gbp) AS amount FROM silver.invoice_lines WHERE is_sale")
    assert silver == published
    gold = query("SELECT sum(total_revenue) AS revenue, sum(total_orders) AS orders FROM gold.daily_sales")
    assert Decimal(gold["revenue"]) == Decimal("8887208.894")
    customers = query("SELECT sum(lifetime_value_gbp) AS value, count(*) AS customers FROM gold.customer_metrics")
    assert customers == {"value": "8887208.894", "customers": "4338"}
    letters = query("SELECT count(*) AS letters FROM dead_letters.shop__invoice_lines")
    assert letters == {"letters": "0"}

    runs = list((settings.dagster_dir).rglob("*.db"))
    assert runs  # the instance is the one of the settings
