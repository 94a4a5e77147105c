"""The `DatabaseTable` component: one `defs.yaml` pulls a table or query of a database into bronze on a schedule.

It gives a bronze asset with its dead letters and checks, a schedule, and the jobs that pull and that compare keys.
`ingest.database` reads a database, and decides what is new in it.

Concept: https://docs.dagster.io/guides/build/components
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import Field, model_validator

from pipeline_assets.components.assets import bronze as bronze_assets
from pipeline_assets.components.assets.bronze import FREQUENCIES, NAME, OWNER, bronze_key, dead_letters_key
from pipeline_assets.components.assets.dead_letters import DeadLetters
from pipeline_assets.components.automation.cancellation import RETRIES
from pipeline_assets.components.automation.pull_schedule import pull_schedule
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.replay_pulls import row_source
from pipeline_assets.ingest.batch.watermark import Watermark
from pipeline_assets.ingest.database import pulls
from pipeline_assets.ingest.database.compare_keys import compare_keys
from pipeline_assets.ingest.database.pulls import DatabaseSource, Mode
from pipeline_assets.partitions import days_of

COMPARE_KEYS_TAG = "pipeline_assets/compare_keys"
"""Run tag: after the pull, each key that is gone from the source gets a tombstone."""

# At 01:00 UTC the day before is over, also by the clocks of a source that are an hour late.
_CRONS = {"hourly": "5 * * * *", "daily": "0 1 * * *", "weekly": "0 1 * * 1"}


class DatabaseTable(dg.Component, dg.Model, dg.Resolvable):
    """A table or query of a database becomes a daily-partitioned bronze table, pulled on a schedule.

    Silver and gold follow in the same run: it knows the days that changed, and a second run would cost another start.
    """

    name: Annotated[str, Field(pattern=NAME)]
    """`<source>__<entity>` in snake_case: the table is `bronze.<name>`, its dead letters are `dead_letters.<name>`."""

    connection_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
    """Environment variable that holds the URL: `postgresql://user:password@host/db`, `duckdb:///path`, or any other URL
    of SQLAlchemy whose driver is installed. Unset: the source rests."""

    table: str | None = None
    """The table to be read, as `schema.table`, with capitals as the database has them. Put a name that contains dots or
    quotes into double quotes: `public."Order.Items"`. Or give `query`."""

    query: str | None = None
    """SQL, in place of `table`. With `:lower` (inclusive) in incremental mode, with `:lower` and `:upper` (exclusive)
    in windows.

    One statement is read. Where a statement does not see one moment (SQL Server without READ_COMMITTED_SNAPSHOT,
    MyISAM, READ UNCOMMITTED), rows that move meanwhile may be missed: set READ_COMMITTED_SNAPSHOT, or read a replica at
    rest.
    """

    mode: Mode
    """full: every row, in place of the rows of the last pull. window: the rows of a day, in place of that day's rows in
    the table. incremental: rows that are new or changed since the last pull."""

    watermark: str | None = None
    """Column of the contract that grows with each change (incremental: a time, a date, a whole number), or that says
    the day (window: a time in UTC, a date)."""

    lookback: Annotated[int, Field(ge=0)] | None = None
    """How far below the watermark an incremental pull looks: seconds, or numbers; a day, or 10,000, if not declared. A
    PostgreSQL table is read by its transactions, so nothing is missed, and a lookback only lets the pull use the index.
    Elsewhere rows further below are not read, and nothing says so: if ids start again from 1, delete the bronze table.
    """

    contract: str
    """Name of the Pandera model of the entity, e.g. `shop.Payments`."""

    keys: Annotated[list[str], Field(min_length=1)]
    """Columns of the contract that name a record at the source. A record that is read again and equals its row in
    bronze is no new row; the contract check looks at the last version of each record; and the job
    `<name>__compare_keys` gives each key that is gone a tombstone."""

    owner: Annotated[str, Field(pattern=OWNER)]
    """Who answers for the source: an e-mail address or `team:<name>`. Alerts name them."""

    frequency: Literal["hourly", "daily", "weekly"] = "daily"
    """How often it is pulled. After twice that time without a pull, the asset is no longer fresh."""

    schema_evolution: bool = False
    """True: unknown columns become new columns. False: they are kept as JSON in `_rescued`."""

    failure_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of a day's records that may be dead letters before the blocking check fails."""

    description: str = ""

    @model_validator(mode="after")
    def _declaration_is_sound(self) -> "DatabaseTable":
        _ = self.source
        return self

    @cached_property
    def source(self) -> DatabaseSource:
        """Give the declaration in the form of the domain code."""
        model = contract(self.contract)
        return DatabaseSource(
            self.name,
            model,
            tuple(self.keys),
            schema_evolution=self.schema_evolution,
            source_table=self.table,
            query=self.query,
            mode=self.mode,
            watermark=Watermark.of(model, self.watermark) if self.watermark else None,
            lookback=self.lookback,
        )

    @property
    def dead_letters(self) -> DeadLetters:
        """Give the dead letters of the source."""
        return DeadLetters.of_rows(row_source(self.source))

    @property
    def _resting(self) -> str | None:
        return (
            None if os.environ.get(self.connection_env) else f"{self.connection_env} is not set: nothing to read from"
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the source's definitions."""
        bronze, dead_letters = bronze_key(self.name), dead_letters_key(self.name)
        selection = dg.AssetSelection.assets(bronze).downstream() | dg.AssetSelection.assets(dead_letters)
        jobs = [
            dg.define_asset_job(
                f"{self.name}__to_gold",
                selection,
                description=f"Pulls {bronze.to_user_string()}, then all that lies downstream.",
            )
        ]
        if self.mode == "incremental":
            jobs.append(
                dg.define_asset_job(
                    f"{self.name}__compare_keys",
                    selection,
                    tags={COMPARE_KEYS_TAG: "yes"},
                    description="Pulls, and gives keys that are gone from the source a tombstone; then all downstream.",
                )
            )
        jobs += self.dead_letters.jobs(selection)
        source = self.source
        schedule = pull_schedule(
            self.name,
            cron=_CRONS[self.frequency],
            due=lambda lake, today: pulls.days_due(lake, source, today),
            resting=lambda: self._resting,
            description=f"Pulls {source.relation.name}, {self.frequency}: one run for all days since the last one.",
        )
        checks = bronze_assets.checks(row_source(source), self.failure_budget, self.keys)
        return dg.Definitions(assets=[self._assets()], asset_checks=[checks], jobs=jobs, schedules=[schedule])

    def _specs(self) -> list[dg.AssetSpec]:
        source = self.source
        what = {"full": "all rows", "window": "the rows of each day", "incremental": "rows as they came or changed"}
        return bronze_assets.specs(
            self.name,
            source.model,
            owner=self.owner,
            read_from=source.relation.name,
            description=self.description or f"{source.relation.name}: {what[self.mode]}.",
            every=FREQUENCIES[self.frequency],
            metadata={
                "read_from": self.table or self.query or "",
                "connection_env": self.connection_env,
                "mode": self.mode,
                "frequency": self.frequency,
                "keys": ", ".join(self.keys),
                **({"watermark": self.watermark} if self.watermark else {}),
            },
        )

    def _assets(self) -> dg.AssetsDefinition:
        bronze, dead_letters = bronze_key(self.name), dead_letters_key(self.name)

        @dg.multi_asset(
            name=f"{self.name}__pull",
            specs=self._specs(),
            backfill_policy=dg.BackfillPolicy.single_run(),
            retry_policy=RETRIES,
            pool=f"source_{self.name}",
        )
        def pull(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult[None]]:
            if reason := self._resting:
                yield from bronze_assets.rested(context, self.name, reason)
                return
            run_id, tags = context.run.run_id, context.run.tags
            with bronze_assets.errors_as_failures(self.name):
                self.dead_letters.discard_if_asked(tags, lake, run_id)
                facts = self._pull(context, lake)
                facts |= self.dead_letters.replay_if_asked(tags, lake, run_id)
            yield dg.MaterializeResult(asset_key=bronze, metadata=facts)
            yield dg.MaterializeResult(asset_key=dead_letters, metadata=self.dead_letters.metadata(lake)[self.name])

        return pull

    def _pull(self, context: dg.AssetExecutionContext, lake: LakeResource) -> dict[str, Any]:
        """Pull, and compare keys if the run is asked to. Give the metadata of the materialization."""
        database = pulls.connect(os.environ[self.connection_env])
        days, run_id = days_of(context.partition_keys), context.run.run_id
        with lake.connect() as con:
            pulled = pulls.pull(lake.open(), con, self.source, database, days[0], days[-1], run_id=run_id)
            facts: dict[str, Any] = {"delta_version": pulled.version, **asdict(pulled.total)}
            facts |= bronze_assets.widened_metadata(pulled.widened)
            if COMPARE_KEYS_TAG in context.run.tags:
                compared = compare_keys(lake.open(), con, self.source, database, run_id=run_id)
                facts |= {f"keys_{name}": count for name, count in asdict(compared).items()}
        for day, counts in pulled.by_day[self.name].items():
            if days[0] <= day <= days[-1]:
                key = {"partition_key": day.isoformat()}
                context.add_asset_metadata(asdict(counts), asset_key=bronze_key(self.name), **key)
                dead = {"dead_letters": counts.dead_letters}
                context.add_asset_metadata(dead, asset_key=dead_letters_key(self.name), **key)
        return facts
