"""What the components of change events share: the declaration of a table, assets, checks of the counts, jobs.

The events come from a database's slot (`components.change_stream`) or from landed records (`components.change_files`).

Concept: https://docs.dagster.io/guides/build/assets/defining-assets
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field, field_validator

from pipeline_assets.components.assets.bronze import bronze_key, bronze_spec, dead_letters_key, dead_letters_spec
from pipeline_assets.components.assets.contract_checks import table_value
from pipeline_assets.components.assets.dead_letters import waiting_facts
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.batch.audit import compare_last_run
from pipeline_assets.ingest.batch.counts import Counts, Report
from pipeline_assets.ingest.cdc.table.change_table import COLUMNS, UNROUTED, ChangeTable
from pipeline_assets.lake import Table
from pipeline_assets.lake.dead_letters import dead_letter_table

NAME = r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$"
_SHOWN = 20


class CapturedTable(dg.Model, dg.Resolvable):
    """A table whose changes are captured."""

    contract: str
    """Name of the Pandera model of a row, e.g. `shop_db.Customers`."""

    keys: list[str] = Field(min_length=1)
    """Columns that name a row at the source: they make the `key` of its events. A row whose key changes is a delete and
    an insert. `change_state` and `change_history` in silver fold events by the same columns."""

    @field_validator("contract")
    @classmethod
    def _contract_exists(cls, value: str) -> str:
        contract(value)
        return value


def captured(name: str, tables: Mapping[str, CapturedTable]) -> list[ChangeTable]:
    """Give the declared tables for the domain code: `public.customers` of `shop_db` is `shop_db__customers`.

    Raises:
        ValueError: Two tables would share a name, or a key is not a column of the contract.
    """
    found: dict[str, ChangeTable] = {}
    for source_table, declared in tables.items():
        table = f"{name}__{source_table.rpartition('.')[2].lower()}"
        model = contract(declared.contract)
        if table in found or table == f"{name}__{UNROUTED}":
            raise ValueError(f"{source_table}: the name {table} is taken; rename the source, or split it")
        if unknown := set(declared.keys) - model.to_schema().columns.keys():
            raise ValueError(
                f"{source_table}: keys {', '.join(sorted(unknown))} are not columns of {declared.contract}"
            )
        found[table] = ChangeTable(source_table, table, model, tuple(declared.keys))
    return list(found.values())


def specs(source: str, tables: Iterable[ChangeTable], *, owner: str, every: timedelta) -> list[dg.AssetSpec]:
    """Give a source's assets: for each table its changes and its dead letters, and the records of no declared table."""
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.dtype,
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=not column.required),
            )
            for column in COLUMNS
        ]
    )
    tables = list(tables)
    changes = [
        bronze_spec(
            table.name,
            owner=owner,
            description=f"Changes of {table.source_table} as committed, each once, by commit date.",
            every=every,
            metadata={
                "dagster/column_schema": schema,
                "source_table": table.source_table,
                "contract": table.model.__name__,
                "keys": ", ".join(table.keys),
            },
        )
        for table in tables
    ]
    described = {table.name: f"Changes of {table.source_table} that do not fit, with the reason." for table in tables}
    described[f"{source}__{UNROUTED}"] = f"Records that belong to no declared table of {source}."
    dead_letters = [
        dead_letters_spec(name, owner=owner, description=text, has_table=not name.endswith(f"__{UNROUTED}"))
        for name, text in described.items()
    ]
    return [*changes, *dead_letters]


def results(
    context: dg.AssetExecutionContext,
    source: str,
    tables: Iterable[ChangeTable],
    report: Report,
    facts: Mapping[str, Any],
    waiting: Mapping[str, Mapping[str, Any]],
) -> Iterator[dg.MaterializeResult[None]]:
    """Yield what a run did: counts for each table, rows for each commit date, and facts of the whole run."""
    # A job that is started by hand may name no partition: a slot is drained the same way.
    partitions = set(context.partition_keys if context.has_partition_key or context.has_partition_key_range else ())
    for table in tables:
        key, found = bronze_key(table.name), report.counts.get(table.name, Counts())
        for day, counts in report.by_day.get(table.name, {}).items():
            if day.isoformat() in partitions:
                context.add_asset_metadata({"rows": counts.rows}, asset_key=key, partition_key=day.isoformat())
        yield dg.MaterializeResult(asset_key=key, metadata={**asdict(found), **facts})
        yield dg.MaterializeResult(
            asset_key=dead_letters_key(table.name),
            metadata={"dead_letters": found.dead_letters, **waiting.get(table.name, {})},
        )
    unrouted = f"{source}__{UNROUTED}"
    lost = {"dead_letters": report.counts.get(unrouted, Counts()).dead_letters, **waiting.get(unrouted, {})}
    yield dg.MaterializeResult(asset_key=dead_letters_key(unrouted), metadata=lost)


def check_specs(tables: Iterable[ChangeTable]) -> list[dg.AssetCheckSpec]:
    """Give the checks that every source of changes has."""
    return [
        spec
        for table in tables
        for spec in (
            dg.AssetCheckSpec(
                "record_counts",
                asset=bronze_key(table.name),
                blocking=True,
                description="Records counted while reading = rows + dead letters in the tables, batch by batch.",
            ),
            dg.AssetCheckSpec(
                "dead_letters",
                asset=bronze_key(table.name),
                description="No dead letter waits: as long as one does, silver lacks that change.",
            ),
        )
    ]


def check_tables(lake: LakeResource, source: str, tables: Iterable[ChangeTable]) -> Iterator[dg.AssetCheckResult]:
    """Yield the results of `check_specs`."""
    with lake.connect() as con:
        for table in tables:
            bronze = Table(lake.open(), f"bronze.{table.name}")
            total, wrong = compare_last_run(con, bronze)
            cases: dict[str, Any] = {}
            if wrong:
                cases["failing_cases"] = table_value([case.as_dict() for case in wrong[:_SHOWN]])
            yield dg.AssetCheckResult(
                asset_key=bronze_key(table.name),
                check_name="record_counts",
                passed=not wrong,
                metadata={**asdict(total), **cases},
            )
            facts = waiting_facts(con, dead_letter_table(bronze.lake, bronze.name))
            is_waiting = "reasons" in facts
            if is_waiting:
                facts["remedy"] = (
                    f"mend the contract, then run the job {source}__replay; what the source has mended itself, or what "
                    f"is not needed, is given up by the job {source}__discard_dead_letters"
                )
            yield dg.AssetCheckResult(
                asset_key=bronze_key(table.name),
                check_name="dead_letters",
                passed=not is_waiting,
                metadata=facts,
            )
