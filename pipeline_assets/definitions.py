"""Dagster's entry point: loads the declarations of `defs/`. Holds no hosts, maps, secrets or logic.

Not `dg.load_from_defs_folder`: that imports the component registry of every installed package (+1.6 CPU seconds per
load).
"""

import warnings
from pathlib import Path

import dagster as dg

from pipeline_assets.settings import ensure_home

ensure_home()
# Dagster warns about its own beta classes at every load, once per component.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


@dg.definitions
def defs() -> dg.Definitions:
    """Load all assets, checks, sensors and resources of the code location."""
    tree = dg.ComponentTree.for_project(Path(__file__).parent)
    return dg.Definitions.merge(tree.build_defs_at_path(tree.defs_module_path), dg.Definitions(component_tree=tree))
