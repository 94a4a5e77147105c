"""The code location as a whole: what the shop has by name, and that the parts of every source agree with each other."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import dagster as dg
import jinja2
import pytest
from dagster_shared.libraries import DagsterLibraryRegistry

from pipeline_assets.components import ChangeFiles, ChangeStream, DatabaseTable, LandingFiles, RestResource
from pipeline_assets.components.assets.changes import CapturedTable, captured
from pipeline_assets.components.assets.lean_dbt import DBT_VERSION
from pipeline_assets.components.dbt_models import LakeTranslator, table_name
from pipeline_assets.contracts.base import column_schema, contract, raw_shape
from pipeline_assets.definitions import defs
from pipeline_assets.ingest.batch.rows import BATCH_COLUMNS
from pipeline_assets.ingest.cdc.table.change_table import COLUMNS as CHANGES
from pipeline_assets.ingest.conform.conform import TECHNICAL_COLUMNS
from pipeline_assets.settings import project_root

CAPTURED = ("customers", "products", "orders")
PULLED = {"shop_db__payments": "shop_db.Payments", "crm__accounts": "crm.Accounts"}


class OfChanges(NamedTuple):
    """What a model of state or history is made of."""

    macro: str
    source: str
    contract: str
    keys: list[str]


@pytest.fixture(scope="module")
def loaded() -> dg.Definitions:
    return defs()


@pytest.fixture(scope="module")
def manifest(loaded: dg.Definitions) -> Mapping[str, Any]:
    return json.loads((project_root() / "dbt_project/target/manifest.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def of_changes(manifest: Mapping[str, Any]) -> Mapping[str, OfChanges]:
    """Table to the call of change_state() or change_history() that makes it."""
    found: dict[str, OfChanges] = {}
    for model in manifest["nodes"].values():
        for macro in ("change_state", "change_history"):
            if f"macro.pipeline_assets.{macro}" in model["depends_on"].get("macros", []):
                found[table_name(model)] = _call(macro, model["raw_code"])
    return found


def _call(macro: str, code: str) -> OfChanges:
    calls = []

    def call(source: str, contract: str, keys: list[str], *_: str, **__: str) -> None:
        calls.append(OfChanges(macro, source, contract, keys))

    jinja2.Template(code).render({macro: call, "source": lambda *name: ".".join(name)})
    (made,) = calls
    return made


@pytest.fixture(scope="module")
def declared(loaded: dg.Definitions) -> Mapping[str, CapturedTable]:
    """What `defs/` says of each change table."""
    tree = loaded.component_tree
    assert tree
    sources: list[ChangeFiles | ChangeStream] = [
        *tree.get_all_components(of_type=ChangeFiles),
        *tree.get_all_components(of_type=ChangeStream),
    ]
    return {
        f"bronze.{table.name}": source.tables[table.source_table]
        for source in sources
        for table in captured(source.name, source.tables)
    }


def test_the_assets_of_the_shop_are_there(loaded: dg.Definitions) -> None:
    keys = {key.to_user_string() for key in loaded.resolve_asset_graph().get_all_asset_keys()}
    captured = {f"shop_db__{name}" for name in CAPTURED}
    assert keys >= {
        "bronze/shop__invoice_lines",
        "dead_letters/shop__invoice_lines",
        *(f"{layer}/{name}" for layer in ("bronze", "dead_letters") for name in PULLED),
        *(f"bronze/{name}" for name in captured),
        *(f"dead_letters/{name}" for name in (*captured, "shop_db__unrouted")),
        *(f"reconciliation/{name}" for name in captured),
        "silver/accounts",
        "silver/invoice_lines",
        "silver/customers",
        "silver/customers_history",
        "silver/orders",
        "silver/payments",
        "silver/products",
        "silver/products_history",
        "gold/customer_metrics",
        "gold/daily_sales",
        "gold/dim_customers",
        "gold/dim_products",
        "gold/fct_orders",
        "gold/product_sales",
    }


def test_every_table_has_its_blocking_checks(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    blocking = {
        key: {check.name for check in graph.asset_check_keys if check.asset_key == key and graph.get(check).blocking}
        for key in graph.get_all_asset_keys()
    }
    for key, names in blocking.items():
        if key.path[0] in ("silver", "gold"):
            assert "contract" in names, key
    for name in ("shop__invoice_lines", *PULLED):
        assert blocking[dg.AssetKey(["bronze", name])] == {"contract", "record_counts", "failure_budget"}
    # A change fits the contract before it is in bronze: it is a dead letter otherwise.
    assert blocking[dg.AssetKey(["bronze", "shop_db__customers"])] == {
        "slot",
        "publication",
        "replica_identity",
        "record_counts",
    }


def test_dbt_tests_are_asset_checks(loaded: dg.Definitions) -> None:
    checks = {check.name for check in loaded.resolve_asset_graph().asset_check_keys}
    assert "unique_product_sales_stock_code" in checks
    assert "daily_sales_hold_all_revenue" in checks


def test_sensors_run_by_default_and_resources_are_named(loaded: dg.Definitions) -> None:
    repository = loaded.get_repository_def()
    running = {s.name for s in repository.sensor_defs if s.default_status == dg.DefaultSensorStatus.RUNNING}
    assert running >= {
        "shop__invoice_lines__landing",
        "shop_db__changes",
        "alert_on_failure",
        "alert_on_failed_check",
        "alert_on_silence",
        "fail_dead_runs",
    }
    assert {"lake", "dbt"} <= set(repository.get_top_level_resources())


def test_pulls_and_polls_have_schedules_that_run_by_default(loaded: dg.Definitions) -> None:
    schedules = {schedule.name: schedule for schedule in loaded.get_repository_def().schedule_defs}
    assert schedules["shop_db__payments__schedule"].cron_schedule == "0 1 * * *"
    assert schedules["crm__accounts__schedule"].cron_schedule == "0 */6 * * *"
    assert {schedule.default_status for schedule in schedules.values()} == {dg.DefaultScheduleStatus.RUNNING}
    assert {schedule.execution_timezone for schedule in schedules.values()} == {"UTC"}


def test_every_asset_is_partitioned_by_the_same_days_and_runs_ranges_at_once(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    # A reconciliation is of a moment, not of a day.
    nodes = [graph.get(key) for key in graph.get_all_asset_keys() if key.path[0] != "reconciliation"]
    assert len({node.partitions_def for node in nodes}) == 1
    assert {node.backfill_policy for node in nodes} == {dg.BackfillPolicy.single_run()}


def test_every_asset_has_an_owner_a_description_and_described_columns(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.owners, key
        assert node.description, key
        if key.path[0] not in ("dead_letters", "reconciliation"):
            columns = node.metadata["dagster/column_schema"].columns
            assert columns, key
            assert all(column.description for column in columns), key


def test_the_layers_follow_each_other(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents["silver/invoice_lines"] == {"bronze/shop__invoice_lines"}
    assert parents["gold/daily_sales"] == {"silver/invoice_lines", "gold/customer_metrics"}
    assert parents["gold/fct_orders"] == {"silver/orders", "silver/customers_history"}


def test_contracts_and_dbt_models_say_the_same_of_each_column(manifest: Mapping[str, Any]) -> None:
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    assert models
    for model in models:
        promised = {column.name: column.dtype.lower() for column in column_schema(contract(table_name(model)))}
        written = {name: column["data_type"].lower() for name, column in model["columns"].items()}
        assert written == promised, model["name"]


def test_the_bronze_sources_of_dbt_are_tables_that_ingestion_makes(
    loaded: dg.Definitions, manifest: Mapping[str, Any], declared: Mapping[str, CapturedTable]
) -> None:
    tree = loaded.component_tree
    assert tree
    own = {LandingFiles: TECHNICAL_COLUMNS, DatabaseTable: BATCH_COLUMNS, RestResource: BATCH_COLUMNS}
    made = {name.removeprefix("bronze."): CHANGES for name in declared} | {
        found.name: (*raw_shape(contract(found.contract)).columns, *columns)
        for kind, columns in own.items()
        for found in tree.get_all_components(of_type=kind)
    }
    sources = {source["name"]: source for source in manifest["sources"].values()}
    assert {"shop__invoice_lines", *PULLED, *(f"shop_db__{name}" for name in CAPTURED)} <= sources.keys()
    for name, source in sources.items():
        written = {column: c["data_type"].lower() for column, c in source["columns"].items()}
        assert written == {column.name: column.dtype.lower() for column in made[name]}, name
        assert LakeTranslator().get_asset_key(source) == dg.AssetKey(["bronze", name])


def test_models_of_changes_say_the_same_as_the_declaration_of_their_source(
    of_changes: Mapping[str, OfChanges], declared: Mapping[str, CapturedTable]
) -> None:
    assert of_changes
    for name, model in of_changes.items():
        source = declared[model.source]
        assert (model.contract, model.keys) == (source.contract, source.keys), name


def test_a_declared_state_is_a_model_of_that_source(
    of_changes: Mapping[str, OfChanges], declared: Mapping[str, CapturedTable]
) -> None:
    stated = {state: name for name, table in declared.items() if (state := getattr(table, "state", None))}
    assert stated
    for state, name in stated.items():
        assert (of_changes[state].macro, of_changes[state].source) == ("change_state", name)


@pytest.mark.slow
def test_to_load_the_code_location_loads_neither_dbt_nor_drivers_of_other_databases() -> None:
    heavy = ["dbt", "dbt_common", "networkx", "sqlalchemy", "dlt", "tomlkit"]
    program = (
        "import sys, gc, pipeline_assets.definitions as d; d.defs(); assert gc.isenabled(); "
        f"print(*(name for name in {heavy} if name in sys.modules)); import dbt.version"  # and who wants dbt gets it
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")


def test_the_ui_shows_the_dbt_that_runs(loaded: dg.Definitions) -> None:
    shown = {name: found for name, found in DagsterLibraryRegistry.get().items() if name.startswith("dbt-")}
    assert shown == {"dbt-core": DBT_VERSION}
