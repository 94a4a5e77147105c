"""The `Alerts` component: it tells people of each failed check, failed run and silent source, once.

A run whose processes are gone is a failed run, too: `instance.dead_runs` finds it.

`automation.silence` finds out which sources are silent; `pipeline_assets.alerts` sends to the targets. Checks and runs
are watched by run status sensors: a status sensor sees each finished run exactly once, while SQLite's sharded event log
refuses a query for check events of all runs.

Concept: https://docs.dagster.io/guides/automate/sensors/run-status-sensors
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from pipeline_assets import alerts
from pipeline_assets.components.assets.bronze import ERROR_CLASS, WITHHELD
from pipeline_assets.components.automation import silence
from pipeline_assets.ingest.batch.errors import LostRecordsError
from pipeline_assets.lake.errors import (
    CommitConflictError,
    CommitUnknownError,
    LakeUnreadableError,
    PositionMovedError,
    SchemaMismatchError,
    StorageError,
    TableNotFoundError,
    TableUnreadableError,
    WriteRefusedError,
)
from pipeline_assets.partitions import range_of_tags
from pipeline_assets.settings import SettingsError, load_settings

_CASES_SHOWN = 5
# What an alert may say of rows without quoting one. A cell that is not named here is a value, or may hold one.
_TOLD_CELLS = frozenset(
    {"column", "check", "day", "file", "in_silver", "records_in", "rows", "rows_before", "dead_letters"}
)
_TOLD_TEXTS = frozenset({"remedy", "problem", "withheld_days"})
# A reason begins with its kind and column, then follows the value: "cast: amount: 'x' is not BIGINT".
_KIND = re.compile(r"(\w+(?:: \w+)?):")
# Errors that name tables, columns and storage only. Errors of a source, a file or an engine may quote the values in it.
_TOLD_ERRORS = frozenset(
    error.__name__
    for error in (
        TableNotFoundError, TableUnreadableError, LakeUnreadableError, StorageError, CommitUnknownError,
        SchemaMismatchError, CommitConflictError, PositionMovedError, SettingsError, LostRecordsError,
        WriteRefusedError,
    )
)  # fmt: skip
_AROUND = ("Dagster", "RetryRequested", "Failure")


class Alerts(dg.Component, dg.Model, dg.Resolvable):
    """Sends failed checks, failed runs and silent sources to the targets in `PIPELINE_ALERT_*`.

    Without a target, to the log.
    """

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the four sensors."""

        @dg.run_failure_sensor(
            name="alert_on_failure", default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=15
        )
        def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
            blocking = [*_failed_checks(context)]
            is_reported = any("ERROR" in alert.title for alert in blocking)
            _send_all(context, blocking if is_reported else [*blocking, _failed_run(context)])

        @dg.run_status_sensor(
            run_status=dg.DagsterRunStatus.SUCCESS,
            name="alert_on_failed_check",
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=15,
        )
        def alert_on_failed_check(context: dg.RunStatusSensorContext) -> None:
            _send_all(context, _failed_checks(context))

        @dg.sensor(
            name="alert_on_silence",
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=30,
            description="Tells of each source that brought nothing for twice the time in which it was expected to.",
        )
        def alert_on_silence(context: dg.SensorEvaluationContext) -> dg.SkipReason:
            if context.repository_def is None:
                return dg.SkipReason("there are no definitions to watch")
            return silence.tick(context, context.repository_def)

        @dg.sensor(
            name="fail_dead_runs",
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=60,
            description="Reports runs whose processes are gone as failed: they would block their source for hours.",
        )
        def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
            # Imported here, not above: it imports psutil, which costs 0.02 seconds that no run needs.
            from pipeline_assets.instance.dead_runs import fail_dead_runs

            if load_settings().dagster_postgres_url is not None:
                return dg.SkipReason("other machines may share the instance: a process may run there")
            failed = fail_dead_runs(context.instance)
            return dg.SkipReason(f"failed: {', '.join(failed)}" if failed else "each run in progress has its process")

        return dg.Definitions(sensors=[alert_on_failure, alert_on_failed_check, alert_on_silence, dead_runs_sensor])


def _send_all(context: dg.RunStatusSensorContext, found: "Iterator[alerts.Alert] | Sequence[alerts.Alert]") -> None:
    for alert in found:
        alerts.send(alert, load_settings(), context.log)


def _failed_checks(context: dg.RunStatusSensorContext) -> Iterator[alerts.Alert]:
    run = context.dagster_run
    records = context.instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    for record in records:
        event = record.event_log_entry.dagster_event
        check = event.asset_check_evaluation_data if event else None
        if check is None or check.passed or check.check_name == WITHHELD:
            continue  # the run that withheld the day has reported it; each later run would report it again
        yield alerts.Alert(
            title=f"check {check.check_name} failed ({check.severity.value})",
            asset=check.asset_key.to_user_string(),
            partition=check.partition or _partition(run),
            owners=_owners(context, check.asset_key),
            details=_details(check.metadata),
            run_id=run.run_id,
        )


def _failed_run(context: dg.RunFailureSensorContext) -> alerts.Alert:
    errors = [_failed_step(event) for event in context.get_step_failure_events()]
    run = context.dagster_run
    return alerts.Alert(
        title=f"run of {run.job_name} failed",
        asset=", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())),
        partition=_partition(run),
        owners=sorted({owner for key in run.asset_selection or () for owner in _owners(context, key)}),
        details=errors or [context.failure_event.message or "no step failed: the run process was lost"],
        run_id=run.run_id,
    )


def _failed_step(event: dg.DagsterEvent) -> str:
    """Give the step and its error, with the error's first line if that quotes no rows.

    Dagster's own says only "failed".
    """
    failure: Any = event.event_specific_data
    error, user = failure.error, failure.user_failure_data
    while error and error.cause and error.cls_name.startswith(_AROUND):
        error = error.cause
    found = user.metadata.get(ERROR_CLASS) if user else None
    name = str(found.value) if found else error.cls_name if error else "an error"
    if error and (name in _TOLD_ERRORS or load_settings().alert_row_values):
        return f"{event.step_key}: {error.message.strip().splitlines()[0]}"
    return f"{event.step_key}: {name} (the run has its words, which may quote rows)"


def _partition(run: dg.DagsterRun) -> str:
    days = range_of_tags(run.tags)
    return "" if days is None else str(days[0]) if days[0] == days[1] else f"{days[0]}..{days[1]}"


def _owners(context: dg.RunStatusSensorContext, key: dg.AssetKey) -> list[str]:
    graph = context.repository_def.asset_graph if context.repository_def else None
    return list(graph.get(key).owners) if graph and graph.has(key) else []


def _details(metadata: object) -> list[str]:
    """Give the counts, the remedy and the first failing cases; values of rows only if the settings ask for them."""
    found = dict(metadata) if isinstance(metadata, dict) else {}
    tables = [value for value in found.values() if isinstance(value, dg.TableMetadataValue)]
    lines = [_line(row.data) for table in tables for row in table.records]
    plain = {key: getattr(value, "value", value) for key, value in found.items() if value not in tables}
    is_all = load_settings().alert_row_values
    facts = [
        f"{key}={value}"
        for key, value in plain.items()
        if is_all or key in _TOLD_TEXTS or isinstance(value, int | float)
    ]
    return [*facts, *list(dict.fromkeys(line for line in lines if line))[:_CASES_SHOWN]]


def _line(cells: Mapping[str, Any]) -> str:
    if not load_settings().alert_row_values:
        kind = _KIND.match(str(cells.get("reason", "")))
        cells = {key: value for key, value in cells.items() if key in _TOLD_CELLS}
        cells |= {"reason": kind[1]} if kind else {}
    return ", ".join(f"{key}={value}" for key, value in cells.items())
