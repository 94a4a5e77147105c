"""A poll: all pages of a resource into bronze, in one commit, or nothing at all.

Positions in the table's log: the time of the last poll; the watermark of an incremental source; `content` of a full
one, so that a poll without news writes nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from time import monotonic

import duckdb

from pipeline_assets.ingest.batch import counts
from pipeline_assets.ingest.batch import source as spine
from pipeline_assets.ingest.batch.batch import Batch, has_half_a_batch
from pipeline_assets.ingest.batch.rows import RowBatch, RowPlan
from pipeline_assets.ingest.batch.watermark import EXTRACTED, Watermark, at, next_extracted, position
from pipeline_assets.ingest.rest.api import answers
from pipeline_assets.ingest.rest.errors import IncompleteError, RestError
from pipeline_assets.ingest.rest.source import Param, RestSource
from pipeline_assets.ingest.rest.staging import Staged, digest, stage, watermarks
from pipeline_assets.lake import Lake, Table
from pipeline_assets.sql import quote_name

_CONTENT = "content"
_NO_CONTENT = 0


@dataclass
class Report(counts.Report):
    """What a poll did. If there was no news, all its records count as duplicates, and nothing was committed.

    Attributes:
        day: Its partition.
        origin: What was asked for.
        pages: Number of answers.
        restarted: Why the pages were read twice; None if once was enough.
    """

    day: date = date.min
    origin: str = ""
    pages: int = 0
    restarted: str | None = None


def poll(
    lake: Lake, con: duckdb.DuckDBPyConnection, source: RestSource, *, whole: bool = False, run_id: str = ""
) -> Report:
    """Read a resource and commit what is new in it.

    Args:
        lake: The lake.
        con: A connection of it.
        source: The declaration.
        whole: Reads all of the source once more, and commits it even if it seems to be there. This brings records that
            were missed, did not fit the contract of then, or were removed from the table since.
        run_id: Of the run, for the commit's metadata.

    Raises:
        RestError: The API does not answer as declared, or its pages are not complete; nothing was committed.
        CommitConflictError: Other polls of the source were faster each time.
    """
    run = _Run(lake, con, source, whole, run_id)
    for batch in spine.ingest(run):
        run.report.add(batch)
    return run.report


@dataclass
class _Run:
    """One poll, as a `Source` of the spine: only once all pages are read is it known what is new."""

    lake: Lake
    con: duckdb.DuckDBPyConnection
    source: RestSource
    whole: bool
    run_id: str
    report: Report = field(default_factory=Report)

    @property
    def name(self) -> str:
        return self.source.table(self.lake).name

    def plan(self, stack: ExitStack) -> Sequence[Batch]:
        """Read all pages into a temporary table, and decide which of their records are new."""
        con, source, bronze = self.con, self.source, self.source.table(self.lake)
        mark = source.watermark
        before = bronze.position(EXTRACTED)
        since = bronze.position(_name(mark)) if mark else None
        asked = source.asked(None if self.whole else since)
        self._staged, started_at, restarted = _read(con, source, asked)
        rows = _rows(con, source, before, since, started_at)
        origin = f"GET /{source.path.strip('/')}" + "".join(f"?{name}={value}" for name, value in asked.items())
        self.report = Report(day=rows.partition_date, origin=origin, pages=self._staged.pages, restarted=restarted)
        if before is not None and not _is_news(con, source, bronze, self._staged, rows) and not self.whole:
            received = self._staged.received
            self.report.counts[source.name] = counts.Counts(received, duplicates=received)
            self.report.versions[source.name] = bronze.open().version()
            return []
        self._batch = RowBatch(self.lake, con, source, rows, run_id=self.run_id)
        return [self._batch]

    def read(self, batches: Sequence[Batch]) -> None:
        """Put the pages' records into the batch."""
        staged, origin = self._staged, self.report.origin
        self._batch.add(staged, origin=origin, counted=lambda: staged.distinct, removed=staged.older_versions)


def _rows(
    con: duckdb.DuckDBPyConnection, source: RestSource, before: int | None, since: int | None, started_at: datetime
) -> RowPlan:
    """Plan the batch of the staged records."""
    extracted = next_extracted(before, started_at)
    batch = RowPlan(
        name="poll",
        start=str(before or ""),
        end=str(extracted),
        partition_date=at(extracted).date(),
        extracted_at=at(extracted),
        expect={EXTRACTED: before},
    )
    mark = source.watermark
    if mark is None:
        return replace(batch, replaces="TRUE", positions={EXTRACTED: extracted, _CONTENT: digest(con, source)})
    positions = {EXTRACTED: extracted, _CONTENT: _NO_CONTENT}
    least, greatest = watermarks(con, mark)
    if greatest is not None:
        # Otherwise a record of the year 2999 would be the last one that is ever asked for.
        newest = min(greatest, position(started_at)) if mark.is_time else greatest
        positions[_name(mark)] = newest if since is None else max(newest, since)
    # By the records that came: an API may send more than it was asked for.
    again = f"{quote_name(mark.column)} IS NULL" if least is None else mark.from_on(least)
    return replace(batch, may_repeat=again, positions=positions)


def _read(
    con: duckdb.DuckDBPyConnection, source: RestSource, asked: Mapping[str, Param]
) -> tuple[Staged, datetime, str | None]:
    """Read all pages; if they are not complete, once more from the first one on, since the source may have moved."""
    started_at, deadline = datetime.now(UTC), monotonic() + source.max_minutes * 60
    try:
        return stage(con, source, answers(source, asked, deadline)), started_at, None
    except IncompleteError as error:
        restarted = str(error)
    started_at = datetime.now(UTC)
    try:
        return stage(con, source, answers(source, asked, deadline)), started_at, restarted
    except IncompleteError as error:
        raise IncompleteError(f"{error}; that was the second attempt, the first one ended with: {restarted}") from None


def _name(mark: Watermark) -> str:
    """Give the name of the watermark's position. It holds the column: for another one the value would mean nothing."""
    return f"watermark:{mark.column}"


def _is_news(con: duckdb.DuckDBPyConnection, source: RestSource, bronze: Table, staged: Staged, rows: RowPlan) -> bool:
    """Tell whether there is anything to commit.

    Raises:
        RestError: A full poll would empty the table, and no total says that this is right.
    """
    if source.incremental:
        return staged.received > 0
    if not staged.received and staged.total is None and con.execute(f"FROM {bronze.scan()} LIMIT 1").fetchone():
        raise RestError(
            f"the API sent no record at all, and {bronze.name} has some: nothing was replaced; if it is "
            "empty indeed, declare `total`, so that the API can say so"
        )
    return bronze.position(_CONTENT) != rows.positions[_CONTENT] or has_half_a_batch(bronze)
