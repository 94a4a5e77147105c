"""How a model of state or history reads its change table: which events are new, and facts about them.

The macros in dbt_project/macros/changes/ fold the events. This module gives them the relations to read, SQL of each
column's value, and facts that let them leave out steps that no event needs. It folds no event itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline_assets.contracts.base import RawColumn, contract, raw_shape
from pipeline_assets.dbt_plugin.follow import GONE, Following
from pipeline_assets.dbt_plugin.plan import Pin, Plan
from pipeline_assets.dbt_plugin.views import Views, relation, work
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.ingest.cdc.table.change_table import COLUMNS, COMMIT_LSN
from pipeline_assets.lake import LakeError, Table, batches_since, published, select_batches
from pipeline_assets.lake.pruning import rows_near_keys
from pipeline_assets.sql import quote_name, quote_names

BUCKET = "_bucket"
_STATE = ("_deleted", "_unavailable", "_commit_lsn", "_tx_seq", "_changed_at", "_changed_date", BUCKET)
_HISTORY = ("valid_from", "valid_to", "is_current", "is_deleted", "_committed_at", "_as_of")
OWN_COLUMNS = frozenset((*_STATE, *_HISTORY, "_gone"))
"""Columns that state and history have beside the source's.

If the source adds a column of such a name, it stays in bronze.
"""

OWN_PREFIX = "__"
"""Start of the column names in the macros' SQL.

If the source adds a column with this prefix, it stays in bronze, too.
"""

_NO_EVENTS = ", ".join(f"NULL::{column.dtype} AS {quote_name(column.name)}" for column in COLUMNS)


@dataclass
class Changes:
    """What a model reads of its change table.

    Attributes:
        new: Relation of the events that the model has not applied; of all events when it is rebuilt.
        every: Relation of all events.
        late_until: Events up to this commit_lsn may be late: older than what is applied. None if no event can be late.
        truncated: Whether a truncation is among the events to fold.
        has_key_changes: Whether an insert among them lacks a column: it is the second half of an update of the key.
        unavailable: Columns that some of them lack.
        added: Columns in them that the contract does not have.
    """

    new: str
    every: str
    late_until: int | None = None
    truncated: bool = True
    has_key_changes: bool = True
    unavailable: frozenset[str] = frozenset()
    added: tuple[str, ...] = field(default=())

    @property
    def folded(self) -> str:
        """Relation of at least all events that are folded."""
        return self.new if self.late_until is None else self.every


class ChangeReader:
    """Reads change tables for the models of a run."""

    def __init__(self, views: Views, following: Following) -> None:
        self._views, self._following = views, following

    def read_changes(
        self, model: str, upstream: str, contract_name: str, keys: Sequence[str], bucket: str, needs_stored: bool
    ) -> dict[str, Any]:
        """Return all that a macro needs to know of the events: relations, facts and SQL of the columns.

        Args:
            model: Table that is being built.
            upstream: Its change table.
            contract_name: Contract of the source's row.
            keys: Columns that name a row.
            bucket: SQL over the keys that gives the model's partition.
            needs_stored: Whether the stored rows are read even if all new events are complete.
        """
        shape = _columns(contract_name, keys)
        plan, pin = self._following.upstream(model, upstream, by_dates=False)
        plan.narrowed = plan.by_keys = plan.reads_changes = True
        if pin is None:
            self._refuse_missing_source(model, upstream)
            plan.everything = True
            none = self._view(model, upstream, f"SELECT {_NO_EVENTS} WHERE false")
            changes = Changes(none, none)
        else:
            changes = self._new_events(model, plan, pin)
        self._note_facts(changes, shape)
        changes.added = self._added(model, changes, shape)
        answer = describe(changes, shape, keys)
        if not plan.everything and (needs_stored or changes.unavailable or changes.truncated):
            answer["stored"] = self._stored(model, changes, answer, bucket)
        return answer

    def _new_events(self, model: str, plan: Plan, pin: Pin) -> Changes:
        """Find the events that a model has not applied, and whether some are older than the applied ones."""
        every = relation(pin.table.name)
        applied = plan.applied[pin.position]
        batches = None if plan.everything else batches_since(pin.table, applied, pin.version)
        lsn = None if batches is None else self._applied_lsn(pin.table, applied)
        if batches is None or lsn is None:
            plan.everything = True
            return Changes(every, every)
        plan.has_keys = bool(batches)
        rows = select_batches(pin.table, pin.version, batches)
        new = self._view(model, pin.table.name, f"SELECT * FROM ({rows}) WHERE {published(pin.opened)}")
        if not any(batch.first_lsn <= lsn for batch in batches):
            return Changes(new, every)
        late = f"SELECT count(*) FROM {new} WHERE op = 't' AND commit_lsn <= {lsn}"
        if self._views.cursor().execute(late).fetchone() != (0,):
            plan.everything = True  # the late truncation touches every row that the table had then
            return Changes(every, every)
        return Changes(new, every, late_until=lsn)

    def _view(self, model: str, upstream: str, select: str) -> str:
        view = work(f"{model} <- {upstream}")
        self._views.cursor().execute(f"CREATE OR REPLACE VIEW {view} AS {select}")
        return view

    def _applied_lsn(self, table: Table, applied: int | None) -> int | None:
        """Return the greatest applied commit_lsn: 0 without any, None if the log does not reach back that far."""
        try:
            return table.open(applied).transaction_version(COMMIT_LSN) or 0
        except GONE:
            return None

    def _note_facts(self, changes: Changes, shape: Sequence[RawColumn]) -> None:
        """Note facts of the events to fold: truncations, key changes, missing columns, columns new to the contract."""
        cursor = self._views.cursor()
        changes.truncated, changes.has_key_changes, left_out = cursor.execute(
            "SELECT coalesce(bool_or(op = 't'), false), coalesce(bool_or(op = 'c' AND len(unavailable) > 0), false), "
            f"flatten(list(DISTINCT unavailable)) FROM {changes.folded}"
        ).fetchone() or (False, False, [])
        # Documents that were applied earlier hold no column that the table lacks.
        (names,) = cursor.execute(f"SELECT flatten(list(DISTINCT json_keys(after))) FROM {changes.new}").fetchone() or (
            [],
        )
        known = {column.name for column in shape}
        taken = {name.lower() for name in known | OWN_COLUMNS}
        added: dict[str, str] = {}  # Delta ignores case: of two spellings the first is taken
        for name in sorted({*(names or ()), *(left_out or ())} - known):
            if name.lower() not in taken and not name.startswith(OWN_PREFIX):
                added.setdefault(name.lower(), name)
        changes.added = tuple(added.values())
        changes.unavailable = frozenset(left_out or ()) & {*known, *changes.added}

    def _added(self, model: str, changes: Changes, shape: Sequence[RawColumn]) -> tuple[str, ...]:
        """Return the columns that the model's table has beyond the contract's, then those new in the events."""
        pin = None if self._following.is_full_refresh(model) else self._views.built(model)
        if pin is None:
            return changes.added
        known = {column.name for column in shape} | OWN_COLUMNS
        before = [column.name for column in pin.opened.schema().fields if column.name not in known]
        spelled = {name.lower() for name in before}
        return (*before, *(name for name in changes.added if name.lower() not in spelled))

    def _stored(self, model: str, changes: Changes, answer: Mapping[str, Any], bucket: str) -> str:
        """Build a relation of the model's stored rows: only partitions with keys of new events, if these suffice."""
        pin, cursor = self._views.pin(model, reader=model), self._views.cursor()
        opened, rows = pin.opened, relation(model)
        if not changes.truncated and changes.late_until is None:
            keys = ", ".join(f"{key['value']} AS {key['name']}" for key in answer["keys"])
            wanted = (
                f"(SELECT DISTINCT CAST({bucket} AS BIGINT) AS {BUCKET} FROM (SELECT {keys} "
                f"FROM (SELECT {answer['key_texts']} AS __key FROM {changes.new})))"
            )
            rows = rows_near_keys(cursor, opened, pin.table.scan(pin.version), [BUCKET], wanted)
        known = [column.name for column in opened.schema().fields]
        columns = [quote_names(known), *(f"NULL::VARCHAR AS {quote_name(n)}" for n in changes.added if n not in known)]
        return self._view(model, model, f"SELECT {', '.join(columns)} FROM {rows}")

    def _refuse_missing_source(self, model: str, upstream: str) -> None:
        """Refuse a missing change table if the model holds rows made of it.

        Otherwise a missing table counts as empty.
        """
        table = Table(self._views.run.lake, model)
        if table.exists() and table.open().count():
            raise LakeError(
                f"{model} holds rows made of {upstream}, but that table is missing: restore it. Or remove {table.uri}, "
                "if the source is to be loaded again from the start"
            )


def describe(changes: Changes, shape: Sequence[RawColumn], keys: Sequence[str]) -> dict[str, Any]:
    """Return the SQL of the columns and the facts about the events in plain dicts, for a macro.

    Args:
        changes: What was found about the events.
        shape: The contract's columns.
        keys: Columns that name a row.

    Returns:
        `keys` and `columns` (all but the keys) are dicts of `name` (quoted), `type` and `value`: SQL over `__key`,
        which `key_texts` gives, and `__row`, which `row_texts` gives. A column that some events lack also has
        `source_name`, `backfill` (a name for the latest document of the row that holds the column) and
        `backfilled_value` (the column's value in that document).
    """
    kinds = {column.name: column.dtype for column in shape} | dict.fromkeys(changes.added, "VARCHAR")
    names = [name for name in kinds if name not in keys]
    columns: list[dict[str, Any]] = []
    for at, name in enumerate(names, 1):
        column = {"name": quote_name(name), "type": kinds[name], "value": row.typed(f"__row[{at}]", kinds[name])}
        if name in changes.unavailable:
            column |= {"source_name": name, "backfill": f"__backfill_{at}"}
            column["backfilled_value"] = row.typed(f"{row.texts([name], f'__backfill_{at}')}[1]", kinds[name])
        columns.append(column)
    facts = ("new", "every", "late_until", "truncated", "has_key_changes")
    return {
        **{name: getattr(changes, name) for name in facts},
        "stored": None,
        "key_texts": row.texts(keys, "key"),
        "row_texts": row.texts(names, "__after"),
        "keys": [
            {"name": quote_name(name), "type": kinds[name], "value": row.typed(f"__key[{at}]", kinds[name])}
            for at, name in enumerate(keys, 1)
        ],
        "columns": columns,
    }


def unread(contract_name: str, keys: Sequence[str], upstream: str) -> dict[str, Any]:
    """Describe events that cannot be read, as in unit tests: anything may be in them. Replaces `read_changes` there."""
    shape = _columns(contract_name, keys)
    everything = frozenset(column.name for column in shape if column.name not in keys)
    return describe(Changes(upstream, upstream, unavailable=everything), shape, keys)


def _columns(contract_name: str, keys: Sequence[str]) -> Sequence[RawColumn]:
    shape = raw_shape(contract(contract_name)).columns
    names = {column.name for column in shape}
    if missing := [key for key in keys if key not in names]:
        raise LakeError(f"keys {', '.join(missing)} are not columns of {contract_name}")
    if taken := sorted(name for name in names if name.lower() in OWN_COLUMNS or name.startswith(OWN_PREFIX)):
        raise LakeError(
            f"{contract_name} has columns whose names state and history use themselves: {', '.join(taken)}. Give them "
            "other names in the contract and at the source (a view, or the publication's table)"
        )
    return shape
