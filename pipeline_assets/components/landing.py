"""The `LandingFiles` component: one `defs.yaml` makes a bronze asset, its dead letters, its checks and its sensor.

How files become rows is in `ingest.landing`; which days need a run in `landing_sensor`.

Concept: https://docs.dagster.io/guides/build/components
"""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import Field, field_validator

from pipeline_assets.components import landing_sensor
from pipeline_assets.components.checks import (
    column_metadata,
    contract_result,
    table_value,
)
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest import landing
from pipeline_assets.ingest.audit import Findings, audit
from pipeline_assets.ingest.path_pattern import PathPattern
from pipeline_assets.lake import Table
from pipeline_assets.partitions import DAILY, days_of, range_of_tags
from pipeline_assets.settings import load_settings

_FREQUENCIES = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(days=7)}
_FILES_SHOWN = 100
_SENSOR_SECONDS = 30


class LandingFiles(dg.Component, dg.Model, dg.Resolvable):
    """Files that land in a folder become a daily-partitioned bronze table.

    A day that fails a blocking check is withheld from silver and gold until it passes, in later runs too: `lake.judge`.
    Silver and gold follow in the same run, not by automation conditions: a run costs 5 CPU seconds to start and the
    days that changed are known right there, while an automation sensor costs a daemon tick and a second run.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*__[a-z][a-z0-9]*(_[a-z0-9]+)*$")]
    """`<source>__<entity>` in snake_case: the table is `bronze.<name>`, its rejects are `dead_letters.<name>`."""

    path: str
    """Below the landing folder, with the day in it: `shop/invoice_lines/{date}/*` or `x_{date:%Y%m%d}.csv.gz`."""

    contract: str
    """Name of the Pandera model of the entity, e.g. `shop.InvoiceLines`."""

    owner: Annotated[str, Field(pattern=r"^(team:[\w-]+|[^@\s]+@[^@\s]+)$")]
    """Who answers for the source: an e-mail address or `team:<name>`. Alerts name them."""

    keys: list[str]
    """Columns that identify a record at the source; documentation for whoever models it."""

    format: Literal["auto", "csv", "jsonl", "json", "parquet", "avro"] = "auto"
    """Format of the files; `auto` goes by each file's name. Plain, gzip and zstd are recognised by content."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """CSV only."""

    frequency: Literal["hourly", "daily", "weekly"] = "daily"
    """How often files are expected; twice that without one and the asset is no longer fresh."""

    volume_mb_per_day: Annotated[float, Field(gt=0)]
    """Expected volume, for planning."""

    schema_evolution: bool = False
    """True: unknown fields become new columns. False: they are kept as JSON in `_rescued`."""

    failure_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of a day's records that may be dead letters before the blocking check fails."""

    description: str = ""

    @field_validator("path")
    @classmethod
    def _path_is_a_pattern(cls, value: str) -> str:
        PathPattern.parse(value)
        return value

    @field_validator("contract")
    @classmethod
    def _contract_exists(cls, value: str) -> str:
        contract(value)
        return value

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Builds the source's definitions."""
        bronze, dead_letters = self._keys
        job = dg.define_asset_job(
            f"{self.name}__to_gold",
            dg.AssetSelection.assets(bronze).downstream() | dg.AssetSelection.assets(dead_letters),
            description=f"{bronze.to_user_string()} and all that lies downstream.",
        )
        return dg.Definitions(
            assets=[self._assets()], asset_checks=[self._checks()], jobs=[job], sensors=[self._sensor()]
        )

    @property
    def source(self) -> landing.LandingSource:
        """The declaration as the domain code takes it."""
        return landing.LandingSource(
            name=self.name,
            pattern=PathPattern.parse(self.path),
            model=contract(self.contract),
            format=self.format,
            delimiter=self.delimiter,
            schema_evolution=self.schema_evolution,
        )

    @property
    def _keys(self) -> tuple[dg.AssetKey, dg.AssetKey]:
        return dg.AssetKey(["bronze", self.name]), dg.AssetKey(["dead_letters", self.name])

    def _specs(self) -> list[dg.AssetSpec]:
        bronze, dead_letters = self._keys
        kinds = {"deltalake", "duckdb"}
        return [
            dg.AssetSpec(
                bronze,
                group_name="bronze",
                partitions_def=DAILY,
                owners=[self.owner],
                kinds=kinds,
                description=self.description or f"Rows of {self.path} as delivered, exactly once.",
                freshness_policy=dg.FreshnessPolicy.time_window(fail_window=2 * _FREQUENCIES[self.frequency]),
                metadata={
                    "dagster/column_schema": column_metadata(contract(self.contract)),
                    "path": self.path,
                    "frequency": self.frequency,
                    "volume_mb_per_day": self.volume_mb_per_day,
                    "keys": ", ".join(self.keys),
                },
            ),
            dg.AssetSpec(
                dead_letters,
                group_name="dead_letters",
                partitions_def=DAILY,
                owners=[self.owner],
                kinds=kinds,
                description=f"Records of {self.path} that did not fit, with file, line, reason and raw text.",
            ),
        ]

    def _assets(self) -> dg.AssetsDefinition:
        source, (bronze, dead_letters) = self.source, self._keys

        @dg.multi_asset(
            name=f"{self.name}__ingest",
            specs=self._specs(),
            backfill_policy=dg.BackfillPolicy.single_run(),
            retry_policy=dg.RetryPolicy(max_retries=2, delay=1, backoff=dg.Backoff.EXPONENTIAL),
            pool=f"source_{self.name}",
        )
        def ingest(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult[None]]:
            settings = load_settings()
            days = days_of(context.partition_keys)
            with lake.connect() as con:
                report = landing.ingest(
                    lake.open(),
                    con,
                    source,
                    Path(settings.landing_uri),
                    days[0],
                    days[-1],
                    settle_seconds=settings.settle_seconds,
                    run_id=context.run.run_id,
                )
            counts = report.counts()
            for day, found in counts.items():
                key = day.isoformat()
                if not days[0] <= day <= days[-1]:
                    continue  # a copy of another day that was needed: no partition of this run
                context.add_asset_metadata(asdict(found), asset_key=bronze, partition_key=key)
                context.add_asset_metadata(
                    {"dead_letters": found.dead_letters}, asset_key=dead_letters, partition_key=key
                )
            facts: dict[str, Any] = {"delta_version": report.version, "files_unchanged": report.unchanged}
            if report.files:
                facts["files_read"] = table_value([file.as_dict() for file in report.files[:_FILES_SHOWN]])
            yield dg.MaterializeResult(asset_key=bronze, metadata=facts)
            yield dg.MaterializeResult(asset_key=dead_letters)

        return ingest

    def _checks(self) -> dg.AssetChecksDefinition:
        bronze, _ = self._keys
        model, name, budget = contract(self.contract), self.name, self.failure_budget

        @dg.multi_asset_check(
            name=f"{name}__checks",
            specs=[
                dg.AssetCheckSpec("contract", asset=bronze, blocking=True, description=f"Rows fit {model.__name__}."),
                dg.AssetCheckSpec(
                    "reconciliation",
                    asset=bronze,
                    blocking=True,
                    description="Records counted while reading = rows + dead letters in the tables, per file.",
                ),
                dg.AssetCheckSpec(
                    "failure_budget",
                    asset=bronze,
                    blocking=True,
                    description=f"At most {budget:.1%} of a day's records are dead letters.",
                ),
            ],
        )
        def checks(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
            table = Table(lake.open(), f"bronze.{name}")
            with lake.connect() as con:
                days = range_of_tags(context.run.tags)
                findings = audit(con, table, model, failure_budget=budget, days=days)
            yield contract_result(findings.contract, findings.where)._replace(asset_key=bronze, check_name="contract")
            yield _reconciliation(bronze, findings)
            yield _failure_budget(bronze, findings, budget)

        return checks

    def _sensor(self) -> dg.SensorDefinition:
        source = self.source

        @dg.sensor(
            name=f"{self.name}__landing",
            job_name=f"{self.name}__to_gold",
            minimum_interval_seconds=_SENSOR_SECONDS,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=f"Asks for one run per range of days with new or corrected files in {self.path}.",
        )
        def sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
            settings = load_settings()
            return landing_sensor.tick(
                context,
                name=source.name,
                table=source.table(lake.open()),
                root=Path(settings.landing_uri),
                pattern=source.pattern,
                settle=settings.settle_seconds,
            )

        return sensor


def _reconciliation(asset: dg.AssetKey, findings: Findings) -> dg.AssetCheckResult:
    wrong = [asdict(file) for file in findings.mismatches[:_FILES_SHOWN]]
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name="reconciliation",
        passed=not wrong,
        metadata={**asdict(findings.total), **({"failing_cases": table_value(wrong)} if wrong else {})},
    )


def _failure_budget(asset: dg.AssetKey, findings: Findings, budget: float) -> dg.AssetCheckResult:
    total = sum(findings.counts.values(), start=landing.DayCounts())
    over = [
        {"day": day, "records_in": counts.records_in, "dead_letters": counts.dead_letters}
        for day in sorted(findings.over)[:_FILES_SHOWN]
        if (counts := findings.counts[day])
    ]
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name="failure_budget",
        passed=not over,
        metadata={
            "budget": budget,
            "records_in": total.records_in,
            "dead_letters": total.dead_letters,
            "withheld_days": ", ".join(map(str, sorted(findings.held))) or "none",
            **({"failing_cases": table_value(over)} if over else {}),
        },
    )
