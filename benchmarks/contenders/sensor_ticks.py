"""Ticks of the landing sensor over a folder of files. Arguments: number of old files, rounds, file for the result.

In one process, as in a code server: a tick is timed by itself, after the imports. The environment says where the
pipeline is. Sets the scene first: the old files, the log that holds them, and the runs that Dagster remembers.
"""

import json
import os
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
from dagster._core.utils import make_new_run_id
from deltalake import CommitProperties, Transaction

from pipeline_assets.components import LandingFiles
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.contracts.base import contract, raw_shape
from pipeline_assets.ingest.conform.conform import TECHNICAL_COLUMNS
from pipeline_assets.ingest.files.listing import Listing, look
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.plan import position_of
from pipeline_assets.lake import Lake, Table, query_schema
from pipeline_assets.partitions import range_tags
from pipeline_assets.settings import load_settings

_NAME, _PATTERN = "shop__lines", "lines/{date}/*"
_FIRST, _DAYS = date(2011, 1, 1), 305
_OLD = (1.3e9, 1.3e9)


def main() -> None:
    """Sets the scene and times the ticks."""
    old_files, rounds, result = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    settings = load_settings()
    root = Path(settings.landing_uri)
    days = [_FIRST + timedelta(days=number) for number in range(_DAYS)]

    def land(day: date, name: str) -> None:
        path = root / "lines" / day.isoformat() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, _OLD)

    for number in range(old_files):
        land(days[number % _DAYS], f"{number}.csv")
    _ingested(Table(Lake(settings.lake_uri), f"bronze.{_NAME}"), root, old_files)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(settings.state_dir)) as instance:
        sensor = _Sensor(instance)
        first = sensor.tick(None)  # imports what a first tick imports
        if first.run_requests:
            raise SystemExit("the log does not hold the folder: the benchmark is broken")
        cursor = first.cursor
        nothing, fresh, lost = [], [], []
        for _ in range(rounds):
            nothing.append(sensor.timed(cursor, requests=0))
        for number in range(5):  # late files of old days, and a new day
            land(days[number * 60], "late.csv")
            land(days[-1] + timedelta(days=1), f"{number}.csv")
        for _ in range(rounds):
            fresh.append(sensor.timed(cursor, requests=6))
            lost.append(sensor.timed(None, requests=6))
        size = len(cursor or "")
    result.write_text(json.dumps({"nothing_new": nothing, "ten_new": fresh, "cursor_lost": lost, "cursor_bytes": size}))


def _ingested(table: Table, root: Path, files: int) -> None:
    """The log as ingesting the folder would have left it: a position per day and per content."""
    columns = (*raw_shape(contract("shop.InvoiceLines")).columns, *TECHNICAL_COLUMNS)
    listed = look(root, PathPattern.parse(_PATTERN), last=Listing(), settle_seconds=0).days
    positions = [
        position
        for at, (day, fingerprint) in enumerate(sorted(listed.items()))
        for position in (
            *(Transaction(f"content:{n:032x}-1", day.toordinal()) for n in range(at, files, _DAYS)),
            Transaction(position_of(day), fingerprint),
        )
    ]
    with table.lake.connect() as con:
        select = ", ".join(f"NULL::{column.dtype} AS {column.name}" for column in columns)
        table.create(query_schema(con, f"SELECT {select}"), partition_by=["_partition_date"])
    opened = table.open()
    opened.create_write_transaction(  # not by table.commit, which looks each position up before
        [],
        "append",
        opened.schema(),
        partition_by=["_partition_date"],
        commit_properties=CommitProperties(app_transactions=positions),
    )
    table.open().create_checkpoint()


class _Sensor:
    """The component's sensor and an instance that remembers a run for each day."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        component = LandingFiles(name=_NAME, path=_PATTERN, contract="shop.InvoiceLines", owner="team:shop", keys=[])
        defs = dg.Definitions.merge(
            component.build_defs(dg.ComponentTree.for_test().load_context),
            dg.Definitions(resources={"lake": lake_resource()}),
        )
        self._repository = defs.get_repository_def()
        self._instance = instance
        self._definition = self._repository.get_sensor_def(f"{_NAME}__landing")
        for number in range(_DAYS):
            day = _FIRST + timedelta(days=number)
            tags = {"pipeline_assets/source": _NAME, "pipeline_assets/batch": str(number), **range_tags(day, day)}
            name = self._definition.job_name
            instance.add_run(
                dg.DagsterRun(job_name=name, run_id=make_new_run_id(), tags=tags, status=dg.DagsterRunStatus.SUCCESS)
            )

    def tick(self, cursor: str | None) -> dg.SensorResult:
        """One evaluation, as the code server does it."""
        with dg.build_sensor_context(
            instance=self._instance,
            cursor=cursor,
            repository_def=self._repository,
            sensor_name=self._definition.name,
            resources={"lake": lake_resource()},
        ) as context:
            return self._definition.evaluate_tick(context)  # type: ignore[return-value]

    def timed(self, cursor: str | None, *, requests: int) -> dict[str, float]:
        """Seconds of one evaluation, which must ask for so many runs."""
        wall, cpu = time.perf_counter(), time.process_time()
        found = self.tick(cursor)
        taken = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        if len(found.run_requests or []) != requests:
            raise SystemExit(f"asked for {len(found.run_requests or [])} runs instead of {requests}")
        return taken


if __name__ == "__main__":
    main()
