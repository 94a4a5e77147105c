"""Frames of either library, made and read the same way."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from deltalake import DeltaTable

from pipeline_assets.ingest.database import errors

Make = Callable[[Mapping[str, Any]], Any]


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture(params=["polars", "pandas"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str) -> Make:
    """Makes a frame of one of the two."""
    return pl.DataFrame if kind == "polars" else pd.DataFrame


@pytest.fixture
def stored() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a Delta table with the library of Delta itself."""
    return lambda path: pl.DataFrame(pl.from_arrow(DeltaTable(str(path)).to_pyarrow_table())).to_dicts()
