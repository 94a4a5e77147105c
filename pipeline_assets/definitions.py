"""Dagster's entry point: loads the declarations of `defs/`. Holds no hosts, maps, secrets or logic.

Not `dg.load_from_defs_folder`: that imports the component registry of every installed package (+1.6 CPU seconds per
load), and looks into pyproject.toml for the names below (+0.2).
"""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import dagster as dg

from pipeline_assets.settings import ensure_home, project_root

ensure_home()
# Dagster warns about its own beta classes at every load, once per component.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector: all that loading makes stays, and to search it takes 0.7 CPU seconds."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dg.definitions
def defs() -> dg.Definitions:
    """Load all assets, checks, sensors and resources of the code location."""
    tree = dg.ComponentTree.from_module(import_module("pipeline_assets.defs"), project_root())
    with _uncollected():
        return dg.Definitions.merge(tree.build_defs_at_path(tree.defs_module_path), dg.Definitions(component_tree=tree))
