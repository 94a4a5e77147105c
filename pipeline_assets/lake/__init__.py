"""The lake: Delta tables, and the only code that writes them. It knows no source, and neither Dagster nor dbt."""

from pipeline_assets.lake.changes import (
    Batch,
    Changes,
    batches_since,
    changes_since,
    position_name,
    select_batches,
)
from pipeline_assets.lake.days import days_predicate, every_day, newest_day, select_days
from pipeline_assets.lake.errors import (
    CommitConflictError,
    CommitUnknownError,
    LakeError,
    LakeUnreadableError,
    PositionMovedError,
    SchemaMismatchError,
    StorageError,
    TableNotFoundError,
    TableUnreadableError,
    TypesMovedError,
    WriteRefusedError,
)
from pipeline_assets.lake.files import DataFile, query_schema, write_parquet
from pipeline_assets.lake.positions import Positions
from pipeline_assets.lake.publication import audited_in, held_days, held_in, publish_or_withhold, published
from pipeline_assets.lake.storage import LAYERS, Lake
from pipeline_assets.lake.table import Table
from pipeline_assets.lake.wide_files import MANY_COLUMNS

__all__ = [
    "LAYERS",
    "MANY_COLUMNS",
    "Batch",
    "Changes",
    "CommitConflictError",
    "CommitUnknownError",
    "DataFile",
    "Lake",
    "LakeError",
    "LakeUnreadableError",
    "PositionMovedError",
    "Positions",
    "SchemaMismatchError",
    "StorageError",
    "Table",
    "TableNotFoundError",
    "TableUnreadableError",
    "TypesMovedError",
    "WriteRefusedError",
    "audited_in",
    "batches_since",
    "changes_since",
    "days_predicate",
    "every_day",
    "held_days",
    "held_in",
    "newest_day",
    "position_name",
    "publish_or_withhold",
    "published",
    "query_schema",
    "select_batches",
    "select_days",
    "write_parquet",
]
