"""Up to where a table of PostgreSQL was read, so that no row version is left out and none comes twice.

A watermark alone is not enough: a row is stamped when it is written and seen when its transaction commits, which may be
hours and many pulls later, below the watermark of all of them. So what counts is the transaction that wrote the row
version (`xmin`). At a snapshot all transactions before its `xmin` have ended: what they wrote is in the rows that are
read, or never will be. The next pull starts there. It reads again what transactions from there on had already written,
if any was open; `duplicates` leaves that out.

A row may be older than its place in the table: one of a partition that was attached, of a table that inherits since.
The catalog's own rows have an `xmin`, too, which says what has joined or was rewritten since a pull (`Member`): the
former is read whole, and either way what is in bronze is left out. A partition that was made since has new rows only.

So everything is found, whatever it was stamped with: a row changed by hand, an import with old dates. The price is that
the source scans its table (0.3 s for 2 million rows) without sending it. A declared lookback spares that by the
watermark's index: a transaction that had not begun at a pull is taken to stamp its rows no lower than the greatest
watermark of that pull, less the lookback. That covers clocks that step and transactions that take their time, not old
dates.
"""

from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from pipeline_assets.ingest.batch.watermark import Watermark, at
from pipeline_assets.ingest.database.protocol import Selection, Transactions
from pipeline_assets.lake import Table

_PREFIX = "increment:"
_NONE = -(2**63)  # of a mark; it has to be written, or that of another stream would stay in the log

NO_PROGRESS = {f"{_PREFIX}stream": 0}
"""Positions that end it. A pull of another kind commits them: what it saw is not known here."""


@dataclass(frozen=True)
class Progress:
    """What the last pull saw; positions of the bronze table's log.

    Attributes:
        stream: Number of what was read: cluster, timeline, database, table and watermark's column.
        xmin: All transactions before this one had ended.
        xmax: All from this one on had not begun.
        read_at: When, in microseconds.
        since: Transactions from `xmin` on began after this, in microseconds; 0 if that is not known.
        mark: Greatest watermark read; none of the future.
        floor: What `mark` was at `since`.
    """

    stream: int
    xmin: int
    xmax: int
    read_at: int
    since: int
    mark: int | None = None
    floor: int | None = None

    @classmethod
    def of(cls, bronze: Table) -> "Progress | None":
        """Reads it from the log; None if the last pull was of another kind."""
        if not bronze.exists():
            return None
        log = bronze.open()
        stream, xmin, xmax, read_at, since, *marks = (
            log.transaction_version(f"{_PREFIX}{name}") for name in cls.__dataclass_fields__
        )
        if not stream or xmin is None or xmax is None or read_at is None or since is None:
            return None
        return cls(stream, xmin, xmax, read_at, since, *(None if mark == _NONE else mark for mark in marks))

    @classmethod
    def first(cls, stream: int, transactions: Transactions, read_at: int, mark: int | None) -> "Progress":
        """What the first pull has seen."""
        xmin, xmax = transactions.xmin, transactions.xmax
        if xmin == xmax:
            return cls(stream, xmin, xmax, read_at, read_at, mark, mark)
        return cls(stream, xmin, xmax, read_at, 0, mark)

    @property
    def positions(self) -> dict[str, int]:
        """As positions to be committed."""
        return {f"{_PREFIX}{name}": _NONE if value is None else value for name, value in asdict(self).items()}

    def after(self, transactions: Transactions, read_at: int, mark: int | None) -> "Progress":
        """What a pull has seen that follows on this one.

        Args:
            transactions: Of its snapshot.
            read_at: When that was taken.
            mark: Greatest watermark that it read.
        """
        mark = self.mark if mark is None else max(mark, mark if self.mark is None else self.mark)
        if transactions.xmin == transactions.xmax:
            since, floor = read_at, mark
        elif transactions.xmin >= self.xmax:  # the open ones have begun since this pull
            since, floor = self.read_at, self.mark
        else:
            since, floor = self.since, self.floor
        xmin, xmax = transactions.xmin, transactions.xmax
        return Progress(self.stream, xmin, xmax, read_at, since, mark, floor)

    def is_followed_by(self, stream: int, transactions: Transactions) -> bool:
        """Whether a snapshot is a later one of the same. A database restored to an earlier state counts anew."""
        return stream == self.stream and transactions.xmin >= self.xmin and transactions.xmax >= self.xmax

    def selection(self, transactions: Transactions, watermark: Watermark, lookback: int | None) -> Selection:
        """What the next pull reads.

        Args:
            transactions: Of its snapshot.
            watermark: The watermark's column.
            lookback: How far below the floor it looks, in positions; None is all the way.
        """
        new = Selection(newer_than=self.xmin, members=transactions.attached(self.xmin))
        if lookback is None or self.floor is None:
            return new
        return replace(new, watermark=watermark.column, lower=watermark.value(self.floor - lookback))

    def may_repeat(self, transactions: Transactions) -> str | None:
        """Predicate on the bronze rows that the next pull may read again; None if there are none."""
        if transactions.rewritten(self.xmin) or transactions.attached(self.xmin):
            return "TRUE"
        if self.xmin == self.xmax:
            return None
        # A day more than needed, for a clock that was set back.
        return f"_partition_date >= DATE '{at(self.since).date() - timedelta(days=1)}'"
