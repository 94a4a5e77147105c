"""Column lineage of dbt models from their compiled SQL, by sqlglot.

dagster-dbt's own way asks a database for the columns of every relation after the run, which an in-memory DuckDB can no
longer answer.
"""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
from sqlglot import exp, lineage
from sqlglot.errors import SqlglotError


def column_lineage(
    node: Mapping[str, Any], manifest: Mapping[str, Any], compiled_sql: str, asset_key: Callable[[str], dg.AssetKey]
) -> dg.TableColumnLineage | None:
    """Finds which upstream columns each column of a model comes from.

    Args:
        node: The model in dbt's manifest, with its columns described.
        manifest: dbt's manifest.
        compiled_sql: The model's SQL without Jinja.
        asset_key: dbt unique id -> asset key.

    Returns:
        The lineage, None if the SQL is beyond sqlglot.
    """
    parents = {
        props["relation_name"].replace('"', "").lower(): props
        for unique_id in node["depends_on"]["nodes"]
        if (props := (manifest["sources"] if unique_id.startswith("source.") else manifest["nodes"]).get(unique_id))
        and props.get("relation_name")
    }
    schema: dict[str, Any] = {}
    for name, props in parents.items():
        level = schema
        *path, table = name.split(".")
        for part in path:
            level = level.setdefault(part, {})
        level[table] = {column: str(facts.get("data_type")) for column, facts in props["columns"].items()}
    found: dict[str, list[dg.TableColumnDep]] = {}
    for column in node["columns"]:
        try:
            root = lineage.lineage(column, compiled_sql, schema=schema, dialect="duckdb")
        except (SqlglotError, ValueError):
            return None
        found[column] = _sources(root, parents, asset_key)
    return dg.TableColumnLineage(deps_by_column=found)


def _sources(
    root: lineage.Node, parents: Mapping[str, Mapping[str, Any]], asset_key: Callable[[str], dg.AssetKey]
) -> list[dg.TableColumnDep]:
    deps: dict[tuple[dg.AssetKey, str], dg.TableColumnDep] = {}
    for leaf in root.walk():
        table = leaf.source
        if leaf.downstream or not isinstance(table, exp.Table):
            continue
        name = ".".join(part.name for part in table.parts).lower()
        if props := parents.get(name):
            key, column = asset_key(props["unique_id"]), leaf.name.split(".")[-1].strip('"')
            deps[key, column] = dg.TableColumnDep(asset_key=key, column_name=column)
    return list(deps.values())
