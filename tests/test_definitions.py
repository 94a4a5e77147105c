"""The code location as a whole: what is there by name, and that its parts agree with each other."""

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest

from pipeline_assets.components.transform import LakeTranslator, LeanDbtCliResource, table_name
from pipeline_assets.contracts.base import column_schema, contract, raw_shape
from pipeline_assets.definitions import defs
from pipeline_assets.ingest.conform import TECHNICAL_COLUMNS
from pipeline_assets.settings import project_root


@pytest.fixture(scope="module")
def loaded() -> dg.Definitions:
    return defs()


@pytest.fixture(scope="module")
def manifest(loaded: dg.Definitions) -> Mapping[str, Any]:
    return json.loads((project_root() / "dbt_project/target/manifest.json").read_text())  # type: ignore[no-any-return]


def test_the_assets_are_these(loaded: dg.Definitions) -> None:
    keys = {key.to_user_string() for key in loaded.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {
        "bronze/shop__invoice_lines",
        "dead_letters/shop__invoice_lines",
        "silver/invoice_lines",
        "gold/customer_metrics",
        "gold/daily_sales",
        "gold/dim_products",
    }


def test_every_table_but_dead_letters_has_a_blocking_contract_check(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        blocking = {
            check.name for check in graph.asset_check_keys if check.asset_key == key and graph.get(check).blocking
        }
        if key.path[0] != "dead_letters":
            assert "contract" in blocking, key
    bronze = dg.AssetKey(["bronze", "shop__invoice_lines"])
    names = {check.name for check in graph.asset_check_keys if check.asset_key == bronze}
    assert names == {"contract", "reconciliation", "failure_budget"}


def test_dbt_tests_are_asset_checks(loaded: dg.Definitions) -> None:
    checks = {check.name for check in loaded.resolve_asset_graph().asset_check_keys}
    assert "unique_dim_products_stock_code" in checks
    assert "daily_sales_hold_all_revenue" in checks


def test_sensors_run_by_default_and_resources_are_named(loaded: dg.Definitions) -> None:
    repository = loaded.get_repository_def()
    running = {s.name for s in repository.sensor_defs if s.default_status == dg.DefaultSensorStatus.RUNNING}
    assert running == {"shop__invoice_lines__landing", "alert_on_failure", "alert_on_failed_check"}
    assert {"lake", "dbt"} <= set(repository.get_top_level_resources())


def test_every_asset_is_partitioned_by_the_same_days_and_runs_ranges_at_once(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    nodes = [graph.get(key) for key in graph.get_all_asset_keys()]
    assert len({node.partitions_def for node in nodes}) == 1
    assert {node.backfill_policy for node in nodes} == {dg.BackfillPolicy.single_run()}


def test_every_asset_has_an_owner_a_description_and_described_columns(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.owners, key
        assert node.description, key
        if key.path[0] != "dead_letters":
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


def test_contracts_and_dbt_models_say_the_same_of_each_column(manifest: Mapping[str, Any]) -> None:
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    assert len(models) == 4
    for model in models:
        promised = {column.name: column.dtype.lower() for column in column_schema(contract(table_name(model)))}
        written = {name: column["data_type"].lower() for name, column in model["columns"].items()}
        assert written == promised, model["name"]


def test_the_bronze_source_of_dbt_is_the_table_that_ingestion_makes(manifest: Mapping[str, Any]) -> None:
    (source,) = manifest["sources"].values()
    made = [*raw_shape(contract("shop.InvoiceLines")).columns, *TECHNICAL_COLUMNS]
    assert {name: c["data_type"].lower() for name, c in source["columns"].items()} == {
        column.name: column.dtype.lower() for column in made
    }
    assert LakeTranslator().get_asset_key(source) == dg.AssetKey(["bronze", "shop__invoice_lines"])


def test_the_private_names_that_we_override_are_still_there() -> None:
    base = LeanDbtCliResource.__mro__[1]
    assert hasattr(base, "_cli_version")
    assert hasattr(base, "_initialize_dbt_core_adapter")


def test_domain_code_knows_neither_dagster_nor_dbt() -> None:
    for folder in ("ingest", "lake", "contracts", "planning"):
        for path in (project_root() / "pipeline_assets" / folder).rglob("*.py"):
            imports = [line for line in path.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
            assert not [line for line in imports if "dagster" in line or line.split()[1].split(".")[0] == "dbt"], path
