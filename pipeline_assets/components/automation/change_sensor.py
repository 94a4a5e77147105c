"""The sensor of a change stream: it asks for a run when the slot holds something.

`ingest.cdc.slot.drain` is what a run does.

The slot says what is waiting, and Dagster's runs say what is in progress or has failed; so the sensor needs no cursor.

Concept: https://docs.dagster.io/guides/automate/sensors
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, timedelta

import dagster as dg

from pipeline_assets.components.automation.landing_sensor import SOURCE_TAG
from pipeline_assets.ingest.cdc.events import lsn_text
from pipeline_assets.ingest.cdc.slot.postgres import Pending, Postgres
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.ingest.postgres_session import SourceDatabaseError
from pipeline_assets.lake import Lake, Table, position_name
from pipeline_assets.lake.changes import batches_since
from pipeline_assets.partitions import FIRST_DAY, request_days, today

LAG_TAG = "pipeline_assets/lag_bytes"
EVENTS_TAG = "pipeline_assets/events"
EVERY = timedelta(hours=12)
"""A stream without changes has a run this often. So silence always means a fault of the pipeline, never a quiet
database."""

_EVENTS_COUNTED = 10_000
# WAL of other tables also holds the slot back. Beyond this a run moves the slot on, although it brings no event.
_IDLE_LAG_BYTES = 64 * 1024**2
_FIRST_RETRY_SECONDS = 30
_LAST_RETRY_SECONDS = 3600
_RUNS_LOOKED_AT = 10


def tick(
    context: dg.SensorEvaluationContext,
    name: str,
    postgres: Postgres,
    lake: Lake,
    tables: Sequence[dg.AssetKey],
    states: Mapping[ChangeTable, str],
) -> dg.SensorResult | dg.SkipReason:
    """Decide whether the stream needs a run.

    Args:
        context: Dagster's context, with the instance.
        name: The source.
        postgres: Its database.
        lake: The lake.
        tables: Its change tables.
        states: Captured table to its state in silver. If silver is behind, a run was killed or repaired something.
    """
    if reason := _held_up(context.instance, name):
        return dg.SkipReason(reason)
    try:
        slot = postgres.slot()
        pending = None
        if slot and not slot.is_lost:
            pending = postgres.pending(_EVENTS_COUNTED) if slot.lag_bytes else Pending(0, True, None)
    except SourceDatabaseError as error:
        context.log.warning("the source cannot be asked: %s", error)
        slot = pending = None
    if slot is None or pending is None or _is_long_ago(context.instance, tables):
        # The run takes the first snapshot, or says what is wrong with the source, because people are alerted by runs.
        # It also tells a quiet source from a dead one.
        return dg.SensorResult(run_requests=[_request(name, today(), {})])
    counted = f"{pending.events}{'+' if pending.events >= _EVENTS_COUNTED else ''}"
    facts = f"{counted} events, lag {slot.lag_bytes:,} bytes, slot at {lsn_text(slot.confirmed_flush_lsn)}"
    behind = [state for table, state in states.items() if _is_behind(table.bronze(lake), Table(lake, state))]
    if not pending.events and not behind and slot.lag_bytes < _IDLE_LAG_BYTES:
        return dg.SkipReason(f"nothing new ({facts})")
    context.log.info("the slot holds %s; behind bronze: %s", facts, ", ".join(behind) or "nothing")
    first = pending.first_commit_at.astimezone(UTC).date() if pending.first_commit_at else today()
    return dg.SensorResult(run_requests=[_request(name, first, {LAG_TAG: str(slot.lag_bytes), EVENTS_TAG: counted})])


def _request(name: str, first: date, facts: dict[str, str]) -> dg.RunRequest:
    """Give the request for one run over the commit dates that are waiting."""
    return request_days(max(first, FIRST_DAY), today(), tags={SOURCE_TAG: name, **facts})


def _held_up(instance: dg.DagsterInstance, name: str) -> str | None:
    """Say why no run is to be asked for now: one is in progress, or the last ones failed and the next has to wait."""
    records = instance.get_run_records(dg.RunsFilter(tags={SOURCE_TAG: name}), limit=_RUNS_LOOKED_AT)
    if records and not records[0].dagster_run.is_finished:
        return f"run {records[0].dagster_run.run_id} is under way"
    failed = 0
    for record in records:
        if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
            break
        failed += 1
    if not failed:
        return None
    wait = min(_FIRST_RETRY_SECONDS * 2 ** (failed - 1), _LAST_RETRY_SECONDS)
    since = time.time() - (records[0].end_time or 0)
    if since >= wait:
        return None
    return (
        f"the last {failed} runs failed, the newest is {records[0].dagster_run.run_id}; the next one follows in "
        f"{wait - since:.0f} s"
    )


def _is_long_ago(instance: dg.DagsterInstance, tables: Sequence[dg.AssetKey]) -> bool:
    """Tell whether a table's last materialization, by which Dagster calls it fresh, is long ago or never happened.

    The last run does not count: it may have failed, and until the next one the tables would be called silent.
    """
    found = instance.get_latest_materialization_events(tables)
    times = [event.timestamp if (event := found.get(table)) else 0 for table in tables]
    return time.time() - min(times) > EVERY.total_seconds()


def _is_behind(bronze: Table, silver: Table) -> bool:
    """Tell whether bronze has batches that silver has not applied."""
    if not bronze.exists():
        return False
    applied = silver.position(position_name(bronze))
    batches = batches_since(bronze, applied, bronze.open().version())
    return batches is None or bool(batches)
