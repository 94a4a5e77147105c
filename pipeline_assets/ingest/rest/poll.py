"""A poll: all pages of a resource into bronze, in one commit, or nothing at all.

Positions in the table's log: when it was last polled; the watermark of an incremental source; `content` of a full one,
so that a poll without news writes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from time import monotonic

import duckdb

from pipeline_assets.ingest.batch.batch import Batch, Counts, Pull
from pipeline_assets.ingest.batch.watermark import Watermark, at, position
from pipeline_assets.ingest.rest.api import answers
from pipeline_assets.ingest.rest.errors import IncompleteError, RestError
from pipeline_assets.ingest.rest.source import Param, RestSource
from pipeline_assets.ingest.rest.staging import Staged, digest, stage, watermarks
from pipeline_assets.lake import Lake, Table
from pipeline_assets.lake.schemas import Widening
from pipeline_assets.sql import quote_name

_EXTRACTED, _CONTENT = "extracted", "content"
_NO_CONTENT = 0


@dataclass(frozen=True)
class Polled:
    """What a poll did.

    Attributes:
        version: The bronze table's version.
        counts: Of its records; all are duplicates if there was no news, and nothing was committed.
        day: Its partition.
        origin: What was asked for.
        pages: Answers.
        restarted: Why the pages were read twice; None if once was enough.
        widened: Columns of the table that took a wider type of the contract.
    """

    version: int
    counts: Counts
    day: date
    origin: str
    pages: int
    restarted: str | None
    widened: Sequence[Widening] = ()


def poll(
    lake: Lake, con: duckdb.DuckDBPyConnection, source: RestSource, *, whole: bool = False, run_id: str = ""
) -> Polled:
    """Reads a resource and commits what is new in it.

    Args:
        lake: The lake.
        con: A connection of it.
        source: The declaration.
        whole: Reads all of the source once more, and commits it though it seems to be there: what was missed, did not
            fit the contract of then, or was taken out of the table since.
        run_id: Of the run, for the commit's metadata.

    Raises:
        RestError: The API does not answer as declared, or its pages are not the whole; nothing was committed.
        PositionMovedError: Another poll of the source was faster; nothing was committed.
    """
    bronze, mark = source.table(lake), source.watermark
    before = bronze.position(_EXTRACTED)
    since = bronze.position(_name(mark)) if mark else None
    asked = source.asked(None if whole else since)
    staged, started_at, restarted = _read(con, source, asked)
    batch = _batch(con, source, before, since, started_at)
    origin = f"GET /{source.path.strip('/')}" + "".join(f"?{name}={value}" for name, value in asked.items())
    if before is not None and not _is_news(con, source, bronze, staged, batch) and not whole:
        known = Counts(staged.received, duplicates=staged.received)
        return Polled(bronze.open().version(), known, batch.partition_date, origin, staged.pages, restarted)
    with Pull(lake, con, source, batch) as pull:
        pull.write(staged, origin=origin, counted=lambda: staged.distinct, removed=staged.older_versions)
        pulled = pull.commit(run_id=run_id)
    return Polled(pulled.version, pulled.counts, batch.partition_date, origin, staged.pages, restarted, pulled.widened)


def _batch(
    con: duckdb.DuckDBPyConnection, source: RestSource, before: int | None, since: int | None, started_at: datetime
) -> Batch:
    """The batch of what is staged."""
    # It grows whatever the clock does: of two versions of a row the one that was read later counts.
    extracted = max(position(started_at), (before or 0) + 1)
    batch = Batch(
        name="poll",
        start=str(before or ""),
        end=str(extracted),
        partition_date=at(extracted).date(),
        extracted_at=at(extracted),
        expect={_EXTRACTED: before},
    )
    mark = source.watermark
    if mark is None:
        return replace(batch, replaces="TRUE", positions={_EXTRACTED: extracted, _CONTENT: digest(con, source)})
    positions = {_EXTRACTED: extracted, _CONTENT: _NO_CONTENT}
    least, greatest = watermarks(con, mark)
    if greatest is not None:
        # A record of the year 2999 would else be the last one that is ever asked for.
        newest = min(greatest, position(started_at)) if mark.is_time else greatest
        positions[_name(mark)] = newest if since is None else max(newest, since)
    # By what came: an API may send more than it was asked for.
    again = f"{quote_name(mark.column)} IS NULL" if least is None else mark.from_on(least)
    return replace(batch, may_repeat=again, positions=positions)


def _read(
    con: duckdb.DuckDBPyConnection, source: RestSource, asked: Mapping[str, Param]
) -> tuple[Staged, datetime, str | None]:
    """Reads all pages; once more from the first one on if they are not the whole, since the source may have moved."""
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
    """Position of the watermark. The column is in it: of another column the value would mean nothing."""
    return f"watermark:{mark.column}"


def _is_news(con: duckdb.DuckDBPyConnection, source: RestSource, bronze: Table, staged: Staged, batch: Batch) -> bool:
    """Whether there is anything to commit.

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
    return bronze.position(_CONTENT) != batch.positions[_CONTENT]
