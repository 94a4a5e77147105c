"""A watermark: the column that grows with each change, and its values as positions in a table's log.

A position is a whole number: for a timestamp or date the microseconds since 1970 UTC, for an id the id itself.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pipeline_assets.contracts.base import Model, raw_shape
from pipeline_assets.sql import quote_name

Value = datetime | date | int
"""A value that a database driver binds."""

EXTRACTED = "extracted"
"""Position in the log of a table of pulls or polls: when the source was last read, in microseconds."""

SECONDS = 1_000_000
"""A second, in positions of timestamps."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
_TIMES = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "DATE")
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
_LEAST, _GREATEST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Watermark:
    """A watermark column of a contract.

    Attributes:
        column: Its name in the contract.
        dtype: Its DuckDB type.
    """

    column: str
    dtype: str

    @classmethod
    def of(cls, model: Model, column: str) -> "Watermark":
        """Find the column in a contract.

        Raises:
            ValueError: The contract has no such column, or its type does not grow.
        """
        kinds = {found.name: found.dtype for found in raw_shape(model).columns}
        if kinds.get(column) not in (*_TIMES, *_NUMBERS):
            what = f"is {kinds[column]}" if column in kinds else "is not there"
            raise ValueError(
                f"watermark {column} {what} in the contract {model.__name__}: name a column with a time, a date or a "
                "whole number that grows with each change"
            )
        return cls(column, kinds[column])

    @property
    def is_time(self) -> bool:
        """Whether positions are microseconds."""
        return self.dtype in _TIMES

    def value(self, position: int) -> Value:
        """Give the value at a position; beyond the range of the type, the first or last value of the type."""
        if not self.is_time:
            return max(_LEAST, min(position, _GREATEST))
        moment = at(position)
        if self.dtype == "DATE":
            return moment.date()
        return moment if self.dtype != "TIMESTAMP" else moment.replace(tzinfo=None)

    @property
    def first(self) -> Value:
        """A value that is less than or equal to every value."""
        return self.value(position(_FIRST) if self.is_time else _LEAST)

    def from_on(self, position: int) -> str:
        """Give a predicate on bronze rows: the watermark is at a position or later, or null."""
        name = quote_name(self.column)
        literal = f"{self.dtype} '{self.value(position)}'" if self.is_time else str(position)
        return f"({name} >= {literal} OR {name} IS NULL)"

    @property
    def greatest_sql(self) -> str:
        """Give an expression: the greatest position among rows."""
        name = quote_name(self.column)
        return f"epoch_us(max({name})::TIMESTAMP)" if self.is_time else f"max({name})::BIGINT"


def position(moment: datetime) -> int:
    """Give the position of a moment."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def next_extracted(before: int | None, read_at: datetime) -> int:
    """Give the position `EXTRACTED` of a reading: it grows whatever the clock does, as the later version of a row wins.

    Args:
        before: The position of the last reading; None if there was none.
        read_at: When the source is read.
    """
    now = position(read_at)
    return now if before is None else max(now, before + 1)


def at(position: int) -> datetime:
    """Give the moment at a position, in UTC; beyond the range of datetime, its first or last moment."""
    try:
        return _EPOCH + timedelta(microseconds=position)
    except OverflowError:
        return _FIRST if position < 0 else _LAST
