"""dbt-duckdb plugin `lake`: gives the dbt project's macros the lake, and its models their Delta tables.

Holds: which version of each table a dbt run reads, what each model still owes its upstream tables, and the call into
`lake.Table` that commits a model together with the versions it has applied. Does not hold: SQL of any model
(dbt_project/models), how a table is written (lake/), Dagster.

How a macro gets here: `lake(action, ...)` in dbt_project/macros/lake.sql calls dbt-duckdb's `store_relation`, which
calls `Plugin.store` with the macro's own dict; the answer goes back in that dict. No SQL, no user-defined function.

The two rules behind it. A run reads every table at one pinned version, so the version a model records is the version
it has read, whatever is committed meanwhile. And a model's commit expects the positions that it was planned on, so of
two runs at once the slower one fails instead of putting older rows over newer ones.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig
from dbt_common.exceptions import DbtRuntimeError

from pipeline_assets.dbt_plan import (
    Pin,
    Plan,
    Run,
    as_list,
    asked_days,
    batch_id,
    by_partition,
    check_options,
    check_partitioning,
    is_table,
    model_options,
    table_name,
    upstreams,
)
from pipeline_assets.lake import (
    Lake,
    LakeError,
    PositionMovedError,
    SchemaMismatchError,
    Table,
    TableNotFoundError,
    TableUnreadableError,
    audited_version,
    changes_since,
    days_predicate,
    position_name,
    published,
    query_schema,
    quote_name,
    quote_text,
    select_days,
)
from pipeline_assets.settings import SettingsError, load_settings

# In-memory helpers of one run (touched keys, touched rows); never a lake layer.
_WORK = "work"


class Plugin(BasePlugin):
    """See the module's docstring. The methods named in `_ACTIONS` are what macros may call."""

    _ACTIONS = ("begin", "touched_rows", "touched_keys", "before", "is_rebuild", "write", "test_range")

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Called by dbt-duckdb once per process."""
        self._lock = RLock()
        self._con: duckdb.DuckDBPyConnection | None = None
        self._state: Run | None = None

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Bounds the in-memory DuckDB and lets it read and write the lake."""
        try:
            settings = load_settings()
            conn.execute("SET memory_limit = ?", [settings.duckdb_memory_limit])
            if settings.duckdb_threads:
                conn.execute("SET threads = ?", [settings.duckdb_threads])
            # The default is .tmp in the working directory, which may be read-only or a git checkout.
            spill = Path(tempfile.gettempdir(), f"pipeline_assets-dbt-{os.getpid()}")
            conn.execute(f"SET temp_directory = {quote_text(str(spill))}")
            # Tables have no order; keeping one makes every COPY buffer rows.
            conn.execute("SET preserve_insertion_order = false")
            _lake().prepare(conn)
            conn.execute(f"CREATE SCHEMA IF NOT EXISTS {_WORK}")
        except (LakeError, SettingsError) as error:
            raise DbtRuntimeError(str(error)) from error
        self._con = conn

    def store(self, target_config: TargetConfig) -> None:
        """Runs one action for a macro: `config` holds `action` and `arguments`, and receives `answer`."""
        call = target_config.config
        if call["action"] not in self._ACTIONS:
            raise DbtRuntimeError(f"the lake has no action {call['action']!r}; there are {', '.join(self._ACTIONS)}")
        try:
            call["answer"] = getattr(self, call["action"])(**call["arguments"])
        except PositionMovedError as error:
            raise DbtRuntimeError(f"{error}. Nothing was written; run the model again") from error
        except (LakeError, SettingsError, duckdb.Error) as error:
            raise DbtRuntimeError(str(error)) from error

    # ------------------------------------------------------------------ actions

    def begin(self, graph: Mapping[str, Any], selected: Sequence[str], full_refresh: bool) -> None:
        """Starts an invocation: pins and registers every table that the selected nodes read.

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
        self._state = run
        self._forget_views()
        # Unit tests take their fixtures' types from views, so what is yet to be built has an empty one. Not for data
        # tests by themselves: they would pass on a table that does not exist.
        may_be_empty = set(run.nodes) if any(key.startswith("unit_test.") for key in selected) else set()
        wanted = set(may_be_empty)
        for node in (nodes[key] for key in selected if key in nodes):
            read = {*upstreams(node, nodes), *([table_name(node)] if is_table(node) else [])}
            wanted |= read
            may_be_empty |= read if is_table(node) else set()
        for name in sorted(wanted):
            try:
                self._pin(name)
            except TableNotFoundError:
                if name in may_be_empty:
                    self._register_empty(name)

    def touched_rows(self, model: str, upstream: str, column: str, also: str | None = None) -> str:
        """Gives a relation: the upstream's rows of the days that the model has to recompute.

        Args:
            model: Table that is being built.
            upstream: Table that it follows.
            column: Date or timestamp column of the upstream that gives the day.
            also: Query of further days (one DATE column).
        """
        plan, pin = self._follow(model, upstream)
        if also and not plan.everything:
            plan.widen(self._query_dates(also))
        plan.narrowed = True
        if plan.everything:
            return _relation(upstream)
        view = f"{_WORK}.{quote_name(f'{model} <- {upstream}')}"
        rows = select_days(pin.table, pin.version, column, plan.dates)
        self._cursor().execute(f"CREATE OR REPLACE VIEW {view} AS {rows}")
        return view

    def touched_keys(self, model: str, upstream: str, column: str, key: str) -> str:
        """Gives a predicate on `key`: the keys in the touched days, of the upstream now and as applied before."""
        plan, pin = self._follow(model, upstream)
        plan.narrowed = plan.by_keys = True
        if not plan.everything:
            plan.keys = f"{_WORK}.{quote_name(f'{model} keys')}"
            versions = {pin.version, plan.applied[pin.position]}
            try:
                keys = " UNION ".join(
                    f"SELECT {quote_name(key)} FROM ({select_days(pin.table, version, column, plan.dates)}) "
                    f"WHERE {quote_name(key)} IS NOT NULL"
                    for version in versions
                    if version is not None
                )
                self._cursor().execute(f"CREATE OR REPLACE TABLE {plan.keys} AS {keys}")
            except (TableUnreadableError, duckdb.IOException, duckdb.HTTPException):
                # The version applied before is vacuumed: which keys have vanished since can no longer be told.
                plan.everything = True
        return "true" if plan.everything else f"{quote_name(key)} in (select {quote_name(key)} from {plan.keys})"

    def before(self, model: str, upstream: str) -> str:
        """Gives a relation: the upstream as the model's stored rows reflect it."""
        plan, pin = self._follow(model, upstream, by_dates=False)
        applied = plan.applied[pin.position]
        if applied is None:
            return _relation(upstream)
        return f"(select * from {pin.table.scan(applied)} where {published(pin.table, applied)})"

    def is_rebuild(self, model: str) -> bool:
        """Whether the model recomputes everything. To be asked after the other macros, which decide it."""
        if not self._plan(model).seen:
            raise LakeError(f"{model}: call touched_rows(), touched_keys() or before() ahead of is_rebuild()")
        return self._plan(model).everything

    def test_range(self, table: str) -> str:
        """Gives a predicate on a table's days that its data tests have to look at.

        These are the days this run touched, those it was asked for, and those that a downstream table has not applied
        yet: days whose tests failed, or never ran, keep being tested until downstream has accepted them.
        """
        run, asked = self._run(), asked_days()
        column = model_options(run.nodes.get(table, {})).get("date_column")
        plan, owed = run.plans.get(table), run.owed.get(table, frozenset())
        if not column or owed is None or (plan.everything if plan else not asked):
            return "true"
        return days_predicate(column, owed | asked | (plan.dates if plan else frozenset()))

    def write(self, model: str, sql: str) -> dict[str, Any]:
        """Commits a model's rows with the positions they reflect, and registers its view at the new version.

        Args:
            model: Table to write.
            sql: The compiled query of the model.

        Returns:
            `message` and `rows` (added) for dbt's result.
        """
        run = self._run()
        node = run.nodes[model]
        options, plan, table = model_options(node), self._plan(model), Table(run.lake, model)
        for upstream in (name for name, readers in run.readers.items() if model in readers):
            self._pin(upstream, reader=model)
        check_options(model, options, plan)
        with self._cursor() as con:
            if not table.exists():
                table.create(
                    query_schema(con, sql),
                    partition_by=as_list(options.get("partition_by")),
                    date_column=options.get("date_column"),
                    description=(node.get("description") or "").strip() or None,
                )
            check_partitioning(table, options)
            try:
                version = self._commit(con, table, sql, plan, options)
            except SchemaMismatchError as error:
                remedy = (
                    f"Rows of other days would keep the old shape: dbt build --full-refresh --select {node['name']}+"
                )
                raise LakeError(f"{str(error).split('. Cast')[0]}. If that is meant: {remedy}") from error
        before = run.pins[model].version if model in run.pins else None
        self._remember_owed(table)
        self._set_pin(table, version)
        if version == before:
            return {"message": f"nothing new, version {version}", "rows": 0}
        facts = table.open(version).history(1)[0]
        added, removed = int(facts.get("rows_added", 0)), int(facts.get("rows_removed", 0))
        return {"message": f"version {version}: {added:,} rows in, {removed:,} out", "rows": added}

    # ------------------------------------------------------------------ helpers

    def _commit(
        self, con: duckdb.DuckDBPyConnection, table: Table, sql: str, plan: Plan, options: Mapping[str, Any]
    ) -> int:
        """Writes by the model's strategy; gives the version that holds the rows."""
        strategy, keys = options.get("strategy"), as_list(options.get("unique_key"))
        full_refresh = self._is_full_refresh(table.name)
        sequence = as_list(options.get("sequence"))
        batch = {batch_id(plan, options): 1} if strategy == "append" else {}
        if strategy == "merge" and full_refresh:
            order = ", ".join(f"{quote_name(name)} DESC" for name in sequence)
            names = ", ".join(map(quote_name, keys))
            sql = f"SELECT * FROM ({sql}) QUALIFY row_number() OVER (PARTITION BY {names} ORDER BY {order}) = 1"
        sql = by_partition(sql, plan, self._run().pins, options)
        if strategy == "overwrite" or full_refresh:
            return table.overwrite(con, sql, positions={**plan.seen, **batch})
        if strategy == "merge":
            return table.merge(con, sql, keys=keys, sequence=sequence, positions=plan.seen)
        if strategy == "append":
            version = table.append(con, sql, batch_id=next(iter(batch)), expect=plan.applied, positions=plan.seen)
            return table.open().version() if version is None else version
        return self._replace(con, table, sql, plan, options)

    def _replace(
        self, con: duckdb.DuckDBPyConnection, table: Table, sql: str, plan: Plan, options: Mapping[str, Any]
    ) -> int:
        """Replaces all rows, or those of the touched days, or those of the touched keys."""
        keys = as_list(options.get("unique_key"))
        replace = partial(table.replace, con, expect=plan.applied, positions=plan.seen)
        if plan.everything:
            return replace(sql, where="TRUE")
        if not plan.dates:  # nothing owed: only the position moves, and no row is read
            return table.commit(con, [], expect=plan.applied, positions=plan.seen)
        if not plan.keys:
            return replace(sql, where=days_predicate(options["date_column"], plan.dates))
        # Rows of keys beyond the touched ones (derived values that moved with them) replace their old rows too.
        rows, names = f"{_WORK}.{quote_name(f'{table.name} rows')}", ", ".join(map(quote_name, keys))
        con.execute(f"CREATE OR REPLACE TABLE {rows} AS {sql}")
        where = f"({names}) IN (SELECT ({names}) FROM {plan.keys} UNION ALL SELECT ({names}) FROM {rows})"
        try:
            return replace(f"SELECT * FROM {rows}", where=where)
        finally:
            con.execute(f"DROP TABLE {rows}")

    def _follow(self, model: str, upstream: str, *, by_dates: bool = True) -> tuple[Plan, Pin]:
        """Adds an upstream to the model's plan: the version to record and the days that changed since the last."""
        plan, pin = self._plan(model), self._pin(upstream, reader=model)
        if pin.position not in plan.seen:
            stored = None if plan.everything else self._stored_position(model, pin.position)
            if stored is not None and stored > pin.version:
                raise PositionMovedError(model, {pin.position: stored})
            plan.applied[pin.position], plan.seen[pin.position] = stored, pin.version
            if stored is None:
                plan.widen(None)
        if by_dates and not plan.everything:
            changes = changes_since(pin.table, plan.applied[pin.position])
            plan.widen(None if changes.dates is None else changes.dates | asked_days())
        return plan, pin

    def _stored_position(self, model: str, position: str) -> int | None:
        """The upstream version in the model's log, as of the version of the model that this run reads."""
        pin = self._pin(model)
        return pin.table.open(pin.version).transaction_version(position)

    def _plan(self, model: str) -> Plan:
        run = self._run()
        with self._lock:
            if model not in run.plans:
                rebuild = self._is_full_refresh(model) or not Table(run.lake, model).exists()
                run.plans[model] = Plan(everything=rebuild)
            return run.plans[model]

    def _is_full_refresh(self, model: str) -> bool:
        own = model_options(self._run().nodes.get(model, {})).get("full_refresh")
        return self._run().full_refresh if own is None else bool(own)

    def _pin(self, name: str, reader: str | None = None) -> Pin:
        """Gives the version of a table that this run reads, registering its view the first time."""
        run = self._run()
        with self._lock:
            if name not in run.pins:
                table = Table(run.lake, name)
                try:
                    # Rows of bronze that no check has judged yet are not there for silver.
                    audited = audited_version(table)
                    version = table.open().version() if audited is None else audited
                except TableNotFoundError as error:
                    if reader is None:
                        raise
                    raise LakeError(
                        f"{reader} reads {name}, which has never been built (nothing at {table.uri}): "
                        f"materialize {name.replace('.', '/')} first, then run {reader} again"
                    ) from error
                self._remember_owed(table)
                self._set_pin(table, version)
            return run.pins[name]

    def _set_pin(self, table: Table, version: int) -> None:
        self._run().pins[table.name] = Pin(table, version, position_name(table))
        self._register(table.name, f"SELECT * FROM {table.scan(version)} WHERE {published(table, version)}")

    def _register(self, name: str, select: str) -> None:
        cursor = self._cursor()
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_name(name.split('.')[0])}")
        cursor.execute(f"CREATE OR REPLACE VIEW {_relation(name)} AS {select}")

    def _register_empty(self, name: str) -> None:
        """A view without rows by the declared columns: unit tests take their fixtures' types from it."""
        columns = self._run().nodes[name]["columns"].values() or [{"name": "_", "data_type": "int"}]
        typed = [
            f"CAST(NULL AS {column.get('data_type') or 'varchar'}) AS {quote_name(column['name'])}"
            for column in columns
        ]
        self._register(name, f"SELECT {', '.join(typed)} WHERE false")

    def _remember_owed(self, table: Table) -> None:
        """Notes the days that downstream tables have yet to apply; see `test_range`."""
        run = self._run()
        readers = [Table(run.lake, name) for name in run.readers.get(table.name, [])]
        if not readers or not model_options(run.nodes[table.name]).get("date_column"):
            return
        position = position_name(table)
        applied = [version for reader in readers if (version := reader.position(position)) is not None]
        # None (nobody has applied anything) is everything; the oldest version covers the younger ones.
        run.owed[table.name] = changes_since(table, min(applied, default=None)).dates

    def _query_dates(self, query: str) -> frozenset[date] | None:
        try:
            return frozenset(row[0] for row in self._cursor().execute(query).fetchall() if row[0] is not None)
        except (duckdb.IOException, duckdb.HTTPException):
            return None  # it reads a version whose files are vacuumed

    def _forget_views(self) -> None:
        """Drops what the last invocation of this process left: dbt keeps its connection, and with it the views."""
        cursor = self._cursor()
        cursor.execute(f"DROP SCHEMA IF EXISTS {_WORK} CASCADE")
        cursor.execute(f"CREATE SCHEMA {_WORK}")
        views = cursor.execute("SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE NOT internal")
        for (name,) in views.fetchall():
            if name in self._run().nodes:
                cursor.execute(f"DROP VIEW {_relation(name)}")

    def _run(self) -> Run:
        if self._state is None:  # `dbt compile` and `dbt show` run no hooks
            self._state = Run(_lake())
        return self._state

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        if self._con is None:
            raise DbtRuntimeError("the lake was asked before dbt opened its connection")
        return self._con.cursor()


def _lake() -> Lake:
    settings = load_settings()
    return Lake(settings.lake_uri, settings.storage_options())


def _relation(name: str) -> str:
    return ".".join(quote_name(part) for part in name.split("."))
