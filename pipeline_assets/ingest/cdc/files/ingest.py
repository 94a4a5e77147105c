"""Landed files of change records into the bronze tables of several source tables: each content once into each table.

A file is parsed once, whatever the number of tables. Every table gets one commit, with the contents that it has now.
The first table, the reference, gets its commit last, with the files and days that are done: a kill in between costs a
second look at the same files, and puts nothing into a table twice.

Events are never taken out again: a file that is delivered again with other bytes brings more events, and silver orders
them. Dead letters that it makes untrue go (`stale`). Which files are read is decided in `file_plan`.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
from deltalake import DeltaTable

from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.files.plan import Delivery, FileSource, Plan, plan
from pipeline_assets.ingest.cdc.files.stale import StaleDeadLetters
from pipeline_assets.ingest.cdc.formats.json_lines import LONGEST_LINE_BYTES, lines
from pipeline_assets.ingest.cdc.formats.parse import parse
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable, Staging, create
from pipeline_assets.ingest.cdc.table.chunks import in_chunks
from pipeline_assets.ingest.cdc.table.tally import Tally
from pipeline_assets.ingest.files import limits
from pipeline_assets.ingest.files.content import Content
from pipeline_assets.ingest.files.limits import FileTimeLimitError, time_limit_error
from pipeline_assets.ingest.files.path_pattern import LandedFile
from pipeline_assets.ingest.files.plan import owner_of
from pipeline_assets.ingest.files.unread import Cause, FilesHeldUpError, FilesLeftError, HeldUp, cause_of
from pipeline_assets.ingest.files.weight import records_of
from pipeline_assets.lake import CommitConflictError, Lake, PositionMovedError, Positions

BATCH = "files"
"""Position that counts a table's batches. A batch id holds the next number: a batch that was killed is the next one
again, and replaces the dead letters that it left."""

_ATTEMPTS = 8
_LINES_BETWEEN_LOOKS = 1_000  # at the clock


@dataclass
class Report(Tally):
    """What a run did.

    Attributes:
        read: Paths of the files that were read.
        copies: Number of files whose content was in the tables already.
        unchanged: Number of files that were known by size and time.
        waiting: Number of files that are still being written.
        records_in: Records read: rows + dead letters + skipped + present. A changed key counts as two, if the format
            tells it as one.
        skipped: Records that carry no data.
        present: Events that their table had already, from a run that was killed.
    """

    read: list[str] = field(default_factory=list)
    copies: int = 0
    unchanged: int = 0
    waiting: int = 0
    records_in: int = 0
    skipped: int = 0
    present: int = 0


def ingest(
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    source: FileSource,
    root: Path,
    first: date,
    last: date,
    *,
    settle_seconds: float,
    run_id: str = "",
) -> Report:
    """Brings the records of a range of days' files into bronze, each content once.

    Args:
        lake: The lake.
        con: A connection of it.
        source: The declaration.
        root: The landing folder.
        first: First day.
        last: Last day.
        settle_seconds: Younger files wait.
        run_id: Of the run, for the commits' metadata.

    Raises:
        FilesLeftError: Some files cannot be read now; all others are in the tables.
        CommitConflictError: Other runs of the source were faster each time.
    """
    days = {date.fromordinal(ordinal) for ordinal in range(first.toordinal(), last.toordinal() + 1)}
    held_up: set[str] = set()
    left: dict[str, Cause] = {}
    moved = 0
    while moved < _ATTEMPTS:
        logs = {table.name: create(con, table.bronze(lake)).open() for table in source.tables}
        positions = {name: Positions(log) for name, log in logs.items()}
        todo = plan(positions, source, root, days, settle_seconds=settle_seconds, held_up=held_up)
        try:
            report = _carry_out(lake, con, source, root, logs, todo, run_id)
        except FilesHeldUpError as error:
            held_up |= error.changed | error.left.keys()
            left |= error.left
        except PositionMovedError:
            moved += 1
        else:
            if found := {**todo.left, **left}:
                raise FilesLeftError(source.name, found, report)
            return report
    raise CommitConflictError(source.reference(lake).name, _ATTEMPTS)


def _carry_out(
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    source: FileSource,
    root: Path,
    logs: Mapping[str, DeltaTable],
    todo: Plan,
    run_id: str,
) -> Report:
    """Reads what the plan says and commits it. Raises PositionMovedError when another run was faster."""
    report = Report(copies=todo.copies, unchanged=todo.unchanged, waiting=todo.waiting)
    reference = source.tables[0]
    if not todo.read:
        reference.bronze(lake).commit(con, [], expect=todo.expect, positions=todo.positions)
        return report
    batch = _Batch(lake, con, source, logs, todo, report)
    try:
        batch.stage(root)
        facts = {"run_id": run_id} if run_id else {}
        for table in reversed(source.tables):
            batch.commit(table, facts)
    finally:
        batch.discard()
    return report


class _Batch:
    """One run's records on their way into all tables: parsed once, staged by table, committed table by table."""

    def __init__(
        self,
        lake: Lake,
        con: duckdb.DuckDBPyConnection,
        source: FileSource,
        logs: Mapping[str, DeltaTable],
        todo: Plan,
        report: Report,
    ) -> None:
        self._source, self._todo, self._report = source, todo, report
        self._keys, self._reference = source.keys, source.tables[0].name
        self._names = {table.source_table: table.name for table in source.tables}
        self._numbers = {name: log.transaction_version(BATCH) for name, log in logs.items()}
        now = datetime.now(UTC)
        ids = {name: f"{log.metadata().id} {(self._numbers[name] or 0) + 1}" for name, log in logs.items()}
        lacking = frozenset[str]().union({self._reference}, *(delivery.lacking for delivery in todo.read))
        self._stagings = {
            table.name: Staging(con, lake, table, source.name, ids[table.name], now)
            for table in source.tables
            if table.name in lacking
        }
        # Records of no table go with the reference: what it has is done.
        self._unrouted = Staging(con, lake, None, source.name, ids[self._reference], now)
        paths = [delivery.file.path for delivery in todo.read]
        self._stale = StaleDeadLetters(con, [*self._stagings.values(), self._unrouted], paths)

    def stage(self, root: Path) -> None:
        """Stages all records of the files that the plan says.

        Raises:
            FilesHeldUpError: Some changed meanwhile, or cannot be read.
        """
        held_up = HeldUp()
        for chunk in in_chunks(self._records(root, held_up)):
            name = self._names.get(chunk.table or "")
            staging = self._stagings[name] if name else self._unrouted
            staging.add(chunk.events)
            staging.reject(chunk.rejects)
        held_up.check({delivery.file.path for delivery in self._todo.read} - set(self._report.read))

    def _records(self, root: Path, held_up: HeldUp) -> Iterator[ChangeEvent | Reject]:
        """Yields what is new in all files; notes those that are held up, and goes on with the others."""
        for delivery in self._todo.read:
            yield from self._read(root, delivery, held_up)
            if held_up.is_hopeless:
                return

    def _read(self, root: Path, delivery: Delivery, held_up: HeldUp) -> Iterator[ChangeEvent | Reject]:
        """Yields what is new of a file's records."""
        path, content = delivery.file.path, delivery.content
        self._report.read.append(path)
        if content.failure is not None:
            yield from self._new(delivery, [_unreadable(path, root / path, content, content.failure)])
            return
        try:
            yield from self._new_within_bounds(root, delivery)
        except FileNotFoundError:
            held_up.add(path, None)
        except (OSError, FileTimeLimitError) as error:
            held_up.add(path, cause_of(error))
        else:
            held_up.in_a_row = 0
            if _is_as_listed(root / path, delivery.file):
                self._stale.was_read(path)
            else:
                held_up.add(path, None)

    def _new_within_bounds(self, root: Path, delivery: Delivery) -> Iterator[ChangeEvent | Reject]:
        """Yields what is new of a file's lines; of rejects beyond the bound, one for each table."""
        path, started = delivery.file.path, time.monotonic()
        seen, rest = 0, Counter[str | None]()
        for number, data, is_cut in lines(root / path, delivery.content):
            if not number % _LINES_BETWEEN_LOOKS and time.monotonic() - started > self._source.max_seconds_per_file:
                raise time_limit_error(self._source.max_seconds_per_file)
            self._stale.compare(path, number, data)
            found = [_too_long(path, number, data)] if is_cut else self._parse(path, number, data)
            for item in self._new(delivery, found):
                if isinstance(item, Reject):
                    seen += 1
                    if seen > limits.MAX_DEAD_LETTERS:
                        rest[item.table] += item.records
                        continue
                yield item
        for table, number in rest.items():
            yield Reject(limits.rest_reason(number), "", path, 0, table, number)

    def _parse(self, path: str, number: int, data: bytes) -> Sequence[ChangeEvent | Reject]:
        return parse(self._source.format, data, origin=path, place=number, keys=self._keys)

    def _new(self, delivery: Delivery, found: Sequence[ChangeEvent | Reject]) -> Iterator[ChangeEvent | Reject]:
        """Counts what a record is; yields what its table, or that of the unrouted, has not got already."""
        self._report.records_in += sum(map(_weight, found)) or 1
        self._report.skipped += not found
        for item in found:
            if self._names.get(item.table or "", self._reference) in delivery.lacking:
                yield item
            else:
                self._report.present += _weight(item)

    def commit(self, table: ChangeTable, facts: Mapping[str, str]) -> None:
        """Commits one table's batch; with the reference, which comes last, all that says that the files are done."""
        staging = self._stagings.get(table.name)
        if staging is None:
            return
        number = self._numbers[table.name]
        expect, positions = {BATCH: number}, {BATCH: (number or 0) + 1}
        for delivery in self._todo.read:
            if table.name in delivery.lacking:
                positions[owner_of(delivery.content_id)] = delivery.file.date.toordinal()
        if table.name == self._reference:
            self._unrouted.commit(expect={}, positions={}, metadata=facts)
            self._stale.remove(self._unrouted, facts)
            self._report.add(self._unrouted)
            expect |= self._todo.expect
            positions |= self._todo.positions
            facts = {**facts, **self._account()}
        staging.commit(expect=expect, positions=positions, metadata=facts)
        self._stale.remove(staging, facts)
        self._report.add(staging)

    def _account(self) -> dict[str, str]:
        """What the reference's commit says of the whole run, for `file_account`."""
        stagings = [*self._stagings.values(), self._unrouted]
        batches = {
            staging.name: [
                staging.batch_id,
                sorted({str(file.partition_values["_partition_date"]) for file in staging.files}),
            ]
            for staging in stagings
        }
        counts = {name: str(getattr(self._report, name)) for name in ("records_in", "skipped", "present")}
        return {**counts, "batches": json.dumps(batches), "read": json.dumps(self._report.read)}

    def discard(self) -> None:
        """Deletes what was staged and will not be committed."""
        for staging in (*self._stagings.values(), self._unrouted):
            staging.discard()


def _weight(item: ChangeEvent | Reject) -> int:
    return item.records if isinstance(item, Reject) else 1


def _unreadable(origin: str, path: Path, content: Content, reason: str) -> Reject:
    return Reject(reason, content.excerpt, origin, 0, records=records_of(content, "jsonl", path))


def _too_long(path: str, number: int, data: bytes) -> Reject:
    reason = f"record: longer than {LONGEST_LINE_BYTES} bytes; its start is kept, have it delivered in parts"
    return Reject(reason, data.decode("utf-8", "backslashreplace"), path, number)


def _is_as_listed(path: Path, file: LandedFile) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return True  # archived after it was read: what was read is what had been delivered
    return (status.st_size, status.st_mtime_ns) == (file.size_bytes, file.mtime_ns)
