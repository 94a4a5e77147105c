"""Alerts reach a real HTTP server: once, with asset, partition, owner and the first failing cases."""

import json
import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import dagster as dg
import pytest
from landing_source import Source

from pipeline_assets import alerts
from pipeline_assets.components import Alerts
from pipeline_assets.settings import Settings, load_settings


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
    assert "value=banana" in str(alert["details"])


def test_a_failed_run_without_a_failed_check_is_an_alert(alerting: Source, receiver: Receiver) -> None:
    alerting.land("2011-01-04/a.csv", alerting.line(1))
    (request,) = alerting.tick().run_requests
    alerting.execute(request)
    Path(alerting.bronze.uri, "_delta_log/00000000000000000001.json").write_text("garbage")
    evaluate(alerting, "alert_on_failure", alerting.execute(request))
    ((_, alert),) = receiver.posts
    assert "could not be opened" in str(alert["details"])
    assert alert["partition"] == "2011-01-04"


def test_a_good_run_is_no_alert(alerting: Source, receiver: Receiver) -> None:
    alerting.land("2011-01-04/a.csv", alerting.line(1))
    (request,) = alerting.tick().run_requests
    evaluate(alerting, "alert_on_failed_check", alerting.execute(request))
    assert receiver.posts == []
