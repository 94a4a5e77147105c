"""The schedule of a pull: each tick asks for one run over all days that are due since the last one.

The table's log says which days are due. So a tick after a pause asks for the whole missed range, in one run.

Concept: https://docs.dagster.io/guides/automate/schedules
"""

from collections.abc import Callable
from datetime import UTC, date

import dagster as dg

from pipeline_assets.components.automation.landing_sensor import SOURCE_TAG
from pipeline_assets.components.resources import LakeResource
from pipeline_assets.lake import Lake
from pipeline_assets.partitions import FIRST_DAY, request_days


def pull_schedule(
    name: str,
    *,
    cron: str,
    due: Callable[[Lake, date], tuple[date, date]],
    resting: Callable[[], str | None],
    description: str,
) -> dg.ScheduleDefinition:
    """Make the schedule of a source's job `<name>__to_gold`.

    Args:
        name: The source.
        cron: When, in UTC.
        due: Gives, for the day of a tick, the first and last day to ask for, up to that day.
        resting: Gives the reason why nothing can be read, if there is one.
        description: For the UI.
    """

    @dg.schedule(
        name=f"{name}__schedule",
        job_name=f"{name}__to_gold",
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
    def schedule(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        if reason := resting():
            return dg.SkipReason(reason)
        tick = context.scheduled_execution_time.astimezone(UTC)
        first, last = due(lake.open(), tick.date())
        return request_days(max(first, FIRST_DAY), last, tags={SOURCE_TAG: name}, run_key=f"{name}:{tick.isoformat()}")

    return schedule
