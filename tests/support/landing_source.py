"""A source of landing files as Dagster definitions, with its folder and its lake."""

import os
import time
from datetime import date
from pathlib import Path

import dagster as dg

from pipeline_assets.components import LandingFiles
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.lake import Lake, Table
from pipeline_assets.settings import Settings

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
BRONZE, LETTERS = dg.AssetKey(["bronze", "shop__lines"]), dg.AssetKey(["dead_letters", "shop__lines"])


class Source:
    """The component, loaded, and the world around it."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, **attributes: object) -> None:
        given = {
            "name": "shop__lines", "path": "lines/{date}/*", "contract": "shop.InvoiceLines", "owner": "team:shop",
            "keys": ["invoice_no"], "failure_budget": 0.25, **attributes,
        }  # fmt: skip
        self.settings = settings
        self.component = LandingFiles(**given)  # type: ignore[arg-type]
        self.defs = dg.Definitions.merge(
            self.component.build_defs(dg.ComponentTree.for_test().load_context),
            dg.Definitions(resources={"lake": lake_resource()}, executor=dg.in_process_executor),
        )
        self.repository = self.defs.get_repository_def()
        self.instance = instance
        self.lake = Lake(settings.lake_uri)
        self.bronze = Table(self.lake, "bronze.shop__lines")

    @staticmethod
    def line(number: int, *, day: str = "2011-01-04", quantity: str = "6", stock_code: str = "85123A") -> str:
        return f"{536000 + number},{stock_code},HEART,{quantity},{day} 08:26:00,2.55,17850,United Kingdom\n"

    def land(self, name: str, *lines: str, age: float = 3600) -> Path:
        path = Path(self.settings.landing_uri) / "lines" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER + "".join(lines))
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    def tick(self, cursor: str | None = None) -> dg.SensorResult:
        sensor = self.repository.get_sensor_def("shop__lines__landing")
        with dg.build_sensor_context(
            instance=self.instance, cursor=cursor, repository_def=self.repository, sensor_name=sensor.name,
            resources={"lake": lake_resource()},
        ) as context:  # fmt: skip
            return sensor.evaluate_tick(context)  # type: ignore[return-value]

    def execute(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        sensor = self.repository.get_sensor_def("shop__lines__landing")
        job = self.repository.get_job(sensor.job_name)
        return job.execute_in_process(instance=self.instance, tags=dict(request.tags), raise_on_error=False)

    def rows(self) -> int:
        with self.lake.connect() as con:
            found = con.execute(f"SELECT count(*) FROM {self.bronze.scan()}").fetchone()
        return int(found[0]) if found else 0


def days_of(request: dg.RunRequest) -> tuple[str, str]:
    tags = request.tags
    first = tags.get("dagster/asset_partition_range_start", tags.get("dagster/partition"))
    return str(first), str(tags.get("dagster/asset_partition_range_end", first))


def day(number: int) -> str:
    return date(2011, 1, number).isoformat()
