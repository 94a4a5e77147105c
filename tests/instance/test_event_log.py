"""The event log keeps its connections open, and is Dagster's own in all else."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from sqlalchemy import Engine, event

from pipeline_assets.instance.event_log import _KEPT_OPEN, KeptOpenEventLog
from pipeline_assets.instance.storage import EnvStorage
from pipeline_assets.settings import Settings, project_root


@pytest.fixture
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(project_root())) as found:
        yield found


def job_of(assets: int) -> dg.JobDefinition:
    """A job of one step that materializes so many assets, each with a check."""
    names = [f"table_{number}" for number in range(assets)]

    @dg.multi_asset(
        specs=[dg.AssetSpec(name) for name in names],
        check_specs=[dg.AssetCheckSpec("passes", asset=name) for name in names],
    )
    def all_tables() -> Iterator[dg.MaterializeResult]:
        for name in names:
            yield dg.MaterializeResult(
                asset_key=name, check_results=[dg.AssetCheckResult(check_name="passes", asset_key=name, passed=True)]
            )

    job = dg.define_asset_job("all_tables_job", dg.AssetSelection.assets(*names))
    return dg.Definitions(assets=[all_tables], jobs=[job]).resolve_job_def("all_tables_job")


def run(instance: dg.DagsterInstance, assets: int = 1) -> str:
    return job_of(assets).execute_in_process(instance=instance).run_id


@contextmanager
def counted(what: str) -> Iterator[list[str]]:
    """Collects the database of each connection that is made ("connect") or closed ("close")."""
    seen: list[str] = []

    def note(con: object, *_: object) -> None:
        [(_, _, path)] = con.execute("PRAGMA database_list").fetchall()  # type: ignore[attr-defined]
        seen.append(Path(path).stem)

    event.listen(Engine, what, note)
    try:
        yield seen
    finally:
        event.remove(Engine, what, note)


def test_a_run_of_many_events_opens_its_databases_as_often_as_one_of_few(instance: dg.DagsterInstance) -> None:
    run(instance)  # creates the index
    opened = {}
    for assets in (1, 20):
        with counted("connect") as seen:
            run_id = run(instance, assets)
        opened[assets] = [database for database in seen if database in (run_id, "index")]
    assert len(opened[20]) == len(opened[1]) < 10


def test_all_events_are_there_for_this_and_for_another_process(instance: dg.DagsterInstance) -> None:
    run_id = run(instance, 5)
    script = (
        "import sys, dagster as dg\n"
        "with dg.DagsterInstance.from_config(sys.argv[1]) as instance:\n"
        "    print(len(instance.all_logs(sys.argv[2])), len(instance.all_asset_keys()))\n"
    )
    command = [sys.executable, "-c", script, str(project_root()), run_id]
    there = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert there.split() == [str(len(instance.all_logs(run_id))), "5"]
    assert len(instance.all_logs(run_id)) > 20


def test_who_watches_a_run_hears_of_its_events_while_its_databases_are_open(instance: dg.DagsterInstance) -> None:
    started, ended = threading.Event(), threading.Event()
    heard_meanwhile: list[bool] = []

    def hear(entry: dg.EventLogEntry, _: str) -> None:
        started.set()
        if entry.dagster_event_type == dg.DagsterEventType.RUN_SUCCESS:
            ended.set()

    @dg.op
    def waits() -> None:
        heard_meanwhile.append(started.wait(10))

    @dg.job
    def watched() -> None:
        waits()

    run_id = str(uuid4())
    with dg.DagsterInstance.from_config(str(project_root())) as watcher:
        watcher.watch_event_logs(run_id, None, hear)
        assert watched.execute_in_process(instance=instance, run_id=run_id).success
        assert ended.wait(10)
    assert heard_meanwhile == [True]


def test_a_log_that_was_wiped_starts_anew(instance: dg.DagsterInstance) -> None:
    before = run(instance)
    instance.wipe()
    assert instance.all_logs(before) == []
    after = run(instance, 2)
    assert len(instance.all_logs(after)) > 5


def test_no_more_than_a_few_databases_stay_open(instance: dg.DagsterInstance) -> None:
    log = instance.event_log_storage
    assert isinstance(log, KeptOpenEventLog)
    runs = [run(instance) for _ in range(_KEPT_OPEN + 2)]
    for run_id in runs:
        assert instance.all_logs(run_id)
    assert len(log._engines) == _KEPT_OPEN


def test_a_closed_instance_has_closed_its_databases(settings: Settings) -> None:
    storage = EnvStorage.from_config_value(None, {})
    with dg.DagsterInstance.from_config(str(project_root())) as instance:
        run_id = run(instance)
        with counted("close") as closed:
            instance.dispose()
    assert {"index", run_id} <= set(closed)
    storage.dispose()
