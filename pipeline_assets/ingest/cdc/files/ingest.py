"""Landed files of change records into the bronze tables of several source tables: each content once into each table.

A file is parsed once, whatever the number of tables. Every table gets one commit, which names the contents that the
table has now. The first table, the reference, is committed last, with the files and days that are done. So after a kill
in between, the same files are looked at once more, and nothing gets into a table twice.

Events are never removed: if a file is delivered again with other bytes, it brings more events, and silver orders them.
Dead letters that are no longer true are removed (`stale`). `plan` decides which files are read.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
from deltalake import DeltaTable

from pipeline_assets.ingest.batch import counts
from pipeline_assets.ingest.batch import source as spine
from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.cdc.events import ChangeEvent, Reject
from pipeline_assets.ingest.cdc.files.plan import Delivery, FileSource, Plan, plan
from pipeline_assets.ingest.cdc.files.stale import StaleDeadLetters
from pipeline_assets.ingest.cdc.formats.json_lines import LONGEST_LINE_BYTES, lines
from pipeline_assets.ingest.cdc.formats.parse import parse
from pipeline_assets.ingest.cdc.table.change_table import ChangeBatch, EventBatch, EventPlan, UnroutedBatch, create
from pipeline_assets.ingest.cdc.table.chunks import in_chunks
from pipeline_assets.ingest.files import limits
from pipeline_assets.ingest.files.content import Content
from pipeline_assets.ingest.files.limits import FileTimeLimitError, time_limit_error
from pipeline_assets.ingest.files.plan import owner_of
from pipeline_assets.ingest.files.unread import Cause, Excluded, FilesLeftError, HeldUp, cause_of
from pipeline_assets.ingest.files.weight import records_of
from pipeline_assets.lake import Lake, Positions, every_day

BATCH = "files"
"""Position that counts a table's batches. A batch id holds the next number. So after a kill the next batch has the same
id, and replaces the dead letters of the killed one."""

RUN = "files_run"
"""Metadata of the reference's commit: what the whole run read, for `accounting`."""

_LINES_BETWEEN_LOOKS = 1_000  # how many lines are read before the clock is checked


@dataclass
class Report(counts.Report):
    """What a run did.

    Attributes:
        read: Paths of the files that were read.
        copies: Number of files whose content was in the tables already.
        unchanged: Number of files that were known by size and time.
        waiting: Number of files that are still being written.
        records_in: Records read: rows + dead letters + skipped + present. A changed key counts as two, even if the
            format has one record for it.
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
    """Bring the records of a range of days' files into bronze, each content once.

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
    run = _Run(lake, con, source, root, set(every_day(first, last)), settle_seconds, run_id)
    batches = spine.ingest(run)
    for batch in batches if run.report.read else ():
        run.report.add(batch)
    if run.left:
        raise FilesLeftError(source.name, run.left, run.report)
    return run.report


@dataclass
class _Run:
    """One run over the files of some days, as a `Source` of the spine: a batch for each table, the reference last."""

    lake: Lake
    con: duckdb.DuckDBPyConnection
    source: FileSource
    root: Path
    days: set[date]
    settle_seconds: float
    run_id: str
    report: Report = field(default_factory=Report)
    left: dict[str, Cause] = field(default_factory=dict)
    _excluded: Excluded = field(default_factory=Excluded)

    @property
    def name(self) -> str:
        return self.source.reference(self.lake).name

    def plan(self, stack: ExitStack) -> Sequence[Batch]:
        """Decide which files are read, and for which tables."""
        logs = {table.name: create(self.con, table.bronze(self.lake)).open() for table in self.source.tables}
        positions = {name: Positions(log) for name, log in logs.items()}
        todo = plan(
            positions,
            self.source,
            self.root,
            self.days,
            settle_seconds=self.settle_seconds,
            held_up=self._excluded.paths,
        )
        self.left = {**todo.left, **self._excluded.left}
        self.report = Report(copies=todo.copies, unchanged=todo.unchanged, waiting=todo.waiting)
        self._step = _Step(self.lake, self.con, self.source, logs, todo, self.report, self.run_id)
        return self._step.batches

    def read(self, batches: Sequence[Batch]) -> None:
        """Read the files into the batches.

        Raises:
            FilesHeldUpError: Some changed meanwhile, or cannot be read: the next plan goes without them.
        """
        with self._excluded.noting():
            self._step.read(self.root)


class _Step:
    """The records of one plan for all tables: parsed once, committed table by table."""

    def __init__(
        self,
        lake: Lake,
        con: duckdb.DuckDBPyConnection,
        source: FileSource,
        logs: Mapping[str, DeltaTable],
        todo: Plan,
        report: Report,
        run_id: str,
    ) -> None:
        self._source, self._todo, self._report = source, todo, report
        self._keys, self._reference = source.keys, source.tables[0].name
        self._names = {table.source_table: table.name for table in source.tables}
        now = datetime.now(UTC)
        numbers = {name: log.transaction_version(BATCH) for name, log in logs.items()}
        ids = {name: f"{log.metadata().id} {(numbers[name] or 0) + 1}" for name, log in logs.items()}
        lacking = frozenset[str]().union({self._reference}, *(delivery.lacking for delivery in todo.read))
        self._tables: dict[str, EventBatch] = {}
        for table in reversed(source.tables):  # the reference is last, because its commit says what is done
            if table.name not in lacking:
                continue
            number, positions = numbers[table.name], {}
            expect: dict[str, int | None] = {}
            if todo.read:
                expect, positions = {BATCH: number}, {BATCH: (number or 0) + 1}
            for delivery in todo.read:
                if table.name in delivery.lacking:
                    positions[owner_of(delivery.content_id)] = delivery.file.date.toordinal()
            if table.name == self._reference:
                expect |= todo.expect
                positions |= todo.positions
            planned = EventPlan(expect=expect, positions=positions, batch_id=ids[table.name], extracted_at=now)
            self._tables[table.name] = EventBatch(lake, con, table, planned, run_id=run_id)
        # Records of no table are committed with the reference, whose log says what is done.
        planned = EventPlan(batch_id=ids[self._reference], extracted_at=now)
        self._unrouted = UnroutedBatch(lake, con, source.name, planned, run_id=run_id)
        paths = [delivery.file.path for delivery in todo.read]
        self._stale = StaleDeadLetters(con, self.batches if paths else [], paths)

    @property
    def batches(self) -> list[ChangeBatch]:
        """The batches in the order of their commits."""
        *others, reference = self._tables.values()
        # Without a file to read, only the reference's positions move: the other tables are not looked at.
        return [*others, self._unrouted, reference] if self._todo.read else [reference]

    def read(self, root: Path) -> None:
        """Read all records of the files that the plan says.

        Raises:
            FilesHeldUpError: Some changed meanwhile, or cannot be read.
        """
        if not self._todo.read:
            return
        held_up = HeldUp()
        for chunk in in_chunks(self._records(root, held_up)):
            name = self._names.get(chunk.table or "")
            batch = self._tables[name] if name else self._unrouted
            batch.add(chunk.events)
            batch.reject(chunk.rejects)
        held_up.check({delivery.file.path for delivery in self._todo.read} - set(self._report.read))
        for each in self.batches:
            each.stale = self._stale.of(each)
        self._tables[self._reference].rows_facts[RUN] = json.dumps(self._account())

    def _records(self, root: Path, held_up: HeldUp) -> Iterator[ChangeEvent | Reject]:
        """Yield what is new in all files; note the files that are held up, and go on with the others."""
        for delivery in self._todo.read:
            yield from self._read(root, delivery, held_up)
            if held_up.is_hopeless:
                return

    def _read(self, root: Path, delivery: Delivery, held_up: HeldUp) -> Iterator[ChangeEvent | Reject]:
        """Yield the records of a file that are new."""
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
            if delivery.file.is_as_listed(root):
                self._stale.was_read(path)
            else:
                held_up.add(path, None)

    def _new_within_bounds(self, root: Path, delivery: Delivery) -> Iterator[ChangeEvent | Reject]:
        """Yield the new records of a file's lines; of rejects beyond the bound, one for each table."""
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
        """Count a record by its outcome.

        Yield the events that their table, or that of the unrouted records, does not have yet.
        """
        self._report.records_in += sum(map(_weight, found)) or 1
        self._report.skipped += not found
        for item in found:
            if self._names.get(item.table or "", self._reference) in delivery.lacking:
                yield item
            else:
                self._report.present += _weight(item)

    def _account(self) -> dict[str, object]:
        """Say what the whole run read, and which batches hold it."""
        batches = {
            batch.name: [
                batch.plan.batch_id,
                sorted({str(file.partition_values["_partition_date"]) for file in batch.files}),
            ]
            for batch in self.batches
        }
        read = {name: getattr(self._report, name) for name in ("records_in", "skipped", "present")}
        return {**read, "batches": batches}


def _weight(item: ChangeEvent | Reject) -> int:
    return item.records if isinstance(item, Reject) else 1


def _unreadable(origin: str, path: Path, content: Content, reason: str) -> Reject:
    return Reject(reason, content.excerpt, origin, 0, records=records_of(content, "jsonl", path))


def _too_long(path: str, number: int, data: bytes) -> Reject:
    reason = f"record: longer than {LONGEST_LINE_BYTES} bytes; its start is kept, have it delivered in parts"
    return Reject(reason, data.decode("utf-8", "backslashreplace"), path, number)
