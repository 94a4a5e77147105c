"""Dagster resources: the lake. Secrets stay in `settings` (environment) and never become resource config.

Concept: https://docs.dagster.io/guides/build/external-resources
"""

import dagster as dg
import duckdb

from pipeline_assets.lake import Lake
from pipeline_assets.settings import load_settings


class LakeResource(dg.ConfigurableResource[Lake]):
    """The lake that assets and checks read and write.

    Attributes:
        uri: Root folder or bucket prefix; credentials come from the environment (`PIPELINE_STORAGE__*`).
    """

    uri: str

    def open(self) -> Lake:
        """Gives the lake with its storage options."""
        return Lake(self.uri, load_settings().storage_options())

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Opens a DuckDB connection within the memory and thread limits of the settings."""
        settings = load_settings()
        return self.open().connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads)


def lake_resource() -> LakeResource:
    """The lake of the settings."""
    return LakeResource(uri=load_settings().lake_uri)
