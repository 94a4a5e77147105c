"""The state of one dbt run: what it reads, and what its models have to apply from their upstream tables.

It is read from dbt's graph and the environment.

Holds no DuckDB connection and commits nothing. The options of a delta model are the `meta` of its config;
dbt_project/macros/delta.sql lists them.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from dbt_common.invocation import get_invocation_id
from deltalake import DeltaTable

from pipeline_assets.lake import Changes, Lake, LakeError, Table, changes_since, every_day
from pipeline_assets.sql import quote_name

# DuckDB keeps this many partitions open. With more, unordered rows make several files per day and may exhaust memory:
# 3,050 days of 200 rows did not fit into 1 GB. Ordering five million rows costs 1.4 CPU seconds, so a few partitions
# are not ordered.
_PARTITIONS_AT_ONCE = 100


@dataclass(frozen=True)
class Pin:
    """The version of a table that this run reads.

    Attributes:
        table: The table.
        opened: Its log at that version. It is read once, because opening a log of years takes longer than building a
            model.
        position: The name under which readers record the version.
    """

    table: Table
    opened: DeltaTable
    position: str

    @property
    def version(self) -> int:
        """The version."""
        return self.opened.version()

    def changes_since(self, version: int | None) -> Changes:
        """Return what happened to the table since a version.

        The log is read only if that is another version than this.
        """
        if version == self.version:
            return Changes(version, frozenset(), frozenset())
        return changes_since(self.table, version)


@dataclass
class Plan:
    """What one model of this run recomputes, and the positions that its commit moves.

    Attributes:
        everything: Recompute all rows: there is no table yet, it is a full refresh, or an upstream cannot tell what
            changed.
        applied: Position name to the upstream version that the stored rows reflect; None if they reflect no version.
        seen: Position name to the upstream version that this run reads.
        dates: Days to recompute.
        by_keys: Whether the model is recomputed by key, not by day.
        has_keys: Whether there are keys to recompute.
        replaced: In-memory relations of keys whose stored rows are removed, beyond the keys of the model's new rows.
        reads_changes: Whether the model is made of a change table: its columns may grow, and `_gone` may remove rows.
        narrowed: Whether SQL was already narrowed; from then on days must not grow.
    """

    everything: bool
    applied: dict[str, int | None] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    dates: frozenset[date] = frozenset()
    by_keys: bool = False
    has_keys: bool = False
    replaced: list[str] = field(default_factory=list)
    reads_changes: bool = False
    narrowed: bool = False

    def widen(self, dates: frozenset[date] | None) -> None:
        """Add days; None means everything."""
        if self.narrowed and not self.everything and (dates is None or not dates <= self.dates):
            raise LakeError(
                "what is to be recomputed grew after a part of the model was narrowed to it: call follow() with all "
                "upstream tables first, before() ahead of touched_rows(), and give further days by `also`"
            )
        if dates is None:
            self.everything = True
        else:
            self.dates |= dates


@dataclass
class Run:
    """State of one dbt invocation.

    Attributes:
        lake: The lake.
        full_refresh: dbt's flag.
        nodes: Table name to dbt's node.
        readers: Table name to the tables that read it.
        pins: Table name to the version that this run reads.
        plans: Table name to what it recomputes.
        owed: Table name to the days that tables downstream have yet to apply; None means all.
        written: Table name to the days that this run's commit added rows to; None means all.
    """

    lake: Lake
    full_refresh: bool = False
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    pins: dict[str, Pin] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    owed: dict[str, frozenset[date] | None] = field(default_factory=dict)
    written: dict[str, frozenset[date] | None] = field(default_factory=dict)


def asked_days() -> frozenset[date]:
    """Return the days that the caller asks for beyond the changed ones.

    They go from PIPELINE_MIN_DATE to PIPELINE_MAX_DATE, both included.

    They come from the environment when a model runs, never from --vars: other vars make dbt parse the whole project
    again.
    """
    texts = [os.environ.get(f"PIPELINE_{end}_DATE", "") for end in ("MIN", "MAX")]
    if not any(texts):
        return frozenset()
    try:
        first, last = map(date.fromisoformat, texts)
    except ValueError as error:
        raise LakeError(
            f"PIPELINE_MIN_DATE={texts[0]!r}, PIPELINE_MAX_DATE={texts[1]!r}: give both dates (2011-12-09) or neither"
        ) from error
    return frozenset(every_day(first, last))


def is_table(node: Mapping[str, Any]) -> bool:
    """Tell whether a node of dbt's graph is a table of the lake: a source, or a model materialized as `delta`."""
    kind = node["resource_type"]
    return bool(kind == "source" or (kind == "model" and node["config"]["materialized"] == "delta"))


def table_name(node: Mapping[str, Any]) -> str:
    """Return the lake's name of a node; its schema is the layer."""
    return f"{node['schema']}.{node.get('alias') or node['identifier']}"


def upstreams(node: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the names of the tables that a node reads, looking through ephemeral models."""
    for key in node.get("depends_on", {}).get("nodes", []):
        if key in nodes and is_table(nodes[key]):
            yield table_name(nodes[key])
        elif key in nodes:
            yield from upstreams(nodes[key], nodes)


def is_optional(node: Mapping[str, Any]) -> bool:
    """Tell whether a table counts as empty until it is built: that of a source that this lake may lack."""
    return bool(model_options(node).get("optional"))


def model_options(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a model's options: the `meta` of its config, and dbt's own."""
    config = node.get("config", {})
    return {**config, **config.get("meta", {})}


def as_list(value: str | Sequence[str] | None) -> list[str]:
    """Read an option that may be one name or several."""
    return [value] if isinstance(value, str) else list(value or [])


def batch_id(plan: Plan, options: Mapping[str, Any]) -> str:
    """Name an appended batch: as the model says, else by the upstream versions it reads, else by the invocation."""
    versions = ",".join(f"{name}={version}" for name, version in sorted(plan.seen.items()))
    return f"batch:{options.get('batch_id') or versions or get_invocation_id()}"


def by_partition(sql: str, plan: Plan, pins: Mapping[str, Pin], options: Mapping[str, Any]) -> str:
    """Order the rows of a partitioned model by partition if a run writes many partitions, as a rebuild may."""
    columns = as_list(options.get("partition_by"))
    if not columns:
        return sql
    found = len(plan.dates)
    if plan.everything and plan.reads_changes:
        found = _PARTITIONS_AT_ONCE + 1  # the days of changes tell nothing about the partitions of rows
    elif plan.everything:
        upstream = [pin.opened for pin in pins.values() if pin.position in plan.seen]
        # An upstream without partitions may hold any number of days.
        found = max((len(log.partitions()) or _PARTITIONS_AT_ONCE + 1 for log in upstream), default=0)
    if found <= _PARTITIONS_AT_ONCE:
        return sql
    return f"SELECT * FROM ({sql}) ORDER BY {', '.join(map(quote_name, columns))}"


def check_options(name: str, options: Mapping[str, Any], plan: Plan) -> None:
    """Refuse a model whose options do not say how to write it."""
    strategy = options.get("strategy")
    problem = None
    if strategy not in ("overwrite", "append", "replace", "merge"):
        problem = f"strategy is {strategy!r}; use overwrite, append, replace or merge"
    elif strategy == "append" and plan.narrowed:
        problem = "strategy append would add the old rows of touched days once more; use replace, or before()"
    elif strategy == "merge" and not (options.get("unique_key") and options.get("sequence")):
        problem = "strategy merge needs unique_key and sequence"
    elif strategy == "replace" and not (plan.seen or plan.by_keys):
        problem = "strategy replace needs touched_rows(), touched_keys() or changed_keys() in the model"
    elif strategy == "replace" and not options.get("unique_key" if plan.by_keys else "date_column"):
        problem = f"strategy replace needs {'unique_key' if plan.by_keys else 'date_column'}"
    if problem:
        raise LakeError(f"{name}: {problem}")


def check_partitioning(table: Table, opened: DeltaTable, options: Mapping[str, Any]) -> None:
    """Refuse a model whose partitioning differs from that of its table."""
    found, wanted = opened.metadata().partition_columns, as_list(options.get("partition_by"))
    if found != wanted:
        raise LakeError(
            f"{table.name} is partitioned by {found}, the model says {wanted}: a table keeps its partitioning. Undo "
            f"the change, or remove {table.uri} and build the model again"
        )
