"""For people who come from a notebook: frames in, frames out, over the same code that the components use.

Holds `BatchDataIngester` (a query of a database as a frame, validation, dead letters), `DataQualityFramework` (a frame
against a contract) and `DeltaLakeManager` (a frame into a table). Does not hold how any of that is done: databases are
read in `ingest.database`, values are cast in `ingest.conform.casts`, contracts are checked in `contracts`, and Delta is
written in `lake`. Knows neither Dagster nor dbt.
"""

from pipeline_assets.notebook.delta import DeltaLakeManager
from pipeline_assets.notebook.frames import NotebookError
from pipeline_assets.notebook.ingester import BatchDataIngester
from pipeline_assets.notebook.quality import DataQualityFramework, QualityResult

__all__ = ["BatchDataIngester", "DataQualityFramework", "DeltaLakeManager", "NotebookError", "QualityResult"]
