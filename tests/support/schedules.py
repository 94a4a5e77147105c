"""What a schedule of a component asks for at a tick."""

from datetime import datetime

import dagster as dg

from pipeline_assets.components.resources import lake_resource


def tick(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, name: str, at: datetime
) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, repository_def=repository, resources={"lake": lake_resource()}
    )
    found = repository.get_schedule_def(name).evaluate_tick(context)
    return found.run_requests[0] if found.run_requests else dg.SkipReason(found.skip_message)
