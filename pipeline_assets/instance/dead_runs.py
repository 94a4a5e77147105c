"""Fails runs whose processes are gone: after a power cut or `kill -9` of all of Dagster, nobody reports their failure.

Once the server that started a run is gone, Dagster's launcher of local processes cannot tell whether the run is alive.
Such a run would hold its place in the queue and in its pools until `max_runtime_seconds`. This works for the instance
of one machine only: elsewhere the same process number means another process.
"""

import dagster as dg
import psutil

_IN_PROGRESS = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
_CLOCK_SECONDS = 10  # how far the time at which a process started, counted from the boot, may be off


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report runs in progress without a living process as failed; the daemon then tries them again.

    Returns:
        The ids of these runs.
    """
    failed = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(_IN_PROGRESS))):
        run, first_told = record.dagster_run, dict[int, float]()
        for entry in instance.all_logs(run.run_id):
            if entry.dagster_event is not None and entry.dagster_event.pid:
                first_told.setdefault(entry.dagster_event.pid, entry.timestamp)
        if first_told and not any(_is_alive(process, at) for process, at in first_told.items()):
            instance.report_run_failed(run, "Its processes are gone: they were killed, or this machine was stopped.")
            failed.append(run.run_id)
    return failed


def _is_alive(process: int, at: float) -> bool:
    """Tell whether the process that told of a run at a time is there still, and not another one of its number."""
    try:
        found = psutil.Process(process)
        return bool(found.status() != psutil.STATUS_ZOMBIE and found.create_time() <= at + _CLOCK_SECONDS)
    except psutil.NoSuchProcess:
        return False
