"""How a model of state reads a table of full snapshots: the newest published snapshot, and the stored state.

The macro dbt_project/macros/snapshot_state.sql compares the two; this module gives it the relations and the columns.
"""

from collections.abc import Sequence
from typing import Any

from pipeline_assets.contracts.base import contract, raw_shape
from pipeline_assets.dbt_plugin.follow import Following
from pipeline_assets.dbt_plugin.views import Views, relation, work
from pipeline_assets.ingest.conform.conform import TECHNICAL_COLUMNS
from pipeline_assets.lake import LakeError, held_in, newest_day, select_days
from pipeline_assets.lake.commit_facts import date_column
from pipeline_assets.sql import quote_name

PARTITION = "_partition_date"
OWN_COLUMNS = ("_deleted", "_changed_date")
"""Columns that the state has beside the source's."""


class SnapshotReader:
    """Reads tables of snapshots for the models of a run."""

    def __init__(self, views: Views, following: Following) -> None:
        self._views, self._following = views, following

    def read_snapshot(self, model: str, upstream: str, contract_name: str, keys: Sequence[str]) -> dict[str, Any]:
        """Return the relations that a macro compares.

        Args:
            model: Table that is being built.
            upstream: Its table of snapshots.
            contract_name: Contract of the source's row.
            keys: Columns that name a row.

        Returns:
            The dict of `unread_snapshot`. `stored` holds the model's rows as they are; `rows` holds the rows of the
            newest published snapshot and of other days that came. If the model is rebuilt, `rows` holds all snapshots.
        """
        columns = _columns(contract_name, keys)
        plan, pin = self._following.upstream(model, upstream)
        plan.narrowed = plan.by_keys = plan.reads_changes = True
        plan.has_keys = bool(plan.dates)
        if pin is None:
            plan.everything = True
            return _answer(columns, keys, relation(upstream), None)
        opened = pin.opened
        technical = {column.name for column in TECHNICAL_COLUMNS}
        found = [field.name for field in opened.schema().fields]
        columns += [name for name in found if name not in {*columns, *technical, *OWN_COLUMNS}]
        if plan.everything:
            return _answer(columns, keys, relation(upstream), None)
        rows, newest = work(f"{model} <- {upstream}"), newest_day(opened, without=held_in(opened))
        days = frozenset() if newest is None else frozenset({newest})
        if date_column(opened) == PARTITION:
            days |= plan.dates  # a late day may hold keys that no other day has: they become tombstones
        select = select_days(pin.table, pin.version, PARTITION, days)
        self._views.cursor().execute(f"CREATE OR REPLACE VIEW {rows} AS {select}")
        return _answer(columns, keys, rows, self._stored(model, upstream, columns))

    def _stored(self, model: str, upstream: str, columns: Sequence[str]) -> str:
        """Return a relation of the model's rows, with columns that the source has added since."""
        pin, view = self._views.pin(model, reader=model), work(f"{model} <- {model}")
        known = {field.name for field in pin.opened.schema().fields}
        added = [name for name in columns if name not in known]
        # The null gets the source's type from its view, because an untyped null cannot be compared.
        none = f"FROM {relation(upstream)} WHERE false"
        nulls = "".join(f", (SELECT any_value({name}) {none}) AS {name}" for name in map(quote_name, added))
        self._views.cursor().execute(f"CREATE OR REPLACE VIEW {view} AS SELECT *{nulls} FROM {relation(model)}")
        return view


def unread_snapshot(contract_name: str, keys: Sequence[str], upstream: str) -> dict[str, Any]:
    """Return what `read_snapshot` returns where there is no lake, as in unit tests.

    Returns:
        `rows`, `stored` (None: the model is rebuilt), and `keys` and `columns` (all but the keys), quoted.
    """
    return _answer(_columns(contract_name, keys), keys, upstream, None)


def _answer(columns: Sequence[str], keys: Sequence[str], rows: str, stored: str | None) -> dict[str, Any]:
    others = [quote_name(name) for name in columns if name not in keys]
    return {"rows": rows, "stored": stored, "keys": list(map(quote_name, keys)), "columns": others}


def _columns(contract_name: str, keys: Sequence[str]) -> list[str]:
    names = [column.name for column in raw_shape(contract(contract_name)).columns]
    if missing := [key for key in keys if key not in names]:
        raise LakeError(f"keys {', '.join(missing)} are not columns of {contract_name}")
    if taken := sorted({*names} & {*OWN_COLUMNS}):
        raise LakeError(
            f"{contract_name} has columns whose names the state uses itself: {', '.join(taken)}. Give them other names"
        )
    return names
