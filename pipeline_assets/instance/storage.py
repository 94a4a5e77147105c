"""Where the Dagster instance keeps its own state: the three storage classes that dagster.yaml names.

dagster.yaml can neither give a variable a default (an unset `{env: X}` is an error) nor choose between two storages. So
the choice is made here, from `pipeline_assets.settings`: one file serves a laptop and production, and nothing is
written beside it, whether DAGSTER_HOME is the checkout, unset, or another folder. The pipeline's own tables are in
`lake`.

Dagster's documentation: https://docs.dagster.io/deployment/oss/oss-instance-configuration. Every Dagster process (web
server, daemon, code server, run) loads the classes, so they are not part of `components`: a component that does not
load must break its code location, not the instance, and the web server needs no dbt. Import nothing heavy here.
"""

import fcntl
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.sqlite import LAST_KNOWN_STAMPED_SQLITE_ALEMBIC_REVISION
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from pipeline_assets.instance.event_log import SqliteStorage
from pipeline_assets.settings import SettingsError, ensure_private, load_settings


def _dagster_dir() -> Path:
    """Create the folder of the instance and the state folder for their owner alone, because logs quote data."""
    ensure_private(load_settings().state_dir)
    return ensure_private(load_settings().dagster_dir)


def psycopg2_url(url: str) -> str:
    """Name the driver that dagster-postgres brings: since SQLAlchemy 2.1 a plain `postgresql://` means psycopg 3."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg2://{rest}" if separator and scheme in ("postgres", "postgresql") else url


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time open the databases, because the first one creates them.

    Two processes that do so at once (6 of 6 tries) leave two versions in one database, and Alembic then always refuses
    it: "more than one head". Such a database is repaired here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "opening.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released with the process, however that ends
        for database in (
            *folder.glob("history/*.db"),
            *folder.glob("history/runs/index.db"),
            *folder.glob("schedules/*.db"),
        ):
            _leave_newest_version(database)
        yield


def _leave_newest_version(database: Path) -> None:
    """Remove the older of two versions: each process creates the tables of the newest version."""
    with closing(sqlite3.connect(database, timeout=30)) as con:
        if not con.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return
        if con.execute("SELECT count(*) FROM alembic_version").fetchone() > (1,):
            con.execute(
                "DELETE FROM alembic_version WHERE version_num = ?", (LAST_KNOWN_STAMPED_SQLITE_ALEMBIC_REVISION,)
            )
            con.commit()


def _postgres_storage(inst_data: ConfigurableClassData | None, url: str) -> DagsterStorage[Any]:
    try:
        from dagster_postgres import DagsterPostgresStorage
    except ModuleNotFoundError as error:
        raise SettingsError(
            "PIPELINE_DAGSTER_POSTGRES_URL is set, but dagster-postgres is missing: pip install -e '.[postgres]'"
        ) from error
    storage: DagsterStorage[Any] = DagsterPostgresStorage.from_config_value(
        inst_data, {"postgres_url": psycopg2_url(url), "should_autocreate_tables": True}
    )
    return storage


class _Unconfigured(ConfigurableClass):
    """A class that dagster.yaml names without configuration: the environment decides."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no configuration."""
        return {}


class EnvStorage(_Unconfigured, DagsterStorage[Any]):
    """Runs, events and schedules: Postgres if PIPELINE_DAGSTER_POSTGRES_URL is set, else SQLite below the state folder.

    It is never constructed: `from_config_value` returns the real storage, so that Dagster's `isinstance` checks (for
    the run-sharded SQLite event log) see what they expect. So it may stay abstract.
    """

    @classmethod
    def from_config_value(  # type: ignore[override]  # the contract of ConfigurableClass, not of this class
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> DagsterStorage[Any]:
        """Return the storage that the settings ask for."""
        settings = load_settings()
        if settings.dagster_postgres_url is not None:
            return _postgres_storage(inst_data, settings.dagster_postgres_url.get_secret_value())
        folder = _dagster_dir()
        with _locked(folder):
            return SqliteStorage.from_local(str(folder), inst_data)


class StateArtifactStorage(_Unconfigured, LocalArtifactStorage):
    """Dagster's pickled artifacts, below the state folder."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "StateArtifactStorage":
        """Return the artifact storage below the state folder."""
        return cls(str(_dagster_dir()), inst_data)


class StateComputeLogManager(_Unconfigured, LocalComputeLogManager):
    """What the steps print, below the state folder."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "StateComputeLogManager":
        """Return the log manager below the state folder."""
        return cls(str(_dagster_dir() / "storage"), inst_data=inst_data)
