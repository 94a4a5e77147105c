"""A run that is canceled as Dagster's launcher does it: marked as CANCELING, then SIGINT to its process."""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._utils.interrupts import capture_interrupts

# A run that goes on although it is canceled hears of no other signal either: no timeout but this ends its tests.
_AT_MOST_SECONDS = 240


def canceled(
    job: dg.JobDefinition, instance: dg.DagsterInstance, tags: Mapping[str, str], when: Callable[[], object]
) -> tuple[dg.DagsterRun, float]:
    """Runs a job in this process, and cancels it once `when` is true. Gives the run, and the seconds until it ended."""
    run = instance.create_run_for_job(job, tags=dict(tags), status=dg.DagsterRunStatus.STARTING)
    told = [0.0]

    def cancel() -> None:
        deadline = time.monotonic() + 60
        while not when() and time.monotonic() < deadline:
            time.sleep(0.05)
        instance.report_run_canceling(run)
        told[0] = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    faulthandler.dump_traceback_later(_AT_MOST_SECONDS, exit=True, file=sys.__stderr__)
    with capture_interrupts():  # for all of it: a signal that comes too late must not end the tests
        thread = threading.Thread(target=cancel)
        thread.start()
        try:
            for _ in execute_run_iterator(InMemoryJob(job), run, instance):
                pass
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
            pass
        ended = time.monotonic()
        thread.join()
    faulthandler.cancel_dump_traceback_later()
    found = instance.get_run_by_id(run.run_id)
    assert found
    return found, ended - told[0]


def failures(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[Any]:
    """The errors of the run's steps, and what it was retried for."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_UP_FOR_RETRY}
    events = (entry.dagster_event for entry in instance.all_logs(run.run_id))
    return [event for event in events if event and event.event_type in kinds]
