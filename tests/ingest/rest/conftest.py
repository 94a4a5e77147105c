"""A lake that polls a CRM, without waiting."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from polled import TOKEN, Crm

from pipeline_assets.ingest.rest import session
from pipeline_assets.lake import Lake


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """One connection for all tests of a module: to open one takes longer than a poll."""
    with Lake(str(tmp_path_factory.mktemp("lake"))).connect() as found:
        yield found


@pytest.fixture
def crm(tmp_path: Path, con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> Crm:
    waits: list[float] = []
    monkeypatch.setattr(session, "sleep", waits.append)
    monkeypatch.setenv("CRM_TOKEN", TOKEN)
    return Crm(tmp_path, con, waits)
