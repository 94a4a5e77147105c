"""The component: landed change records become assets, checks, a sensor and two jobs; each check fails in its case."""

import json
import os
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from change_records import CUSTOMERS, HEARTBEAT, PRODUCTS, customer, product, unlisted
from dagster.components.testing import create_defs_folder_sandbox
from pydantic import ValidationError

from pipeline_assets.components import ChangeFiles
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.lake import Lake
from pipeline_assets.lake.dead_letters import dead_letter_table
from pipeline_assets.settings import Settings

DAY = "2026-01-02"
TABLES = {
    "public.customers": {"contract": "shop_db.Customers", "keys": ["customer_id"]},
    "public.products": {"contract": "shop_db.Products", "keys": ["stock_code"]},
}
REFERENCE, OTHER = dg.AssetKey(["bronze", "crm__customers"]), dg.AssetKey(["bronze", "crm__products"])


def declared(**changes: object) -> ChangeFiles:
    attributes = {
        "name": "crm", "path": "crm/{date}/*", "format": "debezium", "tables": TABLES, "owner": "team:crm",
    }  # fmt: skip
    return ChangeFiles.model_validate({**attributes, **changes})


class Source:
    """The component, loaded, and the world around it."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, **changes: object) -> None:
        self.settings, self.instance, self.lake = settings, instance, Lake(settings.lake_uri)
        self.defs = dg.Definitions.merge(
            dg.component_defs(component=declared(**changes)), dg.Definitions(resources={"lake": lake_resource()})
        )
        self.repository = self.defs.get_repository_def()

    def land(self, name: str, *records: object) -> None:
        path = Path(self.settings.landing_uri) / "crm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        os.utime(path, (time.time() - 3600, time.time() - 3600))

    def tick(self, cursor: str | None = None) -> Any:
        sensor = self.repository.get_sensor_def("crm__landing")
        with dg.build_sensor_context(
            instance=self.instance, cursor=cursor, repository_def=self.repository, sensor_name=sensor.name,
            resources={"lake": lake_resource()},
        ) as context:  # fmt: skip
            return sensor.evaluate_tick(context)

    def run(self, job: str = "to_gold", **tags: str) -> dg.ExecuteInProcessResult:
        return self.repository.get_job(f"crm__{job}").execute_in_process(
            instance=self.instance, tags=tags or {"dagster/partition": DAY}, raise_on_error=False
        )


@pytest.fixture
def source(settings: Settings, instance: dg.DagsterInstance) -> Source:
    return Source(settings, instance)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, bool]]:
    found: dict[str, dict[str, bool]] = {}
    for check in result.get_asset_check_evaluations():
        if check.check_name != "files_read" or not check.passed:
            found.setdefault(check.asset_key.path[-1], {})[check.check_name] = check.passed
    return found


def facts(result: dg.ExecuteInProcessResult, key: dg.AssetKey, check: str | None = None) -> dict[str, Any]:
    if check:
        found = next(
            c.metadata for c in result.get_asset_check_evaluations() if (c.asset_key, c.check_name) == (key, check)
        )
    else:
        found = next(
            event.step_materialization_data.materialization.metadata
            for event in result.get_asset_materialization_events()
            if event.asset_key == key
        )
    return {name: value.value for name, value in found.items()}


GOOD = {"records": True, "unrouted": True, "record_counts": True, "dead_letters": True}


def test_a_tick_asks_for_the_days_that_have_files_and_then_for_none(source: Source) -> None:
    source.land(f"{DAY}/a.jsonl", customer(1, 8), product("A", 16), product("A", 24, op="u"), HEARTBEAT)
    source.land("2026-01-03/b.jsonl", product("B", 32))
    (request,) = source.tick().run_requests
    result = source.run(**request.tags)
    assert result.success
    assert checks(result) == {"crm__customers": GOOD, "crm__products": GOOD}
    assert facts(result, OTHER) | {"files": None} == {
        "records_in": 3, "rows": 3, "dead_letters": 0, "duplicates": 0, "records_read": 5, "records_skipped": 1,
        "files_read": 2, "files_copied": 0, "files_unchanged": 0, "files_waiting": 0, "files": None,
    }  # fmt: skip
    assert facts(result, REFERENCE, "records") == {
        "records_in": 5, "rows": 4, "dead_letters": 0, "replayed": 0, "skipped": 1, "present": 0,
    }  # fmt: skip
    assert source.tick().skip_message.startswith("nothing new (2 days listed")
    assert len(result.get_step_success_events()) == 3


def test_rows_are_shown_by_commit_date_where_it_is_a_partition_of_the_run(source: Source) -> None:
    source.land(f"{DAY}/a.jsonl", product("A", 8), product("B", 16))
    result = source.run()
    (shown,) = [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == OTHER
    ]
    assert (shown.partition, shown.metadata["rows"].value) == (DAY, 2)


def test_dead_letters_fail_the_checks_that_block_nothing(source: Source) -> None:
    source.land(f"{DAY}/a.jsonl", customer(1, 8), product("A", 16, price="x"), unlisted(24), "{")
    result = source.run()
    assert result.success
    assert checks(result) == {
        "crm__customers": {**GOOD, "unrouted": False},
        "crm__products": {**GOOD, "unrouted": False, "dead_letters": False},
    }
    assert facts(result, OTHER, "dead_letters")["remedy"].startswith("mend the contract, then run the job crm__replay;")
    assert facts(result, REFERENCE, "unrouted")["dead_letters"] == 2
    severities = {c.check_name: c.severity.value for c in result.get_asset_check_evaluations() if not c.passed}
    assert severities == {"unrouted": "ERROR", "dead_letters": "ERROR"}


def test_the_replay_job_appends_what_fits_under_the_declaration_of_today(
    source: Source, settings: Settings, instance: dg.DagsterInstance
) -> None:
    source.land(f"{DAY}/a.jsonl", customer(1, 8), product("A", 16))
    customers = {name: table for name, table in TABLES.items() if "customers" in name}
    assert not checks(Source(settings, instance, tables=customers).run())["crm__customers"]["unrouted"]
    result = source.run("replay")
    assert result.success
    assert checks(result) == {"crm__customers": GOOD, "crm__products": GOOD}
    assert facts(result, OTHER)["replay_rows"] == 1
    with source.lake.connect() as con:
        assert con.execute(f"SELECT count(*) FROM {PRODUCTS.bronze(source.lake).scan()}").fetchone() == (1,)


@pytest.mark.parametrize("lost", ["row", "letter"])
def test_a_lost_record_fails_a_blocking_check(source: Source, lost: str) -> None:
    source.land(f"{DAY}/a.jsonl", customer(1, 8), product("A", 16), "{")
    assert source.run().success
    unrouted = dead_letter_table(source.lake, "bronze.crm__unrouted")
    table = CUSTOMERS.bronze(source.lake) if lost == "row" else unrouted
    with source.lake.connect() as con:
        table.commit(con, [], where="TRUE")
    result = source.run()
    assert not result.success
    failed = {name for name, found in checks(result)["crm__customers"].items() if not found}
    assert failed == ({"records", "record_counts", "unrouted"} if lost == "row" else {"records"})


def test_a_failed_account_stops_what_lies_downstream(source: Source) -> None:
    @dg.asset(deps=[OTHER], partitions_def=source.defs.resolve_asset_graph().get(OTHER).partitions_def)
    def after() -> None:
        """Must not run."""

    source.land(f"{DAY}/a.jsonl", customer(1, 8), product("A", 16))
    assert source.run().success
    with source.lake.connect() as con:
        PRODUCTS.bronze(source.lake).commit(con, [], where="TRUE")
    defs = dg.Definitions.merge(source.defs, dg.Definitions(assets=[after]))
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=source.instance, partition_key=DAY, raise_on_error=False)
    assert not result.success
    assert dg.AssetKey("after") not in {event.asset_key for event in result.get_asset_materialization_events()}


def test_the_ui_gets_columns_owners_and_groups(source: Source) -> None:
    graph = source.defs.resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert keys == {
        "bronze/crm__customers", "bronze/crm__products", "dead_letters/crm__customers", "dead_letters/crm__products",
        "dead_letters/crm__unrouted",
    }  # fmt: skip
    assert list(graph.get(OTHER).owners) == ["team:crm"]
    assert {column.name for column in graph.get(OTHER).metadata["dagster/column_schema"].columns} > {"op", "key"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "crm/*.jsonl"}, "exactly one {date}"),
        ({"format": "canal"}, "'debezium' or 'maxwell'"),
        ({"tables": {}}, "at least 1 item"),
        ({"tables": {"a.b": {"contract": "shop_db.Nothing", "keys": ["x"]}}}, "no contract 'shop_db.Nothing'"),
        ({"tables": {"a.b": {"contract": "shop_db.Products", "keys": ["sku"]}}}, "keys sku are not columns of"),
        ({"tables": {"a.b": {"contract": "shop_db.Products", "keys": []}}}, "at least 1 item"),
        ({"tables": {**TABLES, "audit.products": TABLES["public.products"]}}, "the name crm__products is taken"),
        ({"tables": {"a.unrouted": TABLES["public.products"]}}, "the name crm__unrouted is taken"),
        ({"name": "Crm"}, "match pattern"),
        ({"owner": "nobody"}, "match pattern"),
        ({"frequency": "often"}, "'hourly', 'daily' or 'weekly'"),
        ({"pages": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_declaration_is_explained(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("{", r"\{").replace("}", r"\}")):
        declared(**changes)


def test_a_yaml_declaration_is_all_it_takes(settings: Settings) -> None:
    attributes = {
        "name": "shop_mysql", "path": "shop/{date:%Y%m%d}.jsonl", "format": "maxwell", "owner": "shop@example.com",
        "tables": {"shop.products": {"contract": "shop_db.Products", "keys": ["stock_code"]}},
    }  # fmt: skip
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=ChangeFiles,
            defs_yaml_contents={
                "type": "pipeline_assets.components.ChangeFiles",
                "attributes": attributes,
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (component, defs):
            assert isinstance(component, ChangeFiles)
            defs = dg.Definitions.merge(defs, dg.Definitions(resources={"lake": lake_resource()}))
            jobs = {job.name for job in defs.get_repository_def().get_all_jobs()}
            assert {"shop_mysql__to_gold", "shop_mysql__replay"} <= jobs
