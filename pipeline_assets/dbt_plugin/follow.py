"""Finds what each model of a run still has to apply from its upstream tables, and builds SQL of those rows and keys.

Holds the answers for models that follow days or keys of other tables. `changes` and `snapshots` read tables of changes
and snapshots, and `write` writes rows.
"""

from datetime import date

import duckdb

from pipeline_assets.dbt_plugin.plan import Pin, Plan, as_list, asked_days, model_options
from pipeline_assets.dbt_plugin.views import Views, relation, work
from pipeline_assets.lake import (
    LakeError,
    PositionMovedError,
    TableUnreadableError,
    days_predicate,
    published,
    select_days,
)
from pipeline_assets.lake.commit_facts import date_column
from pipeline_assets.lake.pruning import rows_near_keys
from pipeline_assets.sql import quote_name, quote_names

# Errors of DuckDB and the lake when a version's files are vacuumed.
GONE = (TableUnreadableError, duckdb.IOException, duckdb.HTTPException)


class Following:
    """The plans of a run's models."""

    def __init__(self, views: Views) -> None:
        self._views, self._run = views, views.run

    def plan(self, model: str) -> Plan:
        """Return the plan of a model, which the first question begins."""
        if model not in self._run.plans:
            rebuild = self.is_full_refresh(model) or self._views.built(model) is None
            self._run.plans[model] = Plan(everything=rebuild)
        return self._run.plans[model]

    def is_full_refresh(self, model: str) -> bool:
        """Tell whether a model is to be rebuilt, its columns included."""
        own = model_options(self._run.nodes.get(model, {})).get("full_refresh")
        return self._run.full_refresh if own is None else bool(own)

    def upstream(self, model: str, upstream: str, *, by_dates: bool = True) -> tuple[Plan, Pin | None]:
        """Add an upstream to a model's plan: the version to record, and the days that changed since the last version.

        Args:
            model: Table that is being built.
            upstream: Table that it follows.
            by_dates: Whether the model follows the upstream's days.

        Returns:
            The plan, and the version of the upstream to read; None for an optional table that was never built.
        """
        plan, pin = self.plan(model), self._views.find(upstream, reader=model)
        if pin is None:
            return plan, None
        if pin.position not in plan.seen:
            stored = self._stored_position(model, pin.position)
            if stored is not None and stored > pin.version:
                raise PositionMovedError(model, {pin.position: stored})
            plan.applied[pin.position], plan.seen[pin.position] = stored, pin.version
            if stored is None:
                plan.widen(None)
        if by_dates and not plan.everything:
            changes = pin.changes_since(plan.applied[pin.position])
            plan.widen(None if changes.dates is None else changes.dates | asked_days())
        return plan, pin

    # ------------------------------------------------------------------ answers to macros

    def follow(self, model: str, upstreams: list[str]) -> None:
        """Ask all upstream tables of a model whether it has to recompute everything, before SQL is narrowed."""
        for upstream in upstreams:
            plan, pin = self.upstream(model, upstream, by_dates=False)
            if pin and not plan.everything and pin.changes_since(plan.applied[pin.position]).added is None:
                plan.widen(None)

    def touched_rows(self, model: str, upstream: str, column: str, also: str | None = None) -> str:
        """Return a relation: the upstream's rows of the days that the model has to recompute.

        Args:
            model: Table that is being built.
            upstream: Table that it follows.
            column: Date or timestamp column of the upstream that gives the day.
            also: Query of further days (one DATE column).
        """
        plan, pin = self.upstream(model, upstream)
        if also and not plan.everything:
            plan.widen(self._query_dates(also))
        plan.narrowed = True
        if plan.everything or pin is None:
            return relation(upstream)
        view = work(f"{model} <- {upstream}")
        rows = select_days(pin.table, pin.version, column, plan.dates)
        self._views.cursor().execute(f"CREATE OR REPLACE VIEW {view} AS {rows}")
        return view

    def touched_keys(self, model: str, upstream: str, column: str, key: str) -> str:
        """Return a predicate on `key`: keys in the touched days of the upstream, as it is and as last applied."""
        plan, pin = self.upstream(model, upstream)
        plan.narrowed = plan.by_keys = True
        if plan.everything or pin is None:
            return "true"
        versions = {pin.version, plan.applied[pin.position]}
        keys = " UNION ".join(
            f"SELECT {quote_name(key)} FROM ({select_days(pin.table, version, column, plan.dates)}) "
            f"WHERE {quote_name(key)} IS NOT NULL"
            for version in versions
            if version is not None
        )
        try:
            return _is_in(key, self._keys(model, f"{model} keys", keys, [key]))
        except GONE:
            # The last applied version is vacuumed, so it is unknown which keys have vanished since.
            plan.everything = True
            return "true"

    def changed_keys(self, model: str, upstream: str, key: str) -> str:
        """Return a predicate on `key`: the keys for which the upstream has gained a row since it was last applied.

        It works for upstream tables that never lose a key without a trace, and whose date column is the day of a row's
        last change: state and history made of changes.
        """
        keys = self._changed(model, upstream, key)
        return str(keys).lower() if isinstance(keys, bool) else _is_in(key, keys)

    def changed_owners(self, model: str, upstream: str, key: str, owner: str) -> str:
        """Return a predicate on `owner`: the owners of the upstream's changed keys, now and as last applied.

        A row may have passed from one owner to another. The predicate is `true` if the earlier owners are unknown.
        """
        keys = self._changed(model, upstream, key)
        plan, pin = self.upstream(model, upstream, by_dates=False)
        if isinstance(keys, bool) or pin is None:
            return str(keys).lower()
        try:
            owners = [
                f"SELECT {quote_name(owner)} FROM {self._near(pin, version, key, keys)} "
                f"WHERE {_is_in(key, keys)} AND {quote_name(owner)} IS NOT NULL"
                for version in {pin.version, plan.applied[pin.position]}
                if version is not None
            ]
            return _is_in(owner, self._keys(model, f"{model} <- {upstream} {owner}", " UNION ".join(owners), [owner]))
        except GONE:
            plan.has_keys = True
            return "true"

    def changed_rows(self, model: str, upstream: str, key: str) -> str:
        """Return a relation: the upstream's rows of the changed keys, from the partitions that hold them."""
        _, pin = self.upstream(model, upstream, by_dates=False)
        keys = self._changed(model, upstream, key)
        if keys is True or pin is None:
            return relation(upstream)
        near, wanted = pin.table.scan(pin.version), "false"
        if isinstance(keys, str):
            near, wanted = self._near(pin, pin.version, key, keys), _is_in(key, keys)
        view = work(f"{model} <- {upstream}")
        columns = quote_names(column.name for column in pin.opened.schema().fields)
        self._views.cursor().execute(
            f"CREATE OR REPLACE VIEW {view} AS SELECT {columns} FROM {near} WHERE {wanted} AND {published(pin.opened)}"
        )
        return view

    def before(self, model: str, upstream: str) -> str:
        """Return a relation: the upstream as the model's stored rows reflect it."""
        plan, pin = self.upstream(model, upstream, by_dates=False)
        applied = plan.applied[pin.position] if pin else None
        if pin is None or applied is None:
            return relation(upstream)
        return f"(select * from {pin.table.scan(applied)} where {published(pin.table.open(applied))})"

    def is_rebuild(self, model: str) -> bool:
        """Tell whether the model recomputes everything. Ask after the other macros, which decide it."""
        plan = self.plan(model)
        if not (plan.seen or plan.by_keys):
            raise LakeError(f"{model}: call touched_rows(), touched_keys() or before() ahead of is_rebuild()")
        return plan.everything

    def test_range(self, table: str) -> str:
        """Return a predicate on the days of a table that its data tests have to check.

        These are the days that this run touched or added rows to, the days that it was asked for, and the days that a
        downstream table has not applied yet. So days whose tests failed or never ran are tested until downstream has
        applied them.
        """
        asked = asked_days()
        column = model_options(self._run.nodes.get(table, {})).get("date_column")
        plan, none = self._run.plans.get(table), frozenset[date]()
        owed, written = self._run.owed.get(table, none), self._run.written.get(table, none)
        if not column or owed is None or written is None or (plan.everything if plan else not asked):
            return "true"
        return days_predicate(column, owed | written | asked | (plan.dates if plan else none))

    # ------------------------------------------------------------------ helpers

    def _changed(self, model: str, upstream: str, key: str) -> str | bool:
        """Return the name of an in-memory table of the changed keys and their partitions.

        Return True if all keys count as changed, False if no key does.
        """
        plan, pin = self.upstream(model, upstream, by_dates=False)
        applied = plan.applied[pin.position] if pin else None
        added = pin.changes_since(applied).added if pin else frozenset()
        column = date_column(pin.opened) if pin else None
        if added is None or (pin and column is None):
            plan.widen(None)
        plan.narrowed = plan.by_keys = True
        if plan.everything:
            return True
        if pin is None or column is None or not added:
            return False
        name = f"{model} <- {upstream} keys"
        columns = [key, *pin.opened.metadata().partition_columns]
        now = select_days(pin.table, pin.version, column, added)
        try:
            # Columns that were added since are left out: a row that fills such a column has another sequence, too.
            known = quote_names(field.name for field in pin.table.open(applied).schema().fields)
            before = f"SELECT {known} FROM ({select_days(pin.table, applied or 0, column, added)})"
            return self._keys(model, name, f"SELECT {known} FROM ({now}) EXCEPT {before}", columns)
        except GONE:
            return self._keys(model, name, now, columns)

    def _near(self, pin: Pin, version: int, key: str, keys: str) -> str:
        """Return a relation of a version's rows, from the partitions that hold some keys."""
        opened = pin.opened if version == pin.version else pin.table.open(version)
        by = [key, *opened.metadata().partition_columns]
        return rows_near_keys(self._views.cursor(), opened, pin.table.scan(version), by, keys)

    def _keys(self, model: str, name: str, query: str, columns: list[str]) -> str:
        """Create an in-memory table of keys and note it in the plan. The first column is the key."""
        plan, keys, cursor = self.plan(model), work(name), self._views.cursor()
        cursor.execute(f"CREATE OR REPLACE TABLE {keys} AS SELECT DISTINCT {quote_names(columns)} FROM ({query})")
        plan.has_keys |= cursor.execute(f"SELECT count(*) FROM {keys}").fetchone() != (0,)
        if as_list(model_options(self._run.nodes.get(model, {})).get("unique_key")) == columns[:1]:
            plan.replaced.append(keys)
        return keys

    def _stored_position(self, model: str, position: str) -> int | None:
        """Return the upstream version in the log of the model as this run reads it; None when it is rebuilt."""
        pin = None if self.is_full_refresh(model) else self._views.built(model)
        return pin.opened.transaction_version(position) if pin else None

    def _query_dates(self, query: str) -> frozenset[date] | None:
        try:
            found = self._views.cursor().execute(query).fetchall()
        except GONE:
            return None
        return frozenset(row[0] for row in found if row[0] is not None)


def _is_in(key: str, keys: str) -> str:
    return f"{quote_name(key)} in (select {quote_name(key)} from {keys})"
