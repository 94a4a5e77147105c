"""Debezium's records as change events: envelopes and flattened records of its PostgreSQL, MySQL and MariaDB connectors.

A record is parsed wherever it comes from: a line of a file, a Kafka record, the embedded engine, a dead letter. The
required settings of a connector, and the reasons, are in `ingest/cdc/connectors/README.md`.

What orders the events of a source (`commit_lsn`, `tx_seq`), and why it does:

PostgreSQL: `source.sequence` is [end of the last commit before this transaction's, LSN of the change]. Transactions
come in the order of their commits. So all changes of one lie before the end of its commit, and that is at or before the
first number of the next. Hence max(both) grows from transaction to transaction, and within a transaction with the LSN;
where it stays the same, `transaction.total_order` decides, or the LSN. The first number alone is null in the first
transaction after a snapshot, whose rows carry the snapshot's LSN. The LSN alone is not in the order of commits. Rows of
an incremental snapshot have no LSN: their sequence holds that of the mark which closed their chunk, and rows that
changed between its two marks are not among them.

MySQL: file and position of the row event, then the row's number in it. All events of a compressed transaction
(binlog_transaction_compression) have one position: only `transaction.total_order` orders them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pipeline_assets.ingest.cdc.events import OPS, ChangeEvent, Reject
from pipeline_assets.ingest.cdc.formats import binlog, logical_types
from pipeline_assets.ingest.cdc.formats.documents import (
    LAST_SECOND,
    UNDECLARED,
    Document,
    Raw,
    RefusedError,
    decode,
    document,
    encode,
    integer,
    key_of,
    named,
    raw_text,
    shown,
    with_names,
)

CONNECTORS = {"postgresql": "schema", "mysql": "db", "mariadb": "db"}
"""Connectors whose records are read, with the field of `source` that precedes the table's name."""

PLACEHOLDER = "__debezium_unavailable_value"
_META = "__"  # prefix that ExtractNewRecordState gives to the fields that it adds

# For an array or a map, the placeholder has the column's type (UnchangedToastedPlaceholder.java).
_PLACEHOLDER_TEXTS = (
    PLACEHOLDER,
    "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",  # bytea: base64
    '{"__debezium_unavailable_value":"__debezium_unavailable_value"}',  # hstore as JSON text
)
_PLACEHOLDER_LISTS = (
    [PLACEHOLDER],
    list(PLACEHOLDER.encode()),  # integer[], bigint[], date[]
    [str(UUID("b68a35a7-17ad-35b3-af2a-ae46edb4545a"))],  # uuid[]: its name-based UUID
)
_PLACEHOLDER_MAP = {PLACEHOLDER: PLACEHOLDER}  # hstore


class _Record(NamedTuple):
    """A record of either shape, before it is interpreted.

    Attributes:
        op: Operation of the envelope.
        source: The envelope's `source`, or the parts of it that a flattened record has.
        before: The row before.
        after: The row after.
        columns: Columns of the row to their Connect schema; empty without schemas.
        total_order: Place in the transaction, if transaction metadata is on.
        stamped: Holds the time if `source` has none.
        unavailable: Columns that one of our dead letters names as unavailable.
        key: The record's key, its columns as text.
    """

    op: object
    source: Mapping[str, Any]
    before: Document | None
    after: Document | None
    columns: Mapping[str, Mapping[str, Any]]
    total_order: int | None
    stamped: Mapping[str, Any]
    unavailable: Sequence[str]
    key: Document | None


def parse(
    value: Raw, key: Raw = None, *, origin: str, place: int, keys: Mapping[str, Sequence[str]]
) -> ChangeEvent | Reject | None:
    """Parse a record into its event.

    Args:
        value: An envelope or a flattened record, with or without `{"schema": .., "payload": ..}`; or a pair `{"key":
            .., "value": ..}` of them.
        key: The record's key, if it came separately.
        origin: Where the record was: file, topic-partition.
        place: Place in the origin: line, offset.
        keys: Source table to the columns that name a row.

    Returns:
        The event; a reject; or None for a record without data of a row: tombstones, heartbeats, transaction boundaries,
        schema changes, logical decoding messages.
    """
    table = None
    try:
        record = _record(value, key)
        if record is None or record.op == "m":
            return None
        table = _table(record.source, keys)
        return _event(record, table, origin, place, keys)
    except RefusedError as refused:
        return Reject(refused.reason, raw_text(value, key), origin, place, refused.table or table)


def _event(record: _Record, table: str, origin: str, place: int, keys: Mapping[str, Sequence[str]]) -> ChangeEvent:
    if record.op not in OPS:
        raise RefusedError(f"op: {shown(record.op)} is unknown, known are {', '.join(OPS)}")
    if table not in keys:
        raise RefusedError(UNDECLARED.format(table[:100]))
    op, names = str(record.op), keys[table]
    if naming := named(names, record.after, record.before, record.key):
        record = record._replace(
            before=with_names(record.before, naming),
            after=with_names(record.after, naming),
            key=with_names(record.key, naming),
            columns={naming.get(name, name): schema for name, schema in record.columns.items()},
        )
    if op in ("r", "c", "u") and record.after is None:
        raise RefusedError(f"after: {op} without the row after")
    unavailable = (*record.unavailable, *(name for name, value in (record.after or {}).items() if _is_unknown(value)))
    after = _row(record.after, record.columns) if op in ("r", "c", "u") else None
    before = _row(record.before, record.columns)
    found_key = key_of(names, record.key, after, before) if op != "t" else None
    commit_lsn, tx_seq, lsn = _position(op, record)
    return ChangeEvent(
        table=table,
        op=op,
        key=None if found_key is None else encode(found_key),
        before=None if before is None else encode(before),
        after=None if after is None else encode(after),
        unavailable=unavailable,
        commit_lsn=commit_lsn,
        tx_seq=tx_seq,
        lsn=lsn,
        txid=integer(record.source.get("txId")),
        ts_us=_committed_at(record),
        origin=origin,
        place=place,
    )


def _record(value: Raw, key: Raw) -> _Record | None:
    """Unwrap a record and find its shape; None for a record without data."""
    found = document(value)
    if isinstance(found, dict) and "key" in found and "value" in found and not found.keys() & {"op", "__op"}:
        key, found = found["key"], document(found["value"])
    payload, schema = _unwrapped(found)
    if payload is None:
        return None
    if not isinstance(payload, dict):
        raise RefusedError(f"json: the record is not an object but {shown(payload)}")
    if _META + "op" in payload:  # first, because the row may have columns called op and source
        return _flattened(payload, schema, key)
    if "op" in payload and "source" in payload:
        return _envelope(payload, schema, key)
    if _carries_no_data(payload):
        return None
    raise RefusedError(_unknown_shape(payload))


def _envelope(payload: Document, schema: object, key: Raw) -> _Record:
    for name in ("source", "before", "after", "transaction"):
        if not isinstance(payload.get(name), dict | None):
            raise RefusedError(f"envelope: {name} is not an object but {shown(payload[name])}")
    columns = {**_columns(schema, "before"), **_columns(schema, "after")}
    unavailable = payload.get("unavailable") or []
    return _Record(
        op=payload["op"],
        source=payload["source"] or {},
        before=payload.get("before"),
        after=payload.get("after"),
        columns=columns,
        total_order=integer((payload.get("transaction") or {}).get("total_order")),
        stamped=payload,
        unavailable=[str(name) for name in unavailable] if isinstance(unavailable, list) else [],
        key=_key(key, columns),
    )


def _flattened(payload: Document, schema: object, key: Raw) -> _Record:
    """Take a record of the transform ExtractNewRecordState, whose added fields hold what the envelope held."""
    added = {name.removeprefix(_META): value for name, value in payload.items() if name.startswith(_META)}
    row = {name: value for name, value in payload.items() if not name.startswith(_META)}
    source = {name: value for name, value in added.items() if not name.startswith("source_")}
    source |= {name.removeprefix("source_"): value for name, value in added.items() if name.startswith("source_")}
    if source.get("connector") is None:
        source["connector"] = "postgresql" if "lsn" in source else "mysql" if "file" in source else None
    columns = _columns(schema, None)
    deleted = added["op"] == "d"
    return _Record(
        op=added["op"],
        source=source,
        before=row if deleted else None,
        after=None if deleted else row,
        columns=columns,
        total_order=integer(added.get("transaction_total_order")),
        stamped=added,
        unavailable=(),
        key=_key(key, columns),
    )


def _unwrapped(found: Any) -> tuple[Any, object]:  # noqa: ANN401 - any JSON value
    """Unwrap a document from `{"schema": .., "payload": ..}`, if it is wrapped."""
    if isinstance(found, dict) and "payload" in found and found.keys() <= {"schema", "payload"}:
        return found["payload"], found.get("schema")
    return found, None


def _key(key: Raw, columns: Mapping[str, Mapping[str, Any]]) -> Document | None:
    """Return the record's key with readable columns; None if it is not an object of columns."""
    try:
        payload, schema = _unwrapped(document(key))
    except RefusedError:  # Struct{id=1} of a StringConverter: the row has the columns too
        return None
    return _row(payload, {**columns, **_columns(schema, None)}) if isinstance(payload, dict) else None


def _carries_no_data(payload: Document) -> bool:
    """Tell whether a record is a heartbeat, the begin or end of a transaction, or a schema change."""
    is_heartbeat = bool(payload) and payload.keys() <= {"ts_ms", "ts_us", "ts_ns"}
    is_boundary = payload.get("status") in ("BEGIN", "END") and "id" in payload
    is_schema_change = "ddl" in payload and bool(payload.keys() & {"databaseName", "tableChanges"})
    return is_heartbeat or is_boundary or is_schema_change


def _unknown_shape(payload: Document) -> str:
    if "specversion" in payload:
        return "envelope: CloudEvents are not read; let the connector write plain JSON (JsonConverter)"
    if payload.keys() & {"before", "after", "source"}:
        lacking = [name for name in ("op", "source") if name not in payload]
        return f"envelope: {' and '.join(lacking)} missing"
    fields = ", ".join(map(str, list(payload)[:8])) or "none"
    return (
        f"envelope: a record with the fields {shown(fields)} is unknown; a flattened record needs "
        "add.fields=op,table,schema,lsn,source.ts_ms"
    )


def _columns(schema: object, field: str | None) -> dict[str, Mapping[str, Any]]:
    """Return each column's Connect schema, from a field of an envelope's schema or from the record's schema itself."""
    try:
        if isinstance(schema, dict) and field is not None:
            schema = next((found for found in schema["fields"] if found["field"] == field), None)
        return {found["field"]: found for found in schema["fields"]} if isinstance(schema, dict) else {}
    except (KeyError, TypeError):
        raise RefusedError("schema: it is not a Connect schema of a record with fields") from None


def _row(row: Document | None, columns: Mapping[str, Mapping[str, Any]]) -> Document | None:
    """Return a row without placeholders, its logical types as text."""
    if row is None:
        return None
    known = {name: value for name, value in row.items() if not _is_unknown(value)}
    if not columns:
        return known
    try:
        return {
            name: logical_types.plain(value, columns[name]) if name in columns else value
            for name, value in known.items()
        }
    except ValueError as error:
        raise RefusedError(f"schema: {error}") from None


def _is_unknown(value: object) -> bool:
    """Tell whether a value is the placeholder for one that the change did not touch."""
    if isinstance(value, str):
        return value in _PLACEHOLDER_TEXTS
    if isinstance(value, list):
        return value in _PLACEHOLDER_LISTS
    return isinstance(value, dict) and value == _PLACEHOLDER_MAP


def _table(source: Mapping[str, Any], keys: Mapping[str, Sequence[str]]) -> str:
    connector = source.get("connector")
    if not isinstance(connector, str) or connector not in CONNECTORS:
        raise RefusedError(f"connector: {shown(connector)} is unknown, known are {', '.join(sorted(CONNECTORS))}")
    table, qualifier = source.get("table"), source.get(CONNECTORS[connector])
    if not isinstance(table, str) or not table:
        raise RefusedError("table: the record names none")
    if isinstance(qualifier, str) and qualifier:
        return f"{qualifier}.{table}"
    candidates = [name for name in keys if name.rpartition(".")[2] == table]
    if len(candidates) != 1:
        field = CONNECTORS[connector]
        raise RefusedError(f"table: which {table} is not clear; add {field} to the transform's add.fields")
    return candidates[0]


def _position(op: str, record: _Record) -> tuple[int, int, int]:
    """Return commit_lsn, tx_seq and lsn; see the head of this module.

    A change of a key is a delete and an insert at one place. If both had the same declared key, the insert must win.
    """
    source, insert = record.source, int(op == "c")
    if source["connector"] == "postgresql":
        last_commit, read_at = _sequence(source.get("sequence"))
        lsn = integer(source.get("lsn"))
        if lsn is None and op == "r":
            lsn = read_at
        if lsn is None:
            raise RefusedError("position: the record has no source.lsn; of a flattened one, set add.fields=lsn,..")
        commit_lsn, in_commit = max(last_commit, lsn), lsn + insert
    else:
        lsn = commit_lsn = binlog.position(source.get("file"), source.get("pos"))
        row = integer(source.get("row"))
        if row is None and record.total_order is None:
            raise RefusedError(
                "position: the record has no source.row; set add.fields=source.row,.. of a flattened one"
            )
        in_commit = 2 * (row or 0) + insert
    if record.total_order is not None:
        return commit_lsn, record.total_order, lsn
    return commit_lsn, 0 if op == "r" else in_commit, lsn


def _sequence(sequence: object) -> tuple[int, int | None]:
    """Return the end of the last commit before the record's transaction (0 before the first), and the LSN beside it."""
    if sequence is None:
        return 0, None
    try:
        pair = decode(sequence) if isinstance(sequence, str) else sequence
    except RefusedError:
        pair = None
    last, *rest = pair if isinstance(pair, list) and pair else [sequence]
    found = 0 if last is None else integer(last)
    if found is None:
        raise RefusedError(f"position: source.sequence is {shown(sequence)}, not a pair of LSNs")
    return found, integer(rest[0]) if rest else None


def _committed_at(record: _Record) -> int:
    """Return the commit time in microseconds since 1970.

    A snapshot of an old MySQL connector has 0 in `source`, and the time in the envelope.
    """
    for stamped in (record.source, record.stamped):
        for name, per_us, us_per in (("ts_us", 1, 1), ("ts_ns", 1_000, 1), ("ts_ms", 1, 1_000)):
            found = integer(stamped.get(name))
            if found and found * us_per // per_us <= LAST_SECOND * 1_000_000:
                return found * us_per // per_us
    raise RefusedError("time: the record has no source.ts_ms between 1970 and 9999")
