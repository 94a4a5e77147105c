"""A run that is canceled as the UI does it, in the process that Dagster's launcher started, while dbt builds.

The instance, the code server, the worker and dbt are real. dbt stands still at one point of a model: in its query,
before its commit, or after it.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget

from pipeline_assets.lake import Lake, Table, query_schema
from pipeline_assets.settings import Settings, project_root

pytestmark = pytest.mark.integration

LONGEST_SECONDS = 10
BRONZE = "bronze.shop__invoice_lines"
SILVER = "silver.invoice_lines"

LINES = """
    SELECT (536000 + n // 3)::VARCHAR AS invoice_no, '85123A' AS stock_code, 'MUG ' || n AS description,
        1 + n % 5 AS quantity, TIMESTAMP '2011-01-03 10:00:00' + to_days((n % 9)::INT) AS invoice_date,
        (1 + n % 9)::DECIMAL(12, 3) AS unit_price, 17850 + n % 4 AS customer_id, 'EIRE' AS country,
        DATE '2011-01-03' AS _partition_date, 'b' AS _batch_id, TIMESTAMPTZ '2011-01-03' AS _extracted_at,
        {{'file': 'a.csv', 'line': n}} AS _source, NULL::VARCHAR AS _rescued
    FROM range({first}, {last}) t(n)
"""

LOCATION = """
import dagster as dg

from pipeline_assets.components import DbtModels
from pipeline_assets.components.resources import lake_resource

defs = dg.Definitions.merge(
    dg.component_defs(component=DbtModels(project={project!r})),
    dg.Definitions(resources={{"lake": lake_resource()}}, executor=dg.in_process_executor),
)
"""

# The project's plugin of dbt, in whose process one table's query or commit stands still while a file says so.
PLUGIN = """
import pathlib
import time

from deltalake import DeltaTable

from pipeline_assets.dbt_plugin import Plugin
from pipeline_assets.dbt_plugin.write import Writer

place = pathlib.Path({folder!r})
create_write_transaction, commit = DeltaTable.create_write_transaction, Writer._commit
SLOW = "SELECT * FROM (%s) WHERE (SELECT count(*) FROM range(100_000_000_000) r(n) WHERE sqrt(n) < -1) = 0"


def stands(name):
    if not (place / name).exists():
        return False
    (place / "standing").touch()
    return True


def slow_query(self, con, table, sql, *args):
    is_slow = table.name == "silver.invoice_lines" and stands("in a query")
    return commit(self, con, table, SLOW % sql if is_slow else sql, *args)


def slow_commit(self, *args, **options):
    is_it = self.table_uri.rstrip("/").endswith("silver/invoice_lines")
    if is_it and stands("before the commit"):
        time.sleep(300)
    create_write_transaction(self, *args, **options)
    if is_it and stands("after the commit"):
        time.sleep(300)


Writer._commit, DeltaTable.create_write_transaction = slow_query, slow_commit
"""


class Location:
    """A code location with the dbt models, its server, and the project's own instance."""

    def __init__(self, settings: Settings, folder: Path, instance: dg.DagsterInstance, context: Any) -> None:
        self.settings, self.folder, self.instance, self.context = settings, folder, instance, context
        (location,) = context.create_request_context().code_locations
        self.job = location.get_repository("__repository__").get_full_job("__ASSET_JOB")

    def land(self, lake: Lake, first: int, last: int) -> None:
        bronze, query = Table(lake, BRONZE), LINES.format(first=first, last=last)
        with lake.connect() as con:
            bronze.create(query_schema(con, query), partition_by=["_partition_date"], date_column="invoice_date")
            bronze.append(con, query, batch_id=str(first))

    def launch(self) -> dg.DagsterRun:
        run = create_run_for_test(
            self.instance, "__ASSET_JOB", status=dg.DagsterRunStatus.NOT_STARTED,
            tags={"dagster/partition": "2011-01-03"}, remote_job_origin=self.job.get_remote_origin(),
            job_code_origin=self.job.get_python_origin(),
            asset_selection=frozenset([dg.AssetKey(SILVER.split("."))]),
        )  # fmt: skip
        self.instance.launch_run(run.run_id, self.context.create_request_context())
        return run

    def has_ended(self, run: dg.DagsterRun) -> dg.DagsterRun | None:
        seen = self.instance.get_run_by_id(run.run_id)
        return seen if seen and seen.is_finished else None

    def ended(self, run: dg.DagsterRun) -> dg.DagsterRun:
        found: dg.DagsterRun = until(lambda: self.has_ended(run))
        return found

    def attempts(self, run: dg.DagsterRun) -> int:
        starts = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
        events = (entry.dagster_event for entry in self.instance.all_logs(run.run_id))
        return sum(event is not None and event.event_type in starts for event in events)

    def dbt_processes(self) -> list[int]:
        """The processes of dbt whose environment names this test's folder."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                arguments, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:  # it has ended
                continue
            if b"pipeline_assets.dbt_plugin.server\0" in arguments and str(self.folder).encode() in environment:
                found.append(int(folder.name))
        return found

    def sums(self, lake: Lake, name: str, amount: str) -> Any:
        with lake.connect() as con:
            return con.execute(f"SELECT count(*), sum({amount}) FROM {Table(lake, name).scan()}").fetchone()


def until(found: Callable[[], Any], seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


@pytest.fixture
def location(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    project, plugins = tmp_path / "dbt_project", tmp_path / "plugins"
    shutil.copytree(project_root() / "dbt_project", project, ignore=shutil.ignore_patterns("target"))
    profile = project / "profiles.yml"
    profile.write_text(profile.read_text().replace("module: pipeline_assets.dbt_plugin", "module: slow_plugin"))
    plugins.mkdir()
    (plugins / "slow_plugin.py").write_text(PLUGIN.format(folder=str(tmp_path)))
    (tmp_path / "location.py").write_text(LOCATION.format(project=str(project)))
    monkeypatch.setenv("PYTHONPATH", str(plugins))
    target = PythonFileTarget(str(tmp_path / "location.py"), None, str(tmp_path), "slow")
    with (
        dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(project_root()))) as instance,
        WorkspaceProcessContext(instance, target) as context,
    ):
        location = Location(settings, tmp_path, instance, context)
        yield location
        for left in location.dbt_processes():
            os.kill(left, signal.SIGKILL)


@pytest.mark.slow
def test_workers_canceled_while_dbt_builds_end_and_the_next_run_has_all_rows_once(
    location: Location, settings: Settings, tmp_path: Path
) -> None:
    lake = Lake(settings.lake_uri)
    for number, where in enumerate(["in a query", "before the commit", "after the commit"]):
        location.land(lake, number * 100, number * 100 + 100)
        (tmp_path / where).touch()
        run = location.launch()
        until(lambda: (tmp_path / "standing").exists() or location.has_ended(run))  # noqa: B023 - called at once
        assert location.dbt_processes(), where
        begun = time.monotonic()
        assert location.instance.run_launcher.terminate(run.run_id)
        ended = location.ended(run)
        assert time.monotonic() - begun < LONGEST_SECONDS, where
        assert (ended.status, location.attempts(run)) == (dg.DagsterRunStatus.CANCELED, 1), where
        assert location.dbt_processes() == [], where
        (tmp_path / where).unlink()
        (tmp_path / "standing").unlink()
    location.land(lake, 300, 400)
    assert location.ended(location.launch()).status == dg.DagsterRunStatus.SUCCESS
    found = location.sums(lake, SILVER, "line_amount_gbp")
    assert found == location.sums(lake, BRONZE, "quantity * unit_price")
    assert found[0] == 400
