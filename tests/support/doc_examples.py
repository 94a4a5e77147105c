"""The examples of the documentation as files: contracts that the package finds, declarations that Dagster loads."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from documents import Block, blocks_of

from pipeline_assets import components
from pipeline_assets.components.resources import lake_resource
from pipeline_assets.contracts import base, models

_CONTRACTS = "pipeline_assets/contracts/models/"
_COMPONENTS = "pipeline_assets.components."


def declarations() -> list[Block]:
    """The blocks that are a `defs.yaml`."""
    return [block for block in blocks_of("yaml") if str(_loaded(block).get("type", "")).startswith(_COMPONENTS)]


def _loaded(block: Block) -> dict[str, Any]:
    found = yaml.safe_load(block.text)
    assert isinstance(found, dict), f"{block}: no mapping"
    return found


def load(block: Block) -> tuple[Any, dg.Definitions]:
    """Resolves a `defs.yaml` against the schema of its component, and builds its definitions."""
    declared = _loaded(block)
    assert declared.keys() == {"type", "attributes"}, block
    cls = getattr(components, str(declared["type"]).removeprefix(_COMPONENTS))
    component = cls.resolve_from_dict(declared["attributes"])
    own = dg.Definitions(resources={"lake": lake_resource()}, executor=dg.in_process_executor)
    return component, dg.Definitions.merge(component.build_defs(dg.ComponentTree.for_test().load_context), own)


@pytest.fixture(scope="session")
def example_contracts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The contracts that the pages show, beside those of the package. Blocks of one title are one module."""
    modules: dict[str, list[str]] = defaultdict(list)
    for block in blocks_of("python"):
        if block.title.startswith(_CONTRACTS):
            modules[block.title.removeprefix(_CONTRACTS)].append(block.text)
    assert modules
    folder: Path = tmp_path_factory.mktemp("contracts")
    for name, texts in modules.items():
        (folder / name).write_text("\n".join(texts))
    models.__path__.append(str(folder))
    base._registry.cache_clear()
    yield
    models.__path__.remove(str(folder))
    base._registry.cache_clear()
