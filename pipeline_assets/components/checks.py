"""Asset checks made from contracts, and what all checks share: which days a run wrote, failing cases as a table.

The rules themselves live in `contracts`. Checks are not partitioned: one run may cover a year, and one evaluation
that names the failing days is what people read; the days come from the run (or, run alone, it is the whole table).

Concept: https://docs.dagster.io/guides/test/asset-checks
"""

import json
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

import dagster as dg
import duckdb
import pandera.polars as pa
import polars as pl

from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import Violations, column_schema, validate
from pipeline_assets.lake import Table, quote_name
from pipeline_assets.lake.table import TOUCHED_DATES
from pipeline_assets.partitions import range_of_tags

_ROWS_PER_CHUNK = 250_000


def days_where(context: dg.AssetCheckExecutionContext, column: str) -> str:
    """Gives the predicate for the days that this run writes; every day when the check is run by itself."""
    days = range_of_tags(context.run.tags)
    return f"{quote_name(column)} BETWEEN DATE '{days[0]}' AND DATE '{days[1]}'" if days else "TRUE"


def last_written_where(table: Table) -> str:
    """Gives the predicate for the dates that the table's last commit touched; all rows if it lists none."""
    opened = table.open()
    commit = opened.history(1)[0]
    partitions = opened.metadata().partition_columns
    if TOUCHED_DATES not in commit or not partitions:
        return "TRUE"
    days = [date.fromisoformat(day) for day in json.loads(commit[TOUCHED_DATES])]
    if not days:
        return "FALSE"
    listed = ", ".join(f"DATE '{day}'" for day in days)
    return f"{quote_name(partitions[0])} IN ({listed})"


def frames(con: duckdb.DuckDBPyConnection, table: Table, where: str) -> Iterator[pl.DataFrame]:
    """Reads rows as polars frames of bounded size."""
    reader = con.sql(f"SELECT * FROM {table.scan()} WHERE {where}").to_arrow_reader(_ROWS_PER_CHUNK)
    for batch in reader:
        frame = pl.from_arrow(batch)
        if isinstance(frame, pl.DataFrame):
            yield frame


def contract_by_day(
    con: duckdb.DuckDBPyConnection, table: Table, model: type[pa.DataFrameModel], where: str, days: Iterable[date]
) -> tuple[Violations, list[date]]:
    """Validates rows of a table, and tells which landing days fail; day by day only if there is a failure at all."""
    found = validate(model, frames(con, table, where))
    if found.passed:
        return found, []
    return found, [
        day for day in days if not validate(model, frames(con, table, f"_partition_date = DATE '{day}'")).passed
    ]


def contract_result(found: Violations, where: str) -> dg.AssetCheckResult:
    """Reports a validation: all failures counted, the first of them as a table."""
    return dg.AssetCheckResult(
        passed=found.passed,
        metadata={
            "rows_checked": found.rows,
            "failing_rows": found.failing_rows,
            "failures": found.failures,
            "rows_where": where,
            **({"failing_cases": failing_cases(found)} if not found.passed else {}),
        },
    )


def failing_cases(found: Violations) -> dg.TableMetadataValue:
    """Shows the first failing cases."""
    return table_value([{"column": c.column, "check": c.check, "value": c.value, "row": c.row} for c in found.cases])


def table_value(records: list[dict[str, Any]]) -> dg.TableMetadataValue:
    """Makes a metadata table of records, all cells as text."""
    return dg.MetadataValue.table(
        [dg.TableRecord({key: "" if value is None else str(value) for key, value in row.items()}) for row in records]
    )


def column_metadata(model: type[pa.DataFrameModel]) -> dg.TableSchema:
    """Gives the contract's columns as the UI shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.dtype,
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in column_schema(model)
        ]
    )


def table_contract_check(asset: dg.AssetKey, model: type[pa.DataFrameModel]) -> dg.AssetChecksDefinition:
    """Makes the blocking check "the rows last written fit the contract" of a silver or gold table."""

    @dg.asset_check(asset=asset, name="contract", blocking=True, description=f"Rows last written fit {model.__name__}.")
    def check(lake: LakeResource) -> dg.AssetCheckResult:
        table = Table(lake.open(), ".".join(asset.path))
        where = last_written_where(table)
        with lake.connect() as con:
            return contract_result(validate(model, frames(con, table, where)), where)

    return check
