"""Reconciliation assets: a source's table against its state in silver, at one consistent point.

`ingest.cdc.reconcile` compares both and mends differences. The run's first step has stored the rows of the source, and
has then drained exactly up to the same point.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg

from pipeline_assets.components.assets.bronze import bronze_key
from pipeline_assets.components.assets.contract_checks import table_value
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.ingest.cdc.events import lsn_text
from pipeline_assets.ingest.cdc.reconcile import UNREADABLE, Comparison, compare, repair
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Table


def assets(
    source: str, states: Mapping[ChangeTable, str], position: Callable[[], str | None], owner: str
) -> list[dg.AssetsDefinition]:
    """Make an asset with a check for each captured table whose state lies in silver.

    If a run selects one of them, `ChangeStream` stores the source's rows first.

    Args:
        source: Name of the source.
        states: Captured table to silver table.
        position: Asks the database, and gives the name of the stream's position. None: the source rests.
        owner: Of the assets.
    """
    return [_asset(source, table, state, position, owner) for table, state in states.items()]


def key(name: str) -> dg.AssetKey:
    """Give the key of the asset that reconciles a captured table."""
    return dg.AssetKey(["reconciliation", name])


def _asset(
    source: str, table: ChangeTable, state: str, position: Callable[[], str | None], owner: str
) -> dg.AssetsDefinition:
    @dg.asset(
        key=key(table.name),
        group_name="reconciliation",
        owners=[owner],
        kinds={"deltalake", "duckdb"},
        deps=[dg.AssetKey(state.split(".")), bronze_key(table.name)],
        description=f"{table.source_table} against {state}: counts and checksums by key range at one WAL position. "
        "Differences are mended by events, which the next run carries to silver.",
        check_specs=[dg.AssetCheckSpec("equal", asset=key(table.name), description="No row differs.")],
        pool=f"source_{source}",
        # The asset has no partitions, but runs over ranges may include it.
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def reconcile(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[object]:
        stream = position()
        if stream is None:
            resting = {"problem": "the source rests: its connection is not set"}
            yield dg.MaterializeResult(metadata=resting)
            severity = dg.AssetCheckSeverity.WARN
            yield dg.AssetCheckResult(check_name="equal", passed=False, severity=severity, metadata=resting)
            return
        with lake.connect() as con:
            found = compare(con, lake.open(), table, Table(lake.open(), state), stream)
            mended = repair(con, lake.open(), table, found, context.run.run_id)
        yield dg.MaterializeResult(metadata=_facts(found, mended))
        yield dg.AssetCheckResult(check_name="equal", passed=found.is_equal, metadata=_problems(table, found, mended))

    return reconcile


def _facts(found: Comparison, mended: int) -> dict[str, Any]:
    return {
        "wal_position": lsn_text(found.point),
        "source_rows": sum(part.source_rows for part in found.ranges),
        "silver_rows": sum(part.silver_rows for part in found.ranges),
        "differences": sum(found.differences.values()),
        "mended_by_events": mended,
        "key_ranges": table_value([asdict(part) for part in found.ranges]),
    }


def _problems(table: ChangeTable, found: Comparison, mended: int) -> dict[str, Any]:
    if found.is_equal:
        return {}
    cases = [{"in_silver": case.kind, "key": case.key, "reason": case.reason or ""} for case in found.examples]
    problems = {**found.differences, "mended_by_events": mended, "failing_cases": table_value(cases)}
    if not found.differences:
        problems["remedy"] = "silver has a key more than once: build it anew, dbt build --full-refresh"
    if UNREADABLE in found.differences:
        problems["remedy"] = (
            f"an unreadable row does not fit {table.model.__name__}, so no event can mend it: mend the contract (or "
            f"the row at the source), then replay dead_letters.{table.name}"
        )
    return problems
