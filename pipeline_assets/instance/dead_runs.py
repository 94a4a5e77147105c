"""Fails runs whose processes are gone: after a power cut or `kill -9` of all of Dagster, nobody reports their failure.

Once the server that started a run is gone, Dagster's launcher of local processes cannot tell whether the run is alive.
Such a run would hold its place in the queue and in its pools until `max_runtime_seconds`. This works for the instance
of one machine only: elsewhere the same process number means another process.
"""

import os

import dagster as dg

_IN_PROGRESS = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report runs in progress without a living process as failed; the daemon then tries them again.

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
