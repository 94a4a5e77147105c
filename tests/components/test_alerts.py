"""Alerts reach a real HTTP server: once, with asset, partition, owner and the first failing cases."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
import psycopg
import pytest
from landing_source import Source
from webhook import Receiver, configured

from pipeline_assets import alerts
from pipeline_assets.components import Alerts
from pipeline_assets.components.assets.bronze import errors_as_failures
from pipeline_assets.components.assets.contract_checks import table_value
from pipeline_assets.ingest.database.errors import DatabaseError
from pipeline_assets.ingest.files.unread import Cause, FilesLeftError
from pipeline_assets.lake.errors import StorageError
from pipeline_assets.settings import Settings

ALERT = alerts.Alert("check contract failed", "bronze/x", "2011-01-04", ["team:shop"], ["column=a, value=b"], "run-1")


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
    assert "did not accept" in caplog.text
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
        with errors_as_failures("shop__lines"):
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
        "reasons": table_value(
            [{"reason": letter, "dead_letters": 2}, {"reason": f"{SECRET} is odd", "dead_letters": 1}]
        ),
        "failing_cases": table_value([{"in_silver": "differs", "key": SECRET, "reason": f"unreadable: '{SECRET}'"}]),
    }

    @dg.asset(check_specs=[dg.AssetCheckSpec("dead_letters", asset="customers")])
    def customers() -> Iterator[object]:
        yield dg.MaterializeResult()
        yield dg.AssetCheckResult(passed=False, metadata=metadata)

    result = dg.materialize([customers], instance=alerting.instance)
    evaluate(alerting, "alert_on_failed_check", result)
    ((_, alert),) = receiver.posts
    for told in (
        "dead_letters=3",
        "remedy=mend the contract",
        "dead_letters=2",
        "cast: customer_id",
        "in_silver=differs",
    ):
        assert told in str(alert["details"])
    assert (SECRET in str(alert)) == is_asked_for
    assert ("jane" in str(alert)) == is_asked_for


def test_a_good_run_is_no_alert(alerting: Source, receiver: Receiver) -> None:
    alerting.land("2011-01-04/a.csv", alerting.line(1))
    (request,) = alerting.tick().run_requests
    evaluate(alerting, "alert_on_failed_check", alerting.execute(request))
    assert receiver.posts == []
