"""Resources and the executor, once for all assets.

Concept: https://docs.dagster.io/guides/build/external-resources
"""

import dagster as dg

from pipeline_assets.components.resources import lake_resource


@dg.definitions
def defs() -> dg.Definitions:
    """Define the lake, and steps in the run's own process: 12 s instead of 44 s for a run of eight steps."""
    return dg.Definitions(resources={"lake": lake_resource()}, executor=dg.in_process_executor)
