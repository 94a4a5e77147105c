"""Runs whose processes are gone: after a power cut, or `kill -9` of all of Dagster, nobody reports that they failed.

Dagster's launcher of local processes cannot be asked whether a run is alive once the server that started it is gone, so
such a run would hold its place in the queue and in its pools until `max_runtime_seconds`. For the instance of one
machine only: elsewhere a process number means another process.
"""

import os

import dagster as dg

_IN_PROGRESS = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Reports runs in progress as failed of which no process lives; the daemon then tries them again.

    Returns:
        The ids of these runs.
    """
    failed = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(_IN_PROGRESS))):
        run = record.dagster_run
        events = (entry.dagster_event for entry in instance.all_logs(run.run_id))
        processes = {event.pid for event in events if event is not None and event.pid}
        if processes and not any(map(_is_alive, processes)):
            instance.report_run_failed(run, "Its processes are gone: this machine or Dagster was stopped.")
            failed.append(run.run_id)
    return failed


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
