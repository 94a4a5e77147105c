"""The instance of dagster.yaml: a real one, on SQLite, with the state folder in tmp_path."""

import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.sqlite import LAST_KNOWN_STAMPED_SQLITE_ALEMBIC_REVISION
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from pipeline_assets.instance.storage import EnvStorage, psycopg2_url
from pipeline_assets.settings import SettingsError, load_settings, project_root


@pytest.fixture(autouse=True)
def state_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("PIPELINE_DAGSTER_POSTGRES_URL", raising=False)
    load_settings.cache_clear()
    yield tmp_path / "state"
    load_settings.cache_clear()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(project_root() / "dagster.yaml", folder)
    return folder


def test_the_instance_writes_below_the_state_folder_and_nothing_beside_its_dagster_yaml(
    home: Path, state_dir: Path
) -> None:
    with DagsterInstance.from_ref(InstanceRef.from_dir(str(home))) as instance:
        instance.report_runless_asset_event(AssetMaterialization("lines"))
        assert Path(instance.storage_directory()).is_relative_to(state_dir)
        log_path = instance.compute_log_manager.get_captured_local_path(["run", "compute_logs", "step"], "out")
        assert Path(log_path).is_relative_to(state_dir)
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]
    assert (state_dir / "dagster" / "history" / "runs.db").is_file()


def test_what_the_instance_keeps_is_its_owners_alone(home: Path, state_dir: Path) -> None:
    with DagsterInstance.from_ref(InstanceRef.from_dir(str(home))) as instance:
        instance.report_runless_asset_event(AssetMaterialization("lines"))
    assert [folder.stat().st_mode & 0o777 for folder in (state_dir, state_dir / "dagster")] == [0o700, 0o700]


def test_a_second_process_finds_the_events_of_the_first(home: Path) -> None:
    ref = InstanceRef.from_dir(str(home))
    with DagsterInstance.from_ref(ref) as instance:
        instance.report_runless_asset_event(AssetMaterialization("lines"))
    handed_over = InstanceRef.from_dict(ref.to_dict())  # as the daemon hands it to the process of a run
    with DagsterInstance.from_ref(handed_over) as instance:
        assert instance.get_latest_materialization_event(AssetKey("lines")) is not None


_OPEN_AT_ONCE = """
import os, signal, sys
import dagster as dg
import dagster._core.storage.sqlite_storage
import pipeline_assets.instance.storage
start, go = os.pipe()
children = []
for _ in range(6):
    child = os.fork()
    if child:
        children.append(child)
        continue
    os.close(go)
    os.read(start, 1)  # ends for all of them at once
    try:
        with dg.DagsterInstance.get() as instance:
            instance.report_runless_asset_event(dg.AssetMaterialization("lines"))
            found = len(instance.get_runs()), len(instance.all_asset_keys()), len(instance.all_instigator_state())
        os._exit(0 if found == (0, 1, 0) else 1)
    finally:
        os._exit(1)
os.close(go)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""


def test_six_processes_create_the_instance_at_once(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OPEN_AT_ONCE], env={**os.environ, "DAGSTER_HOME": str(home)}, check=False
    )
    assert done.returncode == 0


def test_an_instance_whose_creation_was_killed_is_completed(home: Path, state_dir: Path) -> None:
    # After a table of runs, before its version: what a kill in the worst moment leaves.
    (state_dir / "dagster" / "history").mkdir(parents=True)
    with closing(sqlite3.connect(state_dir / "dagster" / "history" / "runs.db")) as con:
        con.execute(str(CreateTable(RunsTable).compile(dialect=sqlite.dialect())))
    for _ in range(2):
        with DagsterInstance.from_ref(InstanceRef.from_dir(str(home))) as instance:
            assert instance.get_runs() == []
            instance.report_runless_asset_event(AssetMaterialization("lines"))


def test_an_instance_that_two_processes_broke_before_is_mended(home: Path, state_dir: Path) -> None:
    ref = InstanceRef.from_dir(str(home))
    with DagsterInstance.from_ref(ref) as instance:
        instance.report_runless_asset_event(AssetMaterialization("lines"))
    with closing(sqlite3.connect(state_dir / "dagster" / "history" / "runs.db")) as con:
        con.execute("INSERT INTO alembic_version VALUES (?)", [LAST_KNOWN_STAMPED_SQLITE_ALEMBIC_REVISION])
        con.commit()
    with DagsterInstance.from_ref(ref) as instance:
        assert instance.get_latest_materialization_event(AssetKey("lines")) is not None


def test_a_dagster_without_home_takes_the_configuration_of_its_working_directory(
    home: Path, tmp_path: Path, state_dir: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with DagsterInstance.from_ref(InstanceRef.from_dir(str(temporary), config_dir=str(home))) as instance:
        assert not instance.telemetry_enabled  # only our dagster.yaml says so
        instance.report_runless_asset_event(AssetMaterialization("lines"))
    assert (state_dir / "dagster" / "history" / "runs.db").is_file()
    assert list(temporary.iterdir()) == []


def test_the_instance_sends_no_telemetry_and_lets_one_run_at_a_time_into_a_pool(home: Path) -> None:
    with DagsterInstance.from_ref(InstanceRef.from_dir(str(home))) as instance:
        assert not instance.telemetry_enabled
        assert instance.global_op_concurrency_default_limit == 1
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert instance.get_concurrency_config().run_queue_config is not None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgresql://u:p@h/db", "postgresql+psycopg2://u:p@h/db"),
        ("postgres://h/db", "postgresql+psycopg2://h/db"),
        ("postgresql+psycopg2://h/db", "postgresql+psycopg2://h/db"),
    ],
)
def test_a_postgres_url_names_the_driver_that_dagster_postgres_brings(given: str, expected: str) -> None:
    assert psycopg2_url(given) == expected


@pytest.mark.skipif(importlib.util.find_spec("dagster_postgres") is not None, reason="dagster-postgres is installed")
def test_a_postgres_url_without_dagster_postgres_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_DAGSTER_POSTGRES_URL", "postgresql://localhost/dagster")
    load_settings.cache_clear()
    with pytest.raises(SettingsError, match=r"pip install .*\[postgres\]"):
        EnvStorage.from_config_value(None, {})
