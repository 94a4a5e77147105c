"""The shop's database through the code location as it is: sensor, jobs, dbt, reconciliation."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from pipeline_assets.components.resources import lake_resource
from pipeline_assets.definitions import defs
from pipeline_assets.demo import shop, shop_db
from pipeline_assets.lake import Lake, Table, position_name

TODAY = datetime.now(UTC).date().isoformat()


class Pipeline:
    """The code location with an instance of its own, and the shop's database as its source."""

    def __init__(self, url, settings):
        self.url, self.lake = url, Lake(settings.lake_uri)
        self.repository = defs().get_repository_def()

    def tick(self, instance):
        sensor = self.repository.get_sensor_def("shop_db__changes")
        with dg.build_sensor_context(
            instance=instance, repository_def=self.repository, sensor_name=sensor.name,
            resources={"lake": lake_resource()},
        ) as context:  # fmt: skip
            return sensor.evaluate_tick(context)

    def run(self, instance, job, tags=None):
        return self.repository.get_job(f"shop_db__{job}").execute_in_process(
            instance=instance, tags={"dagster/partition": TODAY, **(tags or {})}, raise_on_error=False
        )

    def count(self, name, where="true"):
        with self.lake.connect() as con:
            return con.execute(f"SELECT count(*) FROM {Table(self.lake, name).scan()} WHERE {where}").fetchone()[0]


def failed_checks(result):
    return {
        (check.asset_key.to_user_string(), check.check_name)
        for check in result.get_asset_check_evaluations()
        if not check.passed
    }


@pytest.mark.slow
@pytest.mark.integration
def test_the_shop_reaches_gold_and_a_planted_difference_is_found_and_mended(database, settings, monkeypatch):
    monkeypatch.setenv("SHOP_DB_URL", database)
    shop_db.create_tables(database)
    days = shop.trading_days(shop.DEMO_PARQUET)
    shop_db.replay(database, shop.DEMO_PARQUET, days[:2])
    pipeline = Pipeline(database, settings)
    with dg.DagsterInstance.ephemeral() as instance:
        [request] = pipeline.tick(instance).run_requests
        result = pipeline.run(instance, "to_gold", request.tags)
        assert result.success
        assert not failed_checks(result)
        shop_db.replay(database, shop.DEMO_PARQUET, days[2:4])
        result = pipeline.run(instance, "reconcile")
        assert result.success
        assert not failed_checks(result)
        assert pipeline.count("silver.customers", "NOT _deleted") > 100
        plant(pipeline)
        result = pipeline.run(instance, "reconcile")
        assert failed_checks(result) == {("reconciliation/shop_db__products", "equal")}
        # The slot is empty, but bronze has events that silver has not: the next tick brings them there.
        [request] = pipeline.tick(instance).run_requests
        assert pipeline.run(instance, "to_gold", request.tags).success
        assert not failed_checks(pipeline.run(instance, "reconcile"))


def plant(pipeline):
    """Somebody changes a row of silver by hand, and removes another one."""
    silver, bronze = Table(pipeline.lake, "silver.products"), Table(pipeline.lake, "bronze.shop_db__products")
    position = {position_name(bronze): silver.position(position_name(bronze))}
    with pipeline.lake.connect() as con:
        code, other = [
            row[0]
            for row in con.execute(
                f"SELECT stock_code FROM {silver.scan()} WHERE NOT _deleted ORDER BY 1 LIMIT 2"
            ).fetchall()
        ]
        silver.replace(
            con,
            f"SELECT * REPLACE (999::DECIMAL(12,3) AS unit_price) FROM {silver.scan()} WHERE stock_code = '{code}'",
            where=f"stock_code IN ('{code}', '{other}')",
            positions=position,
        )
