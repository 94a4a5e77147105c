"""dbt-duckdb plugin `lake`: gives the dbt project's macros access to the lake, and its models their Delta tables.

This module holds the plugin itself: the actions that macros can call. Behind it, `views` pins the version of each table
that a run reads; `follow` finds what each model still has to apply from its upstream tables; `changes` and `snapshots`
read such tables; `write` commits a model with the versions that it has applied. SQL of models is in dbt_project/,
writing of tables in `lake`. Nothing here knows Dagster.

How a macro calls it: `lake(action, ...)` in dbt_project/macros/lake.sql calls dbt-duckdb's `store_relation`, which
calls `Plugin.store` with the macro's own dict; the answer goes back in that dict. This takes neither SQL nor a
user-defined function.

Two rules hold it together. A run reads every table at one pinned version, so the version that a model records is the
version that it has read, whatever is committed meanwhile. And a model's commit expects the positions that it was
planned on, so of two runs at once the slower one fails instead of putting older rows over newer ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig
from dbt_common.exceptions import DbtRuntimeError

from pipeline_assets.contracts.base import ContractError
from pipeline_assets.dbt_plugin.changes import ChangeReader, unread
from pipeline_assets.dbt_plugin.follow import Following
from pipeline_assets.dbt_plugin.plan import Run, is_optional, is_table, table_name, upstreams
from pipeline_assets.dbt_plugin.snapshots import SnapshotReader, unread_snapshot
from pipeline_assets.dbt_plugin.views import WORK, Views
from pipeline_assets.dbt_plugin.write import Writer
from pipeline_assets.lake import Lake, LakeError, PositionMovedError
from pipeline_assets.lake.spill import spill_path
from pipeline_assets.settings import SettingsError, load_settings
from pipeline_assets.sql import quote_text


class Plugin(BasePlugin):
    """The plugin as dbt-duckdb loads it, see the module's docstring. Macros can call what `_actions` lists."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Start without a connection; dbt-duckdb calls this once per process."""
        self._con: duckdb.DuckDBPyConnection | None = None
        self._actions: Mapping[str, Callable[..., Any]] | None = None

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Limit the memory of dbt's in-memory DuckDB, and let it read and write the lake."""
        try:
            settings = load_settings()
            conn.execute("SET memory_limit = ?", [settings.duckdb_memory_limit])
            if settings.duckdb_threads:
                conn.execute("SET threads = ?", [settings.duckdb_threads])
            # The default is .tmp in the working directory, which may be read-only or a git checkout.
            conn.execute(f"SET temp_directory = {quote_text(spill_path())}")
            # Tables have no order, and keeping one makes every COPY buffer rows.
            conn.execute("SET preserve_insertion_order = false")
            _lake().prepare(conn)
            conn.execute(f"CREATE SCHEMA IF NOT EXISTS {WORK}")
        except (LakeError, SettingsError) as error:
            raise DbtRuntimeError(str(error)) from error
        self._con = conn

    def store(self, target_config: TargetConfig) -> None:
        """Run one action for a macro: `config` holds `action` and `arguments`, and receives `answer`."""
        call = target_config.config
        try:
            with _lake().errors_explained():
                if call["action"] == "begin":
                    self.begin(**call["arguments"])
                    return
                if self._actions is None:  # `dbt compile` and `dbt show` run no hooks
                    self._actions = self._start(Run(_lake()))
                if call["action"] not in self._actions:
                    raise DbtRuntimeError(
                        f"the lake has no action {call['action']!r}; there are {', '.join(self._actions)}"
                    )
                call["answer"] = self._actions[call["action"]](**call["arguments"])
        except PositionMovedError as error:
            raise DbtRuntimeError(f"{error}. Nothing was written; run the model again") from error
        except (LakeError, SettingsError, ContractError, duckdb.Error) as error:
            raise DbtRuntimeError(str(error)) from error

    def begin(self, graph: Mapping[str, Any], selected: Sequence[str], full_refresh: bool) -> None:
        """Start an invocation: pin and register every table that the selected nodes read.

        Args:
            graph: dbt's `graph`.
            selected: dbt's `selected_resources`.
            full_refresh: dbt's flag.
        """
        nodes = {**graph["nodes"], **graph["sources"]}
        run = Run(_lake(), full_refresh, {table_name(node): node for node in nodes.values() if is_table(node)})
        for name, node in run.nodes.items():
            for upstream in upstreams(node, nodes):
                run.readers.setdefault(upstream, []).append(name)
        # Unit tests take their fixtures' types from views, so a table that is not built yet gets an empty view. Data
        # tests alone get no such view: they would pass on a table that does not exist.
        may_be_empty = set(run.nodes) if any(key.startswith("unit_test.") for key in selected) else set()
        wanted = set(may_be_empty)
        may_be_empty |= {name for name, node in run.nodes.items() if is_optional(node)}
        for node in (nodes[key] for key in selected if key in nodes):
            read = {*upstreams(node, nodes), *([table_name(node)] if is_table(node) else [])}
            wanted |= read
            may_be_empty |= read if is_table(node) else set()
        self._actions = self._start(run)
        self._views.open(wanted, may_be_empty)

    def _start(self, run: Run) -> Mapping[str, Callable[..., Any]]:
        if self._con is None:
            raise DbtRuntimeError("the lake was asked before dbt opened its connection")
        self._views = views = Views(self._con, run)
        following = Following(views)
        changes, writer = ChangeReader(views, following), Writer(views, following)
        return {
            "follow": following.follow,
            "touched_rows": following.touched_rows,
            "touched_keys": following.touched_keys,
            "changed_keys": following.changed_keys,
            "changed_owners": following.changed_owners,
            "changed_rows": following.changed_rows,
            "before": following.before,
            "is_rebuild": following.is_rebuild,
            "test_range": following.test_range,
            "read_changes": changes.read_changes,
            "unread_changes": unread,
            "read_snapshot": SnapshotReader(views, following).read_snapshot,
            "unread_snapshot": unread_snapshot,
            "write": writer.write,
        }


def _name_the_lake_in_errors() -> None:
    """Make the errors of dbt's own queries, such as data tests, name the lake and the remedy when its storage fails.

    dbt-duckdb shows a plugin neither such queries nor their errors, so this wraps the adapter's own handler.
    """
    handler = DuckDBConnectionManager.exception_handler

    @contextmanager
    def naming(manager: DuckDBConnectionManager, sql: str, connection_name: str = "master") -> Iterator[None]:
        with handler(manager, sql, connection_name), _lake().errors_explained():
            yield

    DuckDBConnectionManager.exception_handler = naming  # type: ignore[assignment, method-assign]


_name_the_lake_in_errors()


def _lake() -> Lake:
    settings = load_settings()
    return Lake(settings.lake_uri, settings.storage_options())
