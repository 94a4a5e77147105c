"""A source of landing files as Dagster definitions."""

from collections.abc import Iterator

import dagster as dg
import pytest
from landing_source import Source

from pipeline_assets.settings import Settings


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def source(settings: Settings, instance: dg.DagsterInstance) -> Source:
    return Source(settings, instance)
