"""Bronze change tables: events into `bronze.<source>__<table>`, misfits into its dead letters, one commit for a batch.

An event fits if its key and its row after the change cast to the contract, column by column (`row`). The caller decides
where events come from, and which position a batch ends at.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import Model, RawColumn, raw_shape
from pipeline_assets.ingest.batch.batch import Batch, Plan
from pipeline_assets.ingest.batch.bronze_table import schema_of
from pipeline_assets.ingest.batch.counts import Counts, Reading
from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.formats.documents import UNDECLARED
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.ingest.conform import casts
from pipeline_assets.ingest.conform.names import Keys
from pipeline_assets.lake import DataFile, Lake, Table
from pipeline_assets.lake.dead_letters import COLUMNS as DEAD_LETTER_COLUMNS
from pipeline_assets.sql import quote_text

COLUMNS: tuple[RawColumn, ...] = (
    RawColumn("op", "VARCHAR", True, "r snapshot read, c insert, u update, d delete, t truncate."),
    RawColumn("key", "VARCHAR", False, "JSON object of the key columns; null for t."),
    RawColumn("before", "VARCHAR", False, "JSON object of the row before, as far as the source tells it."),
    RawColumn("after", "VARCHAR", False, "JSON object of the row after, without unavailable columns."),
    RawColumn("unavailable", "VARCHAR[]", True, "Columns that the change left as they were and the source left out."),
    RawColumn("commit_lsn", "BIGINT", True, "Position of the commit; with tx_seq it orders the source's events."),
    RawColumn("tx_seq", "BIGINT", True, "Place within the transaction."),
    RawColumn("lsn", "BIGINT", True, "Position of the change itself."),
    RawColumn("txid", "BIGINT", False, "The transaction's number at the source."),
    RawColumn("ts", "TIMESTAMP WITH TIME ZONE", True, "When it was committed."),
    RawColumn("_partition_date", "DATE", True, "UTC date of ts; the partition."),
    RawColumn("_batch_id", "VARCHAR", True, "The batch that brought the event."),
    RawColumn("_extracted_at", "TIMESTAMP WITH TIME ZONE", True, "When it was read."),
    RawColumn(
        "_source", "STRUCT(file VARCHAR, line BIGINT)", True, "Slot and LSN, file and line, or topic and offset."
    ),
)

COMMIT_LSN = "commit_lsn"
"""Position in a change table's log: the greatest commit_lsn in the table."""

SNAPSHOT = "snapshot"
"""First word of the batch ids of snapshots. A snapshot holds every row, so it makes the dead letters of earlier ones
void."""

UNROUTED = "unrouted"
"""Records that belong to no declared table are dead letters of `<source>__unrouted`."""

# An update of the key is a delete and an insert at one place. The delete alone would remove the row for as long as the
# insert waits, so the delete waits with it. An insert does not wait for its delete: a row whose old key does not fit is
# not in the table, and the update may be what mends it.
_KEEP_KEY_CHANGES_WHOLE = """
    UPDATE cdc_validated SET _reason = 'the other half of this key change does not fit: ' || other._reason
    FROM cdc_validated AS other
    WHERE cdc_validated.op = 'd' AND cdc_validated._reason IS NULL AND other.op = 'c' AND other._reason IS NOT NULL
        AND other.commit_lsn = cdc_validated.commit_lsn AND other.lsn = cdc_validated.lsn
        AND other.tx_seq = cdc_validated.tx_seq + 1"""
_EPOCH = date(1970, 1, 1)
_REJECTS = pa.schema(
    [
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("origin", pa.string()),
        ("place", pa.int64()),
        ("ts_us", pa.int64()),
        ("records", pa.int64()),
    ]
)
_INCOMING = pa.schema(
    [
        ("op", pa.string()),
        ("key", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("unavailable", pa.list_(pa.string())),
        ("commit_lsn", pa.int64()),
        ("tx_seq", pa.int64()),
        ("lsn", pa.int64()),
        ("txid", pa.int64()),
        ("ts_us", pa.int64()),
        ("origin", pa.string()),
        ("place", pa.int64()),
    ]
)


@dataclass(frozen=True)
class ChangeTable:
    """A table that is captured, as declared.

    Attributes:
        source_table: The table as the source names it: `public.customers`.
        name: `<source>__<table>`.
        model: The contract of a row.
        keys: Columns that name a row.
    """

    source_table: str
    name: str
    model: Model
    keys: tuple[str, ...]

    @property
    def row_keys(self) -> Keys:
        """The keys, with the contract's columns, which give a source's columns the contract's names."""
        return Keys.of(self.keys, self.model.to_schema().columns)

    def bronze(self, lake: Lake) -> Table:
        """Give the bronze table."""
        return Table(lake, f"bronze.{self.name}")


def create(con: duckdb.DuckDBPyConnection, bronze: Table) -> Table:
    """Create a change table unless it exists."""
    bronze.create(
        schema_of(con, COLUMNS),
        partition_by=["_partition_date"],
        date_column="_partition_date",
        description="Changes as the source committed them, in Debezium's shape.",
    )
    return bronze


@dataclass(frozen=True, kw_only=True)
class EventPlan(Plan):
    """What a batch of change events was planned on.

    Attributes:
        batch_id: Deterministic name of the batch.
        extracted_at: When it was read.
    """

    batch_id: str
    extracted_at: datetime

    @property
    def obsolete(self) -> str:
        """Predicate on the dead letters of an attempt at this batch that was killed.

        A snapshot holds every row, and its batch has another name each time: so the dead letters of all earlier
        snapshots are removed.
        """
        if self.batch_id.startswith(f"{SNAPSHOT} "):
            return f"starts_with(_batch_id, '{SNAPSHOT} ')"
        return f"_batch_id = {quote_text(self.batch_id)}"


class ChangeBatch(Batch):
    """A batch of change records: what all such batches have in common, with or without a declared table."""

    plan: EventPlan

    def __init__(
        self, lake: Lake, con: duckdb.DuckDBPyConnection, name: str, plan: EventPlan, *, run_id: str = ""
    ) -> None:
        """Begin a batch; nothing is written yet. The arguments are those of `Batch`."""
        super().__init__(lake, con, name, plan, run_id=run_id)
        self.facts["batch_id"] = plan.batch_id
        self._counts = Counts()
        self._days: set[date] = set()

    @property
    def counts(self) -> Counts:
        """Counts of the records so far."""
        return self._counts

    @property
    def counts_by_day(self) -> Mapping[date, Counts]:
        """Rows by the date of their commit at the source."""
        found: dict[date, Counts] = defaultdict(Counts)
        for file in self.files:
            found[_day_of(file)] += Counts(rows=file.rows)
        return found

    def add(self, events: Sequence[ChangeEvent]) -> None:
        """Add a chunk of events."""
        raise NotImplementedError

    def reject(self, rejects: Sequence[Reject]) -> None:
        """Add records that are not events."""
        now = int(self.plan.extracted_at.timestamp() * 1_000_000)
        self._counts += Counts(sum(reject.records for reject in rejects))
        self._add_dead_letters(rejects, [now] * len(rejects))

    def finish(self) -> None:
        """Complete what the commit says about the batch."""
        if self._counts.records_in:
            days = frozenset(self._days | {_day_of(file) for file in self.files})
            self.readings = [Reading(self.plan.batch_id, self._counts, days)]

    def dead_letter_queries(self) -> list[str]:
        """Give queries of the dead letters, with the columns of `lake.dead_letters.COLUMNS`."""
        columns = self._select(DEAD_LETTER_COLUMNS)
        return [f"SELECT {columns} FROM {table}" for table in self.buffer.tables]

    def _refuse(self, bad: Sequence[tuple[ChangeEvent, str]]) -> None:
        """Make dead letters of events, with the reason of each; the raw record is the event's envelope."""
        rejects = [Reject(reason, envelope(e), e.origin, e.place, e.table) for e, reason in bad]
        self._add_dead_letters(rejects, [e.ts_us for e, _ in bad])

    def _add_dead_letters(self, rejects: Sequence[Reject], ts_us: Sequence[int]) -> None:
        if not rejects:
            return
        self._counts += Counts(dead_letters=sum(reject.records for reject in rejects))
        self._days |= {_EPOCH + timedelta(microseconds=time) for time in set(ts_us)}
        columns = {
            "reason": [reject.reason for reject in rejects],
            "raw": [reject.raw for reject in rejects],
            "origin": [reject.origin for reject in rejects],
            "place": [reject.place for reject in rejects],
            "ts_us": list(ts_us),
            "records": [reject.records for reject in rejects],
        }
        self.buffer.add(pa.table(columns, schema=_REJECTS), sum(len(reject.raw) for reject in rejects))

    def _select(self, columns: Iterable[str]) -> str:
        """Give the select list of a change table, or of its dead letters, from the incoming columns."""
        at = self.plan.extracted_at.isoformat(sep=" ")
        made = {
            "ts": "make_timestamptz(ts_us)",
            "_partition_date": "CAST(make_timestamp(ts_us) AS DATE)",
            "_batch_id": quote_text(self.plan.batch_id),
            "_extracted_at": f"TIMESTAMPTZ {quote_text(at)}",
            "_source": "struct_pack(file := origin, line := place)",
        }
        return ", ".join(f"{made.get(name, name)} AS {name}" for name in columns)


class EventBatch(ChangeBatch):
    """A batch of change events for one change table: written in chunks, committed once."""

    def __init__(
        self, lake: Lake, con: duckdb.DuckDBPyConnection, table: ChangeTable, plan: EventPlan, *, run_id: str = ""
    ) -> None:
        """Begin a batch for a declared table. The other arguments are those of `Batch`."""
        super().__init__(lake, con, table.name, plan, run_id=run_id)
        self.table = table
        self._lsns: list[int] = []

    def add(self, events: Sequence[ChangeEvent]) -> None:
        """Add a chunk of events, with both halves of a key change: rows into new files, misfits to the dead letters.

        `chunks` decides what is in one chunk.
        """
        if not events:
            return
        self.con.register("cdc_incoming", _arrow(events))
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE cdc_validated AS {validate_sql(self.table, 'cdc_incoming')}")
        self.con.unregister("cdc_incoming")
        self.con.execute(_KEEP_KEY_CHANGES_WHOLE)
        self.prepare_table()
        columns = self._select([column.name for column in COLUMNS])
        select = f"SELECT {columns} FROM cdc_validated WHERE _reason IS NULL"
        written = self.bronze.write(self.con, select, partition_by=["_partition_date"])
        self.files += written
        rows = sum(file.rows for file in written)
        self._counts += Counts(len(events), rows)
        if rows < len(events):
            misfits = self.con.execute("SELECT rowid, _reason FROM cdc_validated WHERE _reason IS NOT NULL").fetchall()
            self._refuse([(events[at], reason) for at, reason in misfits])
        self._lsns += [min(e.commit_lsn for e in events), max(e.commit_lsn for e in events)]

    def prepare_table(self) -> None:
        """Create the change table unless it exists."""
        create(self.con, self.bronze)

    def finish(self) -> None:
        """Complete what the commit says about the batch, and about the position that the table reaches with it."""
        super().finish()
        if self._lsns:
            before = self.bronze.position(COMMIT_LSN) or 0
            self.positions[COMMIT_LSN] = max(before, *self._lsns)
            self.rows_facts |= {"commit_lsn_min": str(min(self._lsns)), "commit_lsn_max": str(max(self._lsns))}


class UnroutedBatch(ChangeBatch):
    """Records of a source that belong to none of its declared tables: dead letters of `<source>__unrouted`."""

    has_rows = False

    def __init__(
        self, lake: Lake, con: duckdb.DuckDBPyConnection, source: str, plan: EventPlan, *, run_id: str = ""
    ) -> None:
        """Begin a batch for the remaining records of a source. The other arguments are those of `Batch`."""
        super().__init__(lake, con, f"{source}__{UNROUTED}", plan, run_id=run_id)

    def add(self, events: Sequence[ChangeEvent]) -> None:
        """Add events, all of which become dead letters."""
        self._counts += Counts(len(events))
        self._refuse([(event, UNDECLARED.format(event.table)) for event in events])


def _day_of(file: DataFile) -> date:
    return date.fromisoformat(str(file.partition_values["_partition_date"]))


def envelope(event: ChangeEvent) -> str:
    """Give an event as a Debezium envelope in JSON: the raw record of a dead letter, which `debezium.parse` reads."""
    schema, _, table = event.table.rpartition(".")
    facts = {
        "op": event.op,
        "source": {
            "connector": "postgresql",
            "schema": schema,
            "table": table,
            "txId": event.txid,
            "lsn": event.lsn,
            "sequence": json.dumps([str(event.commit_lsn), str(event.lsn)]),
            "ts_us": event.ts_us,
        },
        "transaction": {"id": None if event.txid is None else str(event.txid), "total_order": event.tx_seq},
        "unavailable": list(event.unavailable),
    }
    # The documents are inserted as they are: parsing and writing them again could change a number's digits.
    documents = {"before": event.before, "after": event.after}
    texts = ", ".join(f'"{name}": {document or "null"}' for name, document in documents.items())
    return f'{{"key": {event.key or "null"}, "value": {{{texts}, {json.dumps(facts, ensure_ascii=False)[1:]}}}'


def _arrow(events: Sequence[ChangeEvent]) -> pa.Table:
    columns = list(zip(*events, strict=True))[1:]  # all except the table
    return pa.table([pa.array(values, kind.type) for values, kind in zip(columns, _INCOMING, strict=True)], _INCOMING)


def validate_sql(table: ChangeTable, relation: str) -> str:
    """Give a query of a relation's events with `_reason`: null for an event that fits, else what is wrong, by column.

    Args:
        table: The declared table that the events should fit.
        relation: What to read from, as SQL after FROM. It has at least `op`, `key`, `after` and `unavailable`; all of
            its columns are in the result.
    """
    columns = {column.name: column for column in raw_shape(table.model).columns}
    keys = [columns[name] for name in table.keys]
    bad: list[tuple[str, str]] = []
    for at, column in enumerate(keys, 1):
        bad += _misfits(column, f"_key[{at}]", "op <> 't'", f"(op <> 't' AND _key[{at}] IS NULL)", what="key")
    for at, column in enumerate(columns.values(), 1):
        unknown = f"list_contains(unavailable, {quote_text(column.name)})"
        missing = f"(after IS NOT NULL AND _after[{at}] IS NULL AND NOT {unknown})"
        bad += _misfits(column, f"_after[{at}]", "", missing if column.required else "", what="required")
    needs_row = "(op IN ('r', 'c', 'u') AND after IS NULL)"
    bad.append((needs_row, "'after: ' || op || ' without the row after'"))
    messages = ", ".join(f"CASE WHEN {condition} THEN {message} END" for condition, message in bad)
    wrong = " OR ".join(condition for condition, _ in bad)
    texts = f"{row.texts(table.keys, 'key')} AS _key, {row.texts(list(columns), 'after')} AS _after"
    return (
        f"SELECT * EXCLUDE (_key, _after), CASE WHEN {wrong} THEN concat_ws('; ', {messages}) END AS _reason "
        f"FROM (SELECT *, {texts} FROM {relation})"
    )


def _misfits(column: RawColumn, text: str, applies: str, missing: str, *, what: str) -> list[tuple[str, str]]:
    """Give the conditions under which a column does not fit, each with the SQL of its reason."""
    found = []
    dtype = casts.normal(column.dtype)
    if dtype != "VARCHAR":
        condition = f"({text} IS NOT NULL AND {row.typed(text, dtype)} IS NULL)"
        message = casts.misfit_reason(column.name, text, dtype)
        found.append((f"({applies} AND {condition})" if applies else condition, message))
    if missing:
        found.append((missing, quote_text(f"{what}: {column.name} is missing")))
    return found
