"""Selects the part of a table that a query has to read, in forms that let `delta_scan` rule files out.

Measured with the delta extension of DuckDB 1.5.5: comparisons joined by AND on DATE and number columns (partition
values or statistics) rule files out. OR, IN lists, joins and timestamps do not. So chosen values become one branch of a
UNION ALL for each run of neighbours.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import pairwise
from typing import TypeVar

import duckdb
from deltalake import DeltaTable

from pipeline_assets.lake.schemas import types
from pipeline_assets.sql import quote_name

Value = TypeVar("Value", int, date)

# Each branch reads the table's log once more (5-20 ms): more branches than this cost more than the files they save.
_MOST_BRANCHES = 8
_INTEGERS = {"byte", "short", "integer", "long"}


def neighbours(values: Sequence[Value], known: Iterable[Value] | None = None) -> list[list[Value]]:
    """Cut sorted values into a few groups of neighbours.

    Args:
        values: The values.
        known: The only values that exist; a value that does not exist makes no gap.
    """
    if not values:
        return []
    places = {value: place for place, value in enumerate(sorted(known))} if known else {}
    gaps = [places[b] - places[a] if places else _distance(a, b) for a, b in pairwise(values)]
    widest = sorted((at for at, gap in enumerate(gaps, 1) if gap > 1), key=lambda at: -gaps[at - 1])
    cuts: list[int] = sorted(widest[: _MOST_BRANCHES - 1])
    return [list(values[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True)]


def rows_near_keys(
    con: duckdb.DuckDBPyConnection, table: DeltaTable, scan: str, keys: Sequence[str], wanted: str
) -> str:
    """Build a relation with all rows of some keys, and as few other rows as partitions can rule out.

    If the partition column is one of the keys (for example a function of the others), only the partitions of the wanted
    keys are read. Any other table is read whole.

    Args:
        con: A connection of the lake.
        table: The version to read.
        scan: SQL that reads this version.
        keys: Columns that name a row.
        wanted: Relation with the wanted keys.

    Returns:
        SQL of a relation: the table's columns and `filename`.
    """
    whole = f"(SELECT *, filename FROM {scan})"
    kinds = types(table.schema())
    parts = [name for name in table.metadata().partition_columns if name in keys]
    if not parts or kinds[parts[0]] not in {"date", *_INTEGERS}:
        return whole
    name, of_type = quote_name(parts[0]), date.fromisoformat if kinds[parts[0]] == "date" else int
    none = f"(SELECT *, filename FROM {scan} WHERE false)"
    values = {value for (value,) in con.execute(f"SELECT DISTINCT {name} FROM {wanted}").fetchall()}
    if None in values or not values:
        return whole if values else none
    within = [(parts[0], ">=", min(values)), (parts[0], "<=", max(values))]
    listed = table.partitions(file_pruning_predicate=within)
    known = {of_type(value) for part in listed if (value := part[parts[0]]) is not None}
    if not (found := sorted(values & known)):
        return none
    branches = (
        f"SELECT *, filename FROM {scan} WHERE {name} >= {_literal(group[0])} AND {name} <= {_literal(group[-1])}"
        for group in neighbours(found, known)
    )
    return f"({' UNION ALL '.join(branches)})"


def _distance(a: Value, b: Value) -> int:
    return b.toordinal() - a.toordinal() if isinstance(a, date) and isinstance(b, date) else int(b) - int(a)


def _literal(value: int | date) -> str:
    return f"DATE '{value}'" if isinstance(value, date) else str(value)
