"""The `ChangeFiles` component: one `defs.yaml` turns landed change records into bronze change tables, one per table.

`ingest.cdc.files.ingest` turns files into rows; `automation.landing_sensor` decides which days need a run;
`assets.changes` holds what this component shares with the changes of a slot.

Concept: https://docs.dagster.io/guides/build/components
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import Field, field_validator, model_validator

from pipeline_assets.components.assets import bronze as bronze_assets
from pipeline_assets.components.assets import changes as change_assets
from pipeline_assets.components.assets.bronze import FREQUENCIES, OWNER, bronze_key, dead_letters_key
from pipeline_assets.components.assets.changes import NAME, CapturedTable
from pipeline_assets.components.assets.contract_checks import table_value
from pipeline_assets.components.assets.dead_letters import DeadLetters, waiting_facts
from pipeline_assets.components.automation.cancellation import RETRIES
from pipeline_assets.components.automation.landing_sensor import landing_sensor
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.ingest.cdc.files import ingest as files
from pipeline_assets.ingest.cdc.files.accounting import account
from pipeline_assets.ingest.cdc.files.plan import FileSource
from pipeline_assets.ingest.cdc.table.change_table import UNROUTED, ChangeTable
from pipeline_assets.ingest.files.content import MAX_UNPACKED_MB
from pipeline_assets.ingest.files.limits import MAX_SECONDS_PER_FILE
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.lake.dead_letters import dead_letter_table

_FILES_SHOWN = 100
_REASONS_SHOWN = 20


class ChangeFiles(dg.Component, dg.Model, dg.Resolvable):
    """Change records of several tables, which land together as files.

    A run reads the files of the days that it is asked for. In the tables a partition is a commit date: a file of today
    may bring a change of yesterday. Silver and gold follow in the same run, as with a database's slot.

    A database rewrites some rows without an event, and then the records do not show it: `ADD COLUMN ... DEFAULT`,
    `ALTER COLUMN ... TYPE ... USING`, labels of enums, generated columns, partitions attached with rows, a column
    renamed and renamed back. Files cannot ask the source. So after such a change let the connector send the table
    again: by Debezium's ad hoc snapshot (a signal of type `execute-snapshot`), or by `maxwell-bootstrap` of a Maxwell
    that gives its rows a position. Rows that are sent again win over those in the table.

    pipeline_assets/ingest/cdc/connectors/README.md names the values that the connectors themselves get wrong (years
    moved, bits reversed, arrays emptied), and the settings that avoid it.
    """

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the source: table `shop.customers` becomes `bronze.<name>__customers`."""

    path: str
    """Below the landing folder, with the day in it: `shop_mysql/{date}/*.jsonl*`. Plain, gzip or zstd JSON Lines."""

    format: Literal["debezium", "maxwell"]
    """Who writes the records. How it has to be configured: pipeline_assets/ingest/cdc/connectors/README.md."""

    tables: Annotated[dict[str, CapturedTable], Field(min_length=1)]
    """The tables as the records name them: `schema.table` of PostgreSQL, `database.table` of MySQL. The first is the
    reference: its log says which files are done."""

    owner: Annotated[str, Field(pattern=OWNER)]
    """Who answers for the source: an e-mail address or `team:<name>`. Alerts name them."""

    frequency: Literal["hourly", "daily", "weekly"] = "hourly"
    """How often files are expected. After twice that time without one, the assets are no longer fresh."""

    max_unpacked_mb: Annotated[int, Field(gt=0)] = MAX_UNPACKED_MB
    """If a gzip or zstd file holds more megabytes, it becomes one dead letter, and the limit is its reason."""

    max_seconds_per_file: Annotated[int, Field(gt=0)] = MAX_SECONDS_PER_FILE
    """If reading a file takes longer, the file is left unread and the others land; `files_read` fails and names it."""

    description: str = ""

    @field_validator("path")
    @classmethod
    def _path_is_a_pattern(cls, value: str) -> str:
        PathPattern.parse(value)
        return value

    @model_validator(mode="after")
    def _tables_have_names(self) -> "ChangeFiles":
        change_assets.captured(self.name, self.tables)
        return self

    @cached_property
    def _tables(self) -> list[ChangeTable]:
        return change_assets.captured(self.name, self.tables)

    @property
    def source(self) -> FileSource:
        """Give the declaration in the form of the domain code."""
        return FileSource(
            self.name,
            PathPattern.parse(self.path),
            self.format,
            tuple(self._tables),
            self.max_unpacked_mb,
            self.max_seconds_per_file,
        )

    @property
    def dead_letters(self) -> DeadLetters:
        """Give the dead letters of the source."""
        return DeadLetters.of_changes(self.name, self._tables, self.format)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the source's definitions."""
        bronze = dg.AssetSelection.assets(*(bronze_key(table.name) for table in self._tables))
        names = [*(table.name for table in self._tables), f"{self.name}__{UNROUTED}"]
        to_gold = bronze.downstream() | dg.AssetSelection.assets(*map(dead_letters_key, names))
        told = f"Reads the files of {self.path}, then all that lies downstream."
        source, text = self.source, "Asks for one run per range of days with new files in"
        return dg.Definitions(
            assets=[self._assets()],
            asset_checks=[
                self._checks(),
                bronze_assets.files_check(self.name, bronze_key(source.tables[0].name)),
            ],
            sensors=[landing_sensor(source.name, source.pattern, source.reference, f"{text} {self.path}.")],
            jobs=[
                dg.define_asset_job(f"{self.name}__to_gold", to_gold, description=told),
                *self.dead_letters.jobs(to_gold),
            ],
        )

    def _assets(self) -> dg.AssetsDefinition:
        source, every = self.source, FREQUENCIES[self.frequency]

        @dg.multi_asset(
            name=f"{self.name}__ingest",
            specs=change_assets.specs(self.name, source.tables, owner=self.owner, every=every),
            backfill_policy=dg.BackfillPolicy.single_run(),
            retry_policy=RETRIES,
            pool=f"source_{self.name}",
            description=self.description or None,
        )
        def ingest(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult[None]]:
            run_id, tags = context.run.run_id, context.run.tags
            self.dead_letters.discard_if_asked(tags, lake, run_id)
            report, left = bronze_assets.read_files(context, lake, files.ingest, source)
            replayed = self.dead_letters.replay_if_asked(tags, lake, run_id)
            yield from change_assets.results(
                context,
                source.name,
                source.tables,
                report,
                {**_facts(report), **bronze_assets.left_metadata(left), **replayed},
                self.dead_letters.metadata(lake),
            )

        return ingest

    def _checks(self) -> dg.AssetChecksDefinition:
        source = self.source
        described = {
            "records": (True, "Records read = rows + dead letters + records without data, over all tables."),
            "unrouted": (False, "No record waits that belongs to no declared table, or is no record."),
        }
        specs = [
            dg.AssetCheckSpec(name, asset=bronze_key(table.name), blocking=blocking, description=text)
            for table in source.tables
            for name, (blocking, text) in described.items()
        ]

        @dg.multi_asset_check(name=f"{source.name}__checks", specs=[*specs, *change_assets.check_specs(source.tables)])
        def checks(lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
            with lake.connect() as con:
                found = account(con, lake.open(), source)
                waiting = waiting_facts(con, dead_letter_table(lake.open(), f"bronze.{source.name}__{UNROUTED}"))
            for table in source.tables:
                key = bronze_key(table.name)
                yield dg.AssetCheckResult(
                    asset_key=key, check_name="records", passed=found.adds_up, metadata=dict(vars(found))
                )
                yield dg.AssetCheckResult(
                    asset_key=key,
                    check_name="unrouted",
                    passed="reasons" not in waiting,
                    metadata=waiting,
                )
            yield from change_assets.check_tables(lake, source.name, source.tables)

        return checks


def _facts(report: files.Report) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "records_read": report.records_in,
        "records_skipped": report.skipped,
        "files_read": len(report.read),
        "files_copied": report.copies,
        "files_unchanged": report.unchanged,
        "files_waiting": report.waiting,
    }
    if report.read:
        facts["files"] = table_value([{"file": path} for path in report.read[:_FILES_SHOWN]])
    return facts
