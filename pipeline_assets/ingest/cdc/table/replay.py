"""Try dead letters of change tables again: parse their raw records, append those that fit now, then remove them.

Dead letters of any origin can be tried: of files, of Kafka, and of the reader of a slot, whose raw record is an
envelope as Debezium writes it. If the table of a dead letter has been declared since, the dead letter moves there.

The dead letters of one batch are one unit. The batch that a replay makes of them is named after them (`replay:<hash>`),
and each table's log says whether it has that batch. So the next replay mends a kill at any point: it skips tables that
have the unit, and removes the dead letters only when all tables have it. What still does not fit is a dead letter of
`replay:<hash>`, which is committed before the rows. While the unit itself waits, it stands for these dead letters too.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from pipeline_assets.ingest.batch import counts
from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.formats.parse import Format, parse
from pipeline_assets.ingest.cdc.table.change_table import (
    UNROUTED,
    ChangeTable,
    EventBatch,
    EventPlan,
    UnroutedBatch,
)
from pipeline_assets.ingest.cdc.table.chunks import in_chunks
from pipeline_assets.ingest.cdc.table.dead_letters import read
from pipeline_assets.ingest.dead_letters.select import Selection
from pipeline_assets.ingest.dead_letters.settled import REPLAYED_BATCH, REPLAYED_RECORDS
from pipeline_assets.lake import Lake, PositionMovedError, Positions, Table
from pipeline_assets.lake.dead_letters import create, dead_letter_table, waiting
from pipeline_assets.sql import quote_text

_REPLAY = "replay:"
_RECORD = "md5(concat_ws('|', _source.file, _source.line, reason, raw))"


@dataclass
class Report(counts.Report):
    """What a replay did.

    Attributes:
        dead_letters: Dead letters that were tried.
        removed: Those of them that were removed; what still does not fit is a new dead letter with today's reason.
        skipped: Dead letters that turn out to carry no data of a row.
        records: Records that the dead letters stand for.
    """

    dead_letters: int = 0
    removed: int = 0
    skipped: int = 0
    records: int = 0


def replay(
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    source: str,
    tables: Sequence[ChangeTable],
    *,
    record_format: Format = "debezium",
    selection: Selection | None = None,
    run_id: str = "",
) -> Report:
    """Try the dead letters of a source again.

    If no dead letter of a batch fits now, the batch is left as it is. Run a replay after the ingestion, not before: if
    a batch was killed before its rows were committed, the ingestion reads it again and replaces its dead letters.

    Args:
        lake: The lake.
        con: A connection of it.
        source: Name of the source.
        tables: Its declared tables.
        record_format: Format of its records; dead letters of events that were parsed before are always envelopes.
        selection: Tries only the batches that have such a dead letter, each as a whole: halves of a key change belong
            together, and the batch of a replay is named after all its dead letters. Its limit ends the list of batches.
        run_id: Of the run, for the commits' metadata.
    """
    attempt = _Attempt(lake, con, source, tables, record_format, run_id)
    for dead_letters, batch_id in attempt.units(selection or Selection()):
        attempt.unit(dead_letters, batch_id)
    return attempt.report


def finish(
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    source: str,
    tables: Sequence[ChangeTable],
    *,
    record_format: Format = "debezium",
    run_id: str = "",
) -> None:
    """Finish the replays that were killed between two of their commits. The arguments are those of `replay`.

    This comes before discarding. A unit that lacks some of its dead letters is another unit: the next replay would
    append those events again that the table has.
    """
    attempt = _Attempt(lake, con, source, tables, record_format, run_id)
    for dead_letters, batch_id in attempt.units(Selection()):
        if attempt.is_begun(dead_letters, batch_id):
            attempt.unit(dead_letters, batch_id)


def _batches(con: duckdb.DuckDBPyConnection, dead_letters: Table, selection: Selection) -> list[str]:
    """Give the batches that have such dead letters now; dead letters that a replay adds meanwhile have been tried."""
    if not dead_letters.exists():
        return []
    counts = (
        f"SELECT _batch_id, count(*) AS n FROM {waiting(dead_letters)} "
        f"WHERE _batch_id IN (SELECT _batch_id FROM {selection.relation(dead_letters)}) GROUP BY _batch_id"
    )
    before = "coalesce(sum(n) OVER (ORDER BY _batch_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)"
    limit = f" QUALIFY {before} < {selection.limit}" if selection.limit is not None else ""
    return [batch_id for batch_id, _ in con.execute(f"{counts}{limit} ORDER BY 1").fetchall()]


def _of_batch(batch_id: str) -> str:
    return f"_batch_id = {quote_text(batch_id)}"


class _Attempt:
    """One replay of a source's dead letters, unit by unit."""

    def __init__(
        self,
        lake: Lake,
        con: duckdb.DuckDBPyConnection,
        source: str,
        tables: Sequence[ChangeTable],
        record_format: Format,
        run_id: str,
    ) -> None:
        self.report = Report()
        self._lake, self._con, self._source, self._tables = lake, con, source, tables
        self._format, self._run_id = record_format, run_id
        self._keys = {table.source_table: table.row_keys for table in tables}
        bronze = {table.source_table: table.bronze(lake) for table in tables}
        self._logs = {name: Positions(table.open()) for name, table in bronze.items() if table.exists()}
        names = [*(table.name for table in tables), f"{source}__{UNROUTED}"]
        self._dead_letters = {name: dead_letter_table(lake, f"bronze.{name}") for name in names}
        self._rests = {batch_id for _, batch_id in self._batches(Selection()) if batch_id.startswith(_REPLAY)}

    def units(self, selection: Selection) -> list[tuple[Table, str]]:
        """Give the batches that have such dead letters, each with their table; in place of a rest, its waiting unit."""
        found = list(self._batches(selection))
        waiting: dict[str, tuple[str, str]] = {}
        if any(batch_id in self._rests for _, batch_id in found):
            for name, batch_id in self._batches(Selection()):
                waiting[self._name(self._dead_letters[name], _of_batch(batch_id))] = name, batch_id
        units = dict.fromkeys(waiting.get(batch_id, (name, batch_id)) for name, batch_id in found)
        return [(self._dead_letters[name], batch_id) for name, batch_id in units]

    def _batches(self, selection: Selection) -> Iterator[tuple[str, str]]:
        for name, dead_letters in self._dead_letters.items():
            for batch_id in _batches(self._con, dead_letters, selection):
                yield name, batch_id

    def is_begun(self, dead_letters: Table, batch_id: str) -> bool:
        """Tell whether a replay of one batch's dead letters has committed anything."""
        name = self._name(dead_letters, _of_batch(batch_id))
        return name in self._rests or bool(self._has_it(name))

    def unit(self, dead_letters: Table, batch_id: str) -> None:
        """Append what fits of one batch's dead letters and remove them; leave all as it is if nothing fits."""
        where, version = _of_batch(batch_id), dead_letters.open().version()
        tried_now = f"(FROM {waiting(dead_letters, version)} WHERE {where})"
        name = self._name(dead_letters, where)
        has_it = self._has_it(name)
        now = datetime.now(UTC)
        once = EventPlan(expect={name: None}, positions={name: 1}, batch_id=name, extracted_at=now)
        batches = {
            table.source_table: EventBatch(self._lake, self._con, table, once, run_id=self._run_id)
            for table in self._tables
            if table.source_table not in has_it
        }
        planned = EventPlan(batch_id=name, extracted_at=now)
        unrouted = UnroutedBatch(self._lake, self._con, self._source, planned, run_id=self._run_id)
        tried = Report()
        try:
            for chunk in in_chunks(self._records(tried_now, tried)):
                batch = unrouted if chunk.table not in self._keys else batches.get(chunk.table)
                if batch is not None:
                    batch.add(chunk.events)
                    batch.reject(chunk.rejects)
            self.report.dead_letters += tried.dead_letters
            if has_it or name in self._rests or tried.skipped or any(batch.counts.rows for batch in batches.values()):
                self._commit([batch for batch in batches.values() if batch.counts.records_in], unrouted)
                run = {"run_id": self._run_id} if self._run_id else {}
                facts = {**run, REPLAYED_BATCH: batch_id, REPLAYED_RECORDS: str(tried.records)}
                create(self._con, dead_letters)  # its columns, before a predicate names them
                # Also those that were discarded meanwhile, and no others that came meanwhile.
                where += f" AND {_RECORD} IN (SELECT {_RECORD} FROM {tried_now})"
                dead_letters.commit(self._con, [], where=where, metadata=facts)
                self.report.removed += tried.dead_letters
                self.report.skipped += tried.skipped
        finally:
            for each in (*batches.values(), unrouted):
                each.discard()

    def _has_it(self, name: str) -> set[str]:
        """Give the tables whose log has a unit."""
        return {table for table, log in self._logs.items() if log.get(name) is not None}

    def _name(self, dead_letters: Table, where: str) -> str:
        """Name a unit after its dead letters: if a batch was read again and left others, it is another unit."""
        found = self._con.execute(
            f"SELECT md5(string_agg({_RECORD}, '' ORDER BY {_RECORD})) FROM {waiting(dead_letters)} WHERE {where}"
        ).fetchone()
        unit = f"{dead_letters.name}|{where}|{found[0] if found else ''}"
        return f"{_REPLAY}{hashlib.blake2b(unit.encode(), digest_size=16).hexdigest()}"

    def _records(self, dead_letters: str, tried: Report) -> Iterator[ChangeEvent | Reject]:
        """Yield the events and rejects of dead letters, and count them.

        Use a cursor of its own: a batch uses the connection.
        """
        for origin, place, raw, weight in read(self._con.cursor(), dead_letters):
            records = self._parse(raw, origin, place or 0)
            tried.dead_letters += 1
            tried.records += weight
            tried.skipped += not records
            # A dead letter that stands for several records is the start of a file, not a record.
            yield from (r._replace(records=weight) if isinstance(r, Reject) and weight > 1 else r for r in records)

    def _parse(self, raw: str, origin: str, place: int) -> Sequence[ChangeEvent | Reject]:
        """Parse a raw record: as its source writes it, or as the envelope of an event that did not fit."""
        found = parse(self._format, raw, origin=origin, place=place, keys=self._keys)
        if self._format != "debezium" and found and isinstance(found[0], Reject) and found[0].table is None:
            envelope = parse("debezium", raw, origin=origin, place=place, keys=self._keys)
            return envelope if envelope and isinstance(envelope[0], ChangeEvent) else found
        return found

    def _commit(self, batches: Sequence[EventBatch], unrouted: UnroutedBatch) -> None:
        for batch in batches:
            try:
                batch.commit()
            except PositionMovedError:  # another replay was faster
                continue
            self.report.add(batch)
        unrouted.commit()
        self.report.add(unrouted)
