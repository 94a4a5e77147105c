"""A source that falls silent is told to a real HTTP server, once, by its policy of freshness."""

import asyncio
import importlib.util
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import freeze_time
from dagster._daemon.freshness import FreshnessDaemon
from webhook import Receiver, configured

from pipeline_assets.components import Alerts, ChangeStream, DatabaseTable, LandingFiles, RestResource
from pipeline_assets.settings import Settings, project_root

LINES, PAYMENTS, ACCOUNTS = "bronze/shop__lines", "bronze/shop_db__payments", "bronze/crm__accounts"
STREAM = ("bronze/shop_db__customers", "bronze/shop_db__orders", "bronze/shop_db__products")


def sources() -> list[dg.Component]:
    """One of each kind."""
    shared = {"owner": "team:shop", "keys": ["invoice_no"]}
    files = {"name": "shop__lines", "path": "lines/{date}/*", "contract": "shop.InvoiceLines"}
    pull = {"name": "shop_db__payments", "connection_env": "TEST_URL", "table": "public.payments", "mode": "full"}
    poll = {"name": "crm__accounts", "base_url": "https://crm.invalid", "path": "accounts", "cron": "0 */6 * * *"}
    entities = {"Customers": "customer_id", "Orders": "order_id", "Products": "stock_code"}
    tables = {f"public.{name.lower()}": {"contract": f"shop_db.{name}", "keys": [k]} for name, k in entities.items()}
    stream = {"name": "shop_db", "connection_env": "TEST_URL", "publication": "p", "slot": "s", "owner": "team:web"}
    return [
        LandingFiles.model_validate({**shared, **files}),
        DatabaseTable.model_validate({**shared, **pull, "contract": "shop_db.Payments", "keys": ["payment_id"]}),
        RestResource.model_validate({**shared, **poll, "contract": "crm.Accounts", "keys": ["account_id"]}),
        ChangeStream.model_validate({**stream, "tables": tables}),
    ]


class Watched:
    """Sources under the sensor's eyes, on the instance of dagster.yaml. What happens is told in hours ago."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        parts = [dg.component_defs(component=component) for component in [*sources(), Alerts()]]
        resources = dg.Definitions(resources={"lake": dg.ResourceDefinition.none_resource()})
        self.repository = dg.Definitions.merge(*parts, resources).get_repository_def()
        self.instance = instance
        self.cursor: str | None = None

    def materialize(self, *assets: str, ago: float, **metadata: str) -> None:
        with freeze_time(datetime.now(UTC) - timedelta(hours=ago)):
            for asset in assets:
                key = dg.AssetKey.from_user_string(asset)
                self.instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))

    def evaluate(self, *, ago: float) -> None:
        """Has Dagster's own daemon evaluate every policy, and write its events."""

        async def iteration() -> None:
            context = LoadingContextForTest(self.instance)
            for node in self.repository.asset_graph.asset_nodes:
                await FreshnessDaemon()._evaluate_asset(context, node)  # type: ignore[arg-type]

        with freeze_time(datetime.now(UTC) - timedelta(hours=ago)):
            asyncio.run(iteration())

    def tick(self, *, is_killed: bool = False) -> str:
        """Gives what the tick said. If it is killed, what it sent is sent, and its cursor lost."""
        sensor = self.repository.get_sensor_def("alert_on_silence")
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.repository, sensor_name=sensor.name
        ) as context:
            result = sensor.evaluate_tick(context)
        if not is_killed:
            self.cursor = result.cursor
        return result.skip_message or ""


@pytest.fixture
def watched(settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    configured(monkeypatch, ALERT_WEBHOOK_URL=receiver.url)
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(project_root()))) as instance:
        yield Watched(instance)


@pytest.fixture(params=["sqlite", "postgres"])
def watched_anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Watched:
    if request.param == "postgres":
        if importlib.util.find_spec("dagster_postgres") is None:
            pytest.skip("dagster-postgres is not installed")
        monkeypatch.setenv("PIPELINE_DAGSTER_POSTGRES_URL", request.getfixturevalue("database"))
    found: Watched = request.getfixturevalue("watched")
    return found


def test_a_silent_source_is_one_alert_until_it_is_silent_anew(watched_anywhere: Watched, receiver: Receiver) -> None:
    watched = watched_anywhere
    watched.materialize(LINES, ago=110)
    watched.evaluate(ago=100)
    watched.evaluate(ago=50)
    assert watched.tick() == f"told: no data for 4 days (expected every 24 hours), {LINES}"
    ((_, alert),) = receiver.posts
    assert alert["asset"] == LINES
    assert alert["owners"] == ["team:shop"]
    assert f"last materialized {datetime.now(UTC) - timedelta(hours=110):%Y-%m-%d %H:}" in str(alert["details"])
    assert "the sensor shop__lines__landing: Asks for one run" in str(alert["details"])
    assert "lines/{date}/*" in str(alert["details"])
    watched.evaluate(ago=49)
    assert watched.tick() == "nothing new (1 assets are silent, of them 1 told)"
    watched.materialize(LINES, ago=48.9)
    watched.evaluate(ago=48.8)
    assert watched.tick() == "nothing new (0 assets are silent, of them 0 told)"
    watched.evaluate(ago=0.5)
    assert watched.tick() == f"told: no data for 48 hours (expected every 24 hours), {LINES}"
    assert watched.tick() == "nothing new (1 assets are silent, of them 1 told)"
    assert len(receiver.posts) == 2


@pytest.mark.parametrize(
    ("assets", "every", "asked_by"),
    [
        ([LINES], "24 hours", "sensor shop__lines__landing"),
        ([PAYMENTS], "24 hours", "schedule shop_db__payments__schedule"),
        ([ACCOUNTS], "6 hours", "schedule crm__accounts__schedule"),
        (STREAM, "12 hours", "sensor shop_db__changes"),
    ],
)
def test_each_kind_of_source_has_a_silence_of_its_own(
    watched: Watched, receiver: Receiver, assets: list[str], every: str, asked_by: str
) -> None:
    watched.materialize(*assets, ago=60)
    watched.evaluate(ago=1)
    watched.tick()
    watched.tick()
    ((_, alert),) = receiver.posts
    assert alert["title"] == f"no data for 60 hours (expected every {every})"
    assert alert["asset"] == ", ".join(assets)
    assert asked_by in str(alert["details"])


def test_tables_that_fall_silent_one_after_the_other_are_one_alert(watched: Watched, receiver: Receiver) -> None:
    minutes = (11, 5, 4)  # the first one has had its time of grace, the others have not
    for asset, minute in zip(STREAM, minutes, strict=True):
        watched.materialize(asset, ago=24 + minute / 60)
    for minute in minutes:
        watched.evaluate(ago=minute / 60)
    watched.tick()
    watched.tick()
    ((_, alert),) = receiver.posts
    assert alert["asset"] == ", ".join(STREAM)


def test_two_sources_are_two_alerts_in_two_ticks(watched: Watched, receiver: Receiver) -> None:
    watched.materialize(LINES, PAYMENTS, ago=60)
    watched.evaluate(ago=1)
    watched.tick()
    assert len(receiver.posts) == 1
    watched.tick()
    watched.tick()
    assert [alert["asset"] for _, alert in receiver.posts] == [LINES, PAYMENTS]


def test_what_was_overtaken_is_not_told(watched: Watched, receiver: Receiver) -> None:
    watched.materialize(LINES, PAYMENTS, ago=100)
    watched.evaluate(ago=2)
    watched.materialize(LINES, PAYMENTS, ago=1)
    assert watched.tick() == "nothing new (0 assets are silent, of them 0 told)"  # the daemon has not said so yet
    watched.evaluate(ago=0.5)
    assert watched.tick() == "nothing new (0 assets are silent, of them 0 told)"
    assert receiver.posts == []


def test_a_daemon_that_was_down_gives_its_sources_time_to_come_back(watched: Watched, receiver: Receiver) -> None:
    watched.materialize(LINES, PAYMENTS, *STREAM, ago=100)
    watched.evaluate(ago=9 / 60)
    assert watched.tick() == "nothing new (5 assets are silent, of them 0 told)"
    assert receiver.posts == []


def test_the_first_tick_on_an_old_instance_tells_only_of_what_is_silent_now(
    watched: Watched, receiver: Receiver
) -> None:
    for days in (40, 30, 20, 10):
        watched.materialize(LINES, PAYMENTS, ago=24 * days)
        watched.evaluate(ago=24 * days)
        watched.evaluate(ago=24 * (days - 9))
    watched.materialize(PAYMENTS, ago=1)
    watched.evaluate(ago=0.5)
    for _ in range(3):
        watched.tick()
    ((_, alert),) = receiver.posts
    assert alert["title"] == "no data for 10 days (expected every 24 hours)"
    assert alert["asset"] == LINES


@pytest.mark.parametrize("cursor", [None, "", "7", "[]", "no json"])
def test_a_tick_killed_after_sending_or_a_lost_cursor_tells_again(
    watched: Watched, receiver: Receiver, cursor: str | None
) -> None:
    watched.materialize(LINES, ago=60)
    watched.evaluate(ago=1)
    watched.tick(is_killed=True)
    watched.cursor = cursor
    watched.tick()
    watched.tick()
    assert [alert["asset"] for _, alert in receiver.posts] == [LINES, LINES]


def test_what_rests_and_what_never_was_materialized_is_not_told(watched: Watched, receiver: Receiver) -> None:
    watched.materialize(PAYMENTS, ago=60, resting="TEST_URL is not set: nothing to read from")
    watched.evaluate(ago=1)
    assert watched.tick() == "nothing new (0 assets are silent, of them 0 told)"
    assert receiver.posts == []
