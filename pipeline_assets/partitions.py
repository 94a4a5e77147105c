"""The partition definitions.

They live nowhere else, and this module imports no other but `settings`: assets, checks, sensors and components import
it.

Concept: https://docs.dagster.io/guides/build/partitions-and-backfills/partitioning-assets
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

import dagster as dg

from pipeline_assets.settings import load_settings

FIRST_DAY = load_settings().start_date
"""The first partition. Asking `DAILY` for its keys creates all of them, which takes 60 ms for sixteen years."""

DAILY = dg.DailyPartitionsDefinition(
    start_date=FIRST_DAY.isoformat(),
    end_offset=1,  # a file of today is ingested today, not tomorrow
)
"""One partition per calendar day (UTC). It is one object, because runs across assets need equal definitions."""

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"


def today() -> date:
    """Return the last partition: today (UTC)."""
    return datetime.now(UTC).date()


def range_tags(first: date, last: date) -> dict[str, str]:
    """Return the run tags that ask for one run over all days from `first` to `last`."""
    return {RANGE_START_TAG: first.isoformat(), RANGE_END_TAG: last.isoformat()}


def request_days(first: date, last: date, *, tags: Mapping[str, str], run_key: str | None = None) -> dg.RunRequest:
    """Request one run over all days from `first` to `last`; only for `last` if `first` is not before it."""
    if first >= last:
        return dg.RunRequest(run_key=run_key, partition_key=last.isoformat(), tags=tags)
    return dg.RunRequest(run_key=run_key, tags={**tags, **range_tags(first, last)})


def range_of_tags(tags: Mapping[str, str]) -> tuple[date, date] | None:
    """Return the first and last day that a run with these tags covers; None for a run without partitions."""
    if RANGE_START_TAG in tags:
        return date.fromisoformat(tags[RANGE_START_TAG]), date.fromisoformat(tags[RANGE_END_TAG])
    if key := tags.get("dagster/partition"):
        return date.fromisoformat(key), date.fromisoformat(key)
    return None


def days_of(keys: Iterable[str]) -> list[date]:
    """Turn partition keys into days, in order."""
    return sorted(date.fromisoformat(key) for key in keys)
