"""Imports between the layers of the package: none goes upwards, and domain code knows neither Dagster nor dbt.

That there is no circle between folders is in tests/docs/test_import_graph.py.
"""

import re
import tomllib

import pytest
from import_graph import PACKAGE, edges, imported

LAYERS = ("lake", "contracts", "ingest", "instance", "components", "defs")
"""From the bottom up: each imports those before it alone."""


@pytest.mark.parametrize("folder", ["lake", "contracts", "ingest", "notebook"])
def test_domain_code_knows_neither_dagster_nor_dbt(folder: str) -> None:
    paths = list((PACKAGE / folder).rglob("*.py"))
    assert paths, f"there is no pipeline_assets/{folder}: this test would hold of nothing"
    found = {path: [name for name in imported(path) if name.startswith(("dagster", "dbt"))] for path in paths}
    assert not {path: names for path, names in found.items() if names}


def test_the_package_needs_nothing_that_only_its_development_installs() -> None:
    project = tomllib.loads(PACKAGE.with_name("pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in project["optional-dependencies"]["dev"]}
    assert {"dlt", "pandas", "pytest"} <= names
    found = {name.split(".")[0] for path in PACKAGE.rglob("*.py") for name in imported(path)}
    assert names & found == {"pandas"}  # imported once a notebook hands over a frame of pandas


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_lower_layers_alone(layer: str) -> None:
    pairs = edges(PACKAGE)
    assert layer in {folder for pair in pairs for folder in pair}, f"there is no pipeline_assets/{layer}"
    below = LAYERS[: LAYERS.index(layer)]
    assert not {there for here, there in pairs if here == layer} - {*below}
