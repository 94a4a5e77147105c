"""What a replay of dead letters needs to know about landed files. The replay itself is in `ingest.batch.replay`."""

from collections.abc import Mapping
from datetime import date, datetime

from pipeline_assets.ingest.batch.replay import ReplaySource
from pipeline_assets.ingest.conform.conform import TECHNICAL_COLUMNS
from pipeline_assets.ingest.files.ingest import LandingSource
from pipeline_assets.ingest.files.plan import owner_of
from pipeline_assets.lake import Positions


def row_source(source: LandingSource) -> ReplaySource:
    """Give a source of landed files in the form that a replay needs."""
    return ReplaySource(
        source.name,
        source.model,
        TECHNICAL_COLUMNS,
        _standing,
        schema_evolution=source.schema_evolution,
        by_partition=source.by_day,
    )


def _standing(log: Positions, batch_id: str, day: date, _: datetime) -> Mapping[str, int] | None:
    """Give the position that says that a content is in the table: as long as the log has the day it lies in."""
    name, ordinal = owner_of(batch_id), day.toordinal()
    return {name: ordinal} if log.get(name) == ordinal else None
