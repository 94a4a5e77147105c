"""The `ChangeStream` component: one `defs.yaml` turns a database's changes into bronze change tables, as they commit.

It gives each table a bronze asset with its dead letters and checks, and the stream a sensor and the jobs that drain,
replay, snapshot again and reconcile. `ingest.cdc.slot.drain` drains a slot; `automation.change_sensor` decides when.

Concept: https://docs.dagster.io/guides/build/components
"""

import os
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any

import dagster as dg
from pydantic import Field, model_validator

from pipeline_assets.components.assets import changes as change_assets
from pipeline_assets.components.assets import reconciliation
from pipeline_assets.components.assets.bronze import OWNER, bronze_key, dead_letters_key
from pipeline_assets.components.assets.changes import NAME, CapturedTable
from pipeline_assets.components.assets.dead_letters import DeadLetters
from pipeline_assets.components.automation import change_sensor
from pipeline_assets.components.automation.cancellation import RETRIES
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.ingest.batch.counts import Report
from pipeline_assets.ingest.cdc.slot.drain import Drain
from pipeline_assets.ingest.cdc.slot.health import ChangeSource, State, inspect, stream_position, toasted
from pipeline_assets.ingest.cdc.slot.postgres import Postgres
from pipeline_assets.ingest.cdc.table.change_table import UNROUTED, ChangeTable
from pipeline_assets.ingest.postgres_session import SourceDatabaseError


class StreamedTable(CapturedTable):
    """A table whose changes the slot sends."""

    state: Annotated[str, Field(pattern=r"^silver\.[a-z][a-z0-9_]*$")] | None = None
    """The silver table that holds its current state, e.g. `silver.customers`; it is reconciled with the source."""


# These are tags for the same reason as those of `assets.dead_letters`.
RESNAPSHOT_TAG = "pipeline_assets/resnapshot"
"""Names of the tables to read whole again, with commas between."""
RECONCILE_TAG = "pipeline_assets/reconcile"
"""Tag: the run also stores the source's rows, to be compared with silver."""


class ChangeStream(dg.Component, dg.Model, dg.Resolvable):
    """The changes of a PostgreSQL database, read from a replication slot.

    Silver and gold follow in the same run: it knows the keys that changed, and a second run would cost another start.
    If a table is suspect (a gap between slot and lake), a blocking check stops them.

    A table is known by its OID: a table that was renamed or moved, and is back, has lost nothing. After a change that
    PostgreSQL makes without an event, the next run reads the table whole again, and its log says why. Such changes are:
    a column that was dropped, renamed, retyped or added with a default or an expression, `ALTER COLUMN ... TYPE`, a
    label of an enum, an attribute of a composite type, a partition that was attached with rows, truncated, rewritten or
    detached, a time out of the publication, other options of it. VACUUM FULL, CLUSTER and TRUNCATE count as such only
    for tables that are published as FOR ALL TABLES or FOR TABLES IN SCHEMA (these may have been UNLOGGED meanwhile) and
    for partitions: list the tables in the publication to avoid it.
    """

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the source: table `public.customers` becomes `bronze.<name>__customers`."""

    connection_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
    """Environment variable that holds the URL, `postgresql://user:password@host/database`. Unset: the stream rests."""

    publication: Annotated[str, Field(pattern=NAME)]
    """The publication; its owner creates it before the first run."""

    slot: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")]
    """The replication slot; the first run creates it. One slot feeds one lake."""

    tables: dict[str, StreamedTable]
    """The tables, as `schema.table`."""

    owner: Annotated[str, Field(pattern=OWNER)]
    """Who answers for the source: an e-mail address or `team:<name>`. Alerts name them."""

    frequency_seconds: Annotated[int, Field(ge=5)] = 30
    """How often the sensor looks at the slot."""

    max_lag_mb: Annotated[int, Field(gt=0)] = 1024
    """WAL that the slot may hold back at the source before the blocking check fails."""

    description: str = ""

    @model_validator(mode="after")
    def _tables_have_names(self) -> "ChangeStream":
        change_assets.captured(self.name, self.tables)
        return self

    @cached_property
    def _tables(self) -> list[ChangeTable]:
        return change_assets.captured(self.name, self.tables)

    @property
    def source(self) -> ChangeSource:
        """Give the declaration in the form of the domain code."""
        return ChangeSource(self.name, tuple(self._tables), self.max_lag_mb * 1024**2)

    @property
    def dead_letters(self) -> DeadLetters:
        """Give the dead letters of the source."""
        return DeadLetters.of_changes(self.name, self._tables)

    def postgres(self) -> Postgres:
        """Give the database.

        Raises:
            SourceDatabaseError: The environment variable is not set.
        """
        if not self._is_connected:
            raise SourceDatabaseError(f"{self.connection_env} is not set: it holds the URL of the source {self.name}")
        return Postgres(os.environ[self.connection_env], slot=self.slot, publication=self.publication)

    @property
    def _is_connected(self) -> bool:
        return bool(os.environ.get(self.connection_env))

    @property
    def _resting(self) -> str:
        return f"{self.connection_env} is not set: no database to read from"

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the stream's definitions."""
        bronze = dg.AssetSelection.assets(*(bronze_key(table.name) for table in self._tables))
        dead_letters = dg.AssetSelection.assets(
            *(dead_letters_key(name) for name in [*(t.name for t in self._tables), f"{self.name}__{UNROUTED}"])
        )
        reconciled = reconciliation.assets(self.name, self._states, self._position, self.owner)
        checks = dg.AssetSelection.assets(*(asset.key for asset in reconciled))
        states = dg.AssetSelection.assets(*(dg.AssetKey(state.split(".")) for state in self._states.values()))
        to_gold = (bronze.downstream() | dead_letters) - checks
        every = ",".join(table.name for table in self._tables)
        jobs: dict[str, tuple[dg.AssetSelection, dict[str, str], str]] = {
            "to_gold": (to_gold, {}, f"Drains the slot {self.slot}, then all that lies downstream."),
            "resnapshot": (
                to_gold,
                {RESNAPSHOT_TAG: every},
                "Reads the tables whole again: after a lost slot or a gap.",
            ),
        }
        if self._states:
            text = "Compares the source with silver at one WAL position, and mends what differs."
            jobs["reconcile"] = (bronze | dead_letters | states | checks, {RECONCILE_TAG: "yes"}, text)
        return dg.Definitions(
            assets=[self._assets(), *reconciled],
            asset_checks=[self._checks()],
            sensors=[self._sensor()],
            jobs=[
                dg.define_asset_job(
                    f"{self.name}__{job}",
                    selection,
                    tags=tags,
                    description=description,
                )
                for job, (selection, tags, description) in jobs.items()
            ]
            + self.dead_letters.jobs(to_gold),
        )

    def _position(self) -> str | None:
        return stream_position(self.postgres()) if self._is_connected else None

    def _reconciled_in(self, run: dg.DagsterRun) -> list[str]:
        """Give the names of the tables that the run compares with silver later: all by the job, or a selection."""
        selected, all_of_them = run.asset_selection or frozenset(), RECONCILE_TAG in run.tags
        return [table.name for table in self._states if all_of_them or reconciliation.key(table.name) in selected]

    @property
    def _states(self) -> dict[ChangeTable, str]:
        """Give the captured tables whose current state lies in silver."""
        return {table: state for table in self._tables if (state := self.tables[table.source_table].state)}

    def _assets(self) -> dg.AssetsDefinition:
        source, tables = self.source, self._tables

        @dg.multi_asset(
            name=f"{self.name}__drain",
            specs=change_assets.specs(self.name, tables, owner=self.owner, every=change_sensor.EVERY),
            backfill_policy=dg.BackfillPolicy.single_run(),
            retry_policy=RETRIES,
            pool=f"source_{self.name}",
            description=self.description or None,
        )
        def drain(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult[None]]:
            run_id, tags = context.run.run_id, context.run.tags
            if not self._is_connected:
                context.log.warning(self._resting)
                yield from change_assets.results(context, self.name, tables, Report(), {"resting": self._resting}, {})
                return
            self.dead_letters.discard_if_asked(tags, lake, run_id)
            with lake.connect() as con:
                report = Drain(lake.open(), con, source, self.postgres(), run_id).run(
                    resnapshot=[name for name in tags.get(RESNAPSHOT_TAG, "").split(",") if name],
                    reconcile=self._reconciled_in(context.run),
                )
            for reason in report.suspects.values():
                context.log.error(reason)
            for table, reason in report.altered.items():
                context.log.info("%s was read whole again: %s", table, reason)
            facts: dict[str, Any] = {
                "wal_position": report.target or 0,
                "snapshots": ", ".join(sorted(report.snapshots)) or "none",
            }
            facts |= self.dead_letters.replay_if_asked(tags, lake, run_id)
            waiting = self.dead_letters.metadata(lake)
            yield from change_assets.results(context, self.name, tables, report, facts, waiting)

        return drain

    def _checks(self) -> dg.AssetChecksDefinition:
        tables, described = self._tables, _CHECKS
        specs = [
            dg.AssetCheckSpec(name, asset=bronze_key(table.name), blocking=True, description=text)
            for table in tables
            for name, text in described.items()
        ]

        @dg.multi_asset_check(name=f"{self.name}__checks", specs=[*specs, *change_assets.check_specs(tables)])
        def checks(lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
            state = inspect(lake.open(), self.source, self.postgres()) if self._is_connected else None
            for table in tables:
                yield from _results(table, state) if state else _unasked(table, self._resting)
            yield from change_assets.check_tables(lake, self.name, tables)

        return checks

    def _sensor(self) -> dg.SensorDefinition:
        @dg.sensor(
            name=f"{self.name}__changes",
            job_name=f"{self.name}__to_gold",
            minimum_interval_seconds=self.frequency_seconds,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=f"Asks for a run when the slot {self.slot} holds changes.",
        )
        def sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
            if not self._is_connected:
                return dg.SkipReason(self._resting)
            tables = [bronze_key(table.name) for table in self._tables]
            return change_sensor.tick(context, self.name, self.postgres(), lake.open(), tables, self._states)

        return sensor


_CHECKS = {
    "slot": "The replication slot exists, is not lost, and has no gap to the lake; its lag is within max_lag_mb.",
    "publication": "The publication holds the table.",
    "replica_identity": "The declared keys are the primary key, or the table has REPLICA IDENTITY FULL.",
}


def _results(table: ChangeTable, state: State) -> Iterator[dg.AssetCheckResult]:
    suspect, unreadable = state.suspects.get(table.name), state.unreadable.get(table.name)
    problems = {
        "slot": [suspect] if suspect else [*state.blocked, *state.slot_problems],
        "publication": [*([unreadable] if unreadable else []), *state.publication],
        "replica_identity": [problem] if (problem := state.identity.get(table.name)) else [],
    }
    slot = state.slot
    facts: dict[str, Any] = {
        "slot": {"lag_bytes": slot.lag_bytes, "wal_status": slot.wal_status or "unknown"} if slot else {},
        "publication": {},
        "replica_identity": {"toasted_columns": ", ".join(toasted(state, table)) or "none"},
    }
    for name, found in problems.items():
        yield dg.AssetCheckResult(
            asset_key=bronze_key(table.name),
            check_name=name,
            passed=not found,
            metadata={**facts[name], **({"problem": "; ".join(found)} if found else {})},
        )


def _unasked(table: ChangeTable, reason: str) -> Iterator[dg.AssetCheckResult]:
    """Yield warnings: the assets downstream go on with what bronze has."""
    for name in _CHECKS:
        yield dg.AssetCheckResult(
            asset_key=bronze_key(table.name),
            check_name=name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"problem": reason},
        )
