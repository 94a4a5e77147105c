"""Batches of change events, made by hand: what tests put into change tables."""

from pipeline_assets.ingest.cdc.table.change_table import EventBatch, EventPlan, UnroutedBatch


def event_batch(con, lake, table, source, batch_id, extracted_at, *, expect=None, positions=None, run_id=""):
    """Begins a batch of a declared table; of `None`, of the records that belong to no table of the source."""
    plan = EventPlan(expect=expect or {}, positions=positions or {}, batch_id=batch_id, extracted_at=extracted_at)
    if table is None:
        return UnroutedBatch(lake, con, source, plan, run_id=run_id)
    return EventBatch(lake, con, table, plan, run_id=run_id)
