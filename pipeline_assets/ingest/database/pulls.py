"""A pull from a database: everything, the windows of some days, or only what is new; then the commit.

full        every row, in place of those of the last pull
window      the rows whose watermark lies in a day, in place of those of that day
incremental rows that are new or changed since the last pull: of a PostgreSQL table exactly (`progress`); of views,
            queries and other databases by the watermark less a lookback, without what was read before (`duplicates`)

`postgres`, `alchemy` and `duckdb_file` read a database; `compare_keys` finds deleted rows.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Literal

import duckdb

from pipeline_assets.contracts.base import raw_shape
from pipeline_assets.ingest.batch import source as spine
from pipeline_assets.ingest.batch.batch import Batch
from pipeline_assets.ingest.batch.counts import Report
from pipeline_assets.ingest.batch.rows import RowBatch, RowPlan, RowSource
from pipeline_assets.ingest.batch.watermark import EXTRACTED, SECONDS, Watermark, at, next_extracted, position
from pipeline_assets.ingest.database import parameters, postgres
from pipeline_assets.ingest.database.duckdb_file import DuckDBFile
from pipeline_assets.ingest.database.errors import retrying
from pipeline_assets.ingest.database.progress import NO_PROGRESS, Progress
from pipeline_assets.ingest.database.protocol import (
    Database,
    Relation,
    Selection,
    Snapshot,
    Transactions,
    column_of,
    name_parts,
)
from pipeline_assets.interruption import end_all, lent
from pipeline_assets.lake import Lake, Positions, Table, every_day

Mode = Literal["full", "incremental", "window"]

LOOKBACK_SECONDS = 86_400
LOOKBACK_NUMBERS = 10_000
"""How far below the watermark an incremental pull looks, unless declared."""

_MODES: dict[Mode, frozenset[str]] = {
    "full": frozenset(),
    "incremental": frozenset({"lower"}),
    "window": frozenset({"lower", "upper"}),
}
"""The parameters of a query in each mode."""

_NO_WATERMARK = {"watermark:stream": 0}
_YEAR_DAYS = 366
# SQLite compares times as texts, in whatever zone they were written: a bronze row to be compared with may be so far
# off.
_TEXT_MARGIN = 2 * 86_400 * SECONDS


@dataclass(frozen=True)
class DatabaseSource(RowSource):
    """A table or query of a database as declared.

    Attributes:
        source_table: The table that is read, as `schema.table`; None if `query` is given.
        query: SQL, with `:lower` in incremental mode, and `:upper` too in windows; None if `source_table` is given.
        mode: How the source is read: see the module.
        watermark: Column that grows with each change; the day of a window. None for full pulls.
        lookback: How far below the watermark a pull looks: seconds, or numbers. None is a day, or 10,000 numbers; for a
            PostgreSQL table, all the way.
    """

    source_table: str | None = None
    query: str | None = None
    mode: Mode = "full"
    watermark: Watermark | None = None
    lookback: int | None = None

    def __post_init__(self) -> None:
        """Refuse a declaration that contradicts itself.

        Raises:
            ValueError: The message says what to declare instead.
        """
        columns = {column.name: column for column in raw_shape(self.model).columns}
        if unknown := [key for key in self.keys if key not in columns]:
            raise ValueError(f"keys: {', '.join(unknown)} are no columns of the contract {self.model.__name__}")
        if (self.source_table is None) == (self.query is None):
            raise ValueError("declare either a table or a query")
        if self.source_table is not None:
            name_parts(self.source_table)
        if (self.mode == "full") != (self.watermark is None):
            raise ValueError(f"mode {self.mode} {'takes no' if self.mode == 'full' else 'needs a'} watermark")
        if self.mode == "window" and self.watermark is not None:
            if not self.watermark.is_time:
                raise ValueError(f"mode window needs a watermark with days; {self.watermark.column} is a number")
            if not columns[self.watermark.column].required:
                raise ValueError(
                    f"mode window: rows without {self.watermark.column} would belong to no day; make it required in "
                    f"the contract {self.model.__name__}, or pull incrementally"
                )
        if self.query is not None and (has := parameters.names(self.query)) != _MODES[self.mode]:
            wanted = " and ".join(f":{name}" for name in sorted(_MODES[self.mode])) or "no parameter"
            given = " and ".join(f":{name}" for name in sorted(has)) or "none"
            raise ValueError(f"the query of mode {self.mode} has {wanted}, this one has {given}")
        if self.query is not None and self.mode != "full" and parameters.is_cut(self.query):
            raise ValueError(
                f"the query of mode {self.mode} gives only so many rows (LIMIT, FETCH FIRST or TOP): those beyond "
                "would never be read, and nothing would say so. Leave it out: rows stream, and only new ones are read"
            )

    @property
    def relation(self) -> Relation:
        """What is read, in the form of the readers."""
        return Relation(self.source_table, self.query, keeps_bytes=True)


@dataclass(frozen=True)
class _Pull:
    """What to read, and the positions that follow from the greatest watermark that was read."""

    rows: RowPlan
    selections: Sequence[Selection]
    positions: Callable[[int | None], dict[str, int]]


def connect(url: str) -> Database:
    """Give the database of a URL; connect to nothing yet.

    Args:
        url: `postgresql://...`, `duckdb:///path`, or any other of SQLAlchemy.

    Raises:
        DatabaseError: The text is not a URL, or its driver is not installed.
    """
    if url.startswith("duckdb:"):
        return DuckDBFile(url)
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] in ("postgresql", "postgres"):
        return postgres.PostgresDatabase(f"postgresql://{rest}" if separator else url)
    # SQLAlchemy costs 0.2 CPU seconds of each start.
    from pipeline_assets.ingest.database.alchemy import AlchemyDatabase

    return AlchemyDatabase(url)


def days_due(lake: Lake, source: DatabaseSource, today: date) -> tuple[date, date]:
    """Give the first and last day that a pull of today covers: those since the last pull; of windows, up to yesterday.

    Windows begin with the first one that is missing, or that was pulled before its day was over. People have to ask for
    windows older than a year, and for all before the first pull.
    """
    bronze = source.table(lake)
    log = bronze.open() if bronze.exists() else None
    if source.mode != "window":
        extracted = log and log.transaction_version(EXTRACTED)
        return (min(at(extracted).date() + timedelta(days=1), today) if extracted else today), today
    last = today - timedelta(days=1)
    days = [last - timedelta(days=back) for back in reversed(range(_YEAR_DAYS))]
    positions = Positions(log) if log else None
    pulled = {day: positions.get(_window_position(day)) if positions else None for day in days}
    begun = next((number for number, day in enumerate(days) if pulled[day]), len(days))
    return next((day for day in days[begun:] if not _is_whole(day, pulled[day])), last), last


def _is_whole(day: date, pulled: int | None) -> bool:
    """Tell whether a window was pulled once its day was over."""
    return pulled is not None and at(pulled).date() > day


def pull(
    lake: Lake, con: duckdb.DuckDBPyConnection, source: DatabaseSource, database: Database, first: date, last: date,
    *, run_id: str = "",
) -> Report:  # fmt: skip
    """Pull once; in windows, each day of a range. Errors that may pass by themselves are tried again.

    Args:
        lake: The lake.
        con: A connection of it.
        source: The declaration.
        database: The database.
        first: First day, of windows.
        last: Last day, of windows.
        run_id: Of the run, for the commit's metadata.

    Raises:
        DatabaseError: The database cannot be reached, refuses, or does not have what is declared.
        BatchError: Records went missing on the way.
        CommitConflictError: Other pulls of the source were faster each time.
    """
    days: list[date | None] = [*every_day(first, last)] if source.mode == "window" else [None]
    report = Report()
    for day in days:
        for batch in retrying()(spine.ingest, _Run(lake, con, source, database, day, run_id)):
            report.add(batch)
    return report


@dataclass
class _Run:
    """One pull, as a `Source` of the spine; in windows, the pull of one day."""

    lake: Lake
    con: duckdb.DuckDBPyConnection
    source: DatabaseSource
    database: Database
    day: date | None
    run_id: str

    @property
    def name(self) -> str:
        return self.source.table(self.lake).name

    def plan(self, stack: ExitStack) -> Sequence[Batch]:
        """Take a snapshot of the source, and decide what is read from it."""
        self._snapshot = stack.enter_context(self.database.snapshot(self.source.relation))
        bronze = self.source.table(self.lake)
        self._pull = _plan(self.con, bronze, self.source, self.database.place, self._snapshot, self.day)
        self._batch = RowBatch(self.lake, self.con, self.source, self._pull.rows, run_id=self.run_id)
        return [self._batch]

    def read(self, batches: Sequence[Batch]) -> None:
        """Read what was selected into the batch."""
        watermark = self.source.watermark
        _read(self._batch, self.con, self.source, self._snapshot, self._pull.selections)
        greatest = self._batch.greatest(watermark.greatest_sql) if watermark else None
        # Positions that other kinds of pulls have kept do not cover these rows.
        self._batch.positions |= {**NO_PROGRESS, **_NO_WATERMARK, **self._pull.positions(greatest)}


def _plan(
    con: duckdb.DuckDBPyConnection, bronze: Table, source: DatabaseSource, place: str, snapshot: Snapshot,
    day: date | None,
) -> _Pull:  # fmt: skip
    before = bronze.position(EXTRACTED)
    extracted = next_extracted(before, snapshot.taken_at)
    batch = RowPlan(
        name=source.mode,
        start=str(before or ""),
        end=str(extracted),
        partition_date=at(extracted).date(),
        extracted_at=at(extracted),
        expect={EXTRACTED: before},
        positions={EXTRACTED: extracted},
    )
    if source.watermark is None:
        batch = replace(batch, replaces="TRUE", positions={**batch.positions, "full": extracted}, mark="full")
        return _Pull(batch, snapshot.splits(source.keys), lambda _: {})
    if day is not None:
        return _window(batch, source.watermark, day)
    # In an empty table there is nothing that could be read again.
    may_repeat = "TRUE" if _has_rows(con, bronze) else None
    if snapshot.transactions is not None:
        return _by_transactions(batch, bronze, source, snapshot, snapshot.transactions, may_repeat)
    return _by_watermark(batch, bronze, source, place, snapshot, may_repeat)


def _window(batch: RowPlan, watermark: Watermark, day: date) -> _Pull:
    start = position(datetime(day.year, day.month, day.day, tzinfo=UTC))
    lower, upper = watermark.value(start), watermark.value(start + 86_400 * SECONDS)
    window = replace(
        batch,
        name=f"window {day}",
        partition_date=day,
        positions={**batch.positions, _window_position(day): batch.positions[EXTRACTED]},
        replaces=f"_partition_date = DATE '{day}'",
        mark=_window_position(day),
    )
    return _Pull(window, [Selection(watermark=watermark.column, lower=lower, upper=upper)], lambda _: {})


def _window_position(day: date) -> str:
    return f"window:{day}"


def _by_transactions(
    batch: RowPlan, bronze: Table, source: DatabaseSource, snapshot: Snapshot, transactions: Transactions,
    may_repeat: str | None,
) -> _Pull:  # fmt: skip
    watermark, now = _watermark(source), position(snapshot.taken_at)
    stream = _number(f"{transactions.stream}/{watermark.column}")
    done = Progress.of(bronze)
    if done is None or not done.is_followed_by(stream, transactions):
        selections = snapshot.splits(source.keys) if may_repeat is None else [Selection()]

        def first(greatest: int | None) -> dict[str, int]:
            return Progress.first(stream, transactions, now, _capped(watermark, greatest, now)).positions

        return _Pull(replace(batch, may_repeat=may_repeat), selections, first)
    seen = done

    def following(greatest: int | None) -> dict[str, int]:
        return seen.after(transactions, now, _capped(watermark, greatest, now)).positions

    lookback = None if source.lookback is None else _lookback(source, watermark)
    selection = seen.selection(transactions, watermark, lookback)
    return _Pull(replace(batch, may_repeat=may_repeat and seen.may_repeat(transactions)), [selection], following)


def _by_watermark(
    batch: RowPlan, bronze: Table, source: DatabaseSource, place: str, snapshot: Snapshot, may_repeat: str | None
) -> _Pull:
    watermark, now = _watermark(source), position(snapshot.taken_at)
    stream = _number(f"{place}/{source.relation.name}/{watermark.column}")
    lookback = _lookback(source, watermark)
    mark = bronze.position("watermark") if bronze.position("watermark:stream") == stream else None

    def following(greatest: int | None) -> dict[str, int]:
        marks = [value for value in (mark, _capped(watermark, greatest, now)) if value is not None]
        return {"watermark:stream": stream, "watermark": max(marks)} if marks else {}

    if mark is None:
        is_query = source.query is not None
        whole = [Selection(lower=watermark.first)] if is_query else snapshot.splits(source.keys)
        return _Pull(replace(batch, may_repeat=may_repeat), whole, following)
    selection = Selection(watermark=watermark.column, lower=watermark.value(mark - lookback))
    near = mark - lookback - (_TEXT_MARGIN if watermark.is_time else 0)
    return _Pull(replace(batch, may_repeat=may_repeat and watermark.from_on(near)), [selection], following)


def _read(
    batch: RowBatch, con: duckdb.DuckDBPyConnection, source: DatabaseSource, snapshot: Snapshot,
    selections: Sequence[Selection],
) -> None:  # fmt: skip
    """Read all parts; several in parallel, each with a cursor and a session of its own."""

    def read(number: int) -> None:
        origin = source.relation.name + (f", part {number + 1} of {len(selections)}" if len(selections) > 1 else "")
        with lent(con.cursor()) as cursor, snapshot.read(cursor, selections[number]) as found:
            for column in (*source.keys, *([source.watermark.column] if source.watermark else [])):
                column_of([field.name for field in found.fields], column, source.relation.name)
            batch.add(found, origin=origin, counted=found.counted, con=cursor)

    if len(selections) == 1:
        read(0)
        return
    with ThreadPoolExecutor(postgres.WORKERS, thread_name_prefix="pull") as pool:
        try:
            for _ in pool.map(read, range(len(selections))):
                pass
        except BaseException as error:
            if not isinstance(error, Exception):  # only this thread gets an interrupt
                end_all()
            pool.shutdown(cancel_futures=True)
            raise


def _watermark(source: DatabaseSource) -> Watermark:
    if source.watermark is None:
        raise ValueError(f"{source.name}: mode {source.mode} needs a watermark")
    return source.watermark


def _lookback(source: DatabaseSource, watermark: Watermark) -> int:
    """Give the lookback in positions."""
    if not watermark.is_time:
        return LOOKBACK_NUMBERS if source.lookback is None else source.lookback
    return (LOOKBACK_SECONDS if source.lookback is None else source.lookback) * SECONDS


def _capped(watermark: Watermark, greatest: int | None, now: int) -> int | None:
    """Cap a watermark, so that a row from the future does not make the next pull skip rows of the present."""
    return greatest if greatest is None or not watermark.is_time else min(greatest, now)


def _number(text: str) -> int:
    """Give a text as a position."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def _has_rows(con: duckdb.DuckDBPyConnection, bronze: Table) -> bool:
    return bronze.exists() and con.execute(f"SELECT 1 FROM {bronze.scan()} LIMIT 1").fetchone() is not None
