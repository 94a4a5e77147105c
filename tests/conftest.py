"""A pipeline of its own for each test: state, landing folder and lake in a temporary folder, settings read anew."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from postgres import database, postgres_server  # noqa: F401  # fixtures

from pipeline_assets.settings import Settings, load_settings

# On a busy machine slow examples say nothing about the code.
hypothesis.settings.register_profile("any_load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any_load")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(tmp_path / "state"))
    for name in ("LAKE_URI", "LANDING_URI", "ALERT_SLACK_WEBHOOK_URL", "ALERT_WEBHOOK_URL", "MIN_DATE", "MAX_DATE"):
        monkeypatch.delenv(f"PIPELINE_{name}", raising=False)
    load_settings.cache_clear()
    found = load_settings()
    Path(found.landing_uri).mkdir(parents=True)
    yield found
    load_settings.cache_clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: at the end one worker would wait minutes for the other."""
    items.sort(key=lambda item: "test_full_year" not in item.nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seconds", type=float, default=40, help="how long writers and kills go on")
    parser.addoption("--chaos-seed", type=int, default=0, help="repeats a run of the chaos test, as far as it can be")
