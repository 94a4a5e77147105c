"""Finds the declared sources of the code location, for commands that run outside of Dagster's processes."""

from pathlib import Path

import dagster as dg

import pipeline_assets
from pipeline_assets.components.assets.dead_letters import DeadLetters


def dead_letters_of(name: str) -> DeadLetters | None:
    """Find the dead letters that a table's name belongs to.

    Args:
        name: `<source>__<entity>`.

    Returns:
        The dead letters of its source; None if no component declares it.
    """
    tree = dg.ComponentTree.for_project(Path(pipeline_assets.__file__).parent)
    for component in tree.get_all_components(of_type=dg.Component):  # type: ignore[type-abstract]
        found = getattr(component, "dead_letters", None)
        if isinstance(found, DeadLetters) and name in found.tables:
            return found
    return None
