"""The code location with its real instance: what a daemon would do, step by step, so that a demo ends."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import dagster as dg

from pipeline_assets.components.resources import lake_resource

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}  # the events are in the UI
_DEMO = {"pipeline_assets/demo": "yes"}
_PARTITION = "dagster/partition"

Results = list[dg.ExecuteInProcessResult]


class Pipeline:
    """Evaluates sensors and schedules, and executes the runs that they ask for, in this process."""

    def __init__(self, log: Path) -> None:
        """Load the code location.

        Args:
            log: Where what sensors and runs say goes; dbt talks.
        """
        from pipeline_assets.definitions import defs

        self._repository = defs().get_repository_def()
        self._instance = dg.DagsterInstance.get()
        self._cursors: dict[str, str | None] = {}
        self._log = log

    def recover(self) -> Results:
        """Execute again what a demo was at when it was killed, as run monitoring and run retries do with a daemon."""
        left = [record.dagster_run for record in self._instance.get_run_records(dg.RunsFilter(tags=_DEMO))]
        results = []
        with self._talking():
            for run in left:
                if not run.is_finished:
                    self._instance.report_run_failed(run, "the demo was killed")
                    tags = {name: value for name, value in run.tags.items() if not name.startswith(_PARTITION)}
                    wanted = list(run.asset_selection or []) or None
                    results.append(self._execute(run.job_name, tags, run.tags.get(_PARTITION), wanted))
        return results

    def tick(self, sensor_name: str, *, layers: tuple[str, ...] = ()) -> Results:
        """Evaluate a sensor once and execute the runs that it asks for.

        Args:
            sensor_name: Of this code location.
            layers: Execute the assets of these layers only (the first part of their keys); all if empty.
        """
        sensor = self._repository.get_sensor_def(sensor_name)
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self._cursors.get(sensor_name),
            repository_def=self._repository,
            sensor_name=sensor_name,
            resources={"lake": lake_resource()},
        )
        with self._talking() as log:
            with context:
                ticked = sensor.evaluate_tick(context)
            self._cursors[sensor_name] = ticked.cursor
            log.write(f"{sensor_name} asks for {len(ticked.run_requests or [])} runs. {ticked.skip_message or ''}\n")
            job_name = str(sensor.job_name)
            keys = self._repository.get_job(job_name).asset_layer.selected_asset_keys
            wanted = [key for key in keys if key.path[0] in layers] or None
            return self._execute_all(job_name, ticked.run_requests, wanted)

    def tick_now(self, schedule_name: str) -> Results:
        """Evaluate a schedule as if it were time, and execute the runs that it asks for.

        Args:
            schedule_name: Of this code location.
        """
        schedule = self._repository.get_schedule_def(schedule_name)
        context = dg.build_schedule_context(
            instance=self._instance,
            scheduled_execution_time=datetime.now(UTC),
            repository_def=self._repository,
            resources={"lake": lake_resource()},
        )
        with self._talking() as log:
            with context:
                ticked = schedule.evaluate_tick(context)
            log.write(f"{schedule_name} asks for {len(ticked.run_requests or [])} runs. {ticked.skip_message or ''}\n")
            return self._execute_all(str(schedule.job_name), ticked.run_requests, None)

    def _execute_all(
        self, job_name: str, requests: Sequence[dg.RunRequest] | None, assets: list[dg.AssetKey] | None
    ) -> Results:
        return [self._execute(job_name, request.tags, request.partition_key, assets) for request in requests or ()]

    def _execute(
        self, job_name: str, tags: Mapping[str, str], partition: str | None, assets: list[dg.AssetKey] | None
    ) -> dg.ExecuteInProcessResult:
        return self._repository.get_job(job_name).execute_in_process(
            instance=self._instance,
            partition_key=partition,
            asset_selection=assets,
            tags={**tags, **_DEMO},
            run_config=_QUIET,
            raise_on_error=False,
        )

    @contextmanager
    def _talking(self) -> Iterator[IO[str]]:
        with self._log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
            yield log
