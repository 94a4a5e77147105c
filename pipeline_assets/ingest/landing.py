"""Landing files into bronze: the whole way of the files of some days, in at most two commits.

First the dead letters (idempotent by file), then the rows with their positions, in place of the rows of corrected
files: only that second commit makes a file "ingested". A run killed between the two is repaired by the next.

What is to be read is decided in `deliveries`, how one file becomes rows in `bronze_file`, how rows become a commit
in `lake`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
from deltalake import Schema

from pipeline_assets.contracts.base import Model, RawColumn, RawShape, event_time, raw_shape
from pipeline_assets.ingest.bronze_file import LETTERS, FileReader
from pipeline_assets.ingest.conform import TECHNICAL_COLUMNS
from pipeline_assets.ingest.deliveries import Plan, copy_of, files_of, in_tables, plan, position_of
from pipeline_assets.ingest.path_pattern import PathPattern
from pipeline_assets.ingest.readers import Format
from pipeline_assets.lake import CommitConflictError, DataFile, Lake, PositionMovedError, Table, discard, query_schema, quote_name
from pipeline_assets.lake.dead_letters import COLUMNS as LETTER_COLUMNS
from pipeline_assets.lake.dead_letters import dead_letter_table, record

_ATTEMPTS = 5
_COMMITS_LOOKED_AT = 20

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
    """

    name: str
    pattern: PathPattern
    model: Model
    format: Format | Literal["auto"] = "auto"
    delimiter: str = ","
    schema_evolution: bool = False

    def table(self, lake: Lake) -> Table:
        """The bronze table of the source."""
        return Table(lake, f"bronze.{self.name}")


@dataclass(frozen=True)
class DayCounts:
    """Counts of one day, or of several: records in = rows + dead letters."""

    files: int = 0
    records_in: int = 0
    rows: int = 0
    dead_letters: int = 0


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
        dead_letters: Records that did not.
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
    """

    version: int
    files: list[FileReport] = field(default_factory=list)
    unchanged: int = 0

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


@dataclass(frozen=True)
class Mismatch:
    """A file whose counts in the tables are not those of its reading."""

    file: str
    day: date
    records_in: int
    rows: int
    dead_letters: int


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
        PositionMovedError: Other runs of the same source kept committing in between.
    """
    days = {date.fromordinal(ordinal) for ordinal in range(first.toordinal(), last.toordinal() + 1)}
    bronze = source.table(lake)
    shape = _prepare(con, bronze, source)
    for attempt in range(1, _ATTEMPTS + 1):
        log = bronze.open()
        known = in_tables(con, [bronze, dead_letter_table(lake, bronze.name)], days)
        todo = plan(log, known, root, files_of(root, source.pattern, days), days=days, settle_seconds=settle_seconds)
        # A content that goes may have been passed over on another day as a copy: that day's file is needed now.
        copied = (log.transaction_version(copy_of(content_id)) for content_id in todo.replaced.values())
        if more := {date.fromordinal(ordinal) for ordinal in copied if ordinal} - days:
            days |= more
            continue
        try:
            return _carry_out(con, bronze, source, shape, root, todo, run_id)
        except PositionMovedError:
            if attempt == _ATTEMPTS:
                raise
    raise CommitConflictError(bronze.name, _ATTEMPTS)


def day_counts(con: duckdb.DuckDBPyConnection, bronze: Table, where: str) -> dict[date, DayCounts]:
    """Counts rows and dead letters by day in the tables.

    Args:
        con: A connection of the lake.
        bronze: The bronze table.
        where: Predicate on `_partition_date`.
    """
    letters = dead_letter_table(bronze.lake, bronze.name)
    parts = [f"SELECT _partition_date AS day, 1 AS row_, 0 AS letter FROM {bronze.scan()} WHERE {where}"]
    if letters.exists():
        parts.append(f"SELECT _partition_date, 0, 1 FROM {letters.scan()} WHERE {where}")
    rows = con.execute(f"SELECT day, sum(row_)::BIGINT, sum(letter)::BIGINT FROM ({' UNION ALL '.join(parts)}) GROUP BY day")
    return {day: DayCounts(0, good + bad, good, bad) for day, good, bad in rows.fetchall()}


def reconcile(con: duckdb.DuckDBPyConnection, bronze: Table) -> tuple[DayCounts, list[Mismatch]]:
    """Compares the counts that the last ingest took while reading with what lies in the tables now, file by file.

    Returns:
        The total of the last ingest as the tables hold it, and the files that do not add up.
    """
    read = _last_ingest(bronze)
    if not read:
        return DayCounts(), []
    letters = dead_letter_table(bronze.lake, bronze.name)
    days = ", ".join(sorted({f"DATE '{entry['day']}'" for entry in read}))
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for at, table in enumerate([bronze, letters]):
        if table.exists():
            rows = con.execute(
                f"SELECT _source.file, _batch_id, count(*) FROM {table.scan()} WHERE _partition_date IN ({days}) GROUP BY ALL"
            )
            for file, content_id, count in rows.fetchall():
                found[file, content_id][at] = count
    total, wrong = DayCounts(), []
    for entry in read:
        rows_, dead = found[entry["file"], entry["content_id"]]
        total = DayCounts(total.files + 1, total.records_in + entry["records_in"], total.rows + rows_, total.dead_letters + dead)
        if entry["records_in"] != rows_ + dead:
            day = date.fromisoformat(entry["day"])
            wrong.append(Mismatch(entry["file"], day, entry["records_in"], rows_, dead))
    return total, wrong


def _prepare(con: duckdb.DuckDBPyConnection, bronze: Table, source: LandingSource) -> RawShape:
    """Creates the table if need be; gives the columns to read, with those that evolution has added before."""
    shape = raw_shape(source.model)
    bronze.create(
        _schema(con, (*shape.columns, *TECHNICAL_COLUMNS)),
        partition_by=["_partition_date"],
        date_column=event_time(source.model) or "_partition_date",
        description=(source.model.__doc__ or "").strip(),
    )
    technical = {column.name for column in TECHNICAL_COLUMNS}
    stored = con.execute(f"DESCRIBE SELECT * FROM {bronze.scan()}").fetchall()
    return shape.extended(RawColumn(name, kind) for name, kind, *_ in stored if name not in technical)


def _schema(con: duckdb.DuckDBPyConnection, columns: Iterable[RawColumn]) -> Schema:
    return query_schema(con, "SELECT " + ", ".join(f"NULL::{c.dtype} AS {quote_name(c.name)}" for c in columns))


def _carry_out(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    source: LandingSource,
    shape: RawShape,
    root: Path,
    todo: Plan,
    run_id: str,
) -> Report:
    """Reads what the plan says and commits it. Raises PositionMovedError when another run was faster."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE {LETTERS} ({', '.join(f'{n} {t}' for n, t in LETTER_COLUMNS.items())})")
    positions = dict(todo.positions)
    reports = [FileReport(file.path, file.date, "", "waiting") for file in todo.waiting]
    reports += [FileReport(file.path, file.date, content_id, "copy") for file, content_id in todo.copies]
    files: list[DataFile] = []
    added: dict[str, RawColumn] = {}
    with TemporaryDirectory() as folder:
        reader = FileReader(con, bronze, root, Path(folder), source.format, source.delimiter, source.schema_evolution)
        for delivery in todo.read:
            path, day, content_id = delivery.file.path, delivery.file.date, delivery.content_id
            landed = reader.read(delivery, shape.extended(added.values()))
            if landed is None:
                positions.pop(f"content:{content_id}")
                positions.pop(position_of(day), None)
                reports.append(FileReport(path, day, "", "waiting"))
                continue
            files += landed.files
            added |= {column.name: column for column in landed.added}
            outcome: Outcome = "corrected" if path in todo.replaced else "new"
            reports.append(
                FileReport(path, day, content_id, outcome, landed.records_in, landed.rows, landed.dead_letters)
            )
    read = [report for report in reports if report.outcome in ("new", "corrected")]
    gone = {path: content_id for path, content_id in todo.replaced.items() if path in {report.file for report in read}}
    try:
        version = _commit(con, bronze, files, read, gone, added.values(), todo.expect, positions, run_id)
    except PositionMovedError:
        for file in files:
            discard(bronze.uri, file.path)
        raise
    return Report(version, sorted(reports, key=lambda report: (report.day, report.file)), todo.unchanged)


def _commit(
    con: duckdb.DuckDBPyConnection,
    bronze: Table,
    files: list[DataFile],
    read: list[FileReport],
    gone: Iterable[str],
    added: Iterable[RawColumn],
    expect: Mapping[str, int | None],
    positions: Mapping[str, int],
    run_id: str,
) -> int:
    """The two commits: the dead letters of the files read, then their rows and positions."""
    con.execute("CREATE OR REPLACE TEMP TABLE landing_read (file VARCHAR, gone BOOLEAN)")
    paths = {report.file: report.file in set(gone) for report in read}
    if paths:
        con.executemany("INSERT INTO landing_read VALUES (?, ?)", list(paths.items()))
    days = ", ".join(sorted({f"DATE '{report.day}'" for report in read}))
    facts = {"run_id": run_id} if run_id else {}
    if read:
        record(
            con,
            dead_letter_table(bronze.lake, bronze.name),
            f"SELECT * FROM {LETTERS}",
            where=f"_partition_date IN ({days}) AND _source.file IN (SELECT file FROM landing_read)",
            metadata=facts,
        )
        total = _total(read)
        facts |= {name: str(value) for name, value in asdict(total).items()}
        facts["read"] = json.dumps([report.as_dict() for report in read])
    if added := list(added):
        bronze.create(_schema(con, added))
    replaced = f"_partition_date IN ({days}) AND _source.file IN (SELECT file FROM landing_read WHERE gone)"
    return bronze.commit(
        con,
        files,
        where=replaced if any(paths.values()) else None,
        expect=expect,
        positions=positions,
        metadata=facts,
    )


def _last_ingest(bronze: Table) -> list[dict[str, Any]]:
    """What the newest commit of an ingest says that it read; [] if none of the last commits is one."""
    for commit in bronze.open().history(_COMMITS_LOOKED_AT):
        if "read" in commit:
            return list(json.loads(commit["read"]))
    return []


def _total(files: Iterable[FileReport]) -> DayCounts:
    read = [file for file in files if file.outcome in ("new", "corrected")]
    return DayCounts(
        len(read),
        sum(file.records_in for file in read),
        sum(file.rows for file in read),
        sum(file.dead_letters for file in read),
    )
