"""Dagster resources: the lake. Secrets stay in `settings` (environment) and never become resource config.

Concept: https://docs.dagster.io/guides/build/external-resources
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import duckdb

from pipeline_assets.components.automation.cancellation import interruptible
from pipeline_assets.interruption import lent
from pipeline_assets.lake import Lake
from pipeline_assets.settings import load_settings


class LakeResource(dg.ConfigurableResource[Lake]):
    """The lake that assets and checks read and write.

    Attributes:
        uri: Root folder or bucket prefix; credentials come from the environment (`PIPELINE_STORAGE__*`).
    """

    uri: str

    def open(self) -> Lake:
        """Give the lake with its storage options."""
        return Lake(self.uri, load_settings().storage_options())

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Lend a DuckDB connection within the settings' memory and thread limits; a canceled run ends its block.

        Raises:
            DagsterExecutionInterruptedError: The run was canceled.
            LakeUnreadableError: The lake's storage failed.
        """
        settings, lake = load_settings(), self.open()
        con = lake.connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads)
        with lake.errors_explained(), interruptible(), lent(con):
            yield con


def lake_resource() -> LakeResource:
    """Give the lake of the settings."""
    return LakeResource(uri=load_settings().lake_uri)
