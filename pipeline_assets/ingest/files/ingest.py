"""Landing files into bronze: the whole way of the files of some days, in at most three commits.

First the dead letters of what is read, then the rows with their positions in place of the rows of corrected files: only
that second commit makes a file "ingested". Last, dead letters that are no longer true. The next run repairs a kill in
between.

What is to be read is decided in `deliveries`, how one file becomes rows in `bronze_file`, how rows become a commit
in `lake`.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
import pyarrow as pa

from pipeline_assets.contracts.base import Model, RawColumn, RawShape
from pipeline_assets.ingest.batch.bronze_table import prepare, schema_of
from pipeline_assets.ingest.conform.conform import TECHNICAL_COLUMNS
from pipeline_assets.ingest.files.bundles import compact, read_all
from pipeline_assets.ingest.files.content import MAX_UNPACKED_MB
from pipeline_assets.ingest.files.formats.open_records import Format
from pipeline_assets.ingest.files.limits import MAX_SECONDS_PER_FILE
from pipeline_assets.ingest.files.path_pattern import PathPattern
from pipeline_assets.ingest.files.plan import Plan, files_of, holders, in_tables, plan
from pipeline_assets.ingest.files.read_file import DEAD_LETTERS, FileReader, Landed
from pipeline_assets.ingest.files.unread import Cause, FilesHeldUpError, FilesLeftError, HeldUp
from pipeline_assets.lake import (
    CommitConflictError,
    DataFile,
    Lake,
    PositionMovedError,
    Positions,
    Table,
    TypesMovedError,
    days_predicate,
    schemas,
)
from pipeline_assets.lake.dead_letters import REPLAYABLE_COLUMNS, dead_letter_table, record
from pipeline_assets.lake.schemas import Widening
from pipeline_assets.lake.spill import spill_folder

_ATTEMPTS = 8

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
        delivery: "append": each content is in the table once. "snapshot": the files of a day are all rows there are, so
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
        """The bronze table of the source."""
        return Table(lake, f"bronze.{self.name}")


@dataclass(frozen=True)
class DayCounts:
    """Counts of one day, or of several: records in = rows + dead letters.

    A dead letter counts as the records that it stands for: a file that cannot be read is one of many records.
    """

    files: int = 0
    records_in: int = 0
    rows: int = 0
    dead_letters: int = 0

    def __add__(self, other: "DayCounts") -> "DayCounts":
        """Sums up."""
        return DayCounts(
            self.files + other.files,
            self.records_in + other.records_in,
            self.rows + other.rows,
            self.dead_letters + other.dead_letters,
        )


@dataclass(frozen=True)
class FileReport:
    """What became of one file.

    Attributes:
        file: Path below the landing folder.
        day: Its partition.
        content_id: What its bytes are.
        outcome: new, corrected (replaced its former rows), copy (its content is in the table already), waiting.
        records_in: Records counted while reading.
        rows: Rows that fit.
        dead_letters: Records that did not; all of them, if the file cannot be read.
    """

    file: str
    day: date
    content_id: str
    outcome: Outcome
    records_in: int = 0
    rows: int = 0
    dead_letters: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for tables."""
        return {**asdict(self), "day": self.day.isoformat()}


@dataclass(frozen=True)
class Report:
    """What a run of `ingest` did.

    Attributes:
        version: The bronze table's version afterwards.
        files: Files that were not simply unchanged.
        unchanged: Number of files that were in the table as they are.
        widened: Columns of the table that took a wider type of the contract.
    """

    version: int
    files: list[FileReport] = field(default_factory=list)
    unchanged: int = 0
    widened: list[Widening] = field(default_factory=list)

    def counts(self) -> dict[date, DayCounts]:
        """Counts by day of what was read."""
        days: dict[date, list[FileReport]] = defaultdict(list)
        for file in self.files:
            days[file.day].append(file)
        return {day: _total(files) for day, files in days.items()}

    @property
    def total(self) -> DayCounts:
        """Counts of all that was read."""
        return _total(self.files)


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
    """Brings the files of a range of days into bronze, each content once.

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
    days = {date.fromordinal(ordinal) for ordinal in range(first.toordinal(), last.toordinal() + 1)}
    bronze = source.table(lake)
    shape, widened = prepare(con, bronze, source.model, TECHNICAL_COLUMNS, by_partition=source.by_day)
    held_up: set[str] = set()
    left: dict[str, Cause] = {}
    moved = 0
    while moved < _ATTEMPTS:
        todo, closed = _plan(con, bronze, source, root, days, settle_seconds=settle_seconds, held_up=held_up)
        try:
            report = replace(_carry_out(con, bronze, source, shape, root, todo, run_id), widened=widened)
        except FilesHeldUpError as error:
            held_up |= error.changed | error.left.keys()
            left |= error.left
        except PositionMovedError:
            moved += 1
        except TypesMovedError:
            shape, more_widened = prepare(con, bronze, source.model, TECHNICAL_COLUMNS, by_partition=source.by_day)
            widened += more_widened
            moved += 1
        else:
            if found := {**closed, **todo.left, **left}:
                raise FilesLeftError(bronze.name, found, report)
            return report
    raise CommitConflictError(bronze.name, _ATTEMPTS)


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
    """Plans the files of some days; gives also folders that cannot be listed. Adds to `days` those needed besides."""
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
        # A content that goes may have been passed over on another day as a copy: that day's file is needed now.
        more = set() if source.by_day else holders(root, source.pattern, todo.orphaned, days)
        if not more:
            return todo, closed
        days |= more


def _carry_out(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    source: LandingSource,
    shape: RawShape,
    root: Path,
    todo: Plan,
    run_id: str,
) -> Report:
    """Reads what the plan says and commits it. Raises PositionMovedError, TypesMovedError when others were faster."""
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {DEAD_LETTERS} ({', '.join(f'{n} {t}' for n, t in REPLAYABLE_COLUMNS.items())})"
    )
    reports = [FileReport(file.path, file.date, "", "waiting") for file in todo.waiting]
    reports += [FileReport(file.path, file.date, content_id, "copy") for file, content_id in todo.copies]
    files: list[DataFile] = []
    added: dict[str, RawColumn] = {}
    held_up = HeldUp()
    try:
        with TemporaryDirectory(dir=spill_folder()) as folder:
            reader = FileReader(
                con,
                bronze,
                root,
                temp_dir=Path(folder),
                format=source.format,
                delimiter=source.delimiter,
                schema_evolution=source.schema_evolution,
                by_day=source.by_day,
                max_unpacked_bytes=source.max_unpacked_bytes,
                max_seconds=source.max_seconds_per_file,
            )
            for delivery, landed in read_all(reader, todo.read, shape):
                path = delivery.file.path
                if not isinstance(landed, Landed):
                    held_up.add(path, landed)
                    if held_up.is_hopeless:
                        break
                    continue
                held_up.in_a_row = 0
                files += landed.files
                added |= {column.name: column for column in landed.added}
                outcome: Outcome = "corrected" if path in todo.corrected else "new"
                counts = landed.records_in, landed.rows, landed.dead_letters
                reports.append(FileReport(path, delivery.file.date, delivery.content_id, outcome, *counts))
            held_up.check({delivery.file.path for delivery in todo.read} - {report.file for report in _read(reports)})
            files = compact(con, bronze, files)
        if added:
            bronze.create(schema_of(con, added.values()))
        version = _commit(con, bronze, files, reports, shape.extended(added.values()), todo, run_id)
    except BaseException:
        bronze.delete_uncommitted(files)
        raise
    return Report(version, sorted(reports, key=lambda report: (report.day, report.file)), todo.unchanged)


def _commit(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    files: list[DataFile],
    reports: list[FileReport],
    shape: RawShape,
    todo: Plan,
    run_id: str,
) -> int:
    """The dead letters of the files read, then rows and positions; last, dead letters that are no longer true."""
    facts = {"run_id": run_id} if run_id else {}
    dead_letters = dead_letter_table(bronze.lake, bronze.name)
    if todo.read:
        _list(con, "landing_read", {(delivery.file.date, delivery.content_id) for delivery in todo.read})
        record(con, dead_letters, f"SELECT * FROM {DEAD_LETTERS}", where=_listed(con, "landing_read"), metadata=facts)
        counts = {name: str(value) for name, value in asdict(_total(reports)).items()}
        read = json.dumps([report.as_dict() for report in _read(reports)])
    _list(con, "landing_gone", todo.gone)
    version = bronze.commit(
        con,
        files,
        types=schemas.types(schema_of(con, shape.columns)),
        where=_listed(con, "landing_gone") if todo.gone else None,
        expect=todo.expect,
        positions=todo.positions,
        metadata={**facts, **counts, "read": read} if todo.read else facts,
    )
    # A content that moves to another file of its day goes and comes in one: its dead letters are those of this reading.
    read_again = {(delivery.file.date, delivery.content_id) for delivery in todo.read}
    if (obsolete := (todo.gone | todo.stale) - read_again) and dead_letters.exists():
        _list(con, "landing_gone", obsolete)
        dead_letters.commit(con, [], where=_listed(con, "landing_gone"), metadata=facts)
    return version


def _list(con: duckdb.DuckDBPyConnection, name: str, contents: Collection[tuple[date, str]]) -> None:
    """Puts (day, content id) pairs into a temporary table."""
    days, ids = [day for day, _ in contents], [content_id for _, content_id in contents]
    con.register(
        "landing_contents", pa.table([pa.array(days, pa.date32()), pa.array(ids, pa.string())], ["day", "content_id"])
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM landing_contents")
    con.unregister("landing_contents")


def _listed(con: duckdb.DuckDBPyConnection, name: str) -> str:
    """The predicate on rows of the listed contents; the bounds spare the partitions of other days."""
    days = [day for (day,) in con.execute(f"SELECT DISTINCT day FROM {name}").fetchall()]
    within = days_predicate("_partition_date", days)
    return f"{within} AND (_partition_date, _batch_id) IN (SELECT (day, content_id) FROM {name})"


def _read(files: Iterable[FileReport]) -> list[FileReport]:
    return [file for file in files if file.outcome in ("new", "corrected")]


def _total(files: Iterable[FileReport]) -> DayCounts:
    counts = (DayCounts(1, file.records_in, file.rows, file.dead_letters) for file in _read(files))
    return sum(counts, start=DayCounts())
