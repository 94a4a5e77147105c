"""The names that docs/vocabulary.md promises are those of the code, and none is missing; so it is with the settings."""

import json
import re
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest
from doc_examples import declarations, load
from documents import DOCS, GUIDES, ROOT, names, table

from pipeline_assets.contracts.base import column_schema, contract
from pipeline_assets.definitions import defs
from pipeline_assets.lake.dead_letters import COLUMN_DESCRIPTIONS as LETTERS

PAGE = DOCS / "vocabulary.md"


@pytest.fixture(scope="module")
def manifest() -> Mapping[str, Any]:
    defs()  # parses the project if it has changed
    return json.loads((ROOT / "dbt_project/target/manifest.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def found(example_contracts: None) -> list[dg.Definitions]:
    """What the code location and the examples of the pages define: every kind of source is among them."""
    return [defs(), *(load(block)[1] for block in declarations())]


def test_checks(found: list[dg.Definitions], manifest: Mapping[str, Any]) -> None:
    of_dbt = {node["name"] for node in manifest["nodes"].values() if node["resource_type"] == "test"}
    real = {
        (key.name, "yes" if graph.get(key).blocking else "no")
        for each in found
        for graph in [each.resolve_asset_graph()]
        for key in graph.asset_check_keys
        if key.name not in of_dbt
    }
    assert {(names(check)[0], blocking) for check, _, blocking, _ in table(PAGE, "Checks")} == real


def test_jobs_sensors_schedules_and_pools(found: list[dg.Definitions]) -> None:
    told = {(name, kind) for cell, kind, _ in table(PAGE, "Jobs, sensors, schedules and pools") for name in names(cell)}
    real = set()
    for each in found:
        real |= {(job.name, "job") for job in each.jobs or ()}
        real |= {(sensor.name, "sensor") for sensor in each.sensors or ()}
        real |= {(schedule.name, "schedule") for schedule in each.schedules or ()}
        graph = each.resolve_asset_graph()
        real |= {(pool, "pool") for key in graph.get_all_asset_keys() for pool in graph.get(key).pools or ()}
    assert {(re.sub(r"^(source_).+|^.+(__)", r"\1\2", name), kind) for name, kind in real} == {
        (name.replace("<source>", ""), kind) for name, kind in told
    }


def test_groups(found: list[dg.Definitions]) -> None:
    graph = found[0].resolve_asset_graph()
    (line,) = (line for line in PAGE.read_text().split("\n\n") if "Groups are the layers" in line)
    told = set(names(line.partition("Groups are the layers")[2]))
    assert told == {graph.get(key).group_name for key in graph.get_all_asset_keys()}


def test_tags_of_runs() -> None:
    told = {tag for cell, _ in table(PAGE, "Tags of runs") for tag in names(cell)}
    code = "\n".join(path.read_text() for path in (ROOT / "pipeline_assets" / "components").rglob("*.py"))
    assert told == set(re.findall(r'"(pipeline_assets/[a-z_]+)"', code))


def test_technical_columns(manifest: Mapping[str, Any]) -> None:
    told = {column for cell, _, _ in table(PAGE, "Technical columns") for column in names(cell)}
    bronze = {source["name"]: set(source["columns"]) for source in manifest["sources"].values()}
    added = {
        column
        for name, columns in bronze.items()
        for column in columns - {known.name for known in column_schema(contract(f"bronze.{name}"))}
    }
    of_models = {
        column
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model"
        for column in node["columns"]
        if column.startswith("_")
    }
    of_histories = {"valid_from", "valid_to", "is_current", "is_deleted"}
    assert of_histories < {column.name for column in column_schema(contract("silver.customers_history"))}
    assert told == added | of_models | of_histories | set(LETTERS)


def test_settings() -> None:
    example = (ROOT / ".env.example").read_text()
    defaults = dict(re.findall(r"^# (\w+)=(.*)$", example, re.MULTILINE))
    told = {
        name: names(default)
        for cell, default, _ in table(DOCS / "configuration.md", "Configuration")
        for name in names(cell)
    }
    assert {name for name in defaults if not name.startswith("PIPELINE_STORAGE__")} == told.keys()
    assert {name: default[0] for name, default in told.items() if default} == {
        name: defaults[name] for name, default in told.items() if default
    }
    named = {name for page in GUIDES for name in re.findall(r"\bPIPELINE_[A-Z_]+[A-Z]\b", page.read_text())}
    assert named - {"PIPELINE_STORAGE"} <= defaults.keys()
