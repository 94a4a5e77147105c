"""Column lineage from compiled SQL: through CTEs, unions and the helper relations of a run."""

from typing import Any

import dagster as dg
import pytest
from sqlglot import lineage

from pipeline_assets.components.assets.column_lineage import column_lineage

SQL = """
    WITH changed AS (SELECT * FROM memory."work"."gold.sales <- silver.lines" AS l),
    priced AS (
        SELECT country, quantity * price AS amount FROM changed
        UNION ALL
        SELECT r.country, -r.amount FROM memory.silver.refunds AS r WHERE r.day IN (SELECT day FROM memory.work.days)
    )
    SELECT country, sum(amount) AS revenue, count(*) AS line_count FROM priced GROUP BY country
"""


def node(schema: str, name: str, *columns: str, of: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "unique_id": f"model.{name}",
        "schema": schema,
        "name": name,
        "columns": {column: {"data_type": "BIGINT"} for column in columns},
        "depends_on": {"nodes": [f"model.{parent}" for parent in of]},
    }


SALES = node("gold", "sales", "country", "revenue", "line_count", of=("lines", "refunds"))
NODES = (
    node("silver", "lines", "day", "country", "quantity", "price"),
    node("silver", "refunds", "day", "country", "amount"),
    SALES,
)
MANIFEST = {"sources": {}, "nodes": {props["unique_id"]: props for props in NODES}}


def found(sql: str) -> dict[str, set[str]] | None:
    facts = column_lineage(SALES, MANIFEST, sql, lambda key: dg.AssetKey(key.split(".")[1]))
    return facts and {
        column: {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps}
        for column, deps in facts.deps_by_column.items()
    }


def test_each_column_names_the_columns_that_it_is_made_of() -> None:
    assert found(SQL) == {
        "country": {"lines.country", "refunds.country"},
        "revenue": {"lines.quantity", "lines.price", "refunds.amount"},
        "line_count": set(),
    }


@pytest.mark.parametrize("sql", ["SELECT country FROM memory.silver.lines", "SELECT ((", "DROP TABLE silver.lines"])
def test_what_cannot_be_followed_has_no_lineage(sql: str) -> None:
    assert found(sql) is None


def test_a_model_is_analysed_once_and_not_for_each_column(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    analyse = lineage.lineage
    monkeypatch.setattr(lineage, "lineage", lambda *args, **options: calls.append(1) or analyse(*args, **options))
    assert found(SQL)
    assert len(calls) == 1
