"""What components share: a bronze table and its dead letters as assets, their checks, and how a pull rests or fails.

`components.landing_files`, `components.rest_resource` and the like build on it. `ingest.batch.audit` finds what the
checks report.

Concept: https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import dagster as dg

from pipeline_assets.components.assets import dead_letters
from pipeline_assets.components.assets.contract_checks import column_metadata, contract_result, table_value
from pipeline_assets.components.automation.cancellation import RETRIES
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.contracts.base import Model
from pipeline_assets.ingest.batch.audit import Findings, audit
from pipeline_assets.ingest.batch.counts import total
from pipeline_assets.ingest.batch.errors import BatchError
from pipeline_assets.ingest.batch.replay import ReplaySource, proposed
from pipeline_assets.ingest.files.unread import FilesLeftError
from pipeline_assets.lake import SchemaMismatchError, Table
from pipeline_assets.lake.schemas import Widening
from pipeline_assets.partitions import DAILY, days_of, range_of_tags
from pipeline_assets.settings import load_settings

NAME = r"^[a-z][a-z0-9]*(_[a-z0-9]+)*__[a-z][a-z0-9]*(_[a-z0-9]+)*$"
"""`<source>__<entity>` in snake_case."""

FREQUENCIES = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(days=7)}
"""How often a source is expected to bring something new."""

OWNER = r"^(team:[\w-]+|[^@\s]+@[^@\s]+)$"
"""An e-mail address or `team:<name>`."""

WITHHELD = "withheld"
"""The check that fails as long as any day of a table is withheld, whichever days the run covers."""

ERROR_CLASS = "error"
"""Metadata of a failure: the class of the error behind it."""

_SIZE = "snapshot_size"
_KINDS = {"deltalake", "duckdb"}
_FILES_LEFT = "files_left"
_ReportT = TypeVar("_ReportT")
_FILES_NAMED = 10
_SILENT_AFTER = 2  # times the expected frequency
_SHOWN = 100


def bronze_key(name: str) -> dg.AssetKey:
    """Give the asset key of a bronze table."""
    return dg.AssetKey(["bronze", name])


def dead_letters_key(name: str) -> dg.AssetKey:
    """Give the asset key of a table's dead letters."""
    return dg.AssetKey(["dead_letters", name])


def bronze_spec(
    name: str, *, owner: str, description: str, every: timedelta, metadata: Mapping[str, Any]
) -> dg.AssetSpec:
    """Give the asset of a bronze table; the arguments are as in `specs`."""
    return dg.AssetSpec(
        bronze_key(name),
        group_name="bronze",
        partitions_def=DAILY,
        owners=[owner],
        kinds=_KINDS,
        description=description,
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_SILENT_AFTER * every),
        metadata=metadata,
    )


def expected_every(policy: dg.FreshnessPolicy | None) -> timedelta | None:
    """Give how often a policy of `bronze_spec` expects a materialization; None if the asset has no such policy."""
    window = getattr(policy, "fail_window", None)
    return window.to_timedelta() / _SILENT_AFTER if window else None


def dead_letters_spec(name: str, *, owner: str, description: str, has_table: bool = True) -> dg.AssetSpec:
    """Give the asset of a bronze table's dead letters; `has_table` is false for records that belong to no table."""
    return dg.AssetSpec(
        dead_letters_key(name),
        deps=[bronze_key(name)] if has_table else [],
        group_name="dead_letters",
        partitions_def=DAILY,
        owners=[owner],
        kinds=_KINDS,
        description=description,
        metadata={"dagster/column_schema": dead_letters.column_schema()},
    )


def specs(
    name: str,
    model: Model,
    *,
    owner: str,
    read_from: str,
    description: str,
    every: timedelta,
    metadata: Mapping[str, str | float],
) -> list[dg.AssetSpec]:
    """Give the assets of a table and its dead letters.

    Args:
        name: `<source>__<entity>`.
        model: The contract.
        owner: Who answers for the source.
        read_from: What is read, in words that people know.
        description: Of the table.
        every: How often a materialization is expected. After twice that time without one, the table is no longer fresh.
        metadata: What else the declaration says.
    """
    text = f"Records of {read_from} that did not fit, with where they stood, reason and raw text."
    facts = {"dagster/column_schema": column_metadata(model), **metadata}
    return [
        bronze_spec(name, owner=owner, description=description, every=every, metadata=facts),
        dead_letters_spec(name, owner=owner, description=text),
    ]


def rested(context: dg.AssetExecutionContext, name: str, reason: str) -> Iterator[dg.MaterializeResult[None]]:
    """Yield the results of a run that has nothing to read from, because an environment variable is not set."""
    context.log.warning(reason)
    yield dg.MaterializeResult(asset_key=bronze_key(name), metadata={"resting": reason})
    yield dg.MaterializeResult(asset_key=dead_letters_key(name))


@contextmanager
def errors_as_failures(name: str, *, again: bool = True) -> Iterator[None]:
    """Turn errors of reading into failures of the step; the step is tried again only if that may help.

    A second attempt costs a minute, and hides the error that people have to mend.

    Args:
        name: `<source>__<entity>`.
        again: Whether an error that may pass is worth another attempt; False if the reading has already tried again
            by itself, for long.

    Raises:
        Failure: With the message of the error.
    """
    try:
        yield
    except BatchError as error:
        raise _failure(name, error, allow_retries=again and error.is_transient) from None
    except SchemaMismatchError as error:
        raise _failure(name, error, allow_retries=False) from None


def _failure(name: str, error: Exception, *, allow_retries: bool) -> dg.Failure:
    metadata = {ERROR_CLASS: type(error).__name__}
    return dg.Failure(f"{name}: {error}", metadata=metadata, allow_retries=allow_retries)


def checks(
    rows: ReplaySource, budget: float, keys: Sequence[str] = (), shrink_budget: float | None = None
) -> dg.AssetChecksDefinition:
    """Make the checks of a table: its contract, no record missing, not too many dead letters, no day withheld.

    All but the last two block, and look at the days of the run. The last two look at all days and block nothing: other
    days go on, but the table stays red until each withheld day is delivered again and passes, and yellow as long as
    dead letters wait that would fit now.

    Args:
        rows: The source.
        budget: Share of a day's records that may be dead letters.
        keys: Of a pull or poll, the columns that name a record at the source.
        shrink_budget: Of snapshots, the share of the last one's rows that may be missing from the next.
    """
    name, bronze = rows.name, bronze_key(rows.name)
    described = {
        "contract": f"Rows fit {rows.model.__name__}.",
        "record_counts": "Records counted while reading = rows + dead letters in the tables, by what was read.",
        "failure_budget": f"At most {budget:.1%} of a day's records are dead letters.",
    }
    if shrink_budget is not None:
        described[_SIZE] = f"A snapshot has rows, and at most {shrink_budget:.0%} less than the one before."
    specs = [
        dg.AssetCheckSpec(check, asset=bronze, blocking=True, description=text) for check, text in described.items()
    ]
    of_all_days = {WITHHELD: "No day is kept from silver and gold.", dead_letters.CHECK: dead_letters.CHECK_TEXT}
    specs += [dg.AssetCheckSpec(check, asset=bronze, description=text) for check, text in of_all_days.items()]

    @dg.multi_asset_check(name=f"{name}__checks", specs=specs)
    def evaluate(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
        table = Table(lake.open(), f"bronze.{name}")
        if not table.exists():
            yield from _unread(bronze, described)
            yield _withheld(bronze, ())
            yield dead_letters.fitting_result(bronze, rows, 0)
            return
        with lake.connect() as con:
            days = range_of_tags(context.run.tags)
            findings = audit(
                con, table, rows.model, failure_budget=budget, days=days, keys=keys, shrink_budget=shrink_budget
            )
            fitting = proposed(lake.open(), con, rows)
        yield contract_result(findings.contract, findings.where)._replace(asset_key=bronze, check_name="contract")
        yield _record_counts(bronze, findings)
        yield _failure_budget(bronze, findings, budget)
        if shrink_budget is not None:
            yield _snapshot_size(bronze, findings, shrink_budget)
        yield _withheld(bronze, findings.held)
        yield dead_letters.fitting_result(bronze, rows, fitting)

    return evaluate


def read_files(
    context: dg.AssetExecutionContext, lake: LakeResource, ingest: Callable[..., _ReportT], source: object
) -> tuple[_ReportT, dict[str, str]]:
    """Read the landed files of a run's days; the step's retry policy tries errors again that may pass by themselves.

    Args:
        context: Of the step.
        lake: The lake.
        ingest: `ingest.files.ingest.ingest`, or that of change files; gives a report.
        source: Its declaration.

    Returns:
        The report; and paths that were left unread, with the reason. `files_check` fails the run for them at its end,
        so that the other files go through all steps first.

    Raises:
        Failure: Some files were left unread, and are to be tried again.
    """
    settings, days = load_settings(), days_of(context.partition_keys)
    try:
        with lake.connect() as con:
            report = ingest(
                lake.open(),
                con,
                source,
                Path(settings.landing_uri),
                days[0],
                days[-1],
                settle_seconds=settings.settle_seconds,
                run_id=context.run.run_id,
            )
        return report, {}
    except FilesLeftError as error:
        context.log.error(str(error))
        if error.is_transient and context.retry_number < RETRIES.max_retries:
            raise dg.Failure(str(error)) from error
        return cast("_ReportT", error.report), {path: cause.reason for path, cause in error.left.items()}


def widened_metadata(widened: Sequence[Widening]) -> dict[str, str]:
    """Give the metadata that names the columns that were widened to the contract's type; {} if there are none."""
    return {"columns_widened": ", ".join(map(str, widened))} if widened else {}


def left_metadata(left: Mapping[str, str]) -> dict[str, dg.TableMetadataValue]:
    """Give the metadata that `files_check` looks for in the materialization; {} if every file was read."""
    shown = [{"file": path, "reason": reason} for path, reason in list(left.items())[:_SHOWN]]
    return {_FILES_LEFT: table_value(shown)} if left else {}


def files_check(name: str, asset: dg.AssetKey) -> dg.AssetChecksDefinition:
    """Make the check that the run has read every file of its days; if not, its step fails, and so does the run.

    The check does not block: the assets downstream get the files that were read, and the run fails all the same.

    Args:
        name: Of the source.
        asset: The table whose materialization has `left_metadata`.
    """
    text = "Every file of the run's days could be read, or is a dead letter."
    spec = dg.AssetCheckSpec("files_read", asset=asset, description=text)

    @dg.multi_asset_check(name=f"{name}__files", specs=[spec])
    def evaluate(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        event = context.instance.get_latest_materialization_event(asset)
        found = event.asset_materialization if event and event.run_id == context.run.run_id else None
        left = found.metadata.get(_FILES_LEFT) if found else None
        yield dg.AssetCheckResult(passed=left is None, metadata={_FILES_LEFT: left} if left else {})
        if isinstance(left, dg.TableMetadataValue):
            named = "; ".join(
                f"{record.data['file']}: {record.data['reason']}" for record in left.records[:_FILES_NAMED]
            )
            raise dg.Failure(f"{name}: files of the landing folder were left unread: {named}", allow_retries=False)

    return evaluate


def _unread(asset: dg.AssetKey, names: Mapping[str, str]) -> Iterator[dg.AssetCheckResult]:
    """Yield warnings as long as nothing was ever read."""
    for name in names:
        yield dg.AssetCheckResult(
            asset_key=asset,
            check_name=name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"problem": "nothing was read yet"},
        )


def _record_counts(asset: dg.AssetKey, findings: Findings) -> dg.AssetCheckResult:
    wrong = [found.as_dict() for found in findings.mismatches[:_SHOWN]]
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name="record_counts",
        passed=not wrong,
        metadata={
            **asdict(findings.total),
            "readings": findings.readings,
            **({"failing_cases": table_value(wrong)} if wrong else {}),
        },
    )


def _failure_budget(asset: dg.AssetKey, findings: Findings, budget: float) -> dg.AssetCheckResult:
    every = total(findings.counts.values())
    over = [
        {"day": day, "records_in": counts.records_in, "dead_letters": counts.dead_letters}
        for day in sorted(findings.over)[:_SHOWN]
        if (counts := findings.counts[day])
    ]
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name="failure_budget",
        passed=not over,
        metadata={
            "budget": budget,
            "records_in": every.records_in,
            "dead_letters": every.dead_letters,
            "withheld_days": ", ".join(map(str, sorted(findings.held))) or "none",
            **({"failing_cases": table_value(over)} if over else {}),
        },
    )


def _snapshot_size(asset: dg.AssetKey, findings: Findings, budget: float) -> dg.AssetCheckResult:
    shrunk = [
        {"day": day, "rows": rows, "rows_before": before}
        for day, (rows, before) in list(findings.shrunk.items())[:_SHOWN]
    ]
    remedy = "deliver the day again; or, if so many rows are gone, raise shrink_budget and run the day again"
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=_SIZE,
        passed=not shrunk,
        metadata={"budget": budget, **({"failing_cases": table_value(shrunk), "remedy": remedy} if shrunk else {})},
    )


def _withheld(asset: dg.AssetKey, held: Collection[date]) -> dg.AssetCheckResult:
    remedy = "deliver the day again under the same names, or mend what withheld it and run the day again"
    days = ", ".join(map(str, sorted(held)[:_SHOWN]))
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=WITHHELD,
        passed=not held,
        metadata={"withheld_days": days, "count": len(held), "remedy": remedy} if held else {},
    )
