"""A source of landing files as Dagster definitions, and a webhook that alerts go to."""

from collections.abc import Iterator
from threading import Thread

import dagster as dg
import pytest
from landing_source import Source
from webhook import Receiver

from pipeline_assets.settings import Settings


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def source(settings: Settings, instance: dg.DagsterInstance) -> Source:
    return Source(settings, instance)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
