"""Commits a model's rows to its table, together with the upstream versions that they reflect."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

import duckdb
from deltalake import DeltaTable, Schema

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
from pipeline_assets.lake import LakeError, SchemaMismatchError, Table, days_predicate, query_schema, schemas
from pipeline_assets.sql import quote_name, quote_names, quote_text

GONE = "_gone"
"""Column of a model's query that marks keys whose stored rows are removed and not replaced."""


_OUTSIDE = (
    ", which is not among the days that are replaced: nothing was written. `date_column` must hold the days that "
    "touched_rows() selects by"
)


class Write(Enum):
    """What the write of a model does to its table."""

    OVERWRITE = auto()
    """Replace all rows, and the columns if they differ."""

    POSITIONS = auto()
    """There is nothing to apply: only the positions move, and no row is read."""

    MERGE = auto()
    APPEND = auto()
    REPLACE_DAYS = auto()
    REPLACE_KEYS = auto()


def choose_write(plan: Plan, strategy: str, *, is_full_refresh: bool) -> Write:
    """Decide what a model's write does.

    Args:
        plan: What the model has to apply.
        strategy: One of those that `check_options` accepts.
        is_full_refresh: Whether the table is rebuilt, columns included.
    """
    if strategy == "overwrite" or is_full_refresh:
        return Write.OVERWRITE
    # A rebuild from a change table also removes rows that its events no longer hold, whatever the strategy.
    if plan.everything and (strategy == "replace" or plan.reads_changes):
        return Write.OVERWRITE
    if plan.by_keys and not (plan.everything or plan.has_keys):
        return Write.POSITIONS
    if strategy in ("merge", "append"):
        return Write.MERGE if strategy == "merge" else Write.APPEND
    if plan.by_keys:
        return Write.REPLACE_KEYS
    return Write.REPLACE_DAYS if plan.dates else Write.POSITIONS


class Writer:
    """Writes the models of a run."""

    def __init__(self, views: Views, following: Following) -> None:
        self._views, self._following, self._run = views, following, views.run

    def write(self, model: str, sql: str) -> dict[str, Any]:
        """Commit a model's rows with the positions they reflect, and register its view at the new version.

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
        write = choose_write(plan, options["strategy"], is_full_refresh=self._following.is_full_refresh(model))
        with self._views.cursor() as con:
            try:
                self._prepare(con, table, sql, write, options)
                version = self._commit_widening(con, table, sql, write, options)
            except SchemaMismatchError as error:
                raise LakeError(
                    f"rows do not fit table {table.name}: {'; '.join(error.problems)}. If you want this, rebuild "
                    "the table, because untouched rows would keep the old shape: "
                    f"dbt build --full-refresh --select {node['name']}+"
                ) from error
        before = run.pins.get(model)
        pin = self._views.set_pin(table, table.open(version))
        run.written[model] = pin.changes_since(before.version if before else None).added
        if before and version == before.version:
            return {"message": f"nothing new, version {version}", "rows": 0}
        facts = pin.opened.history(1)[0]
        added, removed = int(facts.get("rows_added", 0)), int(facts.get("rows_removed", 0))
        return {"message": f"version {version}: {added:,} rows in, {removed:,} out", "rows": added}

    def _prepare(
        self, con: duckdb.DuckDBPyConnection, table: Table, sql: str, write: Write, options: Mapping[str, Any]
    ) -> None:
        """Create the table if necessary; add the columns that the source has added if it is made of a change table.

        Raises:
            SchemaMismatchError: The model has other columns, and no row is written that the table would refuse.
        """
        node, reads_changes = self._run.nodes[table.name], self._following.plan(table.name).reads_changes
        pin = self._views.built(table.name)
        schema = _schema(con, sql) if reads_changes or pin is None else None
        if schema is not None:
            table.create(
                schema,
                partition_by=as_list(options.get("partition_by")),
                date_column=options.get("date_column"),
                description=(node.get("description") or "").strip() or None,
            )
        opened = table.open() if pin is None or schema is not None else pin.opened
        check_partitioning(table, opened, options)
        if write is Write.POSITIONS:
            self._refuse_other_columns(con, table, opened, sql) if schema is None else _widen(con, table, schema)

    def _refuse_other_columns(self, con: duckdb.DuckDBPyConnection, table: Table, opened: DeltaTable, sql: str) -> None:
        """Refuse a model that has other columns than its table.

        Other types of known columns show when rows are written.

        Raises:
            SchemaMismatchError: The columns differ.
        """
        stored, node = schemas.types(opened.schema()), self._run.nodes[table.name]
        if node["config"]["contract"]["enforced"]:  # dbt has compared the query with them already
            given = {name: stored.get(name, str(column["data_type"])) for name, column in node["columns"].items()}
        else:
            given = schemas.types(_schema(con, sql))
        if problems := schemas.misfits(stored, given):
            raise SchemaMismatchError(table.name, problems)

    def _commit_widening(
        self, con: duckdb.DuckDBPyConnection, table: Table, sql: str, write: Write, options: Mapping[str, Any]
    ) -> int:
        """Commit the rows. Only if the table refuses them for their types, widen it and commit again."""
        try:
            return self._commit(con, table, sql, write, options)
        except SchemaMismatchError:
            _widen(con, table, _schema(con, sql))
            return self._commit(con, table, sql, write, options)

    def _commit(
        self, con: duckdb.DuckDBPyConnection, table: Table, sql: str, write: Write, options: Mapping[str, Any]
    ) -> int:
        """Write what `choose_write` decided; return the version that holds the rows."""
        plan, strategy, keys = self._following.plan(table.name), options["strategy"], as_list(options.get("unique_key"))
        sequence, is_full_refresh = as_list(options.get("sequence")), self._following.is_full_refresh(table.name)
        batch = {batch_id(plan, options): 1} if strategy == "append" else {}
        if write is Write.POSITIONS:
            return table.commit(con, [], expect=plan.applied, positions=plan.seen)
        if strategy == "merge" and is_full_refresh:
            order = ", ".join(f"{quote_name(name)} DESC" for name in sequence)
            latest = f"row_number() OVER (PARTITION BY {quote_names(keys)} ORDER BY {order}) = 1"
            sql = f"SELECT * FROM ({sql}) QUALIFY {latest}"
        sql = by_partition(sql, plan, self._run.pins, options)
        if write is Write.OVERWRITE:
            # A rebuild whatever the table holds does not depend on its positions.
            expect = None if strategy == "overwrite" or is_full_refresh else plan.applied
            return table.overwrite(con, sql, expect=expect, positions={**plan.seen, **batch})
        if write is Write.MERGE:
            return table.merge(con, sql, keys=keys, sequence=sequence, expect=plan.applied, positions=plan.seen)
        if write is Write.APPEND:
            version = table.append(con, sql, batch_id=next(iter(batch)), expect=plan.applied, positions=plan.seen)
            if version is not None:
                return version
            opened = table.open()
            self._refuse_other_columns(con, table, opened, sql)
            return opened.version()
        if write is Write.REPLACE_DAYS:
            return _replace_days(con, table, sql, plan, options["date_column"])
        return _replace_keys(con, table, sql, plan, keys)


def _replace_days(con: duckdb.DuckDBPyConnection, table: Table, sql: str, plan: Plan, column: str) -> int:
    """Replace the rows of the touched days.

    Raises:
        LakeError: The model gives a row of another day, which the run after the next would add once more.
    """
    where, day = days_predicate(column, plan.dates), quote_name(column)
    before, after = quote_text(f"{table.name}: the model gives a row of "), quote_text(_OUTSIDE)
    said = f"{before} || coalesce(CAST({day} AS DATE)::VARCHAR, 'no day') || {after}"
    # Check where rows are written, not where they are selected: DuckDB may evaluate a condition on rows that other
    # conditions leave out.
    rows = f"SELECT * REPLACE (CASE WHEN {where} THEN {day} ELSE error({said}) END AS {day}) FROM ({sql})"
    try:
        return table.replace(con, rows, where=where, expect=plan.applied, positions=plan.seen)
    except duckdb.InvalidInputException as error:
        if _OUTSIDE in str(error):
            raise LakeError(str(error).removeprefix("Invalid Input Error: ")) from error
        raise


def _replace_keys(con: duckdb.DuckDBPyConnection, table: Table, sql: str, plan: Plan, keys: list[str]) -> int:
    """Replace the rows of the touched keys.

    New rows of further keys (derived values that moved with the touched ones) replace their old rows, too.
    """
    rows = work(f"{table.name} rows")
    con.execute(f"CREATE OR REPLACE TABLE {rows} AS {sql}")
    try:
        come, gone = f"SELECT * FROM {rows}", [*plan.replaced]
        if GONE in con.sql(come).columns:
            come = f"SELECT * EXCLUDE ({GONE}) FROM {rows} WHERE NOT {GONE}"
            gone.append(rows)
        also = " UNION ALL ".join(f"SELECT {quote_names(keys)} FROM {relation}" for relation in gone)
        return table.replace_keys(
            con, come, keys=keys, also=f"({also})" if also else None, expect=plan.applied, positions=plan.seen
        )
    finally:
        con.execute(f"DROP TABLE {rows}")


def _widen(con: duckdb.DuckDBPyConnection, table: Table, schema: Schema) -> None:
    """Widen the table's columns to the types of a model.

    Raises:
        SchemaMismatchError: The model has other columns, or types that could lose a value of the table.
    """
    stored, given = schemas.types(table.open().schema()), schemas.types(schema)
    wider = {each.column: given[each.column] for each in schemas.widenings(stored, given)}
    if problems := schemas.misfits({**stored, **wider}, given):
        raise SchemaMismatchError(table.name, problems)
    table.widen(con, schema)


def _schema(con: duckdb.DuckDBPyConnection, sql: str) -> Schema:
    """Return the columns that a model's query writes."""
    return Schema([column for column in query_schema(con, sql).fields if column.name != GONE])
