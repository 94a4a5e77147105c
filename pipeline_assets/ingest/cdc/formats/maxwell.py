"""Maxwell's records as change events: the JSON that Maxwell's daemon makes of MySQL's binary log.

The required settings of Maxwell, and the reasons, are in `ingest/cdc/connectors/README.md`.

What orders the events: the row event's place in the log (`position`), then `xoffset`, the row's number in the
transaction. Both have to be switched on. The last row of a transaction has no `xoffset` but `commit: true`. Rows of a
bootstrap are read after the place where it was requested. Old versions of Maxwell give that place; newer ones do not,
so the order between a bootstrap and the changes around it is unknown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.formats import binlog
from pipeline_assets.ingest.cdc.formats.documents import (
    LAST_SECOND,
    UNDECLARED,
    Document,
    Raw,
    RefusedError,
    document,
    encode,
    integer,
    key_of,
    named,
    raw_text,
    shown,
    with_names,
)

OPERATIONS = {"insert": "c", "update": "u", "delete": "d", "bootstrap-insert": "r"}
"""Maxwell's `type` to the operation."""

_NO_DATA = {
    "bootstrap-start",
    "bootstrap-complete",
    "table-create",
    "table-alter",
    "table-drop",
    "database-create",
    "database-alter",
    "database-drop",
}
_LAST_IN_TRANSACTION = 2**61


def parse(
    value: Raw, key: Raw = None, *, origin: str, place: int, keys: Mapping[str, Sequence[str]]
) -> list[ChangeEvent] | Reject | None:
    """Parse a record into its events: two, a delete and an insert, for an update that changes the key.

    Args:
        value: A record.
        key: The Kafka record's key. It adds nothing to the record.
        origin: Where the record was: file, topic-partition.
        place: Place in the origin: line, offset.
        keys: Source table (`database.table`) to the columns that name a row.

    Returns:
        The events; a reject; or None for a record without data of a row: bootstrap marks, schema changes.
    """
    table = None
    try:
        record = document(value)
        if record is None:
            return None
        if not isinstance(record, dict) or not isinstance(record.get("type"), str):
            raise RefusedError("envelope: the record is not an object with type, database and table")
        if record["type"] in _NO_DATA:
            return None
        table = _table(record)
        return _events(record, table, origin, place, keys)
    except RefusedError as refused:
        return Reject(refused.reason, raw_text(value, key), origin, place, table)


def _events(
    record: Document, table: str, origin: str, place: int, keys: Mapping[str, Sequence[str]]
) -> list[ChangeEvent]:
    if record["type"] not in OPERATIONS:
        known = ", ".join(OPERATIONS)
        raise RefusedError(f"op: type {shown(record['type'])} is unknown, known are {known}")
    if table not in keys:
        raise RefusedError(UNDECLARED.format(table[:100]))
    op = OPERATIONS[record["type"]]
    row, old = _rows(record)
    primary_key = _primary_key(record)
    naming = named(keys[table], row, old, primary_key)
    row, old = with_names(row, naming) or {}, with_names(old, naming) or {}
    commit_lsn, tx_seq = _position(op, record)
    names, primary_key = keys[table], with_names(primary_key, naming)

    def event(op: str, key: Document, before: Document | None, after: Document | None) -> ChangeEvent:
        return ChangeEvent(
            table=table,
            op=op,
            key=encode(key),
            before=None if before is None else encode(before),
            after=None if after is None else encode(after),
            unavailable=(),
            commit_lsn=commit_lsn,
            tx_seq=tx_seq + int(op == "c"),
            lsn=commit_lsn,
            txid=integer(record.get("xid")),
            ts_us=_committed_at(record),
            origin=origin,
            place=place,
        )

    key = key_of(names, row, primary_key)
    if op == "d":
        return [event("d", key, row, None)]
    if op in ("c", "r"):
        return [event(op, key, None, row)]
    former = key_of(names, old, row, primary_key)
    if former == key:
        return [event("u", key, {**row, **old}, row)]
    return [event("d", former, {**row, **old}, None), event("c", key, None, row)]


def _table(record: Document) -> str:
    database, table = record.get("database"), record.get("table")
    if not (isinstance(database, str) and isinstance(table, str) and database and table):
        raise RefusedError("table: the record names no database and table")
    return f"{database}.{table}"


def _rows(record: Document) -> tuple[Document, Document]:
    """Return the row as it is now (deleted: as it was last), and former values of columns that an update changed."""
    row, old = record.get("data"), record.get("old")
    if not isinstance(row, dict):
        hint = "; records that Maxwell encrypted are not read" if "encrypted" in record else ""
        raise RefusedError(f"data: it is not an object but {shown(row)}{hint}")
    if not isinstance(old, dict | None):
        raise RefusedError(f"old: it is not an object but {shown(old)}")
    return row, old or {}


def _primary_key(record: Document) -> Document | None:
    """Return the key as Maxwell names it, if output_primary_keys and output_primary_key_columns are on."""
    names, values = record.get("primary_key_columns"), record.get("primary_key")
    if not (isinstance(names, list) and isinstance(values, list) and len(names) == len(values)):
        return None
    return {name: value for name, value in zip(names, values, strict=True) if isinstance(name, str)}


def _position(op: str, record: Document) -> tuple[int, int]:
    """Return commit_lsn and tx_seq; see the head of this module."""
    file, _, offset = str(record.get("position") or "").rpartition(":")
    if not file:
        if op == "r":
            raise RefusedError(
                "position: this version of Maxwell gives bootstrap rows none, so their order is unknown; load the "
                "table's first state by another way"
            )
        raise RefusedError("position: the record has none; set output_binlog_position=true in Maxwell")
    commit_lsn = binlog.position(file, offset)
    if op == "r":
        return commit_lsn, 0
    # Twice, to leave room for the insert of a changed key after its delete.
    if (number := integer(record.get("xoffset"))) is not None:
        return commit_lsn, 2 * min(number, _LAST_IN_TRANSACTION // 2 - 1)
    if record.get("commit") is True:
        return commit_lsn, _LAST_IN_TRANSACTION
    raise RefusedError(
        "position: the record has neither xoffset nor commit; set output_xoffset=true and output_commit_info=true in "
        "Maxwell"
    )


def _committed_at(record: Mapping[str, Any]) -> int:
    found = integer(record.get("ts"))
    if not found or found > LAST_SECOND:
        raise RefusedError(f"time: ts is {shown(record.get('ts'))}, not seconds since 1970")
    return found * 1_000_000
