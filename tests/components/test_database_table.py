"""The component against a real PostgreSQL: what it makes, what a tick asks for, which days, no password anywhere."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import schedules
from postgres import execute
from pydantic import ValidationError

from pipeline_assets.components import DatabaseTable
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.ingest.database import errors
from pipeline_assets.lake import Lake, Table
from pipeline_assets.settings import Settings

BRONZE, LETTERS = dg.AssetKey(["bronze", "shop__products"]), dg.AssetKey(["dead_letters", "shop__products"])
TODAY = datetime.now(UTC).date()
PASSWORD = "sesame-open"


def declared(**changes: Any) -> DatabaseTable:
    attributes = {
        "name": "shop__products", "connection_env": "TEST_PULL_URL", "table": "public.products", "mode": "incremental",
        "watermark": "updated_at", "contract": "shop_db.Products", "keys": ["stock_code"], "owner": "team:shop-data",
        "failure_budget": 0.5, **changes,
    }  # fmt: skip
    return DatabaseTable.model_validate(attributes)


class Shop:
    """A source of a database of its own, as Dagster definitions."""

    def __init__(self, url: str, settings: Settings, instance: dg.DagsterInstance, **changes: Any) -> None:
        self.url, self.instance, self.lake = url, instance, Lake(settings.lake_uri)
        self.bronze = Table(self.lake, "bronze.shop__products")
        self.defs = dg.Definitions.merge(
            dg.component_defs(component=declared(**changes)),
            dg.Definitions(resources={"lake": lake_resource()}, executor=dg.in_process_executor),
        )
        self.repository = self.defs.get_repository_def()
        execute(url, "CREATE TABLE IF NOT EXISTS products (stock_code text, description text, unit_price text,"
                     " updated_at timestamptz)")  # fmt: skip

    def insert(self, code: str, updated: str = "now()", price: str = "1.5") -> None:
        execute(self.url, f"INSERT INTO products VALUES ('{code}', 'x', '{price}', {updated})")

    def tick(self, at: datetime | None = None) -> dg.RunRequest | dg.SkipReason:
        when = at or datetime(TODAY.year, TODAY.month, TODAY.day, 1, tzinfo=UTC)
        return schedules.tick(self.repository, self.instance, "shop__products__schedule", when)

    def run(self, first: date = TODAY, last: date = TODAY, job: str = "to_gold") -> dg.ExecuteInProcessResult:
        tags = {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
        if first == last:
            tags = {"dagster/partition": str(first)}
        definition = self.repository.get_job(f"shop__products__{job}")
        return definition.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False)

    def codes(self, columns: str = "stock_code") -> list[Any]:
        with self.lake.connect() as con:
            found = con.execute(f"SELECT {columns} FROM {self.bronze.scan()} ORDER BY ALL").fetchall()
        return [row[0] if len(row) == 1 else row for row in found]


@pytest.fixture
def url(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TEST_PULL_URL", database)
    monkeypatch.setattr(errors, "FIRST_WAIT_SECONDS", 0.001)
    return database


@pytest.fixture
def shop(url: str, settings: Settings, instance: dg.DagsterInstance) -> Shop:
    return Shop(url, settings, instance)


def facts(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (found,) = [
        event.materialization.metadata
        for event in (e.step_materialization_data for e in result.get_asset_materialization_events())
        if event.materialization.asset_key == BRONZE
    ][-1:]
    return {name: value.value for name, value in found.items()}


def days(request: dg.RunRequest | dg.SkipReason) -> tuple[str, str]:
    assert isinstance(request, dg.RunRequest)
    first = request.tags.get("dagster/asset_partition_range_start", request.partition_key)
    return str(first), str(request.tags.get("dagster/asset_partition_range_end", first))


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_a_run_pulls_passes_its_checks_and_leaves_its_counts(shop: Shop) -> None:
    shop.insert("a")
    shop.insert("b", price="x")
    result = shop.run()
    assert result.success
    assert checks(result) == {
        "contract": True,
        "record_counts": True,
        "failure_budget": True,
        "withheld": True,
        "dead_letters": True,
    }
    counts = {name: facts(result)[name] for name in ("records_in", "rows", "dead_letters", "duplicates")}
    assert counts == {"records_in": 2, "rows": 1, "dead_letters": 1, "duplicates": 0}
    assert shop.codes() == ["a"]


def test_the_materialization_tells_which_columns_were_widened(shop: Shop) -> None:
    shop.insert("a")
    assert "columns_widened" not in facts(shop.run())
    with shop.lake.connect() as con:
        shop.bronze.retype(con, {"unit_price": "unit_price::DECIMAL(8, 3)"})
    shop.insert("b")
    assert facts(shop.run())["columns_widened"] == "unit_price: DECIMAL(8,3) -> DECIMAL(12,3)"
    assert shop.codes() == ["a", "b"]


def test_too_many_dead_letters_fail_the_run(shop: Shop) -> None:
    shop.insert("a", price="x")
    result = shop.run()
    assert not result.success
    assert checks(result) == {
        "contract": True,
        "record_counts": True,
        "failure_budget": False,
        "withheld": False,
        "dead_letters": True,
    }


def test_the_first_tick_asks_for_today_and_a_later_one_for_all_days_since(shop: Shop) -> None:
    shop.insert("a")
    assert days(shop.tick()) == (str(TODAY), str(TODAY))
    assert shop.run().success
    assert days(shop.tick()) == (str(TODAY), str(TODAY))
    later = datetime(TODAY.year, TODAY.month, TODAY.day, 1, tzinfo=UTC) + timedelta(days=3)
    assert days(shop.tick(later)) == (str(TODAY + timedelta(days=1)), str(TODAY + timedelta(days=3)))


def test_windows_are_due_up_to_yesterday(url: str, settings: Settings, instance: dg.DagsterInstance) -> None:
    shop = Shop(url, settings, instance, mode="window")
    yesterday = TODAY - timedelta(days=1)
    assert days(shop.tick()) == (str(yesterday), str(yesterday))
    first = TODAY - timedelta(days=4)
    shop.insert("old", f"'{first} 12:00+00'")
    shop.insert("new", f"'{yesterday} 12:00+00'")
    assert shop.run(first, first).success
    assert days(shop.tick()) == (str(TODAY - timedelta(days=3)), str(yesterday))
    result = shop.run(TODAY - timedelta(days=3), yesterday)
    assert result.success
    assert shop.codes("stock_code, _partition_date") == [("new", yesterday), ("old", first)]
    assert len(result.get_step_success_events()) == 2, "a range is one run of one step, and its checks"


def test_keys_are_compared_on_demand(shop: Shop) -> None:
    shop.insert("a")
    shop.insert("b")
    shop.run()
    execute(shop.url, "DELETE FROM products WHERE stock_code = 'a'")
    result = shop.run(job="compare_keys")
    assert result.success
    assert {name: value for name, value in facts(result).items() if name.startswith("keys_")} == {
        "keys_keys": 1, "keys_gone": 1, "keys_missing": 0,
    }  # fmt: skip
    assert shop.codes("stock_code, _deleted") == [("a", False), ("a", True), ("b", False)]
    assert facts(shop.run()).get("keys_gone") is None


def test_a_syntax_error_is_not_tried_again(url: str, settings: Settings, instance: dg.DagsterInstance) -> None:
    shop = Shop(url, settings, instance, table=None, query="SELEC 1", mode="full", watermark=None)
    result = shop.run()
    assert not result.success
    (failure,) = result.get_step_failure_events()
    message = failure.step_failure_data.error_display_string
    assert 'syntax error at or near "1"' in message
    assert not [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_RESTARTED]


def test_a_database_that_is_down_is_named_without_its_password(
    url: str, settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(url, settings, instance)
    monkeypatch.setenv("TEST_PULL_URL", f"postgresql://someone:{PASSWORD}@127.0.0.1:1/nowhere")
    result = shop.run()
    assert not result.success
    told = " ".join(str(event) for event in result.all_events)
    assert "127.0.0.1:1/nowhere" in told
    assert PASSWORD not in told


def test_without_a_connection_the_source_rests(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_PULL_URL")
    result = shop.run()
    assert result.success
    assert "TEST_PULL_URL is not set" in facts(result)["resting"]
    skipped = shop.tick()
    assert isinstance(skipped, dg.SkipReason)
    assert "TEST_PULL_URL is not set" in str(skipped.skip_message)


def test_the_ui_gets_columns_owner_groups_freshness_and_schedule(shop: Shop) -> None:
    graph = shop.defs.resolve_asset_graph()
    bronze, letters = graph.get(BRONZE), graph.get(LETTERS)
    assert (bronze.group_name, letters.group_name) == ("bronze", "dead_letters")
    assert list(bronze.owners) == ["team:shop-data"]
    assert {c.name: c.type for c in bronze.metadata["dagster/column_schema"].columns}["unit_price"] == "DECIMAL(12,3)"
    assert bronze.freshness_policy is not None
    schedule = shop.repository.get_schedule_def("shop__products__schedule")
    assert schedule.cron_schedule == "0 1 * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert {job.name for job in shop.repository.get_all_jobs()} >= {
        "shop__products__to_gold",
        "shop__products__compare_keys",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "products"}, "name"),
        ({"watermark": None}, "needs a watermark"),
        ({"watermark": "description"}, "watermark description is VARCHAR"),
        ({"query": "SELECT 1"}, "either a table or a query"),
        ({"keys": []}, "keys"),
        ({"keys": ["nope"]}, "no columns of the contract"),
        ({"contract": "shop_db.Nope"}, "no contract"),
        ({"connection_env": "postgresql://u:p@h/d"}, "connection_env"),
        ({"mode": "sometimes"}, "mode"),
        ({"owner": "somebody"}, "owner"),
        ({"lookback": -1}, "lookback"),
    ],
)
def test_a_wrong_declaration_is_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        declared(**changes)
