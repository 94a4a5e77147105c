"""The watermark of a source: the newest value of one column, as the table's log, SQL and an API spell it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Self

from pipeline_assets.ingest import casts
from pipeline_assets.lake import quote_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECONDS = 1_000_000

KINDS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("TIMESTAMP WITH TIME ZONE", "TIMESTAMP"), (3600, _MICROSECONDS)),
    "DATE": (1, 1),
    **dict.fromkeys(("SMALLINT", "INTEGER", "BIGINT"), (0, 1)),
}
"""Type of a column to its lag if none is declared, and how many units of the position one unit of the lag is."""


@dataclass(frozen=True)
class Watermark:
    """A column that only grows. As a position it is microseconds or days since 1970, or the number itself.

    Attributes:
        column: Its name in the contract.
        dtype: Its DuckDB type, one of `KINDS`.
        lag: How far before the position the next poll begins, in units of the position.
    """

    column: str
    dtype: str
    lag: int

    @classmethod
    def of(cls, column: str, dtype: str, lag: int | None) -> Self | None:
        """Gives the watermark of a column with a declared lag; None if the type does not do."""
        kind = casts.normal(dtype)
        if kind not in KINDS:
            return None
        default, unit = KINDS[kind]
        return cls(column, kind, (default if lag is None else lag) * unit)

    @property
    def position_name(self) -> str:
        """Name of the position. The column is in it: of another column the value would mean nothing."""
        return f"watermark {self.column}"

    def position_sql(self, value: str) -> str:
        """Gives SQL of a value's position."""
        if self.dtype == "DATE":
            return f"date_diff('day', DATE '1970-01-01', {value})"
        return f"epoch_us({value})" if self._is_time else f"{value}::BIGINT"

    def from_sql(self, position: int | None) -> str:
        """Gives the predicate on rows that are not older than a position, rows without a value among them."""
        name = quote_name(self.column)
        without = f"{name} IS NULL"
        if position is None:
            return without
        value = str(position)
        if self.dtype == "DATE":
            value = f"DATE '{self.text(position)}'"
        elif self._is_time:
            value = f"{self.dtype} '{self._time(position).replace(tzinfo=None).isoformat(sep=' ')}'"
        return f"({name} >= {value} OR {without})"

    def text(self, position: int) -> str:
        """Gives a position as an API is asked for it: ISO 8601 in UTC, or digits."""
        if self.dtype == "DATE":
            return date.fromordinal(max(_EPOCH.toordinal() + position, 1)).isoformat()
        return self._time(position).isoformat().replace("+00:00", "Z") if self._is_time else str(position)

    def capped(self, position: int, started_at: datetime) -> int:
        """Gives the position, or that of the poll's start if it is later.

        A record from the year 2999 would otherwise be the last one that is ever asked for.
        """
        if self.dtype == "DATE":
            return min(position, started_at.toordinal() - _EPOCH.toordinal())
        return min(position, (started_at - _EPOCH) // timedelta(microseconds=1)) if self._is_time else position

    @property
    def _is_time(self) -> bool:
        return self.dtype.startswith("TIMESTAMP")

    @staticmethod
    def _time(position: int) -> datetime:
        # DuckDB knows years that Python does not: before all that Python knows is early enough for a bound.
        return _EPOCH + timedelta(microseconds=max(position, (_FIRST - _EPOCH) // timedelta(microseconds=1)))
