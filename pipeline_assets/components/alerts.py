"""The `Alerts` component: failed checks, failed runs and silent sources reach people, once each.

Which sources are silent is found in `silence`; targets are in `pipeline_assets.alerts`. For checks and runs run status
sensors, because a cross-run query for check events is refused by SQLite's sharded event log; a status sensor sees each
finished run exactly once.

Concept: https://docs.dagster.io/guides/automate/sensors/run-status-sensors
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from pipeline_assets import alerts
from pipeline_assets.components import silence
from pipeline_assets.components.bronze_assets import WITHHELD
from pipeline_assets.partitions import range_of_tags
from pipeline_assets.settings import load_settings

_CASES_SHOWN = 5
_COUNTS = ("failing_rows", "records_in", "dead_letters")
_VALUES = {"value", "row"}
# DuckDB's errors quote the value that does not fit; ours name tables and files.
_FOREIGN = re.compile(r"Exception$")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


class Alerts(dg.Component, dg.Model, dg.Resolvable):
    """Sends failed checks, failed runs and silent sources to the targets in `PIPELINE_ALERT_*`, else to the log."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Builds the three sensors."""

        @dg.run_failure_sensor(
            name="alert_on_failure", default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=15
        )
        def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
            blocking = [*_failed_checks(context)]
            is_told = any("ERROR" in alert.title for alert in blocking)
            _send_all(context, blocking if is_told else [*blocking, _failed_run(context)])

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

        return dg.Definitions(sensors=[alert_on_failure, alert_on_failed_check, alert_on_silence])


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
            continue  # of a withheld day told the run that withheld it; each later run would tell it again
        yield alerts.Alert(
            title=f"check {check.check_name} failed ({check.severity.value})",
            asset=check.asset_key.to_user_string(),
            partition=check.partition or _partition(run),
            owners=_owners(context, check.asset_key),
            details=_details(check.metadata),
            run_id=run.run_id,
        )


def _failed_run(context: dg.RunFailureSensorContext) -> alerts.Alert:
    steps = [event.event_specific_data.error for event in context.get_step_failure_events()]  # type: ignore[union-attr]
    errors = [_own_words(error) for error in steps if error]
    run = context.dagster_run
    return alerts.Alert(
        title=f"run of {run.job_name} failed",
        asset=", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())),
        partition=_partition(run),
        owners=sorted({owner for key in run.asset_selection or () for owner in _owners(context, key)}),
        details=errors or [context.failure_event.message or "no step failed: the run process was lost"],
        run_id=run.run_id,
    )


def _own_words(error: Any) -> str:  # noqa: ANN401 - Dagster's class for it is private
    """The first line of the error that our code raised; Dagster's around it only say that a step failed."""
    while error.cause and error.cls_name.startswith(("Dagster", "RetryRequested")):
        error = error.cause
    text = str(error.message.strip().splitlines()[0])
    is_told = load_settings().alert_row_values or not _FOREIGN.search(error.cls_name or "")
    return text if is_told else _QUOTED.sub("'***'", text)


def _partition(run: dg.DagsterRun) -> str:
    days = range_of_tags(run.tags)
    return "" if days is None else str(days[0]) if days[0] == days[1] else f"{days[0]}..{days[1]}"


def _owners(context: dg.RunStatusSensorContext, key: dg.AssetKey) -> list[str]:
    graph = context.repository_def.asset_graph if context.repository_def else None
    return list(graph.get(key).owners) if graph and graph.has(key) else []


def _details(metadata: object) -> list[str]:
    """The counts and the first failing cases, without values of rows unless they are asked for; else the numbers."""
    found = dict(metadata) if isinstance(metadata, dict) else {}
    cases = found.pop("failing_cases", None)
    if isinstance(cases, dg.TableMetadataValue):
        hidden = set() if load_settings().alert_row_values else _VALUES
        lines = [
            ", ".join(f"{key}={value}" for key, value in row.data.items() if key not in hidden) for row in cases.records
        ]
        counts = [f"{key}={found[key].value}" for key in _COUNTS if key in found]
        return [*([", ".join(counts)] if counts else []), *list(dict.fromkeys(lines))[:_CASES_SHOWN]]
    return [f"{key}={getattr(value, 'value', value)}" for key, value in found.items()][:_CASES_SHOWN]
