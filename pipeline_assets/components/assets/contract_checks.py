"""Asset checks made from contracts, and how all checks show failing cases.

The rules themselves are in `pipeline_assets.contracts`. Checks are not partitioned: a run may cover a year, and people
want one evaluation that names the failing days.

Concept: https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import pandera.polars as pa

from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import Violations, column_schema
from pipeline_assets.contracts.validation import validate_rows
from pipeline_assets.lake import Table, changes_since, days_predicate, position_name
from pipeline_assets.lake.commit_facts import added_dates, date_column


def unaccepted_where(table: Table, readers: Sequence[Table]) -> str:
    """Give the predicate on rows that a check of a silver or gold table has to look at.

    These are rows of the dates to which the last commit added rows, and of the dates that a table downstream has not
    applied yet. So a day that failed, or whose check was prevented by a kill, is looked at until downstream has it.
    """
    opened = table.open()
    column = date_column(opened)
    last = added_dates(opened.history(1)[0])
    position = position_name(table)
    owed = [changes_since(table, reader.position(position)).added for reader in readers]
    if not column or last is None or None in owed:
        return "TRUE"
    return days_predicate(column, last.union(*(found for found in owed if found)))


def contract_result(found: Violations, where: str) -> dg.AssetCheckResult:
    """Give the result of a validation: it counts all failures, and shows the first of them as a table."""
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
    """Give the first failing cases as a table."""
    return table_value([{"column": c.column, "check": c.check, "value": c.value, "row": c.row} for c in found.cases])


def table_value(records: list[dict[str, Any]]) -> dg.TableMetadataValue:
    """Make a metadata table of records, with all cells as text."""
    return dg.MetadataValue.table(
        [dg.TableRecord({key: "" if value is None else str(value) for key, value in row.items()}) for row in records]
    )


def column_metadata(model: type[pa.DataFrameModel]) -> dg.TableSchema:
    """Give the contract's columns as the UI shows them."""
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


def table_contract_check(
    asset: dg.AssetKey, model: type[pa.DataFrameModel], readers: Sequence[str]
) -> dg.AssetChecksDefinition:
    """Make the blocking check of a silver or gold table: rows that downstream has not accepted yet fit the contract.

    Args:
        asset: The table's asset.
        model: Its contract.
        readers: Tables downstream that read the table.
    """

    @dg.asset_check(asset=asset, name="contract", blocking=True, description=f"New rows fit {model.__name__}.")
    def check(lake: LakeResource) -> dg.AssetCheckResult:
        table = Table(lake.open(), ".".join(asset.path))
        where = unaccepted_where(table, [Table(lake.open(), name) for name in readers])
        with lake.connect() as con:
            found = validate_rows(con, f"SELECT * FROM {table.scan()} WHERE {where}", model)
        return contract_result(found, where)

    return check
