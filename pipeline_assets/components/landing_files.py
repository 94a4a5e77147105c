"""The `LandingFiles` component: one `defs.yaml` makes a bronze asset, its dead letters, its checks and its sensor.

`ingest.files.ingest` turns files into rows; `automation.landing_sensor` decides which days need a run.

Concept: https://docs.dagster.io/guides/build/components
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

import dagster as dg
from pydantic import Field, field_validator, model_validator

from pipeline_assets.components.assets import bronze as bronze_assets
from pipeline_assets.components.assets.bronze import FREQUENCIES, NAME, OWNER, bronze_key, dead_letters_key
from pipeline_assets.components.assets.contract_checks import table_value
from pipeline_assets.components.assets.dead_letters import DeadLetters
from pipeline_assets.components.automation.cancellation import RETRIES
from pipeline_assets.components.automation.landing_sensor import landing_sensor
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import contract, raw_shape
from pipeline_assets.ingest.files import ingest as landing
from pipeline_assets.ingest.files.content import MAX_UNPACKED_MB
from pipeline_assets.ingest.files.limits import MAX_SECONDS_PER_FILE
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.replay import row_source
from pipeline_assets.partitions import days_of

_FILES_SHOWN = 100


class LandingFiles(dg.Component, dg.Model, dg.Resolvable):
    """Files that land in a folder become a daily-partitioned bronze table.

    If a day fails a blocking check, it is withheld from silver and gold until it passes, in later runs too
    (`lake.publication`).
    Silver and gold follow in the same run, not by automation conditions. The run knows the days that changed, and a run
    costs 5 CPU seconds to start; an automation sensor would cost a daemon tick and a second run.
    """

    name: Annotated[str, Field(pattern=NAME)]
    """`<source>__<entity>` in snake_case: the table is `bronze.<name>`, its dead letters are `dead_letters.<name>`."""

    path: str
    """Below the landing folder, with the day in it: `shop/invoice_lines/{date}/*` or `x_{date:%Y%m%d}.csv.gz`."""

    contract: str
    """Name of the Pandera model of the entity, e.g. `shop.InvoiceLines`."""

    owner: Annotated[str, Field(pattern=OWNER)]
    """Who answers for the source: an e-mail address or `team:<name>`. Alerts name them."""

    keys: list[str]
    """Columns that identify a record at the source. They are metadata, and say which key to give the silver model.
    Bronze keeps each delivery as it came: it removes no duplicates by them."""

    delivery: Literal["append", "snapshot"] = "append"
    """What a day's files are. `append`: new records; a content that was delivered before, on whatever day, brings
    nothing new. `snapshot`: all existing records, in the files of a day together. The newest day that is not withheld
    is the state, even if it is byte for byte what was delivered some days ago, and a key that is missing from it is
    gone. Silver is one call, `snapshot_state(source('bronze', '<name>'), contract='...', keys=[...])`, which makes
    tombstones (`_deleted`) of keys that are gone: dbt_project/macros/snapshot_state.sql."""

    format: Literal["auto", "csv", "jsonl", "json", "parquet", "avro"] = "auto"
    """Format of the files; `auto` goes by each file's name. Plain, gzip and zstd are recognised by content."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """CSV only. With format `auto`, files named `.tsv` or `.tab` are separated by tabs all the same."""

    frequency: Literal["hourly", "daily", "weekly"] = "daily"
    """How often files are expected. After twice that time without one, the asset is no longer fresh."""

    volume_mb_per_day: Annotated[float | None, Field(gt=0)] = None
    """Expected volume, for people who plan: the UI shows it, and it decides nothing."""

    schema_evolution: bool = False
    """True: unknown fields become new columns. False: they are kept as JSON in `_rescued`."""

    max_unpacked_mb: Annotated[int, Field(gt=0)] = MAX_UNPACKED_MB
    """If a gzip or zstd file holds more megabytes, it becomes one dead letter, and the limit is its reason. Raise the
    limit and touch the file: bytes that could not be read are tried again when they land again."""

    max_seconds_per_file: Annotated[int, Field(gt=0)] = MAX_SECONDS_PER_FILE
    """If reading a file takes longer, the file is left unread and the others land; `files_read` fails and names it."""

    failure_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of a day's records that may be dead letters before the blocking check fails. A file that cannot be read
    counts as its lines; a binary file as the records that it declares, or as one for each 100 bytes."""

    shrink_budget: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of snapshots: the share of the last published day's rows that may be missing from the next day before the
    blocking check `snapshot_size` fails and the day is withheld. A snapshot without any row is always withheld."""

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

    @model_validator(mode="after")
    def _keys_are_columns(self) -> Self:
        columns = {column.name for column in raw_shape(contract(self.contract)).columns}
        if unknown := [key for key in self.keys if key not in columns]:
            raise ValueError(f"keys: {', '.join(unknown)} are no columns of the contract {self.contract}")
        return self

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the source's definitions."""
        bronze, dead_letters = bronze_key(self.name), dead_letters_key(self.name)
        to_gold = dg.AssetSelection.assets(bronze).downstream() | dg.AssetSelection.assets(dead_letters)
        job = dg.define_asset_job(
            f"{self.name}__to_gold",
            to_gold,
            description=f"{bronze.to_user_string()} and all that lies downstream.",
        )
        source, text = self.source, "Asks for one run per range of days with new or corrected files in"
        return dg.Definitions(
            assets=[self._assets()],
            asset_checks=[self._checks(), bronze_assets.files_check(self.name, bronze)],
            jobs=[job, *self.dead_letters.jobs(to_gold)],
            sensors=[landing_sensor(source.name, source.pattern, source.table, f"{text} {self.path}.")],
        )

    @property
    def source(self) -> landing.LandingSource:
        """Give the declaration in the form of the domain code."""
        return landing.LandingSource(
            name=self.name,
            pattern=PathPattern.parse(self.path),
            model=contract(self.contract),
            format=self.format,
            delimiter=self.delimiter,
            schema_evolution=self.schema_evolution,
            delivery=self.delivery,
            max_unpacked_mb=self.max_unpacked_mb,
            max_seconds_per_file=self.max_seconds_per_file,
        )

    @property
    def dead_letters(self) -> DeadLetters:
        """Give the dead letters of the source."""
        return DeadLetters.of_rows(row_source(self.source))

    def _checks(self) -> dg.AssetChecksDefinition:
        shrink_budget = self.shrink_budget if self.delivery == "snapshot" else None
        return bronze_assets.checks(row_source(self.source), self.failure_budget, shrink_budget=shrink_budget)

    def _specs(self) -> list[dg.AssetSpec]:
        return bronze_assets.specs(
            self.name,
            contract(self.contract),
            owner=self.owner,
            read_from=self.path,
            description=self.description or f"Rows of {self.path} as delivered, exactly once.",
            every=FREQUENCIES[self.frequency],
            metadata={
                "path": self.path,
                "frequency": self.frequency,
                **({"volume_mb_per_day": self.volume_mb_per_day} if self.volume_mb_per_day else {}),
                "keys": ", ".join(self.keys),
                "delivery": self.delivery,
            },
        )

    def _assets(self) -> dg.AssetsDefinition:
        source, bronze, dead_letters = self.source, bronze_key(self.name), dead_letters_key(self.name)

        @dg.multi_asset(
            name=f"{self.name}__ingest",
            specs=self._specs(),
            backfill_policy=dg.BackfillPolicy.single_run(),
            retry_policy=RETRIES,
            pool=f"source_{self.name}",
        )
        def ingest(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult[None]]:
            run_id, tags, days = context.run.run_id, context.run.tags, days_of(context.partition_keys)
            with bronze_assets.errors_as_failures(self.name):
                self.dead_letters.discard_if_asked(tags, lake, run_id)
                report, left = bronze_assets.read_files(context, lake, landing.ingest, source)
                replayed = self.dead_letters.replay_if_asked(tags, lake, run_id)
            for day, found in report.by_day[self.name].items():
                key = day.isoformat()
                if not days[0] <= day <= days[-1]:
                    continue  # a copy on another day that was needed: not a partition of this run
                context.add_asset_metadata(asdict(found), asset_key=bronze, partition_key=key)
                context.add_asset_metadata(
                    {"dead_letters": found.dead_letters}, asset_key=dead_letters, partition_key=key
                )
            facts: dict[str, Any] = {
                "delta_version": report.version,
                "files_unchanged": report.unchanged,
                **bronze_assets.widened_metadata(report.widened),
                **bronze_assets.left_metadata(left),
                **replayed,
            }
            if report.files:
                facts["files_read"] = table_value([file.as_dict() for file in report.files[:_FILES_SHOWN]])
            yield dg.MaterializeResult(asset_key=bronze, metadata=facts)
            yield dg.MaterializeResult(asset_key=dead_letters, metadata=self.dead_letters.metadata(lake)[self.name])

        return ingest
