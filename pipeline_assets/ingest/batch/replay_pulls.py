"""What a replay of dead letters has to know of pulls and polls; the replay itself is `ingest.batch.replay`."""

from collections.abc import Mapping
from datetime import date, datetime

from pipeline_assets.ingest.batch.replay import ReplaySource
from pipeline_assets.ingest.batch.rows import BATCH_COLUMNS, RowSource
from pipeline_assets.ingest.batch.watermark import position
from pipeline_assets.lake import Positions

_EXTRACTED = "extracted"


def row_source(source: RowSource) -> ReplaySource:
    """Give a source of pulls or polls as a replay takes it."""
    return ReplaySource(source.name, source.model, BATCH_COLUMNS, _standing, schema_evolution=source.schema_evolution)


def _standing(log: Positions, batch_id: str, _: date, at: datetime) -> Mapping[str, int] | None:
    """A batch of everything or of a window stands until the next one; any other one from when it was committed.

    What was killed before its rows came ends later than anything that the log knows of.
    """
    extracted, end = log.get(_EXTRACTED), position(at)
    name = batch_id.rpartition(" ")[0]  # of <name> <start>..<end>
    is_replaced = name == "full" or name.startswith("window ")
    if extracted is None or end > extracted or (is_replaced and log.get(name.replace(" ", ":")) != end):
        return None
    return {_EXTRACTED: extracted}
