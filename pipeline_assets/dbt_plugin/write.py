"""How a model's rows become one commit of its table, together with the upstream versions that they reflect."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import duckdb

from pipeline_assets.dbt_plugin.follow import Following
from pipeline_assets.dbt_plugin.plan import (
    Plan,
    as_list,
    batch_id,
    by_partition,
    check_options,
    check_partitioning,
    model_options,
)
from pipeline_assets.dbt_plugin.views import Views, work
from pipeline_assets.lake import (
    LakeError,
    SchemaMismatchError,
    Table,
    changes_since,
    days_predicate,
    query_schema,
    quote_name,
    quote_names,
    schemas,
)

GONE = "_gone"
"""Column of a model's query that marks keys whose stored rows go and are not replaced."""


class Writer:
    """Writes the models of a run."""

    def __init__(self, views: Views, following: Following) -> None:
        self._views, self._following, self._run = views, following, views.run

    def write(self, model: str, sql: str) -> dict[str, Any]:
        """Commits a model's rows with the positions they reflect, and registers its view at the new version.

        Args:
            model: Table to write.
            sql: The compiled query of the model.

        Returns:
            `message` and `rows` (added) for dbt's result.
        """
        run = self._run
        node = run.nodes[model]
        options, plan, table = model_options(node), self._following.plan(model), Table(run.lake, model)
        for upstream in (name for name, readers in run.readers.items() if model in readers):
            self._views.find(upstream, reader=model)
        check_options(model, options, plan)
        with self._views.cursor() as con:
            if plan.reads_changes or not table.exists():
                table.create(  # of a table that is there it adds the columns that the source has added
                    query_schema(con, sql if not _has_gone(con, sql) else f"SELECT * EXCLUDE ({GONE}) FROM ({sql})"),
                    partition_by=as_list(options.get("partition_by")),
                    date_column=options.get("date_column"),
                    description=(node.get("description") or "").strip() or None,
                )
            check_partitioning(table, options)
            try:
                if not self._makes_anew(table, plan, options):
                    _fit(con, table, sql)
                version = self._commit(con, table, sql, plan, options)
            except SchemaMismatchError as error:
                raise LakeError(
                    f"rows do not fit table {table.name}: {'; '.join(error.problems)}. If that is meant: rows that are "
                    f"not touched would keep the old shape: dbt build --full-refresh --select {node['name']}+"
                ) from error
        before = run.pins[model].version if model in run.pins else None
        run.written[model] = changes_since(table, before).added
        self._views.set_pin(table, version)
        if version == before:
            return {"message": f"nothing new, version {version}", "rows": 0}
        facts = table.open(version).history(1)[0]
        added, removed = int(facts.get("rows_added", 0)), int(facts.get("rows_removed", 0))
        return {"message": f"version {version}: {added:,} rows in, {removed:,} out", "rows": added}

    def _makes_anew(self, table: Table, plan: Plan, options: Mapping[str, Any]) -> bool:
        """Whether all rows are written, whatever columns the table had."""
        strategy = options.get("strategy")
        by_merge = strategy in ("merge", "append") and not plan.reads_changes
        return (
            strategy == "overwrite" or self._following.is_full_refresh(table.name) or (plan.everything and not by_merge)
        )

    def _commit(
        self, con: duckdb.DuckDBPyConnection, table: Table, sql: str, plan: Plan, options: Mapping[str, Any]
    ) -> int:
        """Writes by the model's strategy; gives the version that holds the rows."""
        strategy, keys = options.get("strategy"), as_list(options.get("unique_key"))
        full_refresh = self._following.is_full_refresh(table.name)
        sequence = as_list(options.get("sequence"))
        batch = {batch_id(plan, options): 1} if strategy == "append" else {}
        if strategy == "merge" and full_refresh:
            order = ", ".join(f"{quote_name(name)} DESC" for name in sequence)
            latest = f"row_number() OVER (PARTITION BY {quote_names(keys)} ORDER BY {order}) = 1"
            sql = f"SELECT * FROM ({sql}) QUALIFY {latest}"
        sql = by_partition(sql, plan, self._run.pins, options)
        if strategy == "overwrite" or full_refresh:
            return table.overwrite(con, sql, positions={**plan.seen, **batch})
        if plan.reads_changes and plan.everything:  # what the events no longer tell goes, too
            return table.overwrite(con, sql, expect=plan.applied, positions=plan.seen)
        if plan.by_keys and not (plan.everything or plan.has_keys):  # nothing owed: only the position moves
            return table.commit(con, [], expect=plan.applied, positions=plan.seen)
        if strategy == "merge":
            return table.merge(con, sql, keys=keys, sequence=sequence, expect=plan.applied, positions=plan.seen)
        if strategy == "append":
            version = table.append(con, sql, batch_id=next(iter(batch)), expect=plan.applied, positions=plan.seen)
            return table.open().version() if version is None else version
        return self._replace(con, table, sql, plan, options)

    def _replace(
        self, con: duckdb.DuckDBPyConnection, table: Table, sql: str, plan: Plan, options: Mapping[str, Any]
    ) -> int:
        """Replaces all rows, or those of the touched days, or those of the touched keys."""
        replace = partial(table.replace, con, expect=plan.applied, positions=plan.seen)
        if plan.everything:
            return table.overwrite(con, sql, expect=plan.applied, positions=plan.seen)
        if not plan.by_keys:
            if not plan.dates:  # nothing owed: only the position moves, and no row is read
                return table.commit(con, [], expect=plan.applied, positions=plan.seen)
            return replace(sql, where=days_predicate(options["date_column"], plan.dates))
        # Rows of keys beyond the touched ones (derived values that moved with them) replace their old rows too.
        keys, rows = as_list(options.get("unique_key")), work(f"{table.name} rows")
        con.execute(f"CREATE OR REPLACE TABLE {rows} AS {sql}")
        come, gone = f"SELECT * FROM {rows}", [*plan.replaced]
        if _has_gone(con, come):
            come = f"SELECT * EXCLUDE ({GONE}) FROM {rows} WHERE NOT {GONE}"
            gone.append(rows)
        also = " UNION ALL ".join(f"SELECT {quote_names(keys)} FROM {relation}" for relation in gone)
        try:
            return table.replace_keys(
                con, come, keys=keys, also=f"({also})" if also else None, expect=plan.applied, positions=plan.seen
            )
        finally:
            con.execute(f"DROP TABLE {rows}")


def _fit(con: duckdb.DuckDBPyConnection, table: Table, sql: str) -> None:
    """Widens the table's columns to what a model gives now, also if no row of it comes.

    Raises:
        SchemaMismatchError: The model has other columns, or types that could lose a value of theirs.
    """
    schema = query_schema(con, f"SELECT * EXCLUDE ({GONE}) FROM ({sql})" if _has_gone(con, sql) else sql)
    stored, given = schemas.types(table.open().schema()), schemas.types(schema)
    wider = {name: given[name] for name in schemas.widenings(stored, given)}
    if problems := schemas.misfits({**stored, **wider}, given):
        raise SchemaMismatchError(table.name, problems)
    if wider:
        table.widen(con, schema)


def _has_gone(con: duckdb.DuckDBPyConnection, sql: str) -> bool:
    return GONE in con.sql(f"SELECT * FROM ({sql}) LIMIT 0").columns
