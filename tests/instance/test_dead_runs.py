"""Runs whose processes are gone, beside runs that live."""

import subprocess
import sys
import time

import dagster as dg

from pipeline_assets.instance.dead_runs import fail_dead_runs

# A run in a process of its own that ends in the middle, as by SIGKILL.
DYING = """
import os, sys
import dagster as dg

@dg.op
def dying():
    os.kill(os.getpid(), 9)

@dg.job
def job():
    dying()

with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
    job.execute_in_process(instance=instance)
"""


def test_a_run_whose_process_was_killed_is_reported_and_one_that_lives_is_left_alone(tmp_path):
    killed = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False, capture_output=True)
    assert killed.returncode == -9

    @dg.op
    def looks(context):
        found.extend(fail_dead_runs(context.instance))

    @dg.job
    def living():
        looks()

    found = []
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        [dead] = [record.dagster_run.run_id for record in instance.get_run_records()]
        assert living.execute_in_process(instance=instance).success
        assert found == [dead]
        assert instance.get_run_by_id(dead).status == dg.DagsterRunStatus.FAILURE
        assert fail_dead_runs(instance) == []


def test_a_process_that_came_later_and_has_the_number_of_a_dead_one_is_not_the_runs(tmp_path):
    @dg.job
    def job():
        pass

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance, subprocess.Popen(["sleep", "60"]) as other:
        lives, dead = (instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED).run_id for _ in range(2))
        for run_id, age in ((lives, 0), (dead, 3600)):
            told = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "job", message="started", pid=other.pid)
            instance.report_dagster_event(told, run_id, timestamp=time.time() - age)
        assert fail_dead_runs(instance) == [dead]
        other.kill()
        assert fail_dead_runs(instance) == [lives]
