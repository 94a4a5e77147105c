"""The code location with its real instance: what a daemon would do, step by step, so that a demo ends."""

from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import dagster as dg

from pipeline_assets.components.resources import lake_resource

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}  # the events are in the UI
_DEMO = {"pipeline_assets/demo": "yes"}

Results = list[dg.ExecuteInProcessResult]


class Pipeline:
    """Evaluates sensors and executes the runs that they ask for, in this process."""

    def __init__(self, log: Path) -> None:
        """Loads the code location.

        Args:
            log: Where what sensors and runs say goes; dbt talks.
        """
        from pipeline_assets.definitions import defs

        self._repository = defs().get_repository_def()
        self._instance = dg.DagsterInstance.get()
        self._cursors: dict[str, str | None] = {}
        self._log = log
        for record in self._instance.get_run_records(dg.RunsFilter(tags=_DEMO)):
            if not record.dagster_run.is_finished:  # of a demo that was killed; with a daemon, monitoring would tell
                self._instance.report_run_failed(record.dagster_run, "the demo was killed")

    def tick(self, sensor_name: str, *, layers: tuple[str, ...] = ()) -> Results:
        """Evaluate a sensor once and execute the runs that it asks for.

        Args:
            sensor_name: Of this code location.
            layers: Execute the assets of these layers only (the first part of their keys); all if empty.
        """
        with self._log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
            return self._tick(sensor_name, layers)

    def _tick(self, sensor_name: str, layers: tuple[str, ...]) -> Results:
        sensor = self._repository.get_sensor_def(sensor_name)
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self._cursors.get(sensor_name),
            repository_def=self._repository,
            sensor_name=sensor_name,
            resources={"lake": lake_resource()},
        )
        with context:
            ticked = sensor.evaluate_tick(context)
        self._cursors[sensor_name] = ticked.cursor
        job = self._repository.get_job(str(sensor.job_name))
        wanted = [key for key in job.asset_layer.selected_asset_keys if key.path[0] in layers] or None
        return [
            job.execute_in_process(
                instance=self._instance,
                partition_key=request.partition_key,
                asset_selection=wanted,
                tags={**request.tags, **_DEMO},
                run_config=_QUIET,
                raise_on_error=False,
            )
            for request in ticked.run_requests or []
        ]
