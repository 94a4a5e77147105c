"""Landing files into bronze: the whole way of the files of some days, as one batch.

Only the commit of its rows makes a file "ingested". The next run repairs a kill before or after it. `plan` decides what
is read, `read_file` turns one file into rows, and `ingest.batch.batch` decides the order of the commits.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import Model, RawShape
from pipeline_assets.ingest.batch import counts
from pipeline_assets.ingest.batch import source as spine
from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.batch.batch import Plan as BatchPlan
from pipeline_assets.ingest.batch.bronze_table import prepare
from pipeline_assets.ingest.conform.conform import TECHNICAL_COLUMNS
from pipeline_assets.ingest.files.bundles import compact, read_all
from pipeline_assets.ingest.files.content import MAX_UNPACKED_MB
from pipeline_assets.ingest.files.formats.open_records import Format
from pipeline_assets.ingest.files.limits import MAX_SECONDS_PER_FILE
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.plan import Delivery, Plan, files_of, holders, in_tables, owner_of, plan
from pipeline_assets.ingest.files.read_file import FileReader, Landed
from pipeline_assets.ingest.files.unread import Cause, Excluded, FilesLeftError, HeldUp
from pipeline_assets.lake import Lake, Positions, Table, days_predicate, every_day
from pipeline_assets.lake.dead_letters import dead_letter_table
from pipeline_assets.lake.schemas import Widening
from pipeline_assets.lake.spill import spill_folder

Outcome = Literal["new", "corrected", "copy", "waiting"]


@dataclass(frozen=True)
class LandingSource:
    """A source as declared.

    Attributes:
        name: `<source>__<entity>`.
        pattern: Where its files lie, with the day in the path.
        model: The contract of its rows.
        format: One for all files, or "auto" to go by each file's name.
        delimiter: Of CSV files.
        schema_evolution: Whether unknown fields become columns instead of going to `_rescued`.
        delivery: "append": each content is in the table once. "snapshot": the files of a day hold all existing rows, so
            a content is in the table once for each day.
        max_unpacked_mb: A compressed file that holds more megabytes is one dead letter.
        max_seconds_per_file: A file whose reading takes longer is left unread.
    """

    name: str
    pattern: PathPattern
    model: Model
    format: Format | Literal["auto"] = "auto"
    delimiter: str = ","
    schema_evolution: bool = False
    delivery: Literal["append", "snapshot"] = "append"
    max_unpacked_mb: int = MAX_UNPACKED_MB
    max_seconds_per_file: float = MAX_SECONDS_PER_FILE

    @property
    def by_day(self) -> bool:
        """Whether a content is in the table once for each day."""
        return self.delivery == "snapshot"

    @property
    def max_unpacked_bytes(self) -> int:
        """`max_unpacked_mb` in bytes."""
        return self.max_unpacked_mb * 1_000_000

    def table(self, lake: Lake) -> Table:
        """Give the bronze table of the source."""
        return Table(lake, f"bronze.{self.name}")


@dataclass(frozen=True)
class FileReport:
    """The outcome of one file.

    Attributes:
        file: Path below the landing folder.
        day: Its partition.
        content_id: Identity of its bytes.
        outcome: new, corrected (replaced its former rows), copy (its content is in the table already), waiting.
        records_in: Records counted while reading.
        rows: Rows that fit.
        dead_letters: Records that did not fit; all of them, if the file cannot be read.
    """

    file: str
    day: date
    content_id: str
    outcome: Outcome
    records_in: int = 0
    rows: int = 0
    dead_letters: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Give the report for JSON and for tables."""
        return {**asdict(self), "day": self.day.isoformat()}


@dataclass(frozen=True, kw_only=True)
class FilesPlan(BatchPlan):
    """What the batch of some files rests on.

    Attributes:
        read_again: Predicate on the rows and dead letters of the contents that are read; None if nothing is.
    """

    read_again: str | None = None

    @property
    def obsolete(self) -> str | None:
        """Predicate on the dead letters of an earlier reading of the same contents."""
        return self.read_again


@dataclass
class Report(counts.Report):
    """What a run of `ingest` did.

    Attributes:
        files: Files that were not unchanged.
        unchanged: Number of files that were in the table as they are.
    """

    files: list[FileReport] = field(default_factory=list)
    unchanged: int = 0


def ingest(
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    source: LandingSource,
    root: Path,
    first: date,
    last: date,
    *,
    settle_seconds: float,
    run_id: str = "",
) -> Report:
    """Bring the files of a range of days into bronze, each content once.

    Args:
        lake: The lake.
        con: A connection of it.
        source: The declaration.
        root: The landing folder.
        first: First day.
        last: Last day.
        settle_seconds: Younger files wait.
        run_id: Of the run, for the commit's metadata.

    Raises:
        FilesLeftError: Some files cannot be read now; all others are in the table.
        CommitConflictError: Other runs of the same source were faster each time.
    """
    run = _Run(lake, con, source, root, set(every_day(first, last)), settle_seconds, run_id)
    for batch in spine.ingest(run):
        run.report.add(batch)
    if run.left:
        raise FilesLeftError(run.name, run.left, run.report)
    return run.report


@dataclass
class _Run:
    """One run over the files of some days, as a `Source` of the spine: all of them are one batch."""

    lake: Lake
    con: duckdb.DuckDBPyConnection
    source: LandingSource
    root: Path
    days: set[date]
    settle_seconds: float
    run_id: str
    report: Report = field(default_factory=Report)
    left: dict[str, Cause] = field(default_factory=dict)
    _excluded: Excluded = field(default_factory=Excluded)
    _widened: list[Widening] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.source.table(self.lake).name

    def plan(self, stack: ExitStack) -> Sequence[Batch]:
        """Decide which files are read, and which rows are removed."""
        con, source, bronze = self.con, self.source, self.source.table(self.lake)
        # Again with each plan: the table may have got other types meanwhile.
        self._shape, widened = prepare(con, bronze, source.model, TECHNICAL_COLUMNS, by_partition=source.by_day)
        self._widened += widened
        self._todo, closed = _plan(
            con, bronze, source, self.root, self.days, settle_seconds=self.settle_seconds, held_up=self._excluded.paths
        )
        self.left = {**closed, **self._todo.left, **self._excluded.left}
        self._folder = Path(stack.enter_context(TemporaryDirectory(dir=spill_folder())))
        self._batch = Batch(self.lake, con, source.name, _batch_plan(con, self._todo), run_id=self.run_id)
        self._batch.widened = self._widened
        self._batch.stale = _stale(con, self._todo)
        self._batch.shape = self._shape
        return [self._batch]

    def read(self, batches: Sequence[Batch]) -> None:
        """Read the files into the batch.

        Raises:
            FilesHeldUpError: Some changed meanwhile, or cannot be read: the next plan goes without them.
        """
        todo = self._todo
        files = [FileReport(file.path, file.date, "", "waiting") for file in todo.waiting]
        files += [FileReport(file.path, file.date, content_id, "copy") for file, content_id in todo.copies]
        with self._excluded.noting():
            files += _read(self._batch, self.source, self.root, self._folder, todo, self._shape)
        ordered = sorted(files, key=lambda report: (report.day, report.file))
        self.report = Report(files=ordered, unchanged=todo.unchanged)


def _plan(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    source: LandingSource,
    root: Path,
    days: set[date],
    *,
    settle_seconds: float,
    held_up: Collection[str],
) -> tuple[Plan, dict[str, Cause]]:
    """Plan the files of some days; give also folders that cannot be listed. Add to `days` the days needed besides."""
    while True:
        log = Positions(bronze.open())
        known = in_tables(con, [bronze, dead_letter_table(bronze.lake, bronze.name)], days)
        files, closed = files_of(root, source.pattern, days)
        todo = plan(
            log,
            known,
            root,
            files,
            days=days,
            settle_seconds=settle_seconds,
            held_up=held_up,
            by_day=source.by_day,
            max_unpacked_bytes=source.max_unpacked_bytes,
        )
        # The file of another day may have been skipped as a copy of a content that is removed now: that day's file is
        # needed.
        more = set() if source.by_day else holders(root, source.pattern, todo.orphaned, days)
        if not more:
            return todo, closed
        days |= more


def _read(
    batch: Batch, source: LandingSource, root: Path, folder: Path, todo: Plan, shape: RawShape
) -> list[FileReport]:
    """Read the files of the plan into the batch."""
    reader = FileReader(
        batch,
        root,
        temp_dir=folder,
        format=source.format,
        delimiter=source.delimiter,
        schema_evolution=source.schema_evolution,
        by_day=source.by_day,
        max_unpacked_bytes=source.max_unpacked_bytes,
        max_seconds=source.max_seconds_per_file,
    )
    reports: list[FileReport] = []
    held_up = HeldUp()
    for delivery, landed in read_all(reader, todo.read, shape):
        path = delivery.file.path
        if not isinstance(landed, Landed):
            held_up.add(path, landed)
            if held_up.is_hopeless:
                break
            continue
        held_up.in_a_row = 0
        batch.files += landed.files
        batch.evolve(landed.added)
        batch.readings.append(_reading(delivery, landed))
        outcome: Outcome = "corrected" if path in todo.corrected else "new"
        counted = landed.records_in, landed.rows, landed.dead_letters
        reports.append(FileReport(path, delivery.file.date, delivery.content_id, outcome, *counted))
    held_up.check({delivery.file.path for delivery in todo.read} - {report.file for report in reports})
    batch.files = compact(batch.con, batch.bronze, batch.files)
    return reports


def _reading(delivery: Delivery, landed: Landed) -> counts.Reading:
    """Give the reading of a file. It is in the table for as long as the log says that its content lies on that day."""
    counted = counts.Counts(landed.records_in, landed.rows, landed.dead_letters)
    day, content_id = delivery.file.date, delivery.content_id
    holds = {owner_of(content_id): day.toordinal()}
    return counts.Reading(content_id, counted, frozenset({day}), delivery.file.path, holds)


def _batch_plan(con: duckdb.DuckDBPyConnection, todo: Plan) -> FilesPlan:
    """Give what the batch of the plan's files rests on, and what it replaces."""
    read, gone = {(delivery.file.date, delivery.content_id) for delivery in todo.read}, todo.gone
    return FilesPlan(
        expect=todo.expect,
        positions=todo.positions,
        replaces=_listed(con, "landing_gone", gone),
        read_again=_listed(con, "landing_read", read),
    )


def _stale(con: duckdb.DuckDBPyConnection, todo: Plan) -> str | None:
    """Give the predicate on dead letters that are no longer true once the rows are in."""
    # A content that moves to another file of its day is removed and added in one commit: its dead letters are those of
    # this reading.
    read_again = {(delivery.file.date, delivery.content_id) for delivery in todo.read}
    return _listed(con, "landing_stale", (todo.gone | todo.stale) - read_again)


def _listed(con: duckdb.DuckDBPyConnection, name: str, contents: Collection[tuple[date, str]]) -> str | None:
    """List some (day, content id) in a temporary table; give the predicate on their rows, None without any.

    The bounds on the day keep the query from reading the partitions of other days.
    """
    if not contents:
        return None
    days, ids = [day for day, _ in contents], [content_id for _, content_id in contents]
    con.register(
        "landing_contents", pa.table([pa.array(days, pa.date32()), pa.array(ids, pa.string())], ["day", "content_id"])
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM landing_contents")
    con.unregister("landing_contents")
    within = days_predicate("_partition_date", set(days))
    return f"{within} AND (_partition_date, _batch_id) IN (SELECT (day, content_id) FROM {name})"
