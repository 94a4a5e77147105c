"""SQL over the rows of chosen days, in forms that let `delta_scan` rule files out (see `pruning`).

Chosen days become one branch of a UNION ALL for each run of neighbouring days. The statistics of a timestamp column
rule no file out, so its days are first looked up in the log.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
from deltalake import DeltaTable

from pipeline_assets.lake.pruning import neighbours
from pipeline_assets.lake.publication import PARTITION, published
from pipeline_assets.lake.table import Table
from pipeline_assets.sql import quote_name

_DAY = timedelta(days=1)
_REACH_DAYS = 32


def every_day(first: date, last: date) -> list[date]:
    """Give the days from the first to the last, both included."""
    return [date.fromordinal(ordinal) for ordinal in range(first.toordinal(), last.toordinal() + 1)]


def days_predicate(column: str, days: Iterable[date]) -> str:
    """Build a predicate: the column's date is one of the days. Works for DATE, TIMESTAMP and TIMESTAMPTZ (UTC)."""
    ordered = sorted(set(days))
    if not ordered:
        return "false"
    name, first, last = quote_name(column), ordered[0], ordered[-1]
    bounds = f"{name} >= DATE '{first}' AND {name} < DATE '{last + _DAY}'"
    if last - first == _DAY * (len(ordered) - 1):
        return bounds
    listed = ", ".join(f"DATE '{day}'" for day in ordered)
    return f"{bounds} AND CAST({name} AS DATE) IN ({listed})"


def select_days(table: Table, version: int, column: str, days: Iterable[date]) -> str:
    """Build a query for the published rows of a version whose date in a column is one of the days."""
    scan, wanted = table.scan(version), frozenset(days)
    if not wanted:
        return f"SELECT * FROM {scan} WHERE false"
    opened = table.open(version)
    held_back = published(opened)
    kinds = {found.name: str(getattr(found.type, "type", "")) for found in opened.schema().fields}
    if kinds.get(column) == "date":
        predicates = [days_predicate(column, group) for group in neighbours(sorted(wanted))]
    else:
        predicates = _by_partition(opened, column, wanted)
    return " UNION ALL ".join(f"SELECT * FROM {scan} WHERE {predicate} AND {held_back}" for predicate in predicates)


def _by_partition(opened: DeltaTable, column: str, days: frozenset[date]) -> list[str]:
    """Build predicates for a column that cannot rule files out: ranges of the date partitions that hold the days."""
    plain = days_predicate(column, days)
    partitions = opened.metadata().partition_columns
    listing = pa.table(opened.get_add_actions(flatten=True))
    if len(partitions) != 1 or not pa.types.is_date(listing.schema.field(f"partition.{partitions[0]}").type):
        return [plain]
    known, hit = set(), set()
    for row in listing.to_pylist():
        partition = row[f"partition.{partitions[0]}"]
        if partition is None:
            return [plain]
        known.add(partition)
        low, high = row.get(f"min.{column}"), row.get(f"max.{column}")
        if low is None or high is None or any(low.date() <= day <= high.date() for day in days):
            hit.add(partition)
    if not hit:
        return ["false"]
    name = quote_name(partitions[0])
    return [
        f"{name} >= DATE '{group[0]}' AND {name} <= DATE '{group[-1]}' AND {plain}"
        for group in neighbours(sorted(hit), known)
    ]


def newest_day(opened: DeltaTable, *, before: date | None = None, without: Collection[date] = ()) -> date | None:
    """Find the newest landing day that has rows.

    The search goes backwards in growing stretches, so that it does not list the partitions of earlier years.

    Args:
        opened: A version of a table partitioned by `_partition_date`.
        before: Only days before this one; without it all days, those in the future included.
        without: Days that do not count.
    """
    end, reach = before, _REACH_DAYS
    while end is None or end > date.min:
        start = date.fromordinal(max(1, (end or datetime.now(UTC).date()).toordinal() - reach))
        within = [(PARTITION, ">=", start), *([(PARTITION, "<", end)] if end else [])]
        listed = opened.partitions(file_pruning_predicate=within)
        if days := {date.fromisoformat(str(found[PARTITION])) for found in listed} - set(without):
            return max(days)
        end, reach = start, reach * 8
    return None
