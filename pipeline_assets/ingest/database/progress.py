"""How far a table of PostgreSQL was read, so that no row version is left out and none comes twice.

A watermark alone is not enough. A row is stamped when it is written but visible when its transaction commits, which may
be hours and many pulls later, below the watermark of all of them. So the transaction that wrote the row version
(`xmin`) counts. At a snapshot all transactions before its `xmin` have ended: what they wrote is in the rows that are
read, or never will be. The next pull starts there. If transactions were open, it reads again what the transactions from
there on had already written; `may_repeat` names these rows, so that duplicates are left out.

A row may be older than its place in the table, if its partition was attached later, or its table inherits since then.
The catalog's own rows have an `xmin`, too. It tells what has joined or was rewritten since a pull (`Member`): what has
joined is read completely, and in both cases the rows that are in bronze already are left out. A partition that was
created since has only new rows.

So every change is found, whatever its stamp: a row changed by hand, an import with old dates. The price is that the
source scans its table (0.3 s for 2 million rows) without sending it. A declared lookback avoids the scan by the
watermark's index. It assumes that a transaction which had not begun at a pull stamps its rows no lower than the
greatest watermark of that pull, less the lookback. That covers clocks that step back and long transactions, but not old
dates.
"""

from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from pipeline_assets.ingest.batch.watermark import Watermark, at
from pipeline_assets.ingest.database.protocol import Selection, Transactions
from pipeline_assets.lake import Table

_PREFIX = "increment:"
_NONE = -(2**63)  # stands for a mark of None; it has to be written, or the mark of another stream would stay in the log

NO_PROGRESS = {f"{_PREFIX}stream": 0}
"""Positions that end the progress. A pull of another kind commits them, because what it saw is unknown here."""


@dataclass(frozen=True)
class Progress:
    """What the last pull saw; positions in the bronze table's log.

    Attributes:
        stream: Number of what was read: cluster, timeline, database, table and watermark's column.
        xmin: All transactions before this one had ended.
        xmax: All transactions from this one on had not begun.
        read_at: When it was read, in microseconds.
        since: Transactions from `xmin` on began after this time, in microseconds; 0 if it is not known.
        mark: Greatest watermark read that is not in the future.
        floor: The value of `mark` at `since`.
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
        """Read the progress from the log; None if the last pull was of another kind."""
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
        """Return what the first pull has seen."""
        xmin, xmax = transactions.xmin, transactions.xmax
        if xmin == xmax:
            return cls(stream, xmin, xmax, read_at, read_at, mark, mark)
        return cls(stream, xmin, xmax, read_at, 0, mark)

    @property
    def positions(self) -> dict[str, int]:
        """The progress as positions to commit."""
        return {f"{_PREFIX}{name}": _NONE if value is None else value for name, value in asdict(self).items()}

    def after(self, transactions: Transactions, read_at: int, mark: int | None) -> "Progress":
        """Return what a pull that follows this one has seen.

        Args:
            transactions: Transactions of its snapshot.
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
        """Tell whether a snapshot is a later one of the same stream.

        A database restored to an earlier state starts anew.
        """
        return stream == self.stream and transactions.xmin >= self.xmin and transactions.xmax >= self.xmax

    def selection(self, transactions: Transactions, watermark: Watermark, lookback: int | None) -> Selection:
        """Return what the next pull reads.

        Args:
            transactions: Transactions of its snapshot.
            watermark: The watermark's column.
            lookback: How far below the floor it reads, in positions; None means all.
        """
        new = Selection(newer_than=self.xmin, members=transactions.attached(self.xmin))
        if lookback is None or self.floor is None:
            return new
        return replace(new, watermark=watermark.column, lower=watermark.value(self.floor - lookback))

    def may_repeat(self, transactions: Transactions) -> str | None:
        """Return a predicate on the bronze rows that the next pull may read again; None if it reads none again."""
        if transactions.rewritten(self.xmin) or transactions.attached(self.xmin):
            return "TRUE"
        if self.xmin == self.xmax:
            return None
        # One day more than needed, in case a clock was set back.
        return f"_partition_date >= DATE '{at(self.since).date() - timedelta(days=1)}'"
