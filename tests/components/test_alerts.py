"""Alerts reach a real HTTP server: once, with asset, partition, owner and the first failing cases; silence too."""

import asyncio
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import dagster as dg
import duckdb
import polars as pl
import psycopg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import freeze_time
from dagster._daemon.freshness import FreshnessDaemon
from landing_source import Source

from pipeline_assets import alerts
from pipeline_assets.components import Alerts, ChangeStream, DatabaseTable, LandingFiles, RestResource
from pipeline_assets.components.bronze_assets import failures_told
from pipeline_assets.components.checks import table_value
from pipeline_assets.ingest.database.errors import DatabaseError
from pipeline_assets.ingest.unread import Cause, FilesLeftError
from pipeline_assets.lake.errors import StorageError
from pipeline_assets.settings import Settings, load_settings, project_root


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted; answers with `status`."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, object]]] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook/s3cret"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posts.append((self.path, body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


ALERT = alerts.Alert("check contract failed", "bronze/x", "2011-01-04", ["team:shop"], ["column=a, value=b"], "run-1")


def configured(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"PIPELINE_{name}", value)
    load_settings.cache_clear()
    return load_settings()


def test_slack_and_webhook_get_the_alert(
    settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = configured(monkeypatch, ALERT_SLACK_WEBHOOK_URL=receiver.url, ALERT_WEBHOOK_URL=receiver.url)
    alerts.send(ALERT, changed, logging.getLogger("test"))
    (_, slack), (_, webhook) = receiver.posts
    for part in ("check contract failed", "bronze/x", "2011-01-04", "team:shop", "column=a, value=b", "run-1"):
        assert part in str(slack["text"])
    assert webhook["asset"] == "bronze/x"
    assert webhook["owners"] == ["team:shop"]


def test_without_a_target_the_log_gets_it(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    alerts.send(ALERT, settings, logging.getLogger("test"))
    assert "ALERT check contract failed" in caplog.text


@pytest.mark.parametrize("status", [400, 503])
def test_a_target_that_refuses_leaves_the_alert_in_the_log_without_the_secret(
    settings: Settings,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    receiver.status = status
    changed = configured(
        monkeypatch, ALERT_SLACK_WEBHOOK_URL="http://127.0.0.1:9/s3cret", ALERT_WEBHOOK_URL=receiver.url
    )
    monkeypatch.setattr(alerts, "_RETRIES", 1)
    alerts.send(ALERT, changed, logging.getLogger("test"))
    assert receiver.posts
    assert "ALERT check contract failed" in caplog.text
    assert "did not take" in caplog.text
    assert "s3cret" not in "".join(record.getMessage() for record in caplog.records if record.name == "test")


@pytest.fixture
def alerting(
    settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> Source:
    return Source(configured(monkeypatch, ALERT_WEBHOOK_URL=receiver.url), instance)


def evaluate(source: Source, sensor_name: str, result: dg.ExecuteInProcessResult) -> None:
    defs = dg.Definitions.merge(source.defs, Alerts().build_defs(dg.ComponentTree.for_test().load_context))
    repository = defs.get_repository_def()
    run = source.instance.get_run_by_id(result.run_id)
    assert run
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor_name,
        dagster_instance=source.instance,
        dagster_run=run,
        dagster_event=result.all_events[-1],
        repository_def=repository,
    )
    sensor = repository.get_sensor_def(sensor_name)
    if sensor_name == "alert_on_failure":
        context = context.for_run_failure()
    sensor(context)


def test_a_failed_check_is_one_alert_with_all_that_is_needed(alerting: Source, receiver: Receiver) -> None:
    alerting.land("2011-01-04/a.csv", alerting.line(1), alerting.line(2).replace("536002", "banana"))
    (request,) = alerting.tick().run_requests
    evaluate(alerting, "alert_on_failure", alerting.execute(request))
    ((_, alert),) = receiver.posts
    assert alert["title"] == "check contract failed (ERROR)"
    assert alert["asset"] == "bronze/shop__lines"
    assert alert["partition"] == "2011-01-04"
    assert alert["owners"] == ["team:shop"]
    assert "banana" not in str(alert)
    assert "column=" in str(alert["details"])


def test_a_withheld_day_is_told_by_the_run_that_withheld_it_and_by_no_later_one(
    alerting: Source, receiver: Receiver
) -> None:
    alerting.land("2011-01-04/a.csv", alerting.line(1), alerting.line(2).replace("536002", "banana"))
    (request,) = alerting.tick().run_requests
    evaluate(alerting, "alert_on_failure", alerting.execute(request))
    assert [alert["title"] for _, alert in receiver.posts] == ["check contract failed (ERROR)"]
    alerting.land("2011-01-05/a.csv", alerting.line(3))
    good = alerting.execute(dg.RunRequest(tags={"dagster/partition": "2011-01-05"}))
    assert {check.check_name for check in good.get_asset_check_evaluations() if not check.passed} == {"withheld"}
    evaluate(alerting, "alert_on_failed_check", good)
    assert len(receiver.posts) == 1


def test_a_failed_run_without_a_failed_check_is_an_alert(alerting: Source, receiver: Receiver) -> None:
    alerting.land("2011-01-04/a.csv", alerting.line(1))
    (request,) = alerting.tick().run_requests
    alerting.execute(request)
    Path(alerting.bronze.uri, "_delta_log/00000000000000000001.json").write_text("garbage")
    evaluate(alerting, "alert_on_failure", alerting.execute(request))
    ((_, alert),) = receiver.posts
    assert "could not be opened" in str(alert["details"])
    assert alert["partition"] == "2011-01-04"


SECRET = "jane@example.org"
QUOTING: dict[str, Callable[[], object]] = {
    "ConversionException": lambda: duckdb.sql(f"SELECT '{SECRET}'::BIGINT").fetchall(),
    "UniqueViolation": lambda: raising(psycopg.errors.UniqueViolation(f"duplicate key, Key (email)=({SECRET}) exists")),
    "ValueError": lambda: int(SECRET),
    "KeyError": lambda: {}[SECRET],
    "SchemaError": lambda: checked(),
    "DatabaseError": lambda: raising(DatabaseError(f"db: invalid input syntax for type integer: {SECRET}")),
    "FilesLeftError": lambda: raising(FilesLeftError("shop", {"a.csv": Cause(f"cannot cast {SECRET}")}, None)),
}


def raising(error: Exception) -> None:
    raise error


def checked() -> None:
    import pandera.polars as pa

    schema = pa.DataFrameSchema({"email": pa.Column(pl.String, pa.Check.isin(["nobody"]))})
    schema.validate(pl.DataFrame({"email": [SECRET]}))


def failed(raises: Callable[[], object], alerting: Source) -> None:
    @dg.op
    def step() -> None:
        with failures_told("shop__lines"):
            raises()

    @dg.job
    def failing() -> None:
        step()

    result = failing.execute_in_process(instance=alerting.instance, raise_on_error=False)
    assert not result.success
    evaluate(alerting, "alert_on_failure", result)


@pytest.mark.parametrize("name", QUOTING)
def test_a_failed_run_is_told_by_step_class_and_link_and_quotes_no_row(
    alerting: Source, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    configured(monkeypatch, ALERT_WEBHOOK_URL=receiver.url, DAGSTER_URL="https://dagster.example.org/")
    failed(QUOTING[name], alerting)
    ((_, alert),) = receiver.posts
    assert SECRET not in str(alert)
    (detail,) = alert["details"]  # type: ignore[misc]
    assert f"step: {name} " in f"{detail} "
    assert alert["link"] == f"https://dagster.example.org/runs/{alert['run_id']}"


@pytest.mark.parametrize("name", ["ConversionException", "DatabaseError", "ValueError"])
def test_a_failed_run_quotes_rows_if_that_is_asked_for(
    alerting: Source, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    configured(monkeypatch, ALERT_WEBHOOK_URL=receiver.url, ALERT_ROW_VALUES="true")
    failed(QUOTING[name], alerting)
    ((_, alert),) = receiver.posts
    assert SECRET in str(alert["details"])


def test_errors_of_the_lake_are_told_with_their_remedy(alerting: Source, receiver: Receiver) -> None:
    failed(lambda: raising(StorageError("file:///lake/x", OSError(28, "No space left on device"))), alerting)
    ((_, alert),) = receiver.posts
    assert "No space left on device" in str(alert["details"])
    assert "free space" in str(alert["details"])


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_checks_tell_counts_kinds_and_columns_and_values_only_if_asked_for(
    alerting: Source, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, is_asked_for: bool
) -> None:
    configured(monkeypatch, ALERT_WEBHOOK_URL=receiver.url, ALERT_ROW_VALUES=str(is_asked_for).lower())
    letter = f"cast: customer_id: '{SECRET}' is not BIGINT; cast: amount: 'it's {SECRET}' is not DOUBLE"
    metadata = {
        "dead_letters": 3,
        "example": f"the row of {SECRET}",
        "remedy": "mend the contract",
        "reasons": table_value([{"reason": letter, "letters": 2}, {"reason": f"{SECRET} is odd", "letters": 1}]),
        "failing_cases": table_value([{"in_silver": "differs", "key": SECRET, "reason": f"unreadable: '{SECRET}'"}]),
    }

    @dg.asset(check_specs=[dg.AssetCheckSpec("dead_letters", asset="customers")])
    def customers() -> Iterator[object]:
        yield dg.MaterializeResult()
        yield dg.AssetCheckResult(passed=False, metadata=metadata)

    result = dg.materialize([customers], instance=alerting.instance)
    evaluate(alerting, "alert_on_failed_check", result)
    ((_, alert),) = receiver.posts
    for told in ("dead_letters=3", "remedy=mend the contract", "letters=2", "cast: customer_id", "in_silver=differs"):
        assert told in str(alert["details"])
    assert (SECRET in str(alert)) == is_asked_for
    assert ("jane" in str(alert)) == is_asked_for


def test_a_good_run_is_no_alert(alerting: Source, receiver: Receiver) -> None:
    alerting.land("2011-01-04/a.csv", alerting.line(1))
    (request,) = alerting.tick().run_requests
    evaluate(alerting, "alert_on_failed_check", alerting.execute(request))
    assert receiver.posts == []


LINES, PAYMENTS, ACCOUNTS = "bronze/shop__lines", "bronze/shop_db__payments", "bronze/crm__accounts"
STREAM = ("bronze/shop_db__customers", "bronze/shop_db__orders", "bronze/shop_db__products")


def sources() -> list[dg.Component]:
    """One of each kind."""
    shared = {"owner": "team:shop", "keys": ["invoice_no"]}
    files = {"name": "shop__lines", "path": "lines/{date}/*", "contract": "shop.InvoiceLines", "volume_mb_per_day": 1.0}
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
