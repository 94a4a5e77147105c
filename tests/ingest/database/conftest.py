"""A lake and a source database of three kinds, with the payments of a bank."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bank import TABLE, Bank, postgres_bank  # noqa: F401  # fixture

from pipeline_assets.ingest.database import errors


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture(params=["postgres", "sqlite", "duckdb"])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """A bank in each kind of database, its table still empty."""
    if request.param == "postgres":
        url, time = request.getfixturevalue("database"), "timestamptz"
    else:
        url, time = f"{request.param}:///{tmp_path}/bank.db", "TIMESTAMPTZ" if request.param == "duckdb" else "TEXT"
    found = Bank(tmp_path, url)
    found.execute(TABLE.format(time=time))
    yield found
    found.con.close()
