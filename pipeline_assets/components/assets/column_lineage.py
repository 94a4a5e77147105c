"""Column lineage of dbt models, found by sqlglot in their compiled SQL.

dagster-dbt's own way asks a database for the columns of every relation after the run; an in-memory DuckDB can no longer
answer then.
"""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
from sqlglot import exp, lineage, parse_one
from sqlglot.errors import SqlglotError

# Helper relations of a run (pipeline_assets.dbt_plugin): `<model> <- <upstream>` are rows of the upstream; all others
# only say which rows are wanted.
_WORK, _ROWS_OF = "work", " <- "


def column_lineage(
    node: Mapping[str, Any], manifest: Mapping[str, Any], compiled_sql: str, asset_key: Callable[[str], dg.AssetKey]
) -> dg.TableColumnLineage | None:
    """Find the upstream columns that each column of a model comes from.

    Args:
        node: The model in dbt's manifest, with its columns described.
        manifest: dbt's manifest.
        compiled_sql: The model's SQL without Jinja.
        asset_key: dbt unique id -> asset key.

    Returns:
        The lineage; None if sqlglot cannot analyse the SQL.
    """
    upstream = {**manifest["sources"], **manifest["nodes"]}
    parents = {_name(upstream[key]): upstream[key] for key in node["depends_on"]["nodes"] if key in upstream}
    schema: dict[str, dict[str, dict[str, str]]] = {}
    for props in (*parents.values(), node):
        columns = {column: str(facts.get("data_type")) for column, facts in props["columns"].items()}
        schema.setdefault(props["schema"], {})[props["name"]] = columns
    try:
        # All columns at once, and no copy of the query for each node: 0.4 s instead of 9 s for the models of the shop.
        found = lineage.lineage(None, _plain(compiled_sql), schema=schema, dialect="duckdb", trim_selects=False)
        return dg.TableColumnLineage(
            deps_by_column={column: _sources(found[column], parents, asset_key) for column in node["columns"]}
        )
    except (SqlglotError, ValueError, KeyError):
        return None


def _name(props: Mapping[str, Any]) -> str:
    return f"{props['schema']}.{props['name']}"


def _plain(compiled_sql: str) -> exp.Expr:
    """Give the SQL with upstream tables in place of the helper relations of the run."""
    tree = parse_one(compiled_sql, dialect="duckdb")
    for wanted in list(tree.find_all(exp.In)):
        if any(table.db == _WORK for table in wanted.find_all(exp.Table)):
            wanted.replace(exp.true())
    for table in tree.find_all(exp.Table):
        if table.db == _WORK and _ROWS_OF in table.name:
            layer, name = table.name.split(_ROWS_OF)[1].split(".")
            table.set("db", exp.to_identifier(layer))
            table.set("this", exp.to_identifier(name))
        table.set("catalog", None)
    return tree


def _sources(
    root: lineage.Node, parents: Mapping[str, Mapping[str, Any]], asset_key: Callable[[str], dg.AssetKey]
) -> list[dg.TableColumnDep]:
    deps: dict[tuple[dg.AssetKey, str], dg.TableColumnDep] = {}
    for leaf in root.walk():
        table = leaf.source
        if leaf.downstream or not isinstance(table, exp.Table):
            continue
        if props := parents.get(f"{table.db}.{table.name}"):
            key, column = asset_key(props["unique_id"]), leaf.name.split(".")[-1].strip('"')
            deps[key, column] = dg.TableColumnDep(asset_key=key, column_name=column)
    return list(deps.values())
