"""The component: a declaration becomes a schedule, assets and checks; a poll leaves its counts, or fails clearly."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import schedules
from crm_api import Api, Reply, account
from dagster.components.testing import create_defs_folder_sandbox
from polled import Accounts
from pydantic import ValidationError

from pipeline_assets.components import RestResource, rest_resource
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.contracts import base
from pipeline_assets.ingest.rest import session
from pipeline_assets.ingest.rest.source import Bearer, Cursor
from pipeline_assets.lake import Lake, Table
from pipeline_assets.settings import Settings

BRONZE, LETTERS = dg.AssetKey(["bronze", "crm__accounts"]), dg.AssetKey(["dead_letters", "crm__accounts"])
DECLARED: dict[str, Any] = {
    "name": "crm__accounts", "base_url": "https://crm.example/v2", "path": "accounts", "contract": "polled.Accounts",
    "owner": "team:crm", "keys": ["account_id"], "records": "data.items",
    "pagination": {"type": "cursor", "path": "meta.next"}, "auth": {"type": "bearer", "token_env": "CRM_TOKEN"},
}  # fmt: skip


class Source:
    """The component, loaded, and the world around it."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, **attributes: object) -> None:
        self.component = RestResource(**{**DECLARED, **attributes})
        self.defs = dg.Definitions.merge(
            self.component.build_defs(dg.ComponentTree.for_test().load_context),
            dg.Definitions(resources={"lake": lake_resource()}, executor=dg.in_process_executor),
        )
        self.repository, self.instance = self.defs.get_repository_def(), instance
        self.lake = Lake(settings.lake_uri)

    def tick(self, at: datetime) -> dg.RunRequest | dg.SkipReason:
        return schedules.tick(self.repository, self.instance, "crm__accounts__schedule", at)

    def run(self, job: str = "crm__accounts__to_gold") -> dg.ExecuteInProcessResult:
        request = self.tick(datetime.now(UTC))
        assert isinstance(request, dg.RunRequest)
        return self.repository.get_job(job).execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags=dict(request.tags), raise_on_error=False
        )

    def rows(self, layer: str = "bronze", columns: str = "account_id") -> list[Any]:
        with self.lake.connect() as con:
            scan = Table(self.lake, f"{layer}.crm__accounts").scan()
            return [row[0] for row in con.execute(f"SELECT {columns} FROM {scan} ORDER BY ALL").fetchall()]


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = {**base._registry(), "polled.Accounts": Accounts}
    monkeypatch.setattr(base, "_registry", lambda: registry)
    monkeypatch.setattr(session, "sleep", lambda seconds: None)
    monkeypatch.setattr(rest_resource, "RETRIES", rest_resource.RETRIES._replace(delay=0.01))
    monkeypatch.setenv("CRM_TOKEN", "crm-t0ken")
    monkeypatch.delenv("CRM_URL", raising=False)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as found:
        yield found


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def facts(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    (event,) = [
        e.step_materialization_data.materialization
        for e in result.get_asset_materialization_events()
        if e.asset_key == key
    ]
    return {name: value.value for name, value in event.metadata.items()}


def test_a_poll_passes_its_checks_and_leaves_its_counts(settings, instance, api) -> None:
    source = Source(settings, instance, base_url=api.url)
    result = source.run()
    assert result.success
    assert checks(result) == {
        "contract": True,
        "record_counts": True,
        "failure_budget": True,
        "withheld": True,
        "dead_letters": True,
    }
    assert source.rows() == list(range(1, 11))
    found = facts(result, BRONZE)
    expected = {"records_in": 10, "rows": 10, "dead_letters": 0, "duplicates": 0, "pages": 4, "asked": "GET /accounts"}
    assert expected.items() <= found.items()
    assert facts(result, LETTERS)["dead_letters"] == 0


def test_the_next_poll_adds_what_is_new_and_a_whole_one_what_was_missed(settings, instance, api) -> None:
    incremental = {"param": "updated_since", "field": "updated_at"}
    source = Source(settings, instance, base_url=api.url, incremental=incremental)
    assert source.run().success
    api.records = [account(10), account(11, day=2)]
    second = facts(source.run(), BRONZE)
    assert (second["rows"], second["duplicates"]) == (1, 1)
    assert second["asked"] == "GET /accounts?updated_since=2025-12-31T23:00:00Z"
    api.records = [account(12)]
    whole = source.run("crm__accounts__whole")
    assert facts(whole, BRONZE)["asked"] == "GET /accounts"
    assert checks(whole) == {
        "contract": True,
        "record_counts": True,
        "failure_budget": True,
        "withheld": True,
        "dead_letters": True,
    }
    assert source.rows() == list(range(1, 13))


def test_the_materialization_tells_which_columns_were_widened(settings, instance, api) -> None:
    source = Source(settings, instance, base_url=api.url)
    assert "columns_widened" not in facts(source.run(), BRONZE)
    with source.lake.connect() as con:
        Table(source.lake, "bronze.crm__accounts").retype(con, {"account_id": "account_id::INTEGER"})
    api.records += [account(11)]
    assert facts(source.run(), BRONZE)["columns_widened"] == "account_id: INTEGER -> BIGINT"
    assert source.rows() == list(range(1, 12))


def test_dead_letters_beyond_the_budget_fail_the_check(settings, instance, api) -> None:
    api.records[3] = '{"account_id": "four"}'
    source = Source(settings, instance, base_url=api.url)
    result = source.run()
    assert not result.success
    assert checks(result) == {
        "contract": True,
        "record_counts": True,
        "failure_budget": False,
        "withheld": False,
        "dead_letters": True,
    }
    assert source.rows("dead_letters", "reason") == ["cast: account_id: 'four' is not BIGINT"]
    api.records[3] = account(4)
    assert source.run().success
    assert source.rows("dead_letters", "reason") == []


def test_a_lost_row_fails_the_reconciliation(settings, instance, api) -> None:
    source = Source(settings, instance, base_url=api.url)
    source.run()
    with source.lake.connect() as con:
        bronze = Table(source.lake, "bronze.crm__accounts")
        bronze.replace(con, f"SELECT * FROM {bronze.scan()} WHERE FALSE", where="account_id = 3")
    assert checks(source.run()) == {
        "contract": True,
        "record_counts": False,
        "failure_budget": True,
        "withheld": False,
        "dead_letters": True,
    }


def test_an_api_that_fails_is_a_failed_run_without_the_secret(settings, instance, api) -> None:
    api.fault = lambda n, query: Reply(500, b"I was sent crm-t0ken") if n > 1 else None
    source = Source(settings, instance, base_url=api.url)
    result = source.run()
    assert not result.success
    logged = [str(entry) for entry in source.instance.all_logs(result.run_id)]
    assert any("HTTP 500: 5 attempts were made" in entry for entry in logged)
    assert not any("crm-t0ken" in entry for entry in logged)
    assert not Table(source.lake, "bronze.crm__accounts").exists()


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (500, 5)])
def test_the_run_does_not_multiply_the_attempts_of_its_poll(settings, instance, api, status, attempts) -> None:
    api.fault = lambda n, query: Reply(status)
    assert not Source(settings, instance, base_url=api.url).run().success
    assert len(api.asked) == attempts


def test_a_second_round_of_pages_is_said(settings, instance, api) -> None:
    api.fault = lambda n, query: Reply(410) if n == 2 else None
    source = Source(settings, instance, base_url=api.url)
    result = source.run()
    assert result.success
    assert any("read twice: page 2 is gone" in str(entry) for entry in source.instance.all_logs(result.run_id))


def test_the_schedule_asks_for_the_day_of_its_tick(settings, instance) -> None:
    source = Source(settings, instance)
    schedule = source.repository.get_schedule_def("crm__accounts__schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 */6 * * *", "UTC")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    request = source.tick(datetime(2026, 1, 5, 18, tzinfo=UTC))
    assert isinstance(request, dg.RunRequest)
    assert (request.partition_key, request.tags["pipeline_assets/source"]) == ("2026-01-05", "crm__accounts")


def test_a_source_without_an_address_rests(settings, instance, monkeypatch, api) -> None:
    source = Source(settings, instance, base_url=None, base_url_env="CRM_URL")
    assert source.tick(datetime(2026, 1, 5, tzinfo=UTC)).skip_message == "CRM_URL is not set: no API to poll"
    job = source.repository.get_job("crm__accounts__to_gold")
    result = job.execute_in_process(instance=instance, partition_key="2026-01-05", raise_on_error=False)
    assert result.success
    assert {name for name, passed in checks(result).items() if passed} == {"withheld", "dead_letters"}
    assert facts(result, BRONZE) == {"resting": "CRM_URL is not set: no API to poll"} | facts(result, BRONZE)
    monkeypatch.setenv("CRM_URL", api.url)
    assert source.run().success
    assert len(source.rows()) == 10


@pytest.mark.parametrize(
    ("cron", "hours"),
    [
        ("0 */6 * * *", 12),
        ("0 9 * * 1-5", 144),
        ("*/5 * * * *", 1 / 6),
        ("0 0 1 * *", 2 * 31 * 24),
        ("*/10 8-18 * * 1-5", 2 * (61 + 1 / 6)),
        ("*/5 * * * 1-5", 2 * (48 + 1 / 12)),
    ],
)
def test_the_ui_gets_columns_owner_and_a_freshness_after_the_cron(settings, instance, cron, hours) -> None:
    graph = Source(settings, instance, cron=cron).defs.resolve_asset_graph()
    bronze, letters = graph.get(BRONZE), graph.get(LETTERS)
    assert (bronze.group_name, letters.group_name) == ("bronze", "dead_letters")
    assert list(bronze.owners) == ["team:crm"]
    assert {c.name: c.type for c in bronze.metadata["dagster/column_schema"].columns}["revenue"] == "DECIMAL(38,10)"
    assert bronze.freshness_policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Accounts"}, "match pattern"),
        ({"contract": "crm.Nothing"}, "no contract 'crm.Nothing'"),
        ({"owner": "nobody"}, "match pattern"),
        ({"cron": "every day"}, "no cron expression"),
        ({"keys": ["id"]}, "keys id are not columns"),
        ({"base_url": None}, "either base_url or base_url_env"),
        ({"base_url_env": "CRM_URL"}, "either base_url or base_url_env"),
        ({"base_url": "crm.example"}, "must be http"),
        ({"pagination": {"type": "pages"}}, "'page', 'offset', 'cursor', 'next_url', 'link_header'"),
        ({"pagination": {"type": "cursor"}}, "pagination.cursor.path"),
        ({"auth": {"type": "bearer", "token": "x"}}, "auth.bearer.token_env"),
        ({"incremental": {"param": "since", "field": "name"}}, "watermark name is VARCHAR"),
        ({"requests_per_second": 0}, "greater than 0"),
        ({"retries": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_declaration_is_explained(settings, instance, change, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Source(settings, instance, **change)


def test_a_yaml_declaration_is_all_it_takes(settings) -> None:
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=RestResource,
            defs_yaml_contents={"type": "pipeline_assets.components.RestResource", "attributes": DECLARED},
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (component, defs):
            assert isinstance(component, RestResource)
            assert component.auth == Bearer(type="bearer", token_env="CRM_TOKEN")
            assert component.pagination == Cursor(type="cursor", path="meta.next")
            defs = dg.Definitions.merge(defs, dg.Definitions(resources={"lake": lake_resource()}))
            assert set(defs.resolve_asset_graph().get_all_asset_keys()) == {BRONZE, LETTERS}
