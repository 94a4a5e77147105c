"""Silent sources: decide about which one people need an alert now, and what it says.

The sensor is in `components.alerts`.

Dagster's freshness daemon finds out that a source is silent, by the policies of `assets.bronze`; it writes an event
FRESHNESS_STATE_CHANGE when an asset's state changes. Only the newest of these events is read for each asset, not all
since the last tick. So an outdated state is never sent, and a new or lost cursor costs one alert for each source that
is silent now. The return of a source is not reported; neither is that of checks and runs.

Concept: https://docs.dagster.io/guides/observe/asset-freshness-policies
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from pipeline_assets import alerts
from pipeline_assets.components.assets.bronze import expected_every
from pipeline_assets.settings import load_settings

# A daemon that comes back after a weekend calls every source silent at once, and sensors and schedules need some
# minutes to catch up. Also, the tables of one source fall silent a little one after the other.
_GRACE = timedelta(minutes=10)


@dataclass(frozen=True)
class Silence:
    """An asset that has brought nothing for too long.

    Attributes:
        key: The asset.
        source: The step that makes it. A step that makes several assets is one source: they fall silent together.
        every: How often a materialization is expected.
        last: Its last materialization.
        since: When Dagster called it silent; it distinguishes one silence from the next.
    """

    key: dg.AssetKey
    source: str
    every: timedelta
    last: datetime
    since: datetime


def tick(context: dg.SensorEvaluationContext, repository: dg.RepositoryDefinition) -> dg.SkipReason:
    """Send an alert for a source that has fallen silent, once for each silence.

    A tick alerts for one source only: the cursor is committed at the tick's end, and a target that does not answer
    takes 44 of its 60 seconds. If the tick is killed in between, the next one sends that alert again: at least once.

    Args:
        context: Dagster's context. Its cursor holds the silences that were reported: asset to `Silence.since`.
        repository: The definitions whose assets are watched.

    Returns:
        What was reported, or how many assets are silent.
    """
    silences = {silence.key.to_user_string(): silence for silence in _silences(context.instance, repository)}
    since = {key: silence.since.isoformat() for key, silence in silences.items()}
    reported = {key: time for key, time in _reported(context.cursor).items() if since.get(key) == time}
    due = _due([silence for key, silence in silences.items() if key not in reported])
    if due:
        alert = _alert(repository, due)
        alerts.send(alert, load_settings(), context.log)
        reported |= {key: since[key] for key in (silence.key.to_user_string() for silence in due)}
    context.update_cursor(json.dumps(reported))
    if due:
        return dg.SkipReason(f"told: {alert.title}, {alert.asset}")
    return dg.SkipReason(f"nothing new ({len(silences)} assets are silent, of them {len(reported)} told)")


def _reported(cursor: str | None) -> dict[str, str]:
    try:
        return {str(key): str(since) for key, since in json.loads(cursor or "{}").items()}
    except (ValueError, AttributeError):
        return {}


def _silences(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition) -> Iterator[Silence]:
    """Yield the assets that are silent now, except those of resting sources, from which nothing is expected."""
    graph = repository.asset_graph
    watched = {node.key: every for node in graph.asset_nodes if (every := expected_every(node.freshness_policy))}
    states = instance.get_freshness_state_records(list(watched))
    failed = {key: state.updated_at for key, state in states.items() if state.freshness_state.value == "FAIL"}
    found = instance.get_latest_materialization_events(list(failed))
    for key, since in sorted(failed.items()):
        event = found.get(key)
        materialization = event.asset_materialization if event else None
        if event is None or materialization is None or "resting" in materialization.metadata:
            continue
        last = datetime.fromtimestamp(event.timestamp, UTC)
        if last < since:  # otherwise a materialization came since, and Dagster will notice it in half a minute
            yield Silence(key, graph.get(key).assets_def.unique_id, watched[key], last, since)


def _due(unreported: Sequence[Silence]) -> list[Silence]:
    """Give the silences of the first source whose time of grace is over."""
    sources: dict[str, list[Silence]] = defaultdict(list)
    for silence in unreported:
        sources[silence.source].append(silence)
    now = datetime.now(UTC)
    return next((found for found in sources.values() if now - min(s.since for s in found) >= _GRACE), [])


def _alert(repository: dg.RepositoryDefinition, silences: Sequence[Silence]) -> alerts.Alert:
    graph, last = repository.asset_graph, max(silence.last for silence in silences)
    return alerts.Alert(
        title=f"no data for {_words(datetime.now(UTC) - last)} (expected every {_words(silences[0].every)})",
        asset=", ".join(silence.key.to_user_string() for silence in silences),
        partition="",
        owners=sorted({owner for silence in silences for owner in graph.get(silence.key).owners}),
        details=[f"last materialized {last:%Y-%m-%d %H:%M} UTC", *_asked_by(repository, silences[0].key)],
        run_id="",
    )


def _asked_by(repository: dg.RepositoryDefinition, key: dg.AssetKey) -> Iterator[str]:
    """Yield the sensors and schedules that ask for runs of an asset."""
    for kind, asking in (("sensor", repository.sensor_defs), ("schedule", repository.schedule_defs)):
        for found in asking:
            names = (
                [found.job_name] if isinstance(found, dg.ScheduleDefinition) else [t.job_name for t in found.targets]
            )
            jobs = [repository.get_job(name) for name in names if repository.has_job(name)]
            if any(key in job.asset_layer.executable_asset_keys for job in jobs):
                does = f": {found.description}" if found.description else ""
                yield f"look at the ticks and runs of the {kind} {found.name}{does}"


def _words(time: timedelta) -> str:
    """Write a time as people say it, rounded down."""
    units = (("days", timedelta(days=3)), ("hours", timedelta(hours=2)), ("minutes", timedelta()))
    unit = next(unit for unit, least in units if time >= least)
    return f"{time // timedelta(**{unit: 1})} {unit}"
