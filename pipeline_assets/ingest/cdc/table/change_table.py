"""Bronze change tables: events into `bronze.<source>__<table>`, misfits into its dead letters, one commit for a batch.

An event fits if its key and its row after the change cast to the contract, column by column (`row`). Where events come
from, and which position a batch ends at, is the caller's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import Model, RawColumn, raw_shape
from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.table import row
from pipeline_assets.ingest.cdc.table.dead_letters import DeadLetters
from pipeline_assets.ingest.conform import casts
from pipeline_assets.ingest.conform.names import Keys
from pipeline_assets.lake import DataFile, Lake, Table, query_schema
from pipeline_assets.lake.dead_letters import COLUMNS as DEAD_LETTER_COLUMNS
from pipeline_assets.lake.dead_letters import dead_letter_table, record
from pipeline_assets.sql import quote_name, quote_text

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
"""First word of the batch ids of snapshots. One speaks of every row: it makes the dead letters of earlier ones void."""

UNROUTED = "unrouted"
"""Records of no declared table are dead letters of `<source>__unrouted`."""

_SHOWN_CHARACTERS = 100  # of a value, in a reason
# An update of the key is a delete and an insert at one place. The delete alone would take the row away for as long as
# the insert waits. Not the other way round: a row whose old key does not fit is not in the table, and the update may be
# what mends it.
_KEEP_KEY_CHANGES_WHOLE = """
    UPDATE cdc_validated SET _reason = 'the other half of this key change does not fit: ' || other._reason
    FROM cdc_validated AS other
    WHERE cdc_validated.op = 'd' AND cdc_validated._reason IS NULL AND other.op = 'c' AND other._reason IS NOT NULL
        AND other.commit_lsn = cdc_validated.commit_lsn AND other.lsn = cdc_validated.lsn
        AND other.tx_seq = cdc_validated.tx_seq + 1"""
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
        source_table: As the source names it: `public.customers`.
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
        """The keys, with the contract's columns: by them a source's columns get the contract's names."""
        return Keys.of(self.keys, self.model.to_schema().columns)

    def bronze(self, lake: Lake) -> Table:
        """The bronze table."""
        return Table(lake, f"bronze.{self.name}")


@dataclass
class Counts:
    """Counts of a batch: events in = rows + dead letters."""

    events_in: int = 0
    rows: int = 0
    dead_letters: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Sums up."""
        return Counts(self.events_in + other.events_in, self.rows + other.rows, self.dead_letters + other.dead_letters)


def create(con: duckdb.DuckDBPyConnection, bronze: Table) -> Table:
    """Creates a change table unless it is there."""
    bronze.create(
        query_schema(con, "SELECT " + ", ".join(f"NULL::{c.dtype} AS {quote_name(c.name)}" for c in COLUMNS)),
        partition_by=["_partition_date"],
        date_column="_partition_date",
        description="Changes as the source committed them, in Debezium's shape.",
    )
    return bronze


@dataclass
class Staging:
    """One batch on its way into one change table: written in chunks, committed once.

    Attributes:
        con: A connection of the lake; the staging has temporary tables in it until it is committed or discarded.
        lake: The lake.
        table: The declared table, or None for records that belong to no declared table of `source`.
        source: Name of the source.
        batch_id: Deterministic name of the batch.
        extracted_at: When it was read.
    """

    con: duckdb.DuckDBPyConnection
    lake: Lake
    table: ChangeTable | None
    source: str
    batch_id: str
    extracted_at: datetime
    counts: Counts = field(default_factory=Counts)
    files: list[DataFile] = field(default_factory=list)
    _lsns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dead_letters = DeadLetters(self.con)

    @property
    def name(self) -> str:
        """`<source>__<table>`."""
        return self.table.name if self.table else f"{self.source}__{UNROUTED}"

    @property
    def bronze(self) -> Table:
        """The table that the batch goes to; of unrouted records only its dead letters exist."""
        return Table(self.lake, f"bronze.{self.name}")

    def add(self, events: Sequence[ChangeEvent]) -> None:
        """Takes a chunk of events, with both halves of a key change: rows into new files, misfits to the dead letters.

        What is in one chunk, is for `chunks` to say.
        """
        if not events:
            return
        if self.table is None:
            reason = "table: {} is not declared by the source; list it under tables, or leave it out at the source"
            self._add_dead_letters(
                [Reject(reason.format(e.table), envelope(e), e.origin, e.place, e.table) for e in events],
                [e.ts_us for e in events],
            )
            self.counts.events_in += len(events)
            return
        incoming = _arrow(events)
        self.con.register("cdc_incoming", incoming)
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE cdc_validated AS {validate_sql(self.table, 'cdc_incoming')}")
        self.con.unregister("cdc_incoming")
        self.con.execute(_KEEP_KEY_CHANGES_WHOLE)
        create(self.con, self.bronze)
        columns = _select([column.name for column in COLUMNS], self.batch_id, self.extracted_at)
        select = f"SELECT {columns} FROM cdc_validated WHERE _reason IS NULL"
        written = self.bronze.write(self.con, select, partition_by=["_partition_date"])
        self.files += written
        rows = sum(file.rows for file in written)
        self.counts += Counts(len(events), rows, 0)
        if rows < len(events):
            misfits = self.con.execute("SELECT rowid, _reason FROM cdc_validated WHERE _reason IS NOT NULL").fetchall()
            bad = [(events[at], reason) for at, reason in misfits]
            self._add_dead_letters(
                [Reject(reason, envelope(e), e.origin, e.place, e.table) for e, reason in bad],
                [e.ts_us for e, _ in bad],
            )
        self._lsns += [min(e.commit_lsn for e in events), max(e.commit_lsn for e in events)]

    def reject(self, rejects: Sequence[Reject]) -> None:
        """Takes records that are no events."""
        now = int(self.extracted_at.timestamp() * 1_000_000)
        self._add_dead_letters(rejects, [now] * len(rejects))
        self.counts.events_in += sum(reject.records for reject in rejects)

    def commit(
        self,
        *,
        expect: Mapping[str, int | None],
        positions: Mapping[str, int],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commits the batch: first its dead letters, then its rows with the positions.

        A kill in between leaves dead letters that the same batch, read again, replaces.

        Args:
            expect: Positions as they were when the batch was read.
            positions: Positions to set.
            metadata: Further facts, kept in the commit.

        Returns:
            The bronze table's version.

        Raises:
            PositionMovedError: Another run was faster; no row was committed.
        """
        facts = {**(metadata or {}), "batch_id": self.batch_id}
        dead_letters = self._commit_dead_letters(expect, facts)
        return dead_letters if self.table is None else self._commit_rows(expect, positions, facts)

    def _commit_dead_letters(self, expect: Mapping[str, int | None], facts: Mapping[str, str]) -> int:
        """Replaces the dead letters of the batch; returns the version of their table, 0 if there is none."""
        dead_letters = dead_letter_table(self.lake, self.bronze.name)
        if self._dead_letters.tables or dead_letters.exists():
            if expect:
                # Not only when the rows come: who was slower must not replace the dead letters of who was faster.
                create(self.con, self.bronze).commit(self.con, [], expect=expect)
            columns = _select(DEAD_LETTER_COLUMNS, self.batch_id, self.extracted_at)
            queries = [f"SELECT {columns} FROM {table}" for table in self._dead_letters.tables]
            record(self.con, dead_letters, *queries, where=self._replaced_dead_letters(), metadata=dict(facts))
            self._dead_letters.drop()
        return dead_letters.open().version() if self.table is None and dead_letters.exists() else 0

    def _commit_rows(
        self, expect: Mapping[str, int | None], positions: Mapping[str, int], facts: Mapping[str, str]
    ) -> int:
        bronze = create(self.con, self.bronze)
        counts = {name: str(value) for name, value in vars(self.counts).items()} if self.counts.events_in else {}
        bounds = {}
        if self._lsns:
            before = bronze.position(COMMIT_LSN) or 0
            positions = {**positions, COMMIT_LSN: max(before, *self._lsns)}
            bounds = {"commit_lsn_min": str(min(self._lsns)), "commit_lsn_max": str(max(self._lsns))}
        return bronze.commit(
            self.con, self.files, expect=expect, positions=positions, metadata={**facts, **counts, **bounds}
        )

    def discard(self) -> None:
        """Deletes the files of a batch that was not committed, and what the connection keeps of it."""
        self.bronze.delete_uncommitted(self.files)
        self._dead_letters.drop()

    def _replaced_dead_letters(self) -> str:
        """Dead letters of an attempt at this batch that was killed; a snapshot's batch has another name each time."""
        if self.batch_id.startswith(f"{SNAPSHOT} "):
            return f"starts_with(_batch_id, '{SNAPSHOT} ')"
        return f"_batch_id = {quote_text(self.batch_id)}"

    def _add_dead_letters(self, rejects: Sequence[Reject], ts_us: Iterable[int]) -> None:
        if rejects:
            self.counts.dead_letters += sum(reject.records for reject in rejects)
            self._dead_letters.add(rejects, ts_us)


def envelope(event: ChangeEvent) -> str:
    """Gives an event as a Debezium envelope in JSON: the raw record of a dead letter, which `debezium.parse` reads."""
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
    # The documents go in as they are: reading and writing them again could change a number's digits.
    documents = {"before": event.before, "after": event.after}
    texts = ", ".join(f'"{name}": {document or "null"}' for name, document in documents.items())
    return f'{{"key": {event.key or "null"}, "value": {{{texts}, {json.dumps(facts, ensure_ascii=False)[1:]}}}'


def _arrow(events: Sequence[ChangeEvent]) -> pa.Table:
    columns = list(zip(*events, strict=True))[1:]  # all but the table
    return pa.table([pa.array(values, kind.type) for values, kind in zip(columns, _INCOMING, strict=True)], _INCOMING)


def validate_sql(table: ChangeTable, relation: str) -> str:
    """Gives a query of a relation's events with `_reason`: null for one that fits, else what is wrong, by column.

    Args:
        table: The declared table that they are to fit.
        relation: What to read from, as it stands after FROM. It has at least `op`, `key`, `after` and `unavailable`;
            all of its columns are in the result.
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
    """Conditions under which a column does not fit, with SQL of what to say then."""
    found = []
    dtype = casts.normal(column.dtype)
    if dtype != "VARCHAR":
        condition = f"({text} IS NOT NULL AND {row.typed(text, dtype)} IS NULL)"
        shown = f"left({text}, {_SHOWN_CHARACTERS})"
        message = (
            f"{quote_text(f'cast: {column.name}: ' + chr(39))} || {shown} || {quote_text(chr(39) + f' is not {dtype}')}"
        )
        found.append((f"({applies} AND {condition})" if applies else condition, message))
    if missing:
        found.append((missing, quote_text(f"{what}: {column.name} is missing")))
    return found


def _select(columns: Iterable[str], batch_id: str, extracted_at: datetime) -> str:
    """The select list of a change table, or of its dead letters, out of the incoming columns."""
    made = {
        "ts": "make_timestamptz(ts_us)",
        "_partition_date": "CAST(make_timestamp(ts_us) AS DATE)",
        "_batch_id": quote_text(batch_id),
        "_extracted_at": f"TIMESTAMPTZ {quote_text(extracted_at.isoformat(sep=' '))}",
        "_source": "struct_pack(file := origin, line := place)",
    }
    return ", ".join(f"{made.get(name, name)} AS {name}" for name in columns)
