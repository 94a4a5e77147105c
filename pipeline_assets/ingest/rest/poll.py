"""A poll: all pages of a resource into bronze, in one commit, or nothing at all.

Positions in the table's log: `poll` counts the polls that were committed, so that one that was killed has the name of
the next; the watermark of an incremental source; `content` of a full one, so that a poll without news writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

import duckdb

from pipeline_assets.ingest.pull import Batch, Counts, Pull
from pipeline_assets.ingest.rest.api import answers
from pipeline_assets.ingest.rest.declared import Param, RestSource
from pipeline_assets.ingest.rest.errors import IncompleteError, RestError
from pipeline_assets.ingest.rest.staged import Staged, digest, stage, watermarks
from pipeline_assets.lake import Lake, Table

_POLL, _CONTENT = "poll", "content"
_NO_CONTENT = 0


@dataclass(frozen=True)
class Polled:
    """What a poll did.

    Attributes:
        version: The bronze table's version.
        counts: Of what was committed; nothing, if there was no news.
        day: Its partition.
        origin: What was asked for.
        pages: Answers.
        restarted: Why the pages were read twice; None if once was enough.
    """

    version: int
    counts: Counts
    day: date
    origin: str
    pages: int
    restarted: str | None


def poll(lake: Lake, con: duckdb.DuckDBPyConnection, source: RestSource, *, run_id: str = "") -> Polled:
    """Reads a resource and commits what is new in it.

    Args:
        lake: The lake.
        con: A connection of it.
        source: The declaration.
        run_id: Of the run, for the commit's metadata.

    Raises:
        RestError: The API does not answer as declared, or its pages are not the whole; nothing was committed.
        PositionMovedError: Another poll of the source was faster; nothing was committed.
    """
    bronze, mark = source.table(lake), source.watermark
    polls = bronze.position(_POLL)
    since = bronze.position(mark.position_name) if mark else None
    asked: dict[str, Param] = {}
    if source.incremental and mark and since is not None:
        asked = {source.incremental.param: mark.text(since - mark.lag)}
    staged, started_at, restarted = _read(con, source, asked)
    batch = Batch(
        name=_POLL,
        start=str(polls or 0),
        end=str((polls or 0) + 1),
        partition_date=started_at.date(),
        extracted_at=started_at,
        expect={_POLL: polls},
        positions={_POLL: (polls or 0) + 1, **_ends_at(con, source, since, started_at)},
        replaces=None if mark else "TRUE",
        repeats=mark.from_sql(watermarks(con, source)[0]) if mark else None,
    )
    origin = f"GET {source.path}" + "".join(f"?{name}={value}" for name, value in asked.items())
    if polls is not None and not _is_news(con, source, bronze, staged, batch):
        return Polled(bronze.open().version(), Counts(), batch.partition_date, origin, staged.pages, restarted)
    with Pull(lake, con, source, batch) as pull:
        pull.write(staged, origin=origin, counted=lambda: staged.distinct, removed=staged.superseded)
        pulled = pull.commit(run_id=run_id)
    return Polled(pulled.version, pulled.counts, batch.partition_date, origin, staged.pages, restarted)


def _read(
    con: duckdb.DuckDBPyConnection, source: RestSource, asked: Mapping[str, Param]
) -> tuple[Staged, datetime, str | None]:
    """Reads all pages; once more from the first one on if they are not the whole, since the source may have moved."""
    started_at = datetime.now(UTC)
    try:
        return stage(con, source, answers(source, asked)), started_at, None
    except IncompleteError as error:
        restarted = str(error)
    started_at = datetime.now(UTC)
    try:
        return stage(con, source, answers(source, asked)), started_at, restarted
    except IncompleteError as error:
        raise IncompleteError(f"{error}; that was the second attempt, the first one ended with: {restarted}") from None


def _ends_at(
    con: duckdb.DuckDBPyConnection, source: RestSource, since: int | None, started_at: datetime
) -> dict[str, int]:
    """Positions of the batch beside its number."""
    mark = source.watermark
    if mark is None:
        return {_CONTENT: digest(con, source)}
    newest = watermarks(con, source)[1]
    ends = [position for position in (since, newest and mark.capped(newest, started_at)) if position is not None]
    return {_CONTENT: _NO_CONTENT, **({mark.position_name: max(ends)} if ends else {})}


def _is_news(con: duckdb.DuckDBPyConnection, source: RestSource, bronze: Table, staged: Staged, batch: Batch) -> bool:
    """Whether there is anything to commit.

    Raises:
        RestError: A full poll would empty the table, and no total says that this is right.
    """
    if source.incremental:
        return staged.received > 0
    if not staged.received and staged.total is None and con.execute(f"FROM {bronze.scan()} LIMIT 1").fetchone():
        raise RestError(
            f"{source.name}: the API sent no record at all, and {bronze.name} has some: nothing was replaced; if it is "
            "empty indeed, declare `total`, so that the API can say so"
        )
    return bronze.position(_CONTENT) != batch.positions[_CONTENT]
