"""State and history models of one change table, run by the real macros and the real plugin, without dbt's start-up.

dbt does three things for such a model: it renders the macro, it calls the plugin, it hands the SQL back to it. These
three are done here directly, some ten times faster; tests/dbt_project runs the same models by dbt.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import jinja2
from batches import event_batch
from deltalake import DeltaTable

from pipeline_assets.contracts.base import Model
from pipeline_assets.dbt_plugin import Plugin
from pipeline_assets.ingest.cdc.events import ChangeEvent
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.lake import Lake, Table

MACROS = Path(__file__).parents[2] / "dbt_project" / "macros" / "changes"
SOURCE, STATE, HISTORY = "bronze.db__things", "silver.things", "silver.things_history"
_START = datetime(2026, 1, 1, tzinfo=UTC)


def event(
    op: str,
    key: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None = None,
    *,
    at: int,
    seq: int = 1,
    ts: float | None = None,
    lsn: int | None = None,
    unavailable: Iterable[str] = (),
) -> ChangeEvent:
    """An event of the transaction that committed at `at`, `ts` hours (`at`, by default) after 2026-01-01."""
    return ChangeEvent(
        "public.things", op, None if key is None else json.dumps(key), None,
        None if after is None else json.dumps({**(key or {}), **after}), tuple(unavailable),
        at, seq, at * 100 + seq if lsn is None else lsn, at,
        int((_START.timestamp() + (at if ts is None else ts) * 3600) * 1_000_000), "test", seq,
    )  # fmt: skip


@cache
def _template(call: str) -> jinja2.Template:
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    macros = "".join(path.read_text() for path in MACROS.glob("*.sql"))
    return environment.from_string(f"{macros}{{{{ {call} }}}}")


class ChangeModels:
    """A lake with one change table, and the two models made of it."""

    def __init__(self, lake: Lake, model: Model, keys: Sequence[str], bucket: str, valid_at: str | None = None) -> None:
        self.lake, self.con = lake, lake.connect(threads=1)
        self.table = ChangeTable("public.things", SOURCE.split(".")[1], model, tuple(keys))
        self._dbt = duckdb.connect()
        self._plugin = Plugin("lake", {}, credentials=None)  # type: ignore[arg-type]
        self._plugin.configure_connection(self._dbt)
        arguments = f"source, 'test.contract', {list(keys)}, \"{bucket}\""
        self._calls = {
            STATE: f"change_state({arguments})",
            HISTORY: f"change_history({arguments}, valid_at={valid_at!r})",
        }
        self._meta: dict[str, Any] = {}
        for name in self._calls:
            self._render(name, execute=False)
        self._batches = 0

    def close(self) -> None:
        self.con.close()
        self._dbt.close()

    def land(self, *events: ChangeEvent, batch: str | None = None) -> None:
        """Appends a batch to bronze."""
        self._batches += 1
        staging = event_batch(self.con, self.lake, self.table, "db", batch or f"batch-{self._batches}", _START)
        staging.add(events)
        assert staging.counts.dead_letters == 0
        staging.commit()

    def run(self, *names: str, full_refresh: bool = False) -> None:
        """What `dbt run` does."""
        names = names or (STATE, HISTORY)
        self._ask("begin", graph=self._graph(), selected=[f"model.{name}" for name in names], full_refresh=full_refresh)
        for name in names:
            self._ask("write", model=name, sql=self.sql(name))

    def sql(self, name: str) -> str:
        """A model's compiled SQL; to be asked after `run` has begun."""
        return self._render(name, execute=True)

    def test_range(self, name: str) -> str:
        """The predicate on the rows that data tests look at after the last run."""
        return str(self._ask("test_range", table=name))

    def changed_keys(self, model: str, upstream: str, key: str = "id") -> list[Any] | None:
        """The keys that a table downstream would recompute; None for all."""
        self._ask("begin", graph=self._graph(), selected=[], full_refresh=False)
        predicate = self._ask("changed_keys", model=model, upstream=upstream, key=key)
        if predicate == "true":
            return None
        found = self._dbt.execute(
            f"SELECT {key} FROM {upstream} WHERE {predicate} GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        return [row[0] for row in found]

    def rows(self, name: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return self.con.execute(f"SELECT {columns} FROM {Table(self.lake, name).scan()} ORDER BY ALL").fetchall()

    def log(self, name: str) -> DeltaTable:
        return Table(self.lake, name).open()

    def _render(self, name: str, *, execute: bool) -> str:
        def config(**options: Any) -> str:
            self._meta[name] = options["meta"]
            return ""

        def read_changes(source: str, contract: str, keys: list[str], bucket: str, needs_stored: bool) -> Any:
            if not execute:
                return None
            arguments = {"contract_name": contract, "keys": keys, "bucket": bucket, "needs_stored": needs_stored}
            return self._ask("read_changes", model=name, upstream=source, **arguments)

        quoted = SimpleNamespace(quote=lambda column: f'"{column}"')
        literal = SimpleNamespace(string_literal=lambda text: "'" + text.replace("'", "''") + "'")
        context = {"config": config, "read_changes": read_changes, "adapter": quoted, "dbt": literal, "source": SOURCE}
        return _template(self._calls[name]).render(context).strip()

    def _ask(self, action: str, **arguments: Any) -> Any:
        call = {"action": action, "arguments": arguments, "answer": None}
        self._plugin.store(SimpleNamespace(config=call))  # type: ignore[arg-type]
        return call["answer"]

    def _graph(self) -> dict[str, Any]:
        def node(name: str, kind: str, config: Mapping[str, Any], reads: list[str]) -> dict[str, Any]:
            schema, table = name.split(".")
            return {
                "resource_type": kind, "schema": schema, "name": table, "alias": table, "columns": {},
                "config": config, "depends_on": {"nodes": reads}, "description": "",
            }  # fmt: skip

        models = {
            f"model.{name}": node(name, "model", {"materialized": "delta", "meta": meta}, [f"source.{SOURCE}"])
            for name, meta in self._meta.items()
        }
        return {
            "nodes": models,
            "sources": {f"source.{SOURCE}": node(SOURCE, "source", {"meta": {"optional": True}}, [])},
        }
