"""The sensor of a landing folder: it decides which days need a run. `ingest.files.ingest` is what a run does.

It asks three sources of truth, each for what it knows best: the folder (what is there), the Delta log (what is in the
table), Dagster's runs (what is in progress or has failed). The cursor is only a cache; without it a tick is slower, but
not wrong.

Concept: https://docs.dagster.io/guides/automate/sensors
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import dagster as dg
from deltalake import DeltaTable

from pipeline_assets.components.resources import LakeResource
from pipeline_assets.ingest.files.listing import Listing, look, ranges
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.plan import DAY_PREFIX, position_of
from pipeline_assets.lake import Lake, Positions, Table, every_day, held_in, position_name
from pipeline_assets.partitions import FIRST_DAY, range_of_tags, request_days, today
from pipeline_assets.settings import load_settings

SOURCE_TAG = "pipeline_assets/source"
BATCH_TAG = "pipeline_assets/batch"

_SECONDS = 30
_MAX_ATTEMPTS = 3
_FIRST_RETRY_SECONDS = 30
_AGAIN_SECONDS = 600
# Enough to see every run of the last hours. Older failures are not tried again automatically.
_RUNS_LOOKED_AT = 50


@dataclass(frozen=True)
class Cursor:
    """The cache between ticks: the last listing, and the days whose files are in the table as they lie in the folder.

    Attributes:
        listing: The last listing.
        done: Day to fingerprint.
        table: The table that `done` is about, and its version: if that table was dropped or restored, `done` is void.
    """

    listing: Listing
    done: Mapping[date, int]
    table: tuple[str, int] = ("", 0)

    def to_text(self) -> str:
        """Write the cursor as text."""
        return json.dumps(
            {
                "listing": self.listing.to_text(),
                "done": {day.isoformat(): value for day, value in self.done.items()},
                "table": self.table,
            }
        )

    @classmethod
    def from_text(cls, text: str | None) -> "Cursor":
        """Read a cursor from text; a lost or unreadable one is empty."""
        try:
            found = json.loads(text or "{}")
            done = {date.fromisoformat(day): int(value) for day, value in found.get("done", {}).items()}
            name, version = found.get("table", ("", 0))
            return cls(Listing.from_text(found.get("listing")), done, (str(name), int(version)))
        except (ValueError, TypeError, AttributeError):
            return cls(Listing(), {})


@dataclass(frozen=True)
class History:
    """What Dagster's recent runs of one source say about each day."""

    busy: frozenset[date]
    failed: frozenset[date]
    batches: Mapping[date, str]


def landing_sensor(
    name: str, pattern: PathPattern, table: Callable[[Lake], Table], description: str
) -> dg.SensorDefinition:
    """Make the sensor of a source's job `<name>__to_gold`.

    Args:
        name: The source.
        pattern: Where its files lie, below the landing folder.
        table: Gives the bronze table whose log says which days are done.
        description: For the UI.
    """

    @dg.sensor(
        name=f"{name}__landing",
        job_name=f"{name}__to_gold",
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
        settings = load_settings()
        root, settle = Path(settings.landing_uri), settings.settle_seconds
        return tick(context, name=name, table=table(lake.open()), root=root, pattern=pattern, settle=settle)

    return sensor


def tick(
    context: dg.SensorEvaluationContext, *, name: str, table: Table, root: Path, pattern: PathPattern, settle: float
) -> dg.SensorResult | dg.SkipReason:
    """Decide which days need a run, and ask for one run for each range of days.

    Args:
        context: Dagster's context, with the cursor and the instance.
        name: The source.
        table: Its bronze table.
        root: The landing folder.
        pattern: The source's path pattern.
        settle: Seconds for which a file must have been left alone.
    """
    if not root.is_dir():
        return dg.SkipReason(f"landing folder {root} does not exist yet")
    cursor = Cursor.from_text(context.cursor)
    listing = look(root, pattern, last=cursor.listing, settle_seconds=settle)
    days = _known_days(context, listing.days)
    log = table.open() if table.exists() else None
    seen = (position_name(table, log), log.version()) if log else ("", 0)
    is_same = seen[0] == cursor.table[0] and seen[1] >= cursor.table[1]
    done = _done(log, days, cursor.done if is_same else {})
    history = _history(context.instance, name)
    # A withheld day is in the table, and people were told of it: only another delivery, or a person, can mend it.
    withheld = held_in(log) if log else frozenset()
    failed = (history.failed & days.keys()) - (withheld & done.keys())
    dirty = ({day for day in days if day not in done} | failed) - history.busy
    requests, held = [], []
    for first, last in ranges(dirty, days):
        request, reason = _request(context, name, first, last, days, history)
        if request:
            requests.append(request)
        elif reason:
            held.append(reason)
    context.update_cursor(Cursor(listing, done, seen).to_text())
    if requests:
        return dg.SensorResult(run_requests=requests)
    facts = f"{len(days)} days listed, {listing.waiting} files still being written, {len(history.busy)} days under way"
    if withheld:
        held.append(f"withheld until delivered again: {', '.join(map(str, sorted(withheld)))}")
    return dg.SkipReason("; ".join([f"nothing new ({facts})", *held]))


def _known_days(context: dg.SensorEvaluationContext, days: Mapping[date, int]) -> dict[date, int]:
    """Leave out days that are not a partition: one unknown key would lose the whole tick."""
    first, last = FIRST_DAY, today()
    if outside := sorted(day for day in days if not first <= day <= last):
        context.log.warning(
            "%d days are no partitions (first %s): partitions go from %s (PIPELINE_START_DATE) to %s",
            len(outside),
            outside[0],
            first,
            last,
        )
    return {day: fingerprint for day, fingerprint in days.items() if first <= day <= last}


def _done(log: DeltaTable | None, days: Mapping[date, int], cached: Mapping[date, int]) -> dict[date, int]:
    """Give the days whose position in the log is the folder's fingerprint; ask the log only where the cache differs."""
    done = {day: value for day, value in days.items() if cached.get(day) == value}
    if len(done) < len(days) and log:
        positions = Positions(log, DAY_PREFIX)
        for day in days.keys() - done.keys():
            if positions.get(position_of(day)) == days[day]:
                done[day] = days[day]
    return done


def _history(instance: dg.DagsterInstance, name: str) -> History:
    """Give the history of each day: the newest run that covers a day decides."""
    records = instance.get_run_records(dg.RunsFilter(tags={SOURCE_TAG: name}), limit=_RUNS_LOOKED_AT)
    newest: dict[date, dg.RunRecord] = {}
    for record in records:
        run = record.dagster_run
        if days := range_of_tags(run.tags):
            for day in every_day(*days):
                newest.setdefault(day, record)
    busy = frozenset(day for day, record in newest.items() if not record.dagster_run.is_finished)
    failed = frozenset(
        day for day, record in newest.items() if record.dagster_run.status == dg.DagsterRunStatus.FAILURE
    )
    batches = {day: record.dagster_run.tags.get(BATCH_TAG, "") for day, record in newest.items()}
    return History(busy, failed, batches)


def _request(
    context: dg.SensorEvaluationContext,
    name: str,
    first: date,
    last: date,
    days: Mapping[date, int],
    history: History,
) -> tuple[dg.RunRequest | None, str | None]:
    """Ask for a run of a range, or say why not: the same content is tried again only if that can help."""
    content = [f"{day}={days[day]}" for day in sorted(days) if first <= day <= last]
    batch = hashlib.blake2b("|".join([name, *content]).encode(), digest_size=12).hexdigest()
    runs = dg.RunsFilter(tags={BATCH_TAG: batch})
    # A folder that is back in an older state is new: what was tried in between was something else.
    if batch in {history.batches.get(day) for day in days if first <= day <= last}:
        reason = _hold(context.instance, context.instance.get_run_records(runs, limit=_MAX_ATTEMPTS))
        if reason:
            return None, f"{first}..{last}: {reason}"
    tags = {SOURCE_TAG: name, BATCH_TAG: batch}
    key = f"{name}:{batch}:{context.instance.get_runs_count(runs) + 1}"
    return request_days(first, last, tags=tags, run_key=key), None


def _hold(instance: dg.DagsterInstance, attempts: Sequence[dg.RunRecord]) -> str | None:
    """Say why a batch that was tried before is not tried again (yet); give None if it should be."""
    newest = attempts[0]
    run = newest.dagster_run
    if run.status == dg.DagsterRunStatus.CANCELED:
        return "its run was cancelled by hand; re-execute it, or deliver again"
    if run.status == dg.DagsterRunStatus.FAILURE and _check_failed(instance, run.run_id):
        return f"a blocking check failed in run {run.run_id}: mend the delivery or the contract, then re-execute"
    failed = [record for record in attempts if record.dagster_run.status == dg.DagsterRunStatus.FAILURE]
    if len(failed) >= _MAX_ATTEMPTS:
        return f"given up after {len(failed)} failed runs, the last is {run.run_id}"
    # The run succeeded, but the batch is not in the table: a file could not be opened, or the table was dropped or
    # restored since.
    is_done = run.status == dg.DagsterRunStatus.SUCCESS
    wait = _AGAIN_SECONDS if is_done else _FIRST_RETRY_SECONDS * 2 ** (len(failed) - 1)
    if newest.end_time and time.time() - newest.end_time < wait:
        what = "left files behind" if is_done else "failed"
        return f"attempt {len(attempts)} {what}; the next follows {wait} s after it"
    return None


def _check_failed(instance: dg.DagsterInstance, run_id: str) -> bool:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    checks = [event.asset_check_evaluation_data for r in records if (event := r.event_log_entry.dagster_event)]
    # A bad day of bronze is withheld; the good days of its run deserve another run.
    return any(check.blocking and not check.passed and check.asset_key.path[0] != "bronze" for check in checks)
