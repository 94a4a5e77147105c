"""For people who work in a notebook: frames in, frames out, over the same code that the components use.

Holds `BatchDataIngester` (a query of a database as a frame, validation, dead letters), `DataQualityFramework` (a frame
against a contract) and `DeltaLakeManager` (a frame into a table). The work is done elsewhere: `ingest.database` reads
databases, `ingest.conform.casts` casts values, `contracts` checks contracts, and `lake` writes Delta. Knows neither
Dagster nor dbt.
"""

from pipeline_assets.notebook.delta import DeltaLakeManager
from pipeline_assets.notebook.frames import NotebookError
from pipeline_assets.notebook.ingester import BatchDataIngester
from pipeline_assets.notebook.quality import DataQualityFramework, QualityResult

__all__ = ["BatchDataIngester", "DataQualityFramework", "DeltaLakeManager", "NotebookError", "QualityResult"]
