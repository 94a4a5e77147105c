"""What a replay of dead letters needs to know about pulls and polls. The replay itself is in `ingest.batch.replay`."""

from collections.abc import Mapping
from datetime import date, datetime

from pipeline_assets.ingest.batch.replay import ReplaySource
from pipeline_assets.ingest.batch.rows import BATCH_COLUMNS, RowSource
from pipeline_assets.ingest.batch.watermark import EXTRACTED, position
from pipeline_assets.lake import Positions


def row_source(source: RowSource) -> ReplaySource:
    """Give a source of pulls or polls in the form that a replay needs."""
    return ReplaySource(source.name, source.model, BATCH_COLUMNS, _standing, schema_evolution=source.schema_evolution)


def _standing(log: Positions, batch_id: str, _: date, at: datetime) -> Mapping[str, int] | None:
    """Give the positions that say that a batch is in the table; None if it is not, or no longer.

    A full pull or a window stands until the next one replaces it; any other batch stands once it is committed. A batch
    that was killed before its rows were committed ends later than any batch in the log.
    """
    extracted, end = log.get(EXTRACTED), position(at)
    name = batch_id.rpartition(" ")[0]  # batch ids read <name> <start>..<end>
    is_replaced = name == "full" or name.startswith("window ")
    if extracted is None or end > extracted or (is_replaced and log.get(name.replace(" ", ":")) != end):
        return None
    return {EXTRACTED: extracted}
